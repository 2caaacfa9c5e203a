"""Retry delays grow, spread, and have an upper bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from webhookd.process.retry import asked_delay, retry_delay
from webhookd.runtime.backoff import Reconnect, ceiling, full_jitter


@given(st.integers(1, 50), st.floats(0.01, 100), st.floats(0.01, 1e6))
def test_a_delay_lies_between_the_last_ceiling_and_its_own(attempt: int, base: float, cap: float) -> None:
    delay = retry_delay(attempt, base, cap)
    high = ceiling(attempt, base, cap)
    assert (high / 2 if attempt > 1 else 0) <= delay <= high <= cap


@given(st.integers(1, 20))
def test_until_the_cap_each_delay_is_longer_than_the_one_before(attempt: int) -> None:
    assert retry_delay(attempt + 1, 1, 1e9) >= retry_delay(attempt, 1, 1e9) or attempt >= 16


def test_events_that_failed_together_spread() -> None:
    assert len({retry_delay(3, 2, 3600) for _ in range(100)}) > 90


def test_what_a_handler_asks_for_is_kept_within_the_longest_delay() -> None:
    assert asked_delay(-5) == 0
    assert asked_delay(7.5) == 7.5
    assert asked_delay(1e9) == 43_200


def test_full_jitter_draws_from_all_of_its_range() -> None:
    draws = [full_jitter(5, 1, 100) for _ in range(500)]
    assert min(draws) < 4 < 12 < max(draws) <= 16


def test_a_reconnect_never_spins_and_begins_anew_after_a_success() -> None:
    backoff = Reconnect(base=0.2, cap=10)
    pauses = [backoff.failed() for _ in range(50)]
    assert min(pauses) >= 0.1
    assert max(pauses) <= 10
    assert backoff.failing
    backoff.succeeded()
    assert backoff.failed() <= 0.2
