"""Reconciles one settlement day: the provider's rows with webhookd's and the shop's. Pure functions, without I/O.

A settlement day is a day in the account's own zone, by the settlement times of the batches; the report has its limits in UTC.
The provider's rows are those of the day's batches. A report is green only if everything is known and nothing differs: each
batch is closed, the batches were listed long enough after the day, and webhookd's history is whole for each day on which one
of the transactions was submitted.

Transactions that moved no money (declined, voided, failed at once or with their batch) may be missing in webhookd's books and
the shop's. What no webhook reports, such as a return or a capture of a part, is no difference if the shop's books have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import NamedTuple

from webhookd.authorizenet.batches import Check, Totals
from webhookd.authorizenet.captures import Capture, captured_twice
from webhookd.authorizenet.findings import Books, Finding, Kind
from webhookd.authorizenet.settlement import Facts, State

LATE = timedelta(hours=6)  # batches can be listed this long after their settlement time
_DAY = timedelta(days=1)

# Provider's state → the words for it in other books. webhookd's timeline has "captured" until it hears more, so a sale whose
# money did not come differs from "captured".
_WORDS = {
    State.SETTLED: {"captured", "settled", "approved"},  # the approval of a held sale captures it, and no event follows
    State.REFUND_SETTLED: {"refunded", "refund settled"},
    State.SETTLEMENT_FAILED: {"settlement failed"},
    State.RETURNED: {"returned"},
    State.CHARGEBACK: {"chargeback"},
    State.CHARGEBACK_REVERSAL: {"chargeback reversal"},
    State.EXPIRED: {"expired", "authorized", "approved", "held"},
    State.DECLINED: {"declined"},
    State.VOIDED: {"voided", "declined"},  # who declines a held authorization voids it
    State.ERROR: {"error"},
}
# The return of an eCheck is a row of its own, which no webhook announces: the books show it at the original.
_NO_MONEY = frozenset({State.EXPIRED, State.DECLINED, State.VOIDED, State.ERROR, State.SETTLEMENT_FAILED, State.RETURN})
_UNREPORTED = frozenset({State.SETTLEMENT_FAILED, State.RETURNED, State.CHARGEBACK, State.CHARGEBACK_REVERSAL})


class OurRow(NamedTuple):
    """webhookd's row of a transaction. `dead`: the number of its events that are dead at a consumer.

    state: None if the timeline has no row of the transaction, and only events name it.
    """

    id: str
    amount: Decimal | None
    state: str | None
    dead: int = 0


class Unsettled(NamedTuple):
    """A transaction that is captured or refunded here, and that is in no batch after days. `there`: the provider's state."""

    id: str
    there: str
    here: str


class ShopRow(NamedTuple):
    """The shop's row of a transaction. `state`: in the words of `webhookd`'s timeline, or None if the shop has no state."""

    id: str
    amount: Decimal | None
    state: str | None


class Agreed(NamedTuple):
    """Transactions that whoever read the day compared already. Each is in one batch, and no event of it is dead.

    number, amount: the number of settled charges, and their sum. Each has the same amount and state in webhookd's books, and an
    invoice number of its own.
    days: the days of all of them, in UTC.
    without_money: the number of those that were declined or voided, and have the same state here or are not here.
    """

    number: int = 0
    amount: Decimal = Decimal(0)
    days: Collection[date] = frozenset()
    without_money: int = 0


_NONE = Agreed()


@dataclass(slots=True, frozen=True)
class Inputs:
    """All that a reconciliation reads.

    checks: the batches of the day and of those around it, each with its comparison. Others than the day's are left out.
    facts: the facts of the batches' transactions, each once, merged from all looks; in any order.
    ours: webhookd's rows that should have settled on the day, and those of the provider's transactions of the day.
    shop: the shop's rows, chosen alike; None if the shop is not compared.
    elsewhere: the ids that the provider lists as unsettled or in batches of other days.
    unsettled: the transactions that should be in a batch since this day, and are in none.
    sales: the ids of sales that refunds may be for, beyond the day's own and `elsewhere`.
    captures: invoice numbers → their captures, on any day.
    whole_days: the days in UTC for which webhookd's history is whole (`gaps.Completeness.WHOLE`).
    listed_at: the time of the last complete list of batches; None if there is none.
    agreed: transactions of the day that are neither in `facts` nor in `ours`, since they agree.
    doubts: further reasons why the day is not known, in plain words.
    """

    checks: Sequence[Check]
    facts: Collection[Facts]
    ours: Sequence[OurRow]
    shop: Sequence[ShopRow] | None = None
    elsewhere: Collection[str] = frozenset()
    unsettled: Collection[Unsettled] = ()
    sales: Collection[str] = frozenset()
    captures: Mapping[str, Collection[Capture]] = field(default_factory=dict)
    whole_days: Collection[date] = frozenset()
    listed_at: datetime | None = None
    agreed: Agreed = _NONE
    doubts: Collection[str] = ()


