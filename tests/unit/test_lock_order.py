"""OperatorQueries that lock many rows state the order of the locks: two statements with different orders can deadlock."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

QUERIES = Path(__file__).parents[2] / "sql" / "queries"
# Each of these statements locks one row by its key, or rows that no other process has.
ONE_ROW = {
    "advance_gaps",
    "advance_operation",
    "alert_message_sent",
    "cancel_operation",
    "close_ping",
    "decide_ping",
    "delay_alert_message",
    "end_alert_state",
    "end_duty",
    "end_wait_for_details",
    "fail_delivery",
    "fail_gaps",
    "forget_alert_channel",
    "handle_quarantine",
    "let_go_of_operations",
    "mark_dead",
    "mark_processed",
    "mark_retrying",
    "note_answer",
    "note_batches",
    "note_late_renewal",
    "note_our_webhooks",
    "note_question",
    "note_subscription_list",
    "note_swept",
    "prove_writable",
    "put_back_delivery",
    "record_comparison",
    "release_provider_account",
    "remove_provider_rows",
    "resume_destination",
    "retry_now",
    "revive_event",
    "set_provider_credentials",
    "set_provider_merchant",
    "take_back_attempt",
    "take_provider_try",
    "wait_for_details",
}


@functools.cache
def statements() -> dict[str, str]:
    """Returns each named statement without comments, with each run of white space as one space."""
    found = {}
    for file in sorted(QUERIES.glob("*.sql")):
        for part in re.split(r"^-- name: ", file.read_text(), flags=re.MULTILINE)[1:]:
            name = re.match(r"\w+", part)
            assert name, part
            lines = [line for line in part.splitlines()[1:] if not line.startswith("--")]
            found[name[0]] = re.sub(r"--.*?$|\s+", " ", "\n".join(lines), flags=re.MULTILINE)
    return found


@pytest.mark.parametrize("name", sorted(statements()))
def test_a_statement_that_locks_many_rows_states_their_order(name: str) -> None:
    text = statements()[name]
    # An insert that meets a row of another process waits for that process, so rows are inserted in a stated order.
    for insert in re.findall(r"INSERT INTO (?:(?!INSERT INTO).)*? ON CONFLICT", text):
        assert "VALUES" in insert or re.search(r"ORDER BY [\w., ]+ ON CONFLICT$", insert), insert
    if name not in ONE_ROW and re.search(r"\b(UPDATE [\w.]+ (\w+ )?SET|DELETE FROM)\b", text):
        assert re.search(r"ORDER BY [\w., ]+ (LIMIT .+? )?FOR UPDATE|FOR UPDATE SKIP LOCKED", text), text
