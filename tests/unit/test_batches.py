"""Tests of batches against their own statistics."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.api.results import Batch, BatchStatistic
from webhookd.authorizenet.batches import Check, Difference, Line, check
from webhookd.authorizenet.settlement import Facts, State

NOW = datetime(2026, 11, 27, 8, tzinfo=UTC)
NONE = BatchStatistic("Visa", Decimal(0), 0, Decimal(0), 0, 0, 0, 0)


def row(number: str, status: str = "settledSuccessfully", amount: str | None = "5.00", account_type: str = "Visa") -> Facts:
    return Facts(
        number, status, NOW, amount=None if amount is None else Decimal(amount), batch_id="b1", account_type=account_type
    )


def batch(*statistics: BatchStatistic, state: str = "settledSuccessfully", settled_at: datetime | None = NOW) -> Batch:
    return Batch("b1", state, settled_at, "creditCard", statistics)


ROWS = (
    row("1"),
    row("2", amount="7.25", account_type="visa"),
    row("3", "refundSettledSuccessfully", "2.00"),
    row("4", "declined", "99.00"),
    row("5", "voided", "98.00"),
    row("6", "generalError", "97.00"),
    row("7", amount="1.00", account_type="Mastercard"),
    row("8", "returnedItem", "3.00"),
    row("9", "expired", "3.00"),
)
STATISTICS = (
    BatchStatistic("Visa", Decimal("12.25"), 2, Decimal("2.00"), 1, 1, 1, 1),
    BatchStatistic("MasterCard", Decimal(1), 1, Decimal(0), 0, 0, 0, 0),
)


def checked(*rows: Facts, statistics: tuple[BatchStatistic, ...] = STATISTICS) -> Check:
    return check(batch(*statistics), rows, complete=True)


def test_a_batch_whose_sums_agree_is_closed() -> None:
    found = checked(*ROWS)
    assert (found.is_open, found.reasons, found.differences) == (False, (), ())
    assert found.totals["visa"][Line.CHARGE_AMOUNT] == Decimal("12.25")
    assert found.totals["mastercard"][Line.CHARGE_COUNT] == 1


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("charge_amount", Line.CHARGE_AMOUNT),
        ("charge_count", Line.CHARGE_COUNT),
        ("refund_amount", Line.REFUND_AMOUNT),
        ("refund_count", Line.REFUND_COUNT),
        ("void_count", Line.VOID_COUNT),
        ("decline_count", Line.DECLINE_COUNT),
        ("error_count", Line.ERROR_COUNT),
    ],
)
def test_each_line_that_differs_is_named_with_both_sums(field: str, line: Line) -> None:
    ours = getattr(STATISTICS[0], field)
    wrong = STATISTICS[0]._replace(**{field: ours + 1})
    found = checked(*ROWS, statistics=(wrong, STATISTICS[1]))
    assert found.differences == (Difference("visa", line, Decimal(ours + 1), Decimal(ours)),)
    assert found.reasons == (
        f"batch b1: visa, {line.value}: the statistics have {ours + 1}, the transactions add up to {ours}",
    )
    assert found.is_open


def test_a_difference_of_a_cent_is_a_difference() -> None:
    found = checked(
        row("1", amount="0.10"),
        row("2", amount="0.20"),
        statistics=(NONE._replace(charge_amount=Decimal("0.31"), charge_count=2),),
    )
    assert [(one.provider, one.ours) for one in found.differences] == [(Decimal("0.31"), Decimal("0.30"))]


def test_a_type_of_card_that_only_one_side_has_differs() -> None:
    assert {one.account_type for one in checked(*ROWS[:6], statistics=STATISTICS).differences} == {"mastercard"}
    assert {one.account_type for one in checked(*ROWS, statistics=STATISTICS[:1]).differences} == {"mastercard"}


@pytest.mark.parametrize(
    ("given_batch", "rows", "complete", "words"),
    [
        (batch(*STATISTICS, state="pendingSettlement"), ROWS, True, "its state is pendingSettlement"),
        (batch(*STATISTICS, state="newText"), ROWS, True, "its state is newText"),
        (batch(*STATISTICS, settled_at=None), ROWS, True, "no settlement time"),
        (batch(*STATISTICS), ROWS, False, "not read to the end"),
        (batch(), (), True, "no statistics"),
        (batch(*STATISTICS), (replace(ROWS[0], status="pendingFinalSettlement"), *ROWS[1:]), True, "is still pendingFinal"),
        (batch(*STATISTICS), (*ROWS, row("10", "newText")), True, "transaction 10 is still newText"),
        (batch(*STATISTICS), (*ROWS, ROWS[8]), True, "transaction 9 is listed 2 times"),
        (batch(NONE._replace(charge_count=1)), (row("1", amount=None),), True, "transaction 1 has no amount"),
    ],
)
def test_a_batch_stays_open_while_anything_is_not_known(
    given_batch: Batch, rows: tuple[Facts, ...], complete: bool, words: str
) -> None:
    found = check(given_batch, rows, complete=complete)
    assert found.is_open
    assert not found.differences
    (reason,) = found.reasons
    assert words in reason


@pytest.mark.parametrize(
    "statistic",
    [
        NONE._replace(charge_amount=Decimal(5), charge_count=1, refund_amount=Decimal(2), refund_count=1),
        NONE._replace(error_count=2),
    ],
)
def test_a_batch_that_failed_is_closed_however_the_statistics_count_it(statistic: BatchStatistic) -> None:
    rows = [row("1", "settlementError"), replace(row("2", "settlementError", "2.00"), type="refundTransaction")]
    assert not check(batch(statistic, state="settlementError"), rows, complete=True).is_open
    mixed = statistic._replace(error_count=1)
    assert check(batch(mixed, state="settlementError"), rows, complete=True).is_open


_STATUSES = ["settledSuccessfully", "refundSettledSuccessfully", "declined", "voided", "generalError", "communicationError"]
_ROWS = st.lists(
    st.builds(
        lambda status, cents, account_type: row("0", status, str(Decimal(cents) / 100), account_type),
        st.sampled_from(_STATUSES),
        st.integers(0, 10**9),
        st.sampled_from(["Visa", "VISA", "MasterCard", "eCheck"]),
    ),
    min_size=1,
    max_size=12,
).map(lambda rows: [replace(one, id=str(number)) for number, one in enumerate(rows)])


def statistics_of(rows: list[Facts]) -> list[BatchStatistic]:
    """Adds the rows up as the provider does, by other means than the code under test."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for one in rows:
        groups[(one.account_type or "").upper()].append(one)
    found = []
    for name, group in groups.items():
        amounts = {state: [one.amount or Decimal(0) for one in group if one.settlement is state] for state in State}
        charges, refunds = amounts[State.SETTLED], amounts[State.REFUND_SETTLED]
        counts = (len(amounts[state]) for state in (State.VOIDED, State.DECLINED, State.ERROR))
        found.append(
            BatchStatistic(name, sum(charges, Decimal(0)), len(charges), sum(refunds, Decimal(0)), len(refunds), *counts)
        )
    return found


@given(_ROWS, st.randoms(use_true_random=False))
def test_a_batch_is_closed_if_and_only_if_its_list_is_whole(rows: list[Facts], chance: random.Random) -> None:
    statistics = statistics_of(rows)
    shuffled = chance.sample(rows, len(rows))
    assert not check(batch(*statistics), shuffled, complete=True).is_open
    lost = chance.choice(rows)
    found = check(batch(*statistics), [one for one in rows if one is not lost], complete=True)
    assert found.is_open
    assert {one.account_type for one in found.differences} == {(lost.account_type or "").casefold()}
    assert check(batch(*statistics), [*rows, replace(lost, id="new")], complete=True).is_open
    assert found == check(batch(*statistics), [one for one in shuffled if one is not lost], complete=True)


def test_the_reasons_do_not_depend_on_the_order_of_the_list() -> None:
    rows = [row("1", "newText"), row("2", "pendingSettlement")]
    assert checked(*rows).reasons == checked(*reversed(rows)).reasons
