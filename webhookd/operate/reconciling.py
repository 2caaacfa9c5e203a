"""Reconciles settlement days of an account by what PostgreSQL has: one day at a time, each from one snapshot, read-only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import partial
from typing import Any, Literal

import asyncpg

from webhookd.authorizenet.api.results import Batch
from webhookd.authorizenet.batches import FINAL, Check, Line
from webhookd.authorizenet.body import load
from webhookd.authorizenet.captures import Capture, captures_of
from webhookd.authorizenet.reconciliation import Agreed, Inputs, OurRow, Report, Unsettled, limits, reconcile
from webhookd.authorizenet.settlement import Facts, State
from webhookd.authorizenet.subscription_books import SubscriptionFinding, SubscriptionKind, SubscriptionReport, doubts
from webhookd.authorizenet.zones import account_zone
from webhookd.errors import NotFoundError
from webhookd.settings import Settings
from webhookd.settings.provider import time_zone
from webhookd.settings.synthetic_types import SyntheticType
from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.pools import Connection
from webhookd.store.provider_facts import StoredFacts, stored_facts
from webhookd.store.queries import queries
from webhookd.store.shop_books import ShopBooks

_POOL = "admin"  # a long report takes none of the connections that commit webhooks
_DAY = timedelta(days=1)
# The provider refunds a sale for so long. So a refund may name a sale that is older than webhookd's own books.
_REFUNDABLE = timedelta(days=180)
# Cards settle a day after their capture, and eChecks some days after it: how many is not documented.
_SETTLES_WITHIN = timedelta(days=7)
_CAPTURED_WITHIN = timedelta(days=31)  # of its submission: an authorization expires after 30 days
_TOLD_BY = {State.RETURNED: SyntheticType.RETURNED, State.SETTLEMENT_FAILED: SyntheticType.SETTLEMENT_FAILED}


@dataclass(slots=True, frozen=True)
class ReconciledDay:
    """The report of a day. zone: the name of the day's time zone. shop: whether the shop's books were compared."""

    report: Report
    zone: str
    shop: bool = False

    @property
    def result(self) -> Literal["green", "differences", "not known"]:
        """Returns the result: differences count more than what is not known."""
        return "green" if self.report.is_green else "differences" if self.report.findings else "not known"


def reconciler_of(settings: Settings, database: Database) -> Reconciler:
    """Returns the reconciler that the settings describe."""
    shop = None
    if settings.shop_query is not None:
        url = settings.shop_database_url
        shop = ShopBooks(database, settings.shop_query.get_secret_value(), None if url is None else url.get_secret_value())
    return Reconciler(database, partial(time_zone, settings), shop)


class Reconciler:
    """Reconciles days. `zone`: returns the zone of an account that the settings name, for use if the provider names none.

    All methods raise UnavailableError while PostgreSQL is away.
    """

    def __init__(self, database: Database, zone: Callable[[str], str | None], shop: ShopBooks | None = None) -> None:
        self._database = database
        self._zone = zone
        self._shop = shop

    async def days(self, account: str, first: date, last: date) -> AsyncIterator[ReconciledDay]:
        """Yields the report of each day, the oldest first. Raises NotFoundError if the account has no API credentials."""
        for number in range((last - first).days + 1):
            yield await self.day(account, first + timedelta(days=number))

    async def day(self, account: str, day: date) -> ReconciledDay:
        """Returns the report of a day. Raises NotFoundError if the account has no API credentials."""
        with gateway():
            async with (
                self._database.acquire(_POOL) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                snapshot = _Snapshot(connection, account, day, every=self._shop is not None)
                zone, name = await snapshot.frame(self._zone(account))
                inputs = await snapshot.inputs(zone)
        if self._shop is not None:
            inputs = await self._with_shop(self._shop, account, snapshot, inputs)
        return ReconciledDay(reconcile(day, zone, inputs, snapshot.now), name, inputs.shop is not None)

    async def subscriptions(self, account: str) -> SubscriptionReport:
        """Compares the provider's subscriptions with webhookd's. Raises NotFoundError if the account has no API credentials."""
        with gateway():
            async with (
                self._database.acquire(_POOL) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                frame = await queries.subscription_frame(connection, account=account)
                rows = [row async for row in queries.subscription_differences(connection, account=account)]
        if not frame["known"]:
            raise NotFoundError(f"no account {account} has API credentials")
        findings = (
            SubscriptionFinding(SubscriptionKind(row["kind"]), row["subscription_id"], row["provider"], row["other"])
            for row in rows
        )
        reasons = doubts(frame["subscriptions_at"], frame["now"], ours=frame["ours"])
        ordered = tuple(sorted(findings, key=lambda one: one.order))
        return SubscriptionReport(frame["now"], frame["subscriptions_at"], ordered, reasons)

    async def _with_shop(self, shop: ShopBooks, account: str, snapshot: _Snapshot, inputs: Inputs) -> Inputs:
        """Adds the shop's books. They are read after the snapshot: usually, they are in another database."""
        ids = sorted({one.id for one in inputs.facts})
        answer = await shop.read(account, snapshot.begins - _DAY, snapshot.begins, ids)
        others = sorted({row.id for row in answer.rows or ()} - set(ids))
        listed = (
            await self._database.all(queries.listed_transactions, account=account, transaction_ids=others) if others else []
        )
        elsewhere = {*inputs.elsewhere, *(row["transaction_id"] for row in listed)}
        # The shop's rows that no list has yet are judged as webhookd's own: only if the lists are new enough.
        rows = answer.rows
        if rows is not None and snapshot.lists_doubt:
            unknown = {row.id for row in rows} - elsewhere - set(ids)
            rows = [row for row in rows if row.id not in unknown]
        doubts = {*inputs.doubts, *answer.doubts, *([snapshot.lists_doubt] if rows != answer.rows else [])}
        return replace(inputs, shop=rows, elsewhere=elsewhere, doubts=doubts)


