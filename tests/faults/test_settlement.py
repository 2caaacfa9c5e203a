"""A sweep that is killed goes on where it was: each event of the settlement comes once, and no batch is forgotten."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta

from tests.conftest import Servers
from tests.helpers.counted_effects import Connection, daemon, effects, open_effects
from tests.helpers.settlement_story import due_events
from tests.helpers.wait import until
from webhookd.authorizenet.settlement import State, state_of
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.simulate import Clock, Simulator, story

_BEGUN = """
INSERT INTO webhookd.provider_accounts (account, compared_from) VALUES ('default', now() - interval '12 days');
INSERT INTO webhookd.provider_sweeps (account, swept_from) VALUES ('default', now() - interval '12 days')
"""
_FACTS = "SELECT transaction_id, state, amount, batch_id FROM webhookd.provider_transactions"
_OPEN = "SELECT count(*) FROM webhookd.provider_batches WHERE looked_at IS NULL AND settled_at IS NOT NULL"
_LATE = [SyntheticType.HELD_TOO_LONG.value, SyntheticType.EXPIRED.value]


async def test_a_sweep_that_is_killed_goes_on_where_it_was_and_doubles_no_event(
    servers: Servers, connection: Connection
) -> None:
    await open_effects(connection)
    began = datetime.now(UTC) - timedelta(days=9)
    async with Simulator(seed=21, clock=Clock(began, speed=0)) as provider:
        await story(provider, 8, sales=30)
        provider.clock.advance((datetime.now(UTC) - provider.clock.now()).total_seconds())
        own = provider.account()
        # A transaction that expired before the first sweep is in no list.
        due = {name for name, (kind, _, _) in due_events(own).items() if kind is not SyntheticType.EXPIRED}
        assert len(due) > 100
        one = daemon(servers, provider, "one", settlement_every="1", synthetic_events="*", provider_rate="30")
        await one.start()
        await connection.execute("DELETE FROM webhookd.provider_sweeps; DELETE FROM webhookd.provider_accounts")
        await connection.execute(_BEGUN)
        try:
            for share in (len(due) // 4, len(due) // 2):

                async def taken(share: int = share) -> bool:
                    return int(await connection.fetchval("SELECT count(*) FROM webhookd.ledger")) >= share

                await until(taken, f"{share} events are committed", deadline=120, every=0.005)
                one.end(signal.SIGKILL)
                assert await connection.fetchval("SELECT count(*) FROM webhookd.ledger") < len(due)
                read = await connection.fetchval("SELECT count(*) FROM webhookd.provider_batches WHERE looked_at IS NOT NULL")
                assert read, "batches that are done stay done"
                # The lease of the killed process would hold for 45 s.
                await connection.execute("UPDATE webhookd.provider_accounts SET held_until = '-infinity'")
                await one.start()

            async def all_done() -> bool:
                swept = await connection.fetchval("SELECT max(unsettled_at) FROM webhookd.provider_sweeps")
                return swept is not None and sum((await effects(connection)).values()) >= len(due)

            await until(all_done, "all events are processed", deadline=180)
            await asyncio.sleep(3)
            held = "SELECT notification_id FROM webhookd.events WHERE event_type = ANY($1)"
            late = {row["notification_id"] for row in await connection.fetch(held, _LATE)}
            found = Counter({name: count for name, count in (await effects(connection)).items() if name not in late})
            assert found == Counter(map(str, due))
            assert await connection.fetchval(_OPEN) == 0
            rows = {row["transaction_id"]: row for row in await connection.fetch(_FACTS)}
            for own_one in own.transactions.values():
                if own_one.batch is None or own_one.batch.settled_at is None:
                    continue
                row = rows[own_one.id]
                state = State.RETURNED if own_one.returned else state_of(own_one.status)
                assert (row["state"], row["amount"], row["batch_id"]) == (state, own_one.settle_amount, own_one.batch.id)
            lists = Counter(
                call.name for call in provider.calls if call.name.startswith(("getTransactionList", "getTransactionDetails"))
            )
            assert lists["getTransactionListRequest"] <= 3 * len(own.batches), "a kill costs no batch that was done"
        finally:
            await one.stop()
