"""Whatever happens to a merchant's money: after the last sweep, webhookd has the provider's own books, to the cent.

Each seed is a story of some days (tests/helpers/settlement_story.py), with a real database, sweeps that are cut off, and a
provider that fails at times.
"""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import Start
from tests.helpers.settlement_story import SettlementStory
from webhookd.process.handlers import Registry
from webhookd.simulate import PERSONAL

_SEEDS = 1_000
_AT_ONCE = 5  # seeds of a case
_SHORT = (0, 560)  # with 562, a batch settles between the list of the batches and that of its transactions
_CASES = [
    pytest.param(first, id=f"{first}-{first + _AT_ONCE - 1}", marks=[] if first in _SHORT else [pytest.mark.long])
    for first in range(0, _SEEDS, _AT_ONCE)
]
_COLUMNS = """
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = 'webhookd' AND table_name IN (SELECT tablename FROM pg_tables WHERE schemaname = 'webhookd')
ORDER BY 1, 2
"""


@pytest.mark.parametrize("first", _CASES)
async def test_after_the_last_sweep_the_facts_are_the_providers_books_and_each_event_is_there_once(
    first: int, start: Start, connection: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(Registry(), roles="receive")
    for seed in range(first, first + _AT_ONCE):
        story = SettlementStory(seed, daemon, connection)
        monkeypatch.setattr(daemon.database, "now", story.clock.now)
        await story.run()
        await story.check()
    await _check_that_nobody_is_named(connection)


async def _check_that_nobody_is_named(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Looks for the simulator's people, cards and banks in every column of every table."""
    looked, bodies = 0, 0
    for row in await connection.fetch(_COLUMNS):
        column = f'"{row["column_name"]}"'
        if row["data_type"] == "bytea":
            text = f"encode({column}, 'escape')"
            bodies += row["column_name"] == "body"
        else:
            text = f"{column}::text"
        for personal in PERSONAL:
            query = f'SELECT count(*) FROM webhookd."{row["table_name"]}" WHERE position(lower($1) IN lower({text})) > 0'
            assert await connection.fetchval(query, personal) == 0, (row["table_name"], row["column_name"], personal)
        looked += 1
    assert looked > 100
    assert bodies, "the bodies of events were searched, too"
