"""A machine's clock is wrong, or jumps: PostgreSQL's is the one that counts.

The daemon runs under libfaketime (Debian: faketime), which shifts what its C library, and so Python, Rust and the AWS client,
take for the time; the monotonic clock stays as it is.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.test_kill import HANDLERS
from tests.helpers.rig import Rig
from tests.helpers.running import Process

_LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
pytestmark = pytest.mark.skipif(_LIBRARY is None, reason="needs libfaketime: apt-get install faketime")
HOUR = 3600
DAY = 24 * HOUR


class Clock:
    """A clock that daemons started from now on are given."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._file = rig.servers.folder / f"{name}.clock"
        for variable, value in {
            "LD_PRELOAD": str(_LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }.items():
            monkeypatch.setenv(variable, value)

    def set(self, ahead: int) -> None:
        """Sets it `ahead` seconds, or behind; at any time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+d}")
        new.rename(self._file)


async def ahead(daemon: Process) -> float:
    return await daemon.metric("webhookd_clock_ahead_seconds")


@pytest.mark.parametrize(
    "seconds",
    [
        40 * DAY,
        pytest.param(-40 * DAY, marks=pytest.mark.long),
        pytest.param(HOUR, marks=pytest.mark.long),
        pytest.param(-HOUR, marks=pytest.mark.long),
    ],
)
async def test_a_clock_that_is_wrong(rig: Rig, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Beyond WEBHOOKD_MAX_EVENT_AGE and WEBHOOKD_MAX_CLOCK_SKEW as well: fresh webhooks are not taken for old ones."""
    rig.handlers(HANDLERS)
    clock = Clock(rig, monkeypatch, "wrong")
    clock.set(seconds)
    daemon = await rig.daemon()
    async with rig.load(rate=30):
        await rig.acknowledged(40)
    rig.recovered()
    await rig.finish()
    assert await ahead(daemon) == pytest.approx(seconds, abs=30), "it shows"
    assert await daemon.metric("webhookd_received_total", outcome="quarantined") == 0
    assert await daemon.metric("webhookd_retries_total") > 0, "and retries came in time"


@pytest.mark.long
async def test_a_clock_that_jumps_back_and_forth(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.handlers(HANDLERS)
    clock = Clock(rig, monkeypatch, "jumping")
    clock.set(0)
    daemon = await rig.daemon()
    for seconds in (HOUR, -HOUR, 40 * DAY, -40 * DAY, 0):
        async with rig.load(rate=30):
            await rig.acknowledged(10)
            clock.set(seconds)
            await rig.acknowledged(20)
    rig.recovered()
    await rig.finish()
    assert await daemon.metric("webhookd_received_total", outcome="quarantined") == 0


@pytest.mark.long
async def test_replicas_whose_clocks_differ(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.handlers(HANDLERS)
    daemons = []
    for name, seconds in (("ahead", HOUR), ("behind", -HOUR)):
        Clock(rig, monkeypatch, name).set(seconds)
        daemons.append(await rig.daemon())
    async with rig.load(rate=30):
        await rig.acknowledged(60)
        assert await asyncio.to_thread(daemons[0].end, signal.SIGKILL) == -signal.SIGKILL
        await rig.acknowledged(20)
        await daemons[0].start()
        await rig.acknowledged(20)
    rig.recovered()
    await rig.finish()
