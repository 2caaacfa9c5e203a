"""A daemon's clock may be wrong or jump, since PostgreSQL's clock counts. That clock may be wrong, too, and be put right.

The daemon or PostgreSQL runs under libfaketime (Debian: faketime). The library shifts the time of the process's C library, and
so the time that Python, Rust and the AWS client read. The monotonic clock stays as it is.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.test_kill import HANDLERS
from tests.helpers.rig import Rig
from tests.helpers.running import Process
from tests.helpers.wait import until

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")
HOUR = 3600
DAY = 24 * HOUR


class Clock:
    """A false clock for the processes that start from now on."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._file = folder / f"{name}.clock"
        for variable, value in {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }.items():
            monkeypatch.setenv(variable, value)

    def set(self, ahead: int) -> None:
        """Sets the clock `ahead` seconds ahead, or behind if negative. This works at any time."""
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
    """Fresh webhooks do not count as old, also beyond WEBHOOKD_MAX_EVENT_AGE and WEBHOOKD_MAX_CLOCK_SKEW."""
    rig.handlers(HANDLERS)
    clock = Clock(rig.servers.folder, monkeypatch, "wrong")
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
    clock = Clock(rig.servers.folder, monkeypatch, "jumping")
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
        Clock(rig.servers.folder, monkeypatch, name).set(seconds)
        daemons.append(await rig.daemon())
    async with rig.load(rate=30):
        await rig.acknowledged(60)
        assert await asyncio.to_thread(daemons[0].end, signal.SIGKILL) == -signal.SIGKILL
        await rig.acknowledged(20)
        await daemons[0].start()
        await rig.acknowledged(20)
    rig.recovered()
    await rig.finish()


async def clock_of_postgresql(rig: Rig, monkeypatch: pytest.MonkeyPatch, seconds: int) -> Clock:
    """Restarts PostgreSQL with a clock of its own, `seconds` ahead. Daemons that start later have the true time."""
    postgresql = rig.stack.postgresql
    await rig.ledger.close()
    await asyncio.to_thread(postgresql.stop)
    with monkeypatch.context() as patch:
        clock = Clock(postgresql.folder, patch, "postgresql")
        clock.set(seconds)
        await asyncio.to_thread(postgresql.start)
    await rig.ledger.connect()
    return clock


@pytest.mark.long
@pytest.mark.parametrize(("seconds", "reason"), [(HOUR, None), (40 * DAY, "too_old"), (-40 * DAY, "in_the_future")])
async def test_postgresqls_clock_is_wrong(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch, seconds: int, reason: str | None
) -> None:
    """Beyond the window, the clock makes every webhook's age wrong: each is answered 200, quarantined and counted."""
    rig = own_rig
    rig.handlers(HANDLERS)
    await clock_of_postgresql(rig, monkeypatch, seconds)
    daemon = await rig.daemon()
    await rig.send(40, rate=30)
    row = await rig.finish()
    assert row.sent == row.acknowledged
    assert await ahead(daemon) == pytest.approx(-seconds, abs=30), "it shows"
    kept = await rig.connection.fetch("SELECT reason, count(*) FROM quarantine GROUP BY reason")
    assert [tuple(each) for each in kept] == ([] if reason is None else [(reason, 40)])
    assert await daemon.metric("webhookd_received_total", outcome="quarantined") == (0 if reason is None else 40)


@pytest.mark.long
async def test_what_waits_when_postgresqls_clock_is_put_back_does_not_wait_for_it_to_come_round(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work in the outbox, and work that waits for its retry, has times an hour ahead."""
    rig = own_rig
    rig.handlers(HANDLERS)
    clock = await clock_of_postgresql(rig, monkeypatch, HOUR)
    await rig.daemon()
    async with rig.load(rate=30):
        retrying = "SELECT count(*) > 0 FROM events WHERE status = 'retrying'"
        await rig.acknowledged(20)
        await until(lambda: rig.connection.fetchval(retrying), "something is to be tried again", deadline=30)
        await rig.proxies.sqs.cut()
        await rig.acknowledged(40)
        clock.set(0)
        await rig.proxies.sqs.heal()
        rig.recovered()
        await rig.acknowledged(20)
    await rig.finish(deadline=60)


@pytest.mark.long
async def test_a_duty_that_was_taken_before_postgresqls_clock_was_put_back_is_free_when_its_holder_is_dead(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = own_rig
    clock = await clock_of_postgresql(rig, monkeypatch, HOUR)
    daemon = await rig.daemon()
    holder = "SELECT holder FROM duties WHERE name = 'dead-letter reader' AND held_until < now() + interval '10 minutes'"
    before = await until(lambda: rig.connection.fetchval(holder), "the dead-letter queue has a reader", deadline=60)
    await asyncio.to_thread(daemon.end, signal.SIGKILL)
    clock.set(0)
    await daemon.start()

    async def after() -> bool:
        return (await rig.connection.fetchval(holder)) not in (None, before)

    await until(after, "the dead-letter queue has a reader again", deadline=60, every=0.2)
    await rig.finish()
