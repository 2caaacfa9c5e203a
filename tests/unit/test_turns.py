"""Transactions with handlers take turns, and a transaction that must be alone runs while no other runs."""

from __future__ import annotations

import asyncio
import contextlib

from tests.helpers.wait import until
from webhookd.process.turns import Turns


class Work:
    """A task that holds a turn until its gate opens."""

    def __init__(self, turns: Turns, *, alone: bool = False) -> None:
        self.gate = asyncio.Event()
        self.runs = False
        self.task = asyncio.create_task(self._run(turns, alone=alone))

    async def _run(self, turns: Turns, *, alone: bool) -> None:
        async with turns.take(alone=alone):
            self.runs = True
            try:
                await self.gate.wait()
            finally:
                self.runs = False

    async def end(self) -> None:
        self.gate.set()
        await self.task


async def _settle() -> None:
    for _ in range(20):  # these are turns of the event loop: no time passes
        await asyncio.sleep(0)


async def test_one_that_is_alone_waits_for_the_others_and_the_others_for_it() -> None:
    turns = Turns(3)
    first = Work(turns)
    await until(lambda: first.runs, "a free turn is taken at once")
    alone, late = Work(turns, alone=True), Work(turns)
    await _settle()
    assert (first.runs, alone.runs, late.runs) == (True, False, False)
    await first.end()
    await until(lambda: alone.runs, "nobody else has a turn")
    await _settle()
    assert not late.runs
    await alone.end()
    await until(lambda: late.runs, "the turns are free again")
    others = [Work(turns) for _ in range(2)]
    await until(lambda: all(work.runs for work in others), "all three are")
    for work in (late, *others):
        await work.end()


async def test_two_that_are_alone_run_one_after_the_other() -> None:
    turns = Turns(2)
    both = [Work(turns, alone=True) for _ in range(2)]
    await until(lambda: any(work.runs for work in both), "one of the two runs alone")
    await _settle()
    assert [work.runs for work in both] == [True, False]
    await both[0].end()
    await until(lambda: both[1].runs, "the other one runs")
    await both[1].end()


async def test_who_no_longer_waits_to_be_alone_keeps_no_turn() -> None:
    turns = Turns(2)
    first = Work(turns)
    await until(lambda: first.runs, "a free turn is taken at once")
    alone = Work(turns, alone=True)
    await _settle()
    alone.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await alone.task
    second = Work(turns)
    await until(lambda: second.runs, "the second turn is free again")
    await first.end()
    await second.end()
