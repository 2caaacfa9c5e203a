"""Facts follow their events: a crash between the two makes the same events again, and none is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from webhookd.authorizenet.settlement import Facts
from webhookd.authorizenet.synthetic import SyntheticEvent
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.store.provider_facts import FactStore, StoredFacts
from webhookd.sync.fact_recorder import FactRecorder, Look
from webhookd.sync.synthetic_intake import SyntheticIntake

NOW = datetime(2026, 6, 10, 12, tzinfo=UTC)
SETTLED = Facts(
    "1",
    "settledSuccessfully",
    NOW,
    amount=Decimal("1.00"),
    batch_id="b1",
    settled_at=NOW,
    submitted_at=NOW,
    account_type="Visa",
)
PENDING = replace(SETTLED, status="capturedPendingSettlement", batch_id=None, settled_at=None)


class CrashError(Exception):
    """The process ends here."""


class Store(FactStore):
    """Facts in memory. `crash`: the process ends before the facts are written."""

    def __init__(self, log: list[str]) -> None:
        self.rows: dict[str, StoredFacts] = {}
        self.log = log
        self.crash = False
        self.again: StoredFacts | None = None  # what another replica writes meanwhile

    async def change(self, transaction_ids: Any, decide: Any) -> None:
        """Changes facts."""
        known: Mapping[str, StoredFacts] = {one: self.rows[one] for one in transaction_ids if one in self.rows}
        changed = await decide(known)
        if self.crash:
            raise CrashError
        if self.again is not None:
            self.rows[self.again.facts.id], self.again = self.again, None
            await self.change(transaction_ids, decide)
            return
        self.log.append("facts")
        self.rows |= {one.facts.id: one for one in changed}


class Intake(SyntheticIntake):
    """A ledger in memory. `crash`: the process ends before the events are committed."""

    def __init__(self, log: list[str]) -> None:
        self.events: dict[UUID, SyntheticEvent] = {}
        self.log = log
        self.crash = False

    async def take(self, events: Sequence[SyntheticEvent]) -> int:
        """Takes events."""
        if self.crash:
            raise CrashError
        self.log.append("events")
        new = {one.id: one for one in events if one.id not in self.events}
        self.events |= new
        return len(new)


class World:
    """A recorder with a store and a ledger in memory."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.store, self.intake = Store(self.log), Intake(self.log)
        self.recorder = FactRecorder("default", self.store, self.intake, lambda: NOW)

    @property
    def types(self) -> list[SyntheticType]:
        """Returns the types of the events in the ledger."""
        return [one.type for one in self.intake.events.values()]


@pytest.mark.parametrize("where", ["events", "facts"])
async def test_a_crash_before_or_after_the_events_loses_and_doubles_none(where: str) -> None:
    world = World()
    await world.recorder.record([Look(PENDING)])
    (world.intake if where == "events" else world.store).crash = True
    with pytest.raises(CrashError):
        await world.recorder.record([Look(SETTLED, in_list=True)])
    assert world.store.rows["1"].facts == PENDING, "no facts without their events"
    world.intake.crash = world.store.crash = False
    await world.recorder.record([Look(SETTLED, in_list=True)])
    assert world.types == [SyntheticType.SETTLED]
    assert world.store.rows["1"].facts == SETTLED


async def test_the_events_are_committed_before_the_facts() -> None:
    world = World()
    await world.recorder.record([Look(SETTLED, in_list=True)])
    assert world.log == ["events", "facts"]


async def test_a_look_that_meets_another_replicas_makes_its_event_all_the_same() -> None:
    world = World()
    await world.recorder.record([Look(PENDING)])
    world.store.again = replace(world.store.rows["1"], facts=replace(PENDING, seen_at=NOW + timedelta(hours=1)), version=2)
    await world.recorder.record([Look(SETTLED, in_list=True)])
    assert world.types == [SyntheticType.SETTLED]
    assert world.store.rows["1"].facts.batch_id == "b1"


async def test_several_looks_at_one_transaction_make_its_event_once() -> None:
    world = World()
    await world.recorder.record([Look(PENDING), Look(SETTLED, alone=True), Look(SETTLED, in_list=True)])
    await world.recorder.record([Look(SETTLED, in_list=True), Look(PENDING)])
    assert world.types == [SyntheticType.SETTLED]
    assert world.store.rows["1"].facts == SETTLED
    assert world.store.rows["1"].listed_in == {"b1"}


async def test_a_transaction_that_the_provider_does_not_know_is_asked_for_later() -> None:
    world = World()
    await world.recorder.record([Look(PENDING)])
    await world.recorder.not_found(["1", "2"])
    assert world.store.rows["1"].next_look_at == NOW + timedelta(days=2)
    assert "2" not in world.store.rows


async def test_a_batch_that_fails_after_its_list_was_read_does_not_count_as_a_batch_that_lists_the_transaction() -> None:
    world = World()
    await world.recorder.record([Look(replace(PENDING, status="pendingSettlement", batch_id="b1"), in_list=True)])
    assert world.store.rows["1"].listed_in == {"b1"}
    failed = replace(SETTLED, status="settlementError", failed_batches=frozenset({"b1"}))
    await world.recorder.record([Look(failed, in_list=True)])
    assert world.store.rows["1"].listed_in == frozenset()
