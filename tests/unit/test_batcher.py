"""The batcher collects a batch while the last batch is flushed, keeps its bounds, and loses no item at a stop."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from tests.helpers.wait import until
from webhookd.errors import OverloadedError, UnavailableError
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.loops import Watch


class Flushes:
    """A flush that waits for a gate and remembers its batches."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.batches: list[list[int]] = []

    async def __call__(self, items: list[int]) -> list[int | BaseException]:
        self.batches.append(items)
        await self.gate.wait()
        return [ValueError(str(item)) if item < 0 else item * 10 for item in items]


async def test_items_gather_while_a_batch_is_flushed() -> None:
    flush = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=3, max_pending=100)
    await batcher.start()
    first = batcher.submit(1)
    await until(lambda: flush.batches, "a lone item does not wait")
    others = [batcher.submit(n) for n in range(2, 8)]
    flush.gate.set()
    assert await first == 10
    assert await asyncio.gather(*others) == [20, 30, 40, 50, 60, 70]
    assert flush.batches == [[1], [2, 3, 4], [5, 6, 7]]
    await batcher.stop()


async def test_an_items_own_error_is_its_alone() -> None:
    flush = Flushes()
    flush.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=10)
    await batcher.start()
    results = await asyncio.gather(batcher.submit(1), batcher.submit(-1), batcher.submit(2), return_exceptions=True)
    assert results[0] == 10
    assert results[2] == 20
    assert isinstance(results[1], ValueError)
    await batcher.stop()


async def test_a_failed_flush_reaches_every_waiter_and_the_next_batch_goes_on() -> None:
    calls = 0

    async def flush(items: list[int]) -> list[int | BaseException]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OverloadedError("no")
        return list(items)

    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=10)
    await batcher.start()
    failed = [batcher.submit(1), batcher.submit(2)]
    assert [type(r) for r in await asyncio.gather(*failed, return_exceptions=True)] == [OverloadedError, OverloadedError]
    assert await batcher.submit(3) == 3
    await batcher.stop()


async def test_a_flush_that_miscounts_fails_its_batch_and_nothing_else() -> None:
    async def flush(items: list[int]) -> list[int | BaseException]:
        return [] if items == [1] else list(items)

    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=10)
    await batcher.start()
    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        await batcher.submit(1)
    assert await batcher.submit(2) == 2
    await batcher.stop()


async def test_what_is_pending_is_bounded() -> None:
    flush = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=1, max_pending=2)
    await batcher.start()
    batcher.post(0)
    await until(lambda: flush.batches, "the first is under way")
    batcher.post(1)
    batcher.post(2)
    assert batcher.full
    with pytest.raises(OverloadedError):
        batcher.post(3)
    flush.gate.set()
    await batcher.stop()
    assert flush.batches == [[0], [1], [2]]


async def test_a_lone_item_does_not_linger_and_many_do() -> None:
    flush = Flushes()
    flush.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=100, max_pending=100, linger=0.3, heavy=10)
    await batcher.start()
    assert await asyncio.wait_for(batcher.submit(1), 0.2) == 10
    waiting = [batcher.submit(n) for n in range(20)]
    await asyncio.sleep(0.05)
    waiting.append(batcher.submit(20))
    await asyncio.gather(*waiting)
    assert [len(batch) for batch in flush.batches] == [1, 21], "those that came meanwhile went along"
    await batcher.stop()


async def test_while_one_worker_gathers_no_other_parts_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    flush = Flushes()
    flush.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=100, max_pending=100, workers=3, linger=60, heavy=2)
    end, gathering = asyncio.Event(), 0

    class Stopped(asyncio.Event):
        async def wait(self) -> Literal[True]:
            nonlocal gathering
            gathering += 1
            return await end.wait()

    monkeypatch.setattr(batcher, "_stopped", Stopped())
    await batcher.start()
    waiting = []
    for n in range(9):
        waiting.append(batcher.submit(n))
        if n % 3 == 2:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert gathering == 1
    end.set()
    await asyncio.gather(*waiting)
    assert flush.batches == [list(range(9))]
    await batcher.stop()


async def test_a_stop_flushes_what_is_pending_and_refuses_more() -> None:
    flush = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=10, linger=60)
    await batcher.start()
    waiting = [batcher.submit(n) for n in range(3)]
    flush.gate.set()
    stopping = asyncio.create_task(batcher.stop())
    assert await asyncio.gather(*waiting) == [0, 10, 20]
    await stopping
    with pytest.raises(OverloadedError):
        batcher.submit(4)
    await batcher.stop()


