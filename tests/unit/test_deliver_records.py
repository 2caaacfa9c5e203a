"""The records of attempts: a bounded number at a time, and none lost while PostgreSQL is away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest
import pytest_asyncio

from tests.helpers.wait import until
from webhookd.deliver import sender as module
from webhookd.deliver.client import Answer, HttpClient
from webhookd.deliver.destination import Destination
from webhookd.deliver.sender import Ends, Sender
from webhookd.errors import UnavailableError
from webhookd.runtime.backoff import Reconnect
from webhookd.runtime.loops import Watch
from webhookd.settings.destinations import DestinationSettings
from webhookd.store.database import Database
from webhookd.store.deliveries import Deliveries, Delivery, Failure
from webhookd.telemetry.metrics import Metrics

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
DELIVERY = Delivery(UUID(int=1), 0, NOW, NOW, False, False, "default", "type", NOW, None, b"{}")


class Rows:
    """The deliveries of PostgreSQL, of which one is due. `away`: how many records fail because PostgreSQL is away."""

    def __init__(self) -> None:
        self.due = [DELIVERY]
        self.away = 0
        self.ended: list[tuple[UUID, str]] = []
        self.failures: list[Failure] = []
        self.delays: list[float | None] = []
        self.put_back_ids: list[UUID] = []
        self.endless: bytes | None = None  # the body of deliveries without end
        self.locked = 0  # how many claims find the circuit's row locked

    async def claim(self, _: str, most: int, **__: object) -> list[Delivery] | None:
        if self.locked:
            self.locked -= 1
            return None
        if self.endless is not None:
            return [DELIVERY._replace(body=self.endless)] * most
        taken, self.due = self.due, []
        return taken

    async def submit(self, pair: tuple[UUID, str]) -> float:
        self._reach()
        self.ended.append(pair)
        return 0.1

    async def fail(self, name: str, delivery: Delivery, failure: Failure, *, delay: float | None) -> bool | None:
        self._reach()
        self.failures.append(failure)
        self.delays.append(delay)
        return False

    async def put_back(self, name: str, delivery: Delivery) -> None:
        self._reach()
        self.put_back_ids.append(delivery.event_id)

    def _reach(self) -> None:
        if self.away:
            self.away -= 1
            raise UnavailableError("postgresql", "away")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.setattr(module, "Reconnect", lambda: Reconnect(0.02, 0.02))
    monkeypatch.setattr(module, "_RECORD", 0.05)
    return Rows()


def made(rows: Rows, **settings: object) -> Sender:
    return Sender(
        Destination("shop", DestinationSettings.model_validate({"url": "https://shop.example.com", **settings})),
        cast("Deliveries", rows),
        cast("Ends", rows),
        key_of=lambda _: None,
        now=lambda: NOW,
        metrics=Metrics(),
        watch=Watch(),
    )


@pytest_asyncio.fixture
async def sender(rows: Rows) -> AsyncIterator[Sender]:
    one = made(rows)
    yield one
    await one.stop(0.1)


def answering(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    async def send(*_: object) -> Answer:
        return answer

    monkeypatch.setattr(HttpClient, "send", send)


async def test_an_accepted_delivery_ends_though_postgresql_is_away_for_longer_than_the_lease(
    rows: Rows, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, Answer(0.1, 204))
    rows.away = 20
    await sender.start()
    await until(lambda: rows.ended, "the end is recorded")
    assert rows.ended == [(DELIVERY.event_id, "shop")]


async def test_an_attempt_that_fails_by_a_defect_counts(rows: Rows, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(*_: object) -> Answer:
        raise OverflowError

    monkeypatch.setattr(HttpClient, "send", send)
    await sender.start()
    await until(lambda: rows.failures, "the failure is recorded")
    assert rows.failures[0].error.startswith("webhookd itself failed (OverflowError)")


async def test_what_was_not_sent_is_no_attempt(rows: Rows, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, Answer(10.0, error="not sent", sent=False))
    rows.away = 1
    await sender.start()
    await until(lambda: rows.put_back_ids, "the delivery is put back")
    assert (rows.put_back_ids, rows.failures) == ([DELIVERY.event_id], [])


async def test_a_failed_probe_is_never_the_last_attempt(rows: Rows, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    rows.due = []
    await sender.start()
    for status, lasts in ((503, True), (403, True), (404, False), (410, False)):
        answering(monkeypatch, Answer(0.1, status=status))
        rows.delays.clear()
        rows.due = [DELIVERY._replace(probe=True, attempts=19)]
        sender.wake()
        await until(lambda: bool(rows.delays), "the failure is recorded")
        assert (rows.delays[0] is not None) is lasts, status


@pytest.mark.parametrize(("size", "at_once"), [(1_048_576, 32), (1_000, 500)])
async def test_a_sender_holds_a_bounded_number_of_bytes(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, size: int, at_once: int
) -> None:
    under_way = 0

    async def send(*_: object) -> Answer:
        nonlocal under_way
        under_way += 1
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(HttpClient, "send", send)
    rows.endless = b"x" * size
    sender = made(rows, concurrency=500)
    await sender.start()
    try:
        await until(lambda: under_way == at_once, "as many as may be are under way")
        sender.wake()
        await asyncio.sleep(0.1)
        assert under_way == at_once
    finally:
        await sender.stop(0.1)


async def test_a_record_under_way_leaves_the_place_free(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def send(*_: object) -> Answer:
        nonlocal sent
        sent += 1
        return Answer(0.1, 204)

    async def submit(_: object) -> float:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(HttpClient, "send", send)
    monkeypatch.setattr(rows, "submit", submit)
    rows.endless = b"{}"
    sender = made(rows, concurrency=4)
    await sender.start()
    try:
        await until(lambda: sent == 12, "three times as many as there are places")
        await asyncio.sleep(0.1)
        assert sent == 12, "what waits for its record is bounded, too"
    finally:
        await sender.stop(0.1)


async def test_a_failed_attempt_keeps_its_place_until_its_record(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def send(*_: object) -> Answer:
        nonlocal sent
        sent += 1
        return Answer(0.1, 503)

    async def fail(*_: object, **__: object) -> bool:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(module, "_RECORD", 60)
    monkeypatch.setattr(HttpClient, "send", send)
    monkeypatch.setattr(rows, "fail", fail)
    rows.endless = b"{}"
    sender = made(rows, concurrency=4)
    await sender.start()
    try:
        await until(lambda: sent == 4, "as many as there are places")
        await asyncio.sleep(0.1)
        assert sent == 4, "the circuit may open by these"
    finally:
        await sender.stop(0.1)


async def test_a_claim_that_found_the_circuit_locked_is_repeated(
    rows: Rows, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, Answer(0.1, 204))
    rows.locked = 3
    await sender.start()
    await until(lambda: rows.ended, "the delivery is sent", deadline=2)


async def test_few_failures_are_recorded_at_a_time() -> None:
    at_once = most = 0

    class Slow:
        async def one(self, *_: object, **__: Any) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.001)
            at_once -= 1

    deliveries = Deliveries(cast("Database", Slow()))
    failure = Failure("status 500", 500, None, 0.1)
    await asyncio.gather(*(deliveries.fail("shop", DELIVERY, failure, delay=1.0) for _ in range(50)))
    assert most == 2, "the receiver needs the same connections"
