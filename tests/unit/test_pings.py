"""A receiver's knowledge of the pings that webhookd ordered: never too old when a webhook is judged."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from tests.helpers.wait import until
from webhookd.authorizenet.notification import Notification
from webhookd.store import provider_pings
from webhookd.store.database import Database
from webhookd.store.provider_pings import AGE, LEAD, Pings

NOTIFICATION = Notification("n", "net.authorize.payment.void.created", None, None, "1", None, None, None)
PING = {
    "id": UUID(int=1),
    "account": "default",
    "webhook_id": "a",
    "others": [],
    "opened_at": datetime(2026, 11, 1, tzinfo=UTC),
    "open": True,
    "samples": [],
}


class Answers:
    """Stands in for the database: answers each reading with the next rows, after the seconds that the reading takes."""

    def __init__(self, clock: Clock, *readings: tuple[float, list[Any]]) -> None:
        self._clock = clock
        self._readings = list(readings)

    async def all(self, *_: Any, **__: Any) -> list[Any]:
        await asyncio.sleep(0)
        seconds, rows = self._readings.pop(0)
        self._clock.now += seconds
        return rows


class Clock:
    """A clock that the test moves, in the place of time.monotonic."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(provider_pings, "time", clock)
    return clock


def pings(answers: Answers) -> Pings:
    return Pings(cast("Database", answers), patience=5)


def test_who_orders_a_ping_waits_for_longer_than_a_receivers_knowledge_may_be_old() -> None:
    assert LEAD >= AGE + 1


async def test_pings_that_took_too_long_to_read_are_read_again(clock: Clock) -> None:
    known = pings(Answers(clock, (AGE + 0.1, []), (0.1, [PING])))
    await known.renew()
    assert not known.old
    assert known.concern("default", NOTIFICATION)


async def test_the_age_counts_from_the_beginning_of_a_reading(clock: Clock) -> None:
    known = pings(Answers(clock, (AGE - 0.1, []), (0.0, [PING])))
    await known.renew()
    assert not known.concern("default", NOTIFICATION)
    clock.now += 0.2
    assert known.old
    await known.stop()


async def test_pings_are_read_ahead_while_webhooks_go_on_and_nobody_waits(clock: Clock) -> None:
    known = pings(Answers(clock, (0.0, []), (0.0, [PING])))
    await known.renew()
    clock.now += AGE / 2 + 0.1
    _ = known.old  # begins a reading
    await until(lambda: known.concern("default", NOTIFICATION), "the reading ends")
    assert not known.old


async def test_a_reading_that_hangs_keeps_a_webhook_no_longer_than_the_time_for_a_commit(clock: Clock) -> None:
    class Hangs:
        async def all(self, *_: Any, **__: Any) -> list[Any]:
            await asyncio.sleep(3600)
            return []

    known = Pings(cast("Database", Hangs()), patience=0.05)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await known.renew()
    assert time.monotonic() - began < 60
    await known.stop()