async def test_what_is_dropped_fails_for_its_waiters_and_the_rest_goes_on() -> None:
    flush = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=1, max_pending=10)
    await batcher.start()
    under_way = batcher.submit(1)
    await until(lambda: flush.batches, "the first is under way")
    waiting = batcher.submit(2)
    batcher.post(3)
    batcher.drop(OverloadedError("away"))
    with pytest.raises(OverloadedError, match="away"):
        await waiting
    flush.gate.set()
    assert await under_way == 10
    assert await batcher.submit(4) == 40
    await batcher.stop()
    assert flush.batches == [[1], [4]]


async def test_stopping_what_never_started_is_fine() -> None:
    await Batcher("test", Flushes(), Watch(), max_batch=1, max_pending=1).stop()


async def test_a_waiter_that_left_does_not_disturb_the_batch() -> None:
    flush = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=10)
    await batcher.start()
    left, stays = batcher.submit(1), batcher.submit(2)
    await until(lambda: flush.batches, "the batch is under way")
    left.cancel()
    flush.gate.set()
    assert await stays == 20
    await batcher.stop()


async def test_workers_flush_side_by_side() -> None:
    flush = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=1, max_pending=10, workers=2)
    await batcher.start()
    futures = [batcher.submit(n) for n in range(2)]
    await until(lambda: len(flush.batches) == 2, "two batches are under way")
    flush.gate.set()
    await asyncio.gather(*futures)
    await batcher.stop()


async def test_what_nobody_waits_for_any_more_is_not_done() -> None:
    flush = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=10)
    await batcher.start()
    first = batcher.submit(1)
    await until(lambda: flush.batches, "the first batch is under way")
    given_up, waited_for = batcher.submit(2), batcher.submit(3)
    batcher.post(4)
    given_up.cancel()
    flush.gate.set()
    assert await first == 10
    assert await waited_for == 30
    assert flush.batches == [[1], [3, 4]]
    await batcher.stop()


async def test_a_cancellation_that_leaks_out_of_a_flush_ends_nothing() -> None:
    calls = 0

    async def flush(items: list[int]) -> list[int | BaseException]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return list(items)

    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=10)
    await batcher.start()
    with pytest.raises(UnavailableError):
        await batcher.submit(1)
    assert await batcher.submit(2) == 2
    await batcher.stop()


async def test_a_batch_that_does_not_end_keeps_fewer_than_fill_one_waiting_for_milliseconds_only() -> None:
    """The batch may wait for a lock, and the other workers have nothing else to do."""
    held = asyncio.Event()

    async def flush(items: list[int]) -> list[int | BaseException]:
        if items == [1]:
            await held.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=100, workers=3, fill=10)
    await batcher.start()
    waits = batcher.submit(1)
    await asyncio.sleep(0)
    for _ in range(3):
        others = [batcher.submit(2), batcher.submit(3)]
        assert await asyncio.wait_for(asyncio.gather(*others), 30) == [2, 3]
    assert not waits.done()
    held.set()
    assert await waits == 1
    await batcher.stop()


async def test_what_is_left_of_a_full_batch_does_not_wait_for_the_batch_to_end() -> None:
    held = asyncio.Event()

    async def flush(items: list[int]) -> list[int | BaseException]:
        if 0 in items:
            await held.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=10, max_pending=100, workers=2, fill=10)
    await batcher.start()
    waiting = [batcher.submit(number) for number in range(12)]
    assert await asyncio.wait_for(asyncio.gather(*waiting[10:]), 30) == [10, 11]
    held.set()
    assert await asyncio.gather(*waiting) == list(range(12))
    await batcher.stop()


async def test_batches_that_end_in_their_time_fill() -> None:
    batches: list[int] = []

    async def flush(items: list[int]) -> list[int | BaseException]:
        batches.append(len(items))
        await asyncio.sleep(0)
        return list(items)

    batcher: Batcher[int, int] = Batcher("test", flush, Watch(), max_batch=100, max_pending=100, workers=3, fill=10)
    await batcher.start()
    first = batcher.submit(0)
    await until(lambda: batches, "the first is under way", every=0)
    others = [batcher.submit(number) for number in range(1, 5)]
    await asyncio.gather(first, *others)
    assert batches == [1, 4]
    await batcher.stop()


@pytest.mark.parametrize("broken", [True, False])
async def test_a_worker_that_ends_unexpectedly_is_seen(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batcher without its workers would accept items that nobody flushes."""
    watch, flush = Watch(), Flushes()
    batcher: Batcher[int, int] = Batcher("test", flush, watch, max_batch=10, max_pending=10)
    await batcher.start()
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "batcher test 0")

    async def breaks(_: object) -> None:
        raise RuntimeError("a mistake, for this test")

    if broken:
        monkeypatch.setattr(batcher, "_flush_batch", breaks)
        batcher.post(1)
    else:
        task.cancel()
    await asyncio.wait_for(watch.broken.wait(), 30)
