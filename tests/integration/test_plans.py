"""How PostgreSQL reads: what is looked up by its id is found by its id, whatever the statistics say of how much waits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.helpers.database import connect
from webhookd.store.queries import queries

# These choose by other columns, and `ids` narrows the choice.
_CHOOSE = {"choose_dead", "search_dead", "owe_dead_letters"}


def looks_up() -> list[str]:
    """The names of the queries that look events up by id."""
    found = []
    for name in queries.available_queries:
        text = getattr(queries, name).sql
        by_id = re.search(r"\bid = (\$\d|ANY\(\$\d|[a-z]\.id\b)", text)
        if (
            by_id
            and re.search(r"\b(FROM|JOIN|UPDATE) webhookd\.events\b", text)
            and not name.endswith("_cursor")
            and name not in _CHOOSE
        ):
            found.append(name)
    return found


def scans(plan: dict[str, Any]) -> Iterator[str]:
    """By which index, or "no index", each node reads the table of events."""
    if plan.get("Index Name", "").startswith("events_"):
        yield plan["Index Name"]
    elif plan.get("Relation Name") == "events" and plan["Node Type"] == "Seq Scan":
        yield "no index"
    for below in plan.get("Plans", ()):
        yield from scans(below)


@pytest.fixture
async def nothing_waits(database_url: str) -> Any:
    """A database whose statistics are of a time when all events had ended."""
    connection = await connect(database_url)
    await connection.execute(
        "INSERT INTO events "
        "(id, account, notification_id, event_type, status, key_fingerprint, body_hash, send_after, finished_at) "
        "SELECT gen_random_uuid(), 'default', n::text, 'net.authorize.payment.void.created', 'processed', '', '', now(), now() "
        "FROM generate_series(1, 20000) AS n"
    )
    await connection.execute("ANALYZE events; SET plan_cache_mode = force_generic_plan")
    yield connection
    await connection.close()


def test_there_are_such_queries() -> None:
    assert {"mark_sent", "process_events", "put_back", "mark_retrying", "mark_dead", "claim_event", "read_events"} <= set(
        looks_up()
    )
    assert {"revive_event", "redrive_events", "discard_events", "mark_dead_letter_sent"} <= set(looks_up())


async def test_look_ups_by_id_read_no_index_of_what_waits(nothing_waits: asyncpg.Connection[Any]) -> None:
    for name in looks_up():
        text = getattr(queries, name).sql
        await nothing_waits.execute(f"PREPARE {name} AS {text}")
        nothing = ", ".join("NULL" for _ in set(re.findall(r"\$\d+", text)))
        explained = await nothing_waits.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name} ({nothing})")
        assert set(scans(json.loads(explained)[0]["Plan"])) == {"events_pkey"}, name