class _Snapshot:
    """The inputs of one day, all as they were at one instant. `every`: to read also the transactions that surely agree."""

    def __init__(self, connection: Connection, account: str, day: date, *, every: bool) -> None:
        self._connection = connection
        self._account = account
        self._day = day
        self._every = every
        self._doubts: list[str] = []
        self.now = self.begins = self.ends = datetime.min.replace(tzinfo=UTC)
        self.lists_doubt = ""  # why what no list has cannot be judged; empty if it can

    async def frame(self, given: str | None) -> tuple[tzinfo, str]:
        """Reads how far the sweep has come, and returns the zone of the day with its name. `given`: a zone of the settings."""
        low = datetime.combine(self._day - 2 * _DAY, datetime.min.time(), UTC)
        row = self._row = await queries.settlement_frame(
            self._connection, account=self._account, low=low, lowest=low - _SETTLES_WITHIN
        )
        if not row["known"]:
            raise NotFoundError(f"no account {self._account} has API credentials")
        self.now = row["now"]
        zone, name = account_zone(row["time_zone"], given) or (None, "")
        if zone is None:
            zone, name = UTC, "UTC"
            self._doubts.append(
                "the account's time zone is not known, so the day is one of UTC: wait for some sweeps of the "
                "settlement, since one of them asks for the zone, or set WEBHOOKD_TIME_ZONE, such as America/Los_Angeles"
            )
        self.begins, self.ends = limits(self._day, zone)
        if row["swept_from"] is not None and row["swept_from"] > self.begins:
            self._doubts.append(
                f"webhookd looks only at batches that settled since {row['swept_from'].isoformat(timespec='seconds')}"
            )
        unsettled = row["unsettled_at"]
        if row["unread"]:
            self.lists_doubt = "transactions of webhookd are in no batch yet, and the list of a batch was not read yet"
        elif unsettled is None or unsettled < self.ends:
            since = "never" if unsettled is None else unsettled.isoformat(timespec="seconds")
            self.lists_doubt = f"transactions of webhookd are in no batch yet, and the unsettled ones were last listed: {since}"
        return zone, name

    async def inputs(self, zone: tzinfo) -> Inputs:
        """Reads the inputs."""
        batches = await self._all(queries.settled_batches, begins=self.begins, ends=self.ends)
        checks = [_check(row) for row in batches]
        dated = [one.batch.id for one in checks if one.batch.settled_at is not None]
        rows = await self._all(queries.settled_rows, batches=dated, every=self._every)
        counted = rows[0]
        days = frozenset(counted["plain_days"])
        agreed = Agreed(counted["agreed"], counted["agreed_amount"], days, counted["agreed_without_money"])
        stored = [(row, stored_facts(row)) for row in rows if row["transaction_id"] is not None]
        others = {name for _, one in stored for name in one.listed_in} - set(dated)
        if others:
            known = {one.batch.id for one in checks}
            found = await self._all(queries.batches_by_id, batches=sorted(others - known))
            checks += [_check(row) for row in found]
        facts = list(_by_batch((one for _, one in stored), {one.batch.id: one.batch.settled_at for one in checks}))
        told = await self._told(facts)
        ours = [
            OurRow(
                one.facts.id,
                row["our_amount"],
                (told.get(one.facts.id, row["our_state"]) or "unknown") if row["is_ours"] else None,
                row["our_dead"],
            )
            for row, one in stored
            if row["is_ours"] or row["our_dead"]
        ]
        return Inputs(
            checks,
            facts,
            [*ours, *await self._unlisted()],
            unsettled=await self._unsettled(),
            sales=await self._sales(facts),
            captures=await self._captures(facts),
            whole_days=await self._whole_days(facts, agreed),
            listed_at=self._row["batches_listed_at"],
            agreed=agreed,
            doubts=self._doubts,
        )

    async def _unlisted(self) -> list[OurRow]:
        """Returns webhookd's rows that no list of the provider has, of the events received on the day before.

        By the end of the day, the provider lists them: settled, or waiting for it. So each is judged on one day only.
        """
        if (since := self._row["swept_from"]) is None:
            return []
        low, high = self.begins - _DAY, self.begins
        rows = await self._all(queries.unlisted_transactions, low=low, high=high, since=since)
        if rows and self.lists_doubt:
            self._doubts.append(self.lists_doubt)
            return []
        return [OurRow(row["transaction_id"], row["our_amount"], row["our_state"]) for row in rows]

    async def _unsettled(self) -> list[Unsettled]:
        """Returns the transactions of the day a week before that are captured or refunded here, and in no batch yet.

        A transaction has one time of its capture, so it is judged on one day only.
        """
        low, high = self.begins - _SETTLES_WITHIN, self.ends - _SETTLES_WITHIN
        rows = await self._all(queries.unsettled_transactions, low=low, high=high, oldest=low - _CAPTURED_WITHIN)
        doubt = self.lists_doubt
        if self._row["unread_before"]:
            doubt = (
                doubt
                or "transactions of webhookd are in no batch yet, and the list of an earlier batch was not read to its end"
            )
        if rows and doubt:
            self._doubts.append(doubt)
            return []
        return [Unsettled(row["transaction_id"], row["state"], row["our_state"]) for row in rows]

    async def _told(self, facts: Iterable[Facts]) -> dict[str, str]:
        """Returns the states of transactions whose money did not come, if a synthetic event has told the handlers so."""
        lost = {one.id: one.state for one in facts if one.state in _TOLD_BY}
        if not lost:
            return {}
        rows = await self._all(queries.told_losses, transaction_ids=sorted(lost), event_types=sorted(_TOLD_BY.values()))
        found = {(row["transaction_id"], row["event_type"]) for row in rows}
        return {name: state.value for name, state in lost.items() if (name, _TOLD_BY[state]) in found}

    async def _sales(self, facts: Sequence[Facts]) -> set[str]:
        refunds = {one.ref_transaction_id: one for one in facts if one.is_refund and one.ref_transaction_id is not None}
        if not refunds:
            return set()
        found = {row["transaction_id"] for row in await self._all(queries.sales_of, transaction_ids=sorted(refunds))}
        oldest = (self._row["swept_from"] or self.now) + _REFUNDABLE
        return found | {name for name, one in refunds.items() if one.submitted_at is None or one.submitted_at < oldest}

    async def _captures(self, facts: Sequence[Facts]) -> dict[str, set[Capture]]:
        found: dict[str, set[Capture]] = {}
        if given := {(invoice, *one.payment) for invoice, own in captures_of(facts).items() for one in own.values()}:
            invoices, subscriptions, payments = zip(*given, strict=True)
            rows = await self._all(
                queries.captures_of_invoices, invoices=invoices, subscriptions=subscriptions, payments=payments
            )
            for row in rows:
                names = ("transaction_id", "amount", "submitted_at", "subscription_id", "payment_number")
                one = Capture(*(row[name] for name in names))
                found.setdefault(row["invoice_number"], set()).add(one)
        return found

    async def _whole_days(self, facts: Iterable[Facts], agreed: Agreed) -> set[date]:
        days = {one.submitted_at.astimezone(UTC).date() for one in facts if one.submitted_at is not None} | {*agreed.days}
        return {row["day"] for row in await self._all(queries.whole_days, days=sorted(days))} if days else set()

    async def _all(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        return [row async for row in query(self._connection, account=self._account, **parameters)]


def _check(row: asyncpg.Record) -> Check:
    """Returns a batch with the result of its comparison. Without reasons to be open, it is closed, but only if it was read."""
    name, reasons = row["batch_id"], list(row["reasons"])
    if row["looked_at"] is None:
        reasons.append(f"batch {name}: its list was not read yet")
    if not reasons and row["settlement_state"].casefold() not in FINAL:
        reasons.append(f"batch {name}: its state is {row['settlement_state']}")
    totals = {
        account_type: {Line(line): Decimal(str(value)) for line, value in lines.items()}
        for account_type, lines in load(row["totals"]).items()
    }
    batch = Batch(name, row["settlement_state"], row["settled_at"], row["payment_method"], ())
    return Check(batch, tuple(reasons), (), totals)


def _by_batch(stored: Iterable[StoredFacts], settled: dict[str, datetime | None]) -> Iterator[Facts]:
    """Yields the facts of each transaction, once for each batch whose list had it."""
    for one in stored:
        yield one.facts
        for name in one.listed_in - {one.facts.batch_id}:
            yield replace(one.facts, batch_id=name, settled_at=settled.get(name, one.facts.settled_at))