@dataclass(slots=True, frozen=True)
class Report:
    """The reconciliation of a settlement day.

    day: the day in the account's zone. begins, ends: its limits in UTC; a day has 23 or 25 hours if the clock changes.
    matched: the ids of the transactions with money on which all books agree, sorted; without those that agreed before.
    agreed: the number of these.
    without_money: the number of the day's transactions that moved no money.
    charged, refunded: the sums of what settled. A returned eCheck is no part of them.
    findings: the differences, in a stable order.
    reasons: why the day is not known yet, in plain words, sorted.
    batches: the ids of the day's batches, sorted; totals: batch → account type → line.
    """

    day: date
    begins: datetime
    ends: datetime
    as_of: datetime
    matched: tuple[str, ...]
    without_money: int
    charged: Decimal
    refunded: Decimal
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...]
    batches: tuple[str, ...]
    totals: Mapping[str, Totals]
    agreed: int = 0

    @property
    def in_agreement(self) -> int:
        """Returns the number of all transactions with money on which all books agree."""
        return self.agreed + len(self.matched)

    @property
    def is_green(self) -> bool:
        """Returns whether everything is known and nothing differs."""
        return not self.findings and not self.reasons


def settlement_day(settled_at: datetime, zone: tzinfo) -> date:
    """Returns the account's own day of a settlement time."""
    return settled_at.astimezone(zone).date()


def limits(day: date, zone: tzinfo) -> tuple[datetime, datetime]:
    """Returns the begin and the end of a day of the account, in UTC. The end belongs to the next day."""
    begin, end = (datetime.combine(one, time(), zone).astimezone(UTC) for one in (day, day + _DAY))
    return begin, end


def reconcile(day: date, zone: tzinfo, inputs: Inputs, as_of: datetime, late: timedelta = LATE) -> Report:
    """Returns the report of a day. `late`: how long after the day's end the batches must have been listed."""
    begins, ends = limits(day, zone)
    checks = [one for one in inputs.checks if one.batch.settled_at and settlement_day(one.batch.settled_at, zone) == day]
    batches = {one.batch.id for one in checks}
    rows = sorted((one for one in inputs.facts if one.batch_id in batches), key=_order)
    findings = set(_findings(rows, inputs))
    touched = {number for one in findings for number in one.transactions}
    money = [one for one in rows if one.state not in _NO_MONEY]
    reasons = {reason for one in checks for reason in one.reasons}
    reasons |= {*_undated(inputs, ends), *_strays(day, zone, inputs), *_unlisted(inputs, ends, late), *_unknown(rows, inputs)}
    reasons |= {*inputs.doubts, *(_not_whole(one) for one in {*inputs.agreed.days} - {*inputs.whole_days})}
    return Report(
        day,
        begins,
        ends,
        as_of,
        matched=tuple(one.id for one in money if one.id not in touched and not one.state.is_open),
        without_money=inputs.agreed.without_money + len(rows) - len(money),
        charged=_sum(one for one in rows if one.state is State.SETTLED) + inputs.agreed.amount,
        refunded=_sum(one for one in rows if one.state is State.REFUND_SETTLED),
        findings=tuple(sorted(findings, key=lambda one: one.order)),
        reasons=tuple(sorted(reasons)),
        batches=tuple(sorted(batches)),
        totals={one.batch.id: one.totals for one in checks},
        agreed=inputs.agreed.number,
    )


def _order(row: Facts) -> tuple[int, str, str, str]:
    return len(row.id), row.id, row.batch_id or "", row.status


def _sum(rows: Iterable[Facts]) -> Decimal:
    return sum((one.amount for one in rows if one.amount is not None), Decimal(0))


def _undated(inputs: Inputs, ends: datetime) -> Iterator[str]:
    """Yields the batches without a settlement time that may settle on the day: whose transactions are not all later."""
    for one in inputs.checks:
        if one.batch.settled_at is None:
            submitted = [row.submitted_at for row in inputs.facts if row.batch_id == one.batch.id]
            if not submitted or any(at is None or at < ends for at in submitted):
                yield from one.reasons or (f"batch {one.batch.id}: the provider reports no settlement time",)


def _strays(day: date, zone: tzinfo, inputs: Inputs) -> Iterator[str]:
    """Yields the batches of the day that transactions name and that were not compared."""
    known = {one.batch.id for one in inputs.checks}
    for one in inputs.facts:
        may_be = one.settled_at is None or settlement_day(one.settled_at, zone) == day
        if may_be and one.batch_id is not None and one.batch_id not in known:
            yield f"batch {one.batch_id}: it was not compared with its statistics"


def _unlisted(inputs: Inputs, ends: datetime, late: timedelta) -> Iterator[str]:
    if inputs.listed_at is None:
        yield "the provider's batches were not listed to the end"
    elif inputs.listed_at < ends + late:
        listed = inputs.listed_at.isoformat(timespec="seconds")
        yield f"the provider's batches were last listed at {listed}, before the day was surely complete"


def _not_whole(day: date) -> str:
    return f"webhookd's history is not known to be whole for {day.isoformat()} (UTC)"


