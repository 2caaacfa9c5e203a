"""Compares a batch's transactions with the batch's own statistics. Pure functions, without I/O.

A batch lists whatever the day ended: declined, voided and failed transactions, too. So amounts are added up by status. A
difference means that webhookd misread the list, or did not get it whole: the batch stays open.

Not compared are returned items and chargebacks (`BatchStatistic` has no sums of these). How the statistics count a transaction
of a batch that failed is not known: as a charge or refund, or as an error. Either is accepted, for the whole batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from webhookd.authorizenet.api.results import Batch, BatchStatistic
from webhookd.authorizenet.settlement import Facts, State

FINAL = frozenset({"settledsuccessfully", "settlementerror"})  # the states of a batch that is over, folded

Totals = dict[str, dict["Line", Decimal]]  # account type, folded → line → sum or count


class Line(StrEnum):
    """A line of the statistics. A count is a whole Decimal."""

    CHARGE_AMOUNT = "charge amount"
    CHARGE_COUNT = "charge count"
    REFUND_AMOUNT = "refund amount"
    REFUND_COUNT = "refund count"
    VOID_COUNT = "void count"
    DECLINE_COUNT = "decline count"
    ERROR_COUNT = "error count"


_CHARGE = (Line.CHARGE_COUNT, Line.CHARGE_AMOUNT)
_REFUND = (Line.REFUND_COUNT, Line.REFUND_AMOUNT)
_LINES: dict[State, tuple[Line, ...]] = {
    State.DECLINED: (Line.DECLINE_COUNT,),
    State.VOIDED: (Line.VOID_COUNT,),
    State.ERROR: (Line.ERROR_COUNT,),
    State.PENDING: _CHARGE,
    State.SETTLED: _CHARGE,
    State.REFUND_PENDING: _REFUND,
    State.REFUND_SETTLED: _REFUND,
}
_MONEY = frozenset({State.SETTLEMENT_FAILED, *(state for state, lines in _LINES.items() if len(lines) > 1)})


class Difference(NamedTuple):
    """A line whose sum of transactions differs from the batch's own. `account_type`: folded, "" if the provider names none."""

    account_type: str
    line: Line
    provider: Decimal
    ours: Decimal

    def __str__(self) -> str:
        return (
            f"{self.account_type or 'no account type'}, {self.line}: the statistics have {self.provider}, "
            f"the transactions add up to {self.ours}"
        )


@dataclass(slots=True, frozen=True)
class Check:
    """The result for a batch.

    reasons: why the batch stays open, in plain words; none if it is closed.
    differences: the lines that differ, sorted.
    totals: the sums of the transactions.
    """

    batch: Batch
    reasons: tuple[str, ...]
    differences: tuple[Difference, ...]
    totals: Totals

    @property
    def is_open(self) -> bool:
        """Returns whether the batch needs another look."""
        return bool(self.reasons)


def check(batch: Batch, transactions: Iterable[Facts], *, complete: bool) -> Check:
    """Compares the transactions of a batch with its statistics.

    transactions: the facts of each row of the batch's list, with the status that this list has, and the type from details if
        the batch failed: facts that were merged with later looks may have moved on to another batch.
    complete: whether the list was read to its end.
    """
    rows = sorted(transactions, key=lambda one: one.id)
    totals, differences = _compared(batch.statistics, rows)
    reasons = list(_reasons(batch, rows, complete))
    reasons += [f"batch {batch.id}: {one}" for one in differences]
    return Check(batch, tuple(reasons), differences, totals)


def _reasons(batch: Batch, rows: Sequence[Facts], complete: bool) -> Iterable[str]:
    if batch.settlement_state.casefold() not in FINAL:
        yield f"batch {batch.id}: its state is {batch.settlement_state}"
    if batch.settled_at is None:
        yield f"batch {batch.id}: the provider reports no settlement time"
    if not complete:
        yield f"batch {batch.id}: its list was not read to the end"
    if not batch.statistics:
        yield f"batch {batch.id}: the provider reports no statistics"
    for number, count in Counter(one.id for one in rows).items():
        if count > 1:
            yield f"batch {batch.id}: transaction {number} is listed {count} times"
    for one in rows:
        if one.settlement.is_open:
            yield f"batch {batch.id}: transaction {one.id} is still {one.status}"
        if one.amount is None and one.settlement in _MONEY:
            yield f"batch {batch.id}: transaction {one.id} has no amount"


def _compared(statistics: Iterable[BatchStatistic], rows: Sequence[Facts]) -> tuple[Totals, tuple[Difference, ...]]:
    """Returns the totals and their differences, by the reading of failed transactions that leaves fewer differences."""
    provider = _provider(statistics)
    readings = []
    for failed_is_error in (False, True):
        totals = _ours(rows, failed_is_error=failed_is_error)
        readings.append((totals, _differences(provider, totals)))
    return min(readings, key=lambda reading: len(reading[1]))


def _provider(statistics: Iterable[BatchStatistic]) -> Totals:
    totals: Totals = {}
    for one in statistics:
        values: dict[Line, Decimal | int] = {
            Line.CHARGE_AMOUNT: one.charge_amount,
            Line.CHARGE_COUNT: one.charge_count,
            Line.REFUND_AMOUNT: one.refund_amount,
            Line.REFUND_COUNT: one.refund_count,
            Line.VOID_COUNT: one.void_count,
            Line.DECLINE_COUNT: one.decline_count,
            Line.ERROR_COUNT: one.error_count,
        }
        for line, value in values.items():
            _add(totals, one.account_type, line, Decimal(value))
    return totals


def _ours(rows: Iterable[Facts], *, failed_is_error: bool) -> Totals:
    totals: Totals = {}
    for one in rows:
        lines: tuple[Line, ...]
        state = one.settlement
        if state is State.SETTLEMENT_FAILED:
            lines = (Line.ERROR_COUNT,) if failed_is_error else _REFUND if one.is_refund else _CHARGE
        else:
            lines = _LINES.get(state, ())
        for line in lines:
            is_amount = line in (Line.CHARGE_AMOUNT, Line.REFUND_AMOUNT)
            _add(totals, one.account_type, line, (one.amount or Decimal(0)) if is_amount else Decimal(1))
    return totals


def _differences(provider: Totals, ours: Totals) -> tuple[Difference, ...]:
    found = (
        Difference(account_type, line, _value(provider, account_type, line), _value(ours, account_type, line))
        for account_type in sorted(provider.keys() | ours.keys())
        for line in Line
    )
    return tuple(one for one in found if one.provider != one.ours)


def _add(totals: Totals, account_type: str | None, line: Line, value: Decimal) -> None:
    lines = totals.setdefault((account_type or "").casefold(), {})
    lines[line] = lines.get(line, Decimal(0)) + value


def _value(totals: Totals, account_type: str, line: Line) -> Decimal:
    return totals.get(account_type, {}).get(line, Decimal(0))
