"""Admission closes because of lag or of waits if there is a crowd, and opens again only when the lag or wait has halved."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from webhookd.http.admission import Admission
from webhookd.telemetry.metrics import Metrics


def admission(max_pending: int = 2000) -> Admission:
    return Admission(max_pending=max_pending, metrics=Metrics())


def refuses(door: Admission) -> bool:
    return door.full


def test_a_late_loop_with_a_crowd_refuses_until_the_lag_has_halved() -> None:
    door = admission()
    door.open_requests = 300
    door.observe(0.5, lag=0.3)
    door.observe(1.0, lag=0.3)
    assert refuses(door)
    door.observe(1.1, lag=0.15)
    assert refuses(door), "it would flap"
    door.observe(1.2, lag=0.1)
    assert not refuses(door)


def test_a_loop_that_stood_still_once_refuses_nobody() -> None:
    door = admission()
    door.open_requests = 300
    for now in range(4):
        door.observe(now, lag=3.0)
        assert not refuses(door)
        door.observe(now + 0.05, lag=0.2)
        assert not refuses(door)


def test_a_late_loop_without_a_crowd_refuses_nobody() -> None:
    door = admission()
    door.open_requests = 200
    for now in range(4):
        door.observe(now, lag=3.0)
        assert not refuses(door)


async def test_while_the_oldest_waits_too_long_as_many_may_wait_as_were_answered_within_a_second() -> None:
    door = admission()
    now = asyncio.get_running_loop().time()
    for tick in range(40):  # 400 answers a second
        for _n in range(20):
            with door.waits():
                pass
        door.observe(now - 2.0 + 0.05 * tick, lag=0.0)
    with ExitStack() as waiting:
        for _n in range(399):
            waiting.enter_context(door.waits())
        door.observe(now + 0.9, lag=0.0)
        assert not refuses(door)
        waiting.enter_context(door.waits())
        waiting.enter_context(door.waits())
        for tick in range(20):  # still 400 answers a second
            door._answered += 20
            door.observe(now + 0.1 + 0.05 * tick, lag=0.0)
        assert not refuses(door)
        for tick in range(4):
            door._answered += 20
            door.observe(now + 1.1 + 0.05 * tick, lag=0.0)
        assert refuses(door)
    assert not refuses(door), "each answer lets another in"


async def test_after_waits_were_too_long_more_are_let_in_little_by_little() -> None:
    door = admission()
    now = asyncio.get_running_loop().time()

    def crowd() -> int:
        with ExitStack() as waiting:
            count = 0
            while not refuses(door):
                waiting.enter_context(door.waits())
                count += 1
        return count

    with ExitStack() as waiting:
        for _n in range(1000):
            waiting.enter_context(door.waits())
        door.observe(now + 1.5, lag=0.0)
    assert crowd() == 256, "a group commit is always let in"
    crowds = []
    for tick in range(60):
        door.observe(now + 2.0 + 0.05 * tick, lag=0.0)
        crowds.append(crowd())
    assert crowds == sorted(crowds)
    assert crowds[5] < 1000
    assert crowds[-1] == 2000


async def test_what_was_read_and_has_not_begun_counts() -> None:
    door = admission(max_pending=3)
    with door.waits():
        door.handlers_pending = 1
        assert not refuses(door)
        door.handlers_pending = 2
        assert refuses(door)


async def test_a_few_webhooks_that_wait_long_refuse_nobody() -> None:
    door = admission()
    with ExitStack() as waiting:
        for _n in range(10):
            waiting.enter_context(door.waits())
        door.observe(asyncio.get_running_loop().time() + 4.0, lag=0.0)
        assert not refuses(door)


async def test_more_than_max_pending_are_refused_and_one_that_ends_makes_room() -> None:
    door = admission(max_pending=2)
    with door.waits():
        with door.waits():
            assert refuses(door)
        assert not refuses(door)
    with pytest.raises(ValueError, match="a failure"), door.waits():
        raise ValueError("a failure")
    with door.waits():
        pass
