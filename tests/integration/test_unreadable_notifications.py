"""A notification of the history that cannot become an event is tried again, ever more seldom, and not for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.conftest import Start
from tests.helpers.running import KEY
from tests.helpers.secrets import note
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.simulate import Simulator
from webhookd.store.provider_gaps import ProviderGaps, Refused
from webhookd.sync.takeover import Limits, Span, Takeover, Webhooks

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SALE = "net.authorize.payment.authcapture.created"
NAME = "72a55c78-66a6-4b1e-a0f9-fb0c4ba7a5bd"
LONG_AGO = datetime(2019, 1, 31, tzinfo=UTC)
TRIES = "SELECT tries FROM provider_notifications"


async def test_the_pauses_double_from_ten_minutes_to_a_day_and_end_after_thirty_days(
    start: Start, connection: Connection
) -> None:
    gaps = ProviderGaps((await start(roles="receive")).database, "default")

    async def is_due_after(minutes: float) -> bool:
        await connection.execute("UPDATE provider_notifications SET last_at = now() - $1::interval", timedelta(minutes=minutes))
        return (await gaps.noted(LONG_AGO))[NAME].due

    for pause in (10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 1440, 1440, 1440):
        await gaps.note([Refused(NAME, "unreadable", "no payload", SALE, None)])
        assert not await is_due_after(0)
        assert not await is_due_after(pause - 0.1)
        assert await is_due_after(pause + 0.1)
    await connection.execute("UPDATE provider_notifications SET first_at = now() - interval '29 days 23 hours'")
    assert await is_due_after(1441)
    await connection.execute("UPDATE provider_notifications SET first_at = now() - interval '30 days 1 second'")
    assert not await is_due_after(1441)
    assert not await is_due_after(99_999)


async def test_a_notification_that_is_foreign_or_only_seen_is_never_due(start: Start, connection: Connection) -> None:
    gaps = ProviderGaps((await start(roles="receive")).database, "default")
    for status in ("foreign", "seen"):
        await gaps.note([Refused(NAME, status, "", SALE, None)])
        await connection.execute("UPDATE provider_notifications SET last_at = now() - interval '2 days'")
        assert not (await gaps.noted(LONG_AGO))[NAME].due


async def test_the_tries_of_a_notification_that_cannot_be_stored_are_counted_and_its_note_goes_when_it_is_stored(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(roles="receive")
    now = datetime.now(UTC)
    span = Span(now - timedelta(days=1), now + timedelta(hours=1), now)

    async def refuses(arrivals: Sequence[Any], **_: Any) -> list[BaseException]:
        return [asyncpg.DataError("no")] * len(arrivals)

    async with Simulator() as simulator:
        account = simulator.account(signature_key=KEY)
        note([account.transaction_key])
        webhook = simulator.register(f"{daemon.public_url}/webhooks/authorize-net")
        simulator.make(withheld=True)
        access = replace(simulator.access(), public_url=webhook.url)
        async with ProviderClient(access, patience=0) as client:
            rows = (await client.history(now.date() - timedelta(days=1), now.date() + timedelta(days=1))).rows
            limits = Limits(100_000, timedelta(days=30))
            gaps = ProviderGaps(daemon.database, "default")
            takeover = Takeover(access, client, gaps, daemon.receipts, limits, daemon.metrics.provider)
            ours = Webhooks(frozenset({webhook.id}), True)
            with monkeypatch.context() as patch:
                patch.setattr(daemon.receipts, "accept", refuses)
                for tries in (1, 2, 3):
                    await takeover.take(rows, ours, [], span)
                    assert await connection.fetchval(TRIES) == tries
            await takeover.take(rows, ours, [], span)
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 1
    assert await connection.fetchval("SELECT count(*) FROM provider_notifications") == 0
