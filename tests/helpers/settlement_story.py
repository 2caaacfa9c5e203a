"""A story of a seed: days of a simulated merchant, with sweeps at a real database, until nothing is left to come."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import ProviderError
from webhookd.authorizenet.body import load
from webhookd.authorizenet.synthetic import event_id
from webhookd.daemon import Daemon
from webhookd.errors import UnavailableError
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.simulate import Account, Clock, Faults, Rules, Simulator, Transaction, story
from webhookd.store.provider_facts import FactStore, StoredFacts
from webhookd.store.receipts import Receipts
from webhookd.sync.fact_recorder import FactRecorder
from webhookd.sync.settlement_sweep import SettlementSweep
from webhookd.sync.synthetic_intake import SyntheticIntake
from webhookd.sync.takeover import oldest

AFTER = timedelta(days=97)  # after the last sale: eChecks are looked at for 90 days after their settlement
_AGO = timedelta(days=120)  # the stories begin so long ago, so that none reaches the future
_ZONES = ("America/Los_Angeles", "America/New_York", "Europe/Berlin", "UTC")
_OF_REPORTS = ("too_many", "gateway", "busy", "cut", "truncated", "lost", "hang")
_KINDS = ("no_summaries", "pending_unlisted", "ended_unlisted", "collapsed", "unknown_seconds", "hang_seconds")
_EVENTS = """
SELECT l.notification_id, k.event_type, k.key_fingerprint, l.entity_id, l.event_date, b.body
FROM webhookd.ledger l JOIN webhookd.kinds k ON k.id = l.kind LEFT JOIN webhookd.bodies b ON b.event_id = l.id
WHERE k.account = $1
"""
_ENDS: Mapping[str, SyntheticType] = {
    "settledSuccessfully": SyntheticType.SETTLED,
    "refundSettledSuccessfully": SyntheticType.REFUND_SETTLED,
    "settlementError": SyntheticType.SETTLEMENT_FAILED,
}
_MOST_RUNS = 200  # of one sweep


def due_events(own: Account) -> dict[UUID, tuple[SyntheticType, Transaction, str]]:
    """Returns the events that must be there for an account, by their ids; those of holds are left out."""
    due: list[tuple[SyntheticType, Transaction, str]] = []
    for one in own.transactions.values():
        if (kind := _ENDS.get(one.status)) is not None:
            assert one.batch is not None
            due.append((kind, one, one.batch.id))
        if one.status == "expired":
            due.append((SyntheticType.EXPIRED, one, ""))
        due += [(SyntheticType.RETURNED, one, item.id) for item in one.returned]
    return {event_id(own.name, kind, one.id, key): (kind, one, key) for kind, one, key in due}


class CutOffError(UnavailableError):
    """A sweep is cut off at a statement, as by kill -9."""


class _Swept(Simulator):
    """A simulator that lets a sweep run whenever its clock is so far."""

    sweep: Callable[[], Any] | None = None

    async def idle(self) -> None:
        """Waits until nothing is under way. Then a sweep may be due."""
        await super().idle()
        if self.sweep is not None:
            await self.sweep()


class SettlementStory:
    """The story of one seed. `clock` has to be the clock of the daemon's database, too."""

    def __init__(
        self, seed: int, daemon: Daemon, connection: asyncpg.Connection[asyncpg.Record], *, sales: int = 6, days: int = 6
    ) -> None:
        self.seed = seed
        self.account = f"s{seed}"
        self._daemon = daemon
        self._connection = connection
        self._dice = dice = random.Random(f"{seed}:sweep")
        midnight = datetime.combine(datetime.now(UTC).date() - _AGO, time(), UTC)
        self.clock = Clock(midnight + timedelta(seconds=dice.random() * 86_400), speed=0)
        drawn = Faults.drawn(seed)
        wanted = {one.name: getattr(drawn, one.name) for one in fields(Faults) if one.name in (*_OF_REPORTS, *_KINDS)}
        self.simulator = _Swept(seed, faults=Faults(**wanted), clock=self.clock)
        self.own = self.simulator.account(self.account)
        self.own.rules = Rules(zone=dice.choice(_ZONES))
        self._sales, self._days = sales, days
        self._every = timedelta(hours=dice.choice((1, 3, 8)))
        self._cuts = dice.choice((0.0, 0.0, 0.1))
        self._next = self.clock.now()
        self.failures: list[str] = []

    async def run(self) -> None:
        """Lets the days pass, and the days after them in which the last returns come."""
        await self._connection.execute(
            "INSERT INTO webhookd.provider_accounts (account, compared_from) VALUES ($1, $2)",
            self.account,
            self.clock.now() - timedelta(hours=1),
        )
        async with AsyncExitStack() as stack:
            simulator = await stack.enter_async_context(self.simulator)
            access = replace(simulator.access(self.account), rate=1_000_000.0)
            seconds = self._seconds
            client = await stack.enter_async_context(ProviderClient(access, now=seconds, sleep=self._sleep))
            self._sweep = self._sweeps(client)
            simulator.sweep = self._maybe
            await story(simulator, self._days, seed=self.seed, sales=self._sales, account=self.account)
            simulator.sweep, self._cuts = None, 0.0
            holds_end = self.clock.now() + 2 * self.own.rules.held_ends
            ends = self.clock.now() + AFTER
            while self.clock.now() < ends:
                # A hold is too long after three days and ends after five, and what is held is listed once a day. So a pause of
                # a day could skip all looks between.
                hours = (6, 22) if self.clock.now() < holds_end else (6, 30, 55)
                self.clock.advance(timedelta(hours=self._dice.choice(hours)).total_seconds())
                simulator.account(self.account)
                await self._whole()
            for _ in range(4):  # a run reads one of the lists
                await self._whole()

    def _seconds(self) -> float:
        return self.clock.now().timestamp()

    async def _sleep(self, seconds: float) -> None:
        self.clock.advance(max(seconds, 0.0) + 0.001)

    def _sweeps(self, client: ProviderClient) -> SettlementSweep:
        daemon, metrics = self._daemon, self._daemon.metrics.provider
        database, now = daemon.database, self.clock.now
        intake = _Intake(self, self.account, daemon.receipts, tuple(SyntheticType), metrics)
        facts = _Facts(database, self.account)
        facts.story = self
        recorder = FactRecorder(self.account, facts, intake, now)
        until = partial(oldest, timedelta(days=3650))
        return SettlementSweep(self.account, client, database, recorder, until, self._zone, metrics)

    async def _zone(self) -> str:
        return self.own.rules.zone

    def cut(self, where: str) -> None:
        """Cuts the sweep off here, if the dice want it."""
        if self._dice.random() < self._cuts:
            raise CutOffError("postgresql", where)

    async def _maybe(self) -> None:
        if self.clock.now() < self._next:
            return
        self._next = self.clock.now() + self._every
        try:
            for _ in range(_MOST_RUNS):
                if not await self._sweep.run():
                    return
        except (ProviderError, UnavailableError) as error:
            self.failures.append(str(error))

    async def _whole(self) -> None:
        """Sweeps until a sweep ends without an error."""
        for _ in range(_MOST_RUNS):
            try:
                if not await self._sweep.run():
                    return
            except ProviderError as error:
                self.failures.append(str(error))
                self.clock.advance(60)
        raise AssertionError(f"the sweeps do not end: {self.failures[-3:]}")

    # The comparison with the books

    async def check(self) -> None:
        """Compares the facts and the events with the simulator's own books, to the cent."""
        books = self.own.transactions
        stored = await FactStore(self._daemon.database, self.account).read(list(books))
        assert stored.keys() == books.keys(), "each transaction is known"
        for identifier, one in books.items():
            self._check_facts(stored[identifier], one)
        count = "SELECT count(*) FROM webhookd.provider_transactions WHERE account = $1"
        assert await self._connection.fetchval(count, self.account) == len(books), "no transaction is known that is not there"
        await self._check_events()
        await self._check_batches()

    def _check_facts(self, stored: StoredFacts, one: Transaction) -> None:
        facts, batch = stored.facts, one.batch
        wanted = (
            one.status,
            one.settle_amount,
            batch.id if batch else None,
            batch.settled_at if batch else None,
            one.made_at,
            one.invoice,
            (one.payment.subscription, one.payment.number) if one.payment else (None, None),
            [(item.id, item.at, item.code) for item in one.returned],
            frozenset({batch.id}) if batch and one.status == "settlementError" else frozenset(),
            frozenset({batch.id}) if batch and one.status != "settlementError" else frozenset(),
        )
        found = (
            facts.status,
            facts.amount,
            facts.batch_id,
            facts.settled_at,
            facts.submitted_at,
            facts.invoice_number,
            (facts.subscription_id, facts.payment_number),
            [tuple(item) for item in facts.returned_items],
            facts.failed_batches,
            stored.listed_in,
        )
        assert found == wanted, (self.seed, one)
        # A list does not show that a voided transaction was a refund, and no details are asked for where no money is.
        if one.is_refund and (facts.detailed or one.status not in ("voided", "declined", "generalError", "communicationError")):
            assert (facts.type, facts.ref_transaction_id) == (one.type, one.ref_id), (self.seed, one)

    async def _check_events(self) -> None:
        due = due_events(self.own)
        rows = await self._connection.fetch(_EVENTS, self.account)
        held = [row for row in rows if row["event_type"] == SyntheticType.HELD_TOO_LONG]
        rest = [row for row in rows if row["event_type"] != SyntheticType.HELD_TOO_LONG]
        assert sorted(UUID(row["notification_id"]) for row in rest) == sorted(due), self.seed
        for row in rest:
            kind, one, key = due[UUID(row["notification_id"])]
            payload = load(bytes(row["body"]).decode())["payload"]
            assert (row["event_type"], row["entity_id"], row["key_fingerprint"]) == (kind, one.id, "synthetic")
            assert Decimal(payload["settleAmount"]) == one.settle_amount
            if kind != SyntheticType.RETURNED and key:
                assert payload["batchId"] == key
                assert row["event_date"] == (one.batch.settled_at if one.batch else None)
            if kind == SyntheticType.REFUND_SETTLED:
                assert payload.get("refTransId") == one.ref_id
        ids = [row["entity_id"] for row in held]
        assert len(set(ids)) == len(ids)
        filtered = {one.id for one in self.own.transactions.values() if one.filter_action is not None}
        never_decided = {
            one.id for one in self.own.transactions.values() if one.status == "expired" and one.reason_code in (252, 253)
        }
        assert never_decided <= set(ids) <= filtered, self.seed

    async def _check_batches(self) -> None:
        rows = await self._connection.fetch("SELECT * FROM webhookd.provider_batches WHERE account = $1", self.account)
        wanted = {
            (one.id, one.state, one.settled_at, len(one.transactions)) for one in self.own.batches.values() if one.settled_at
        }
        found = {(row["batch_id"], row["settlement_state"], row["settled_at"], row["transactions"]) for row in rows}
        assert wanted <= found, self.seed
        assert [row["reasons"] for row in rows if row["settled_at"] is not None and row["reasons"]] == [], self.seed


class _Intake(SyntheticIntake):
    """An intake that may be cut off, before or after its commit."""

    def __init__(self, story_: SettlementStory, account: str, receipts: Receipts, wanted: Any, metrics: Any) -> None:
        super().__init__(account, receipts, wanted, metrics)
        self._story = story_

    async def take(self, events: Any) -> int:
        """Takes events."""
        self._story.cut("before the events")
        taken = await super().take(events)
        self._story.cut("after the events, before the facts")
        return taken


class _Facts(FactStore):
    """Facts whose commit may be cut off."""

    story: SettlementStory

    async def change(self, transaction_ids: Any, decide: Any) -> None:
        """Changes facts."""
        await super().change(transaction_ids, decide)
        self.story.cut("after the facts")
