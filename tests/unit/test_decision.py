"""A failed attempt leads to a retry with the right delay, or makes the event dead."""

from __future__ import annotations

import math

import pytest

from webhookd.errors import Permanent, Retryable
from webhookd.process.decision import GiveUp, TryAgain, decide
from webhookd.process.failure import Failure, TransactionEndedError
from webhookd.process.retry import Policy, Retry

USUAL = Policy(attempts=4, base=8, cap=64)


def decided(error: BaseException, attempt: int = 1, retry: Retry | None = None) -> TryAgain | GiveUp:
    return decide(Failure.of(error, retry or Retry()), attempt, USUAL)


def delay(error: BaseException, attempt: int = 1, retry: Retry | None = None) -> float:
    decision = decided(error, attempt, retry)
    assert isinstance(decision, TryAgain)
    return decision.delay


def test_any_exception_is_retried_with_a_growing_delay() -> None:
    assert 0 <= delay(ValueError()) <= 8
    assert 8 <= delay(ValueError(), 2) <= 16
    assert 16 <= delay(ValueError(), 3) <= 32


def test_spent_attempts_are_the_end() -> None:
    decision = decided(ValueError("Jane Doe"), 4)
    assert decision == GiveUp("attempts_spent", "all 4 attempts are spent; the last one raised ValueError")


def test_a_permanent_failure_is_the_end_at_once() -> None:
    assert decided(Permanent("closed")) == GiveUp("permanent", "closed")


def test_an_attempt_whose_effects_may_be_committed_is_never_repeated() -> None:
    decision = decided(TransactionEndedError(), retry=Retry(attempts=1000))
    assert isinstance(decision, GiveUp)
    assert decision.code == "transaction_ended"


@pytest.mark.parametrize(("after", "given"), [(90, 90), (-1, 0), (math.nan, 0), (math.inf, 43_200), (1e9, 43_200)])
def test_a_handler_may_ask_for_its_delay(after: float, given: float) -> None:
    assert delay(Retryable(after=after)) == given
    assert isinstance(decided(Retryable(after=after), 4), GiveUp), "and for no more attempts"


def test_the_policy_of_the_handler_that_failed_decides() -> None:
    assert isinstance(decided(ValueError(), 2, Retry(attempts=2)), GiveUp)
    assert 64 <= delay(ValueError(), 5, Retry(attempts=6, cap=128)) <= 128
    assert delay(ValueError(), 3, Retry(base=0.01)) <= 0.04
    assert delay(ValueError(), 3, Retry(cap=8)) <= 8


def test_a_failure_keeps_no_exception() -> None:
    error = ValueError("Jane Doe")
    failure = Failure.of(error)
    assert (failure.kind, failure.error, failure.detail) == ("ValueError", "ValueError", "ValueError: Jane Doe")
    assert not [value for value in map(failure.__getattribute__, failure.__slots__) if isinstance(value, BaseException)]
