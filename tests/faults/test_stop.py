"""SIGTERM comes at the worst moments: the process ends in time, and the next process takes over its work."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.faults.test_kill import HANDLERS
from tests.helpers.rig import Rig

_GRACE = 4
_CASES = [
    "postgresql stalled",
    "redis stalled",
    "sqs stalled",
    "all stalled",
    "postgresql away",
    "redis away",
    "sqs away",
    "all away",
]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case == "all stalled" else pytest.mark.long) for case in _CASES]
)
async def test_stopped_while_a_dependency_is(rig: Rig, case: str) -> None:
    rig.handlers(HANDLERS)
    daemon = await rig.daemon(shutdown_grace=str(_GRACE), commit_timeout=str(_GRACE - 1))
    name, _, fault = case.partition(" ")
    async with rig.load(rate=30):
        await rig.acknowledged(20)
        for proxy in rig.proxies if name == "all" else [getattr(rig.proxies, name)]:
            if fault == "stalled":
                proxy.stall()
            else:
                await proxy.cut()
        await asyncio.sleep(0.3)  # the load goes on, so that every part has work in hand
        began = time.monotonic()
        assert await daemon.stop() == 0
        assert time.monotonic() - began < _GRACE + 20  # 20 s for a busy machine; without a bound, the stop never ends
        assert "cancelled by nobody" not in daemon.log.read_text()
        for proxy in rig.proxies:
            await proxy.heal()
        await daemon.start()
        await rig.acknowledged(5)
    rig.recovered()
    await rig.finish()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
async def test_signalled_again_while_it_stops(rig: Rig, number: signal.Signals) -> None:
    """The stop stays orderly if Ctrl-C is pressed three times, or if a service manager is impatient."""
    rig.handlers(HANDLERS)
    daemon = await rig.daemon()
    async with rig.load(rate=30):
        await rig.acknowledged(20)
        assert daemon.process is not None
        for _ in range(3):
            daemon.process.send_signal(number)
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(daemon.process.wait, 20) == 0
        await daemon.start()
        await rig.acknowledged(5)
    rig.recovered()
    await rig.finish()


@pytest.mark.long
async def test_the_three_roles_in_processes_of_their_own_are_killed_in_turn(rig: Rig) -> None:
    rig.handlers(HANDLERS)
    daemons = [await rig.daemon(roles=role) for role in ("receive", "relay", "work")]
    del rig.daemons[1:]  # the load goes to the receiver alone
    try:
        for _ in range(rig.rounds(1, 4)):
            for daemon in daemons:
                async with rig.load(rate=30):
                    await rig.acknowledged(10)
                    await asyncio.to_thread(daemon.end, signal.SIGKILL)
                    await daemon.start()
                    await rig.acknowledged(5)
        rig.recovered()
        await rig.finish()
    finally:
        for daemon in daemons[1:]:
            await asyncio.to_thread(daemon.end, signal.SIGKILL)
