"""Whatever the provider drops, doubles, delays or refuses: in the end, each notification is in the ledger and processed once.

Each seed is a story of some days (tests/helpers/provider_story.py), with real PostgreSQL, SQS, receiver, worker and gap closer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from tests.conftest import Start
from tests.helpers.provider_story import Story, keys_of, name_of
from tests.helpers.wait import until_ended
from webhookd.event import Event
from webhookd.process.handlers import Registry

_SEEDS = 1_000
_AT_ONCE = 10  # seeds of a case
_CASES = [
    pytest.param(first, id=f"{first}-{first + _AT_ONCE - 1}", marks=[pytest.mark.long] if first else [])
    for first in range(0, _SEEDS, _AT_ONCE)
]
_EFFECTS = """
SELECT l.notification_id, count(*) AS times FROM effects e JOIN webhookd.ledger l ON l.id = e.event_id
JOIN webhookd.kinds k ON k.id = l.kind WHERE k.account = $1 GROUP BY 1
"""
_UNDONE = "SELECT count(*) FROM webhookd.events WHERE account = $1 AND status <> 'processed'"


def registry() -> Registry:
    async def count(event: Event, connection: Any) -> None:
        await connection.execute("INSERT INTO effects (event_id) VALUES ($1)", event.id)

    made = Registry()
    made.add("*", count)
    return made


async def processed(connection: asyncpg.Connection[asyncpg.Record], account: str) -> Mapping[str, int]:
    """Returns how often each event of an account was processed, when none waits."""

    async def left() -> int:
        return int(await connection.fetchval(_UNDONE, account))

    await until_ended(left, "all events are processed", patience=60, every=0.02)
    return {row["notification_id"]: row["times"] for row in await connection.fetch(_EFFECTS, account)}


@pytest.mark.parametrize("first", _CASES)
async def test_in_the_end_every_notification_is_in_the_ledger_once_and_processed_once_and_the_days_say_so(
    first: int, start: Start, connection: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute("CREATE TABLE effects (event_id uuid NOT NULL)")
    seeds = range(first, first + _AT_ONCE)
    accounts = {name_of(seed): {"signature_keys": ",".join(keys_of(seed, 1))} for seed in seeds}
    daemon = await start(registry(), accounts=accounts, roles="receive,relay,work,deliver")
    stories = [Story(seed, daemon, connection) for seed in seeds]
    for story in stories:
        monkeypatch.setattr(daemon.database, "now", story.now)
        await story.run()
    for story in stories:
        await story.check(await processed(connection, story.account))
    value = daemon.metrics.registry.get_sample_value
    mismatches = [value("webhookd_body_mismatches_total", {"account": name}) for name in accounts]
    assert mismatches == [0.0] * len(accounts), "a late webhook of a recovered event is no mismatch"