def _unknown(rows: Sequence[Facts], inputs: Inputs) -> Iterator[str]:
    for one in rows:
        if one.submitted_at is None:
            yield f"transaction {one.id}: the provider reports no date, so webhookd's history cannot be judged"
        elif (day := one.submitted_at.astimezone(UTC).date()) not in inputs.whole_days:
            yield _not_whole(day)
        if one.needs_details:
            yield f"transaction {one.id}: its details are not read yet"
        if one.state.is_open:
            yield f"transaction {one.id}: it is in a batch and still {one.status}"


def _findings(rows: Sequence[Facts], inputs: Inputs) -> Iterator[Finding]:
    at_provider = {one.id: one for one in rows}
    yield from _listed_twice(inputs)
    shop = {one.id: one for one in sorted(inputs.shop or (), key=str)}
    ours = {one.id: one for one in inputs.ours if one.state is not None}
    for found in _compared(at_provider, ours, inputs.elsewhere, Books.WEBHOOKD):
        if not _shop_knows(found, at_provider.get(found.subject), shop.get(found.subject)):
            yield found
    if inputs.shop is not None:
        for number, count in Counter(one.id for one in inputs.shop).items():
            if count > 1:
                yield Finding(Kind.LISTED_TWICE, Books.SHOP, number, (number,), other=f"{count} rows")
        yield from _compared(at_provider, shop, inputs.elsewhere, Books.SHOP)
    for number, there, here in inputs.unsettled:
        yield Finding(Kind.NOT_SETTLED, Books.WEBHOOKD, number, (number,), provider=there, other=here)
    for invoice, twice in captured_twice(rows, inputs.captures):
        yield Finding(Kind.CAPTURED_TWICE, Books.PROVIDER, invoice, twice)
    for own in inputs.ours:
        if own.dead:
            row = at_provider.get(own.id)
            yield Finding(
                Kind.DEAD,
                Books.WEBHOOKD,
                own.id,
                (own.id,),
                provider=row.state.value if row else None,
                other=f"{own.dead} dead",
                batch_id=row.batch_id if row else None,
            )
    sales = {*inputs.sales, *inputs.elsewhere, *(one.id for one in rows if not one.is_refund)}
    for row in rows:
        if row.is_refund and row.detailed and row.state not in _NO_MONEY and row.ref_transaction_id not in sales:
            yield Finding(
                Kind.REFUND_WITHOUT_SALE,
                Books.PROVIDER,
                row.id,
                (row.id,),
                provider=row.ref_transaction_id,
                batch_id=row.batch_id,
            )


def _compared(
    at_provider: Mapping[str, Facts], others: Mapping[str, OurRow | ShopRow], elsewhere: Collection[str], books: Books
) -> Iterator[Finding]:
    for number, row in at_provider.items():
        other = others.get(number)
        moved = row.state not in _NO_MONEY
        if other is None:
            if moved:
                yield Finding(Kind.NOT_HERE, books, number, (number,), provider=row.amount, batch_id=row.batch_id)
            continue
        if moved and not _same_amount(row, other.amount):
            yield Finding(Kind.AMOUNT_DIFFERS, books, number, (number,), row.amount, other.amount, row.batch_id)
        words = _WORDS.get(row.state)
        if words is not None and other.state is not None and other.state.casefold() not in words:
            yield Finding(Kind.STATE_DIFFERS, books, number, (number,), row.state.value, other.state, row.batch_id)
    for number in others.keys() - at_provider.keys() - set(elsewhere):
        yield Finding(Kind.NOT_AT_PROVIDER, books, number, (number,), other=others[number].amount)


def _shop_knows(found: Finding, row: Facts | None, shop: ShopRow | None) -> bool:
    """Returns whether the shop's books have what no webhook reports: money that did not come, or a capture of a part."""
    if row is None or shop is None:
        return False
    if found.kind is Kind.AMOUNT_DIFFERS and isinstance(found.other, Decimal) and row.amount is not None:
        return row.amount < found.other and _same_amount(row, shop.amount)
    lost = found.kind is Kind.STATE_DIFFERS and row.state in _UNREPORTED
    return lost and shop.state is not None and shop.state.casefold() in _WORDS[row.state]


def _same_amount(row: Facts, other: Decimal | None) -> bool:
    """Returns whether an amount is the provider's. Books may have a refund as a negative amount; the provider never does."""
    if row.amount is None or other is None:
        return False
    return row.amount == (abs(other) if row.is_refund else other)


def _listed_twice(inputs: Inputs) -> Iterator[Finding]:
    """Yields transactions that the facts have with two batches. A batch that failed may come before the one that settled."""
    batches: dict[str, set[str]] = {}
    for one in inputs.facts:
        if one.batch_id is not None and one.settlement is not State.SETTLEMENT_FAILED:
            batches.setdefault(one.id, set()).add(one.batch_id)
    for number, found in batches.items():
        if len(found) > 1:
            yield Finding(Kind.LISTED_TWICE, Books.PROVIDER, number, (number,), provider=", ".join(sorted(found)))
