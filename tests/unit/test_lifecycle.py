"""No error ends a loop, every task is watched, and a cancellation cannot cut the bookkeeping short."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.helpers.wait import until
from webhookd.errors import UnavailableError
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.loops import Loop, Part, Watch, shielded


async def test_a_loop_goes_on_after_any_failure() -> None:
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise UnavailableError("sqs", "away")
        if calls == 2:
            raise RuntimeError("a bug")

    watch = Watch()
    loop = Loop("test", step, watch, every=0.01)
    await loop.start()
    await until(lambda: calls >= 4, "four steps")
    await loop.stop()
    assert not watch.broken.is_set()


async def test_a_stop_waits_for_the_step_and_does_not_cancel_it() -> None:
    gate = asyncio.Event()
    ended = False

    async def step() -> None:
        nonlocal ended
        await gate.wait()
        ended = True

    loop = Loop("test", step, Watch(), every=60)
    await loop.start()
    await asyncio.sleep(0)
    stopping = asyncio.create_task(loop.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    gate.set()
    await stopping
    assert ended
    await loop.stop()


async def test_a_stop_that_takes_too_long_is_cancelled_and_breaks_nothing() -> None:
    """A stop takes too long if every dependency hangs when the grace period ends; that is no failure of a part."""
    watch = Watch()
    begun: list[asyncio.Task[Any] | None] = []

    async def hang(_: list[int] | None = None) -> list[BaseException | None]:
        begun.append(asyncio.current_task())
        await asyncio.Event().wait()
        raise AssertionError

    async def step() -> None:
        await hang()

    batcher: Batcher[int, None] = Batcher("test", hang, watch, max_batch=1, max_pending=1)
    parts: list[Part] = [Loop("test", step, watch, every=60), batcher]
    for number, part in enumerate(parts, 1):
        await part.start()
        if part is batcher:
            batcher.post(1)
        await until(lambda: len(begun) == number, "the part is at work")  # noqa: B023
        stopping = asyncio.create_task(part.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert all(task is not None and task.done() for task in begun)
    assert not watch.broken.is_set()


async def test_what_a_stop_left_behind_is_cancelled_and_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    loop = Loop("test", asyncio.Event().wait, watch, every=60)
    await loop.start()
    await asyncio.sleep(0)
    watch.dismiss()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.wait(left)
    await asyncio.sleep(0)
    assert not watch.broken.is_set()
    assert "cancelled by nobody" not in "".join(capsys.readouterr())


async def test_a_wake_ends_the_pause() -> None:
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1

    loop = Loop("test", step, Watch(), every=3600)
    await loop.start()
    await until(lambda: calls == 1, "the first step")
    loop.wake()
    await until(lambda: calls == 2, "the second step")
    await loop.stop()


async def test_the_unexpected_end_of_a_task_breaks_the_daemon() -> None:
    class Unexpected(BaseException):
        pass

    async def fail() -> None:
        raise Unexpected

    watch = Watch()
    task = watch.spawn(fail(), "test")
    with pytest.raises(Unexpected):
        await task
    assert watch.broken.is_set()


async def test_shielded_work_ends_though_its_caller_is_cancelled() -> None:
    gate = asyncio.Event()
    ended = False

    async def work() -> None:
        nonlocal ended
        await gate.wait()
        ended = True

    task = asyncio.create_task(shielded(work(), 10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_shielded_work_has_its_own_time_limit() -> None:
    with pytest.raises(TimeoutError):
        await shielded(asyncio.Event().wait(), 0.01)


async def test_a_cancellation_that_leaks_out_of_a_step_does_not_end_its_loop() -> None:
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError

    loop = Loop("test", step, Watch(), every=0.01)
    await loop.start()
    await until(lambda: calls >= 3, "three steps")
    await loop.stop()


async def test_a_step_that_waits_for_nothing_does_not_keep_the_event_loop_to_itself() -> None:
    async def step() -> bool:
        return True

    loop = Loop("test", step, Watch(), every=0)
    await loop.start()
    await asyncio.sleep(0)
    await asyncio.wait_for(loop.stop(), 5)
