"""Whatever users' handlers do wrong, the events that they spoil end, and all other events are processed."""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import pytest

from tests.helpers.ledger import COUNTING
from tests.helpers.rig import Rig
from tests.helpers.wait import until

_BAD = "net.authorize.payment.fraud.held"


def _handler(body: str, *, attempts: str = "== 1") -> str:
    return (
        COUNTING
        + f"""
import asyncio
import os
import signal
import time


@on("{_BAD}")
async def bad(event, connection):
    if event.attempt {attempts}:
        {body}
"""
    )


# The code of each handler at its first attempt, after its effects. At the second attempt, the handler succeeds.
_ONCE = {
    "hangs": "await asyncio.sleep(3600)",
    "waits for PostgreSQL for ever": "await connection.execute('SELECT pg_sleep(3600)')",
    "stops the event loop for longer than the visibility timeout": "time.sleep(5)",
    "closes the connection": "await connection.close()",
    "raises SystemExit": "raise SystemExit(3)",
    "raises KeyboardInterrupt": "raise KeyboardInterrupt",
    "raises CancelledError": "raise asyncio.CancelledError",
    "raises a group": "raise BaseExceptionGroup('both', [SystemExit(1), ValueError('x')])",
    "cancels its own task": "asyncio.current_task().cancel()\n        await asyncio.sleep(1)",
    "takes 300 MB": "len(bytearray(300_000_000))\n        raise MemoryError",
    "leaves settings and locks behind": (
        "await connection.execute('SET search_path = nowhere; SET statement_timeout = 1; LISTEN x')\n"
        "        raise ValueError('x')"
    ),
    "outlives its visibility timeout": "await asyncio.sleep(1.9)",
}
_SHORT = {"hangs", "raises SystemExit", "stops the event loop for longer than the visibility timeout"}


@pytest.mark.parametrize("what", [pytest.param(of, marks=() if of in _SHORT else pytest.mark.long) for of in _ONCE])
async def test_a_handler_that(rig: Rig, what: str) -> None:
    rig.handlers(_handler(_ONCE[what]))
    daemon = await rig.daemon()
    await rig.send(46)
    await rig.finish()
    assert daemon.running, "nothing that a handler does ends the daemon"
    assert await rig.connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'") == 46


_ENDLESS = """while True:
            try:
                await asyncio.sleep(0.1)
            except BaseException:
                continue"""


@pytest.mark.long
async def test_a_handler_that_cannot_be_ended_is_cut_off_and_the_event_tried_again(rig: Rig) -> None:
    rig.handlers(_handler(_ENDLESS))
    daemon = await rig.daemon(concurrency="8")
    await rig.send(46)
    await rig.finish()
    assert await daemon.metric("webhookd_stuck_handlers_total") == 2
    assert await daemon.metric("webhookd_unended_handlers") == 2
    assert await daemon.stop() == 0
    assert await rig.connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'") == 46


@pytest.mark.long
async def test_a_daemon_with_too_many_handlers_that_cannot_be_ended_asks_to_be_started_anew(rig: Rig) -> None:
    rig.handlers(_handler(_ENDLESS))
    daemon = await rig.daemon(concurrency="2")
    await rig.ledger.send(rig.samples(2, [_BAD]), rig.urls)
    await until(lambda: not daemon.running, "it stops", deadline=40)
    assert daemon.end(signal.SIGTERM) == 1
    await daemon.start(concurrency="8")
    rig.recovered()
    await rig.finish()


@pytest.mark.long
async def test_an_event_that_kills_its_process_ends_dead_and_holds_up_no_other(rig: Rig) -> None:
    """Attempts before the event is a suspect are not counted. Then three attempts are counted, each before it begins."""
    rig.handlers(_handler("os.kill(os.getpid(), signal.SIGKILL)", attempts=">= 1"))
    daemon = await rig.daemon(resend_after="600", max_attempts="3")

    async def started_again() -> None:  # systemd and Kubernetes start a killed daemon again, too
        while True:
            await until(lambda: not daemon.running, "it is killed", deadline=300, every=0.05)
            await daemon.start()

    supervisor = asyncio.create_task(started_again())
    try:
        sample = next(rig.samples(1, [_BAD]))
        others = rig.samples(5, ["net.authorize.payment.authcapture.created"])  # the worker has these in hand at each kill, too
        await rig.ledger.send([sample, *others], rig.urls)
        query = "SELECT status = 'dead' FROM events WHERE event_type = $1"
        await until(lambda: rig.connection.fetchval(query, _BAD), "it is dead", deadline=200, every=0.2)
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
        if not await daemon.ready():
            daemon.end(signal.SIGKILL)
            await daemon.start()
        await rig.ledger.send(rig.samples(20, ["net.authorize.payment.authcapture.created"]), rig.urls)
        await rig.finish()
    finally:
        supervisor.cancel()
    reason = await rig.connection.fetchval("SELECT dead_reason FROM events WHERE event_type = $1", _BAD)
    assert reason == "its worker, or its connection to PostgreSQL, ended 3 times in the middle of an attempt"
    assert await rig.connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'") == 25


_KILLS_POSTGRESQL = """os.kill(await connection.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)
        await connection.execute("SELECT 1")"""


@pytest.mark.long
async def test_an_event_that_kills_postgresql_ends_dead_and_holds_up_no_other(own_rig: Rig) -> None:
    """PostgreSQL is away when such an attempt fails. So its beginning is recorded, and its failure cannot be."""
    rig = own_rig
    rig.handlers(_handler(_KILLS_POSTGRESQL, attempts=">= 1"))
    daemon = await rig.daemon(resend_after="600", max_attempts="3")
    await rig.ledger.send([next(rig.samples(1, [_BAD]))], rig.urls)

    async def is_dead() -> bool:
        await asyncio.to_thread(rig.stack.postgresql.start)  # a service manager starts an ended PostgreSQL, too
        try:
            async with asyncio.timeout(5):
                await rig.ledger.connect()
                return bool(await rig.connection.fetchval("SELECT status = 'dead' FROM events WHERE event_type = $1", _BAD))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    await until(is_dead, "it is dead", deadline=300, every=0.5)
    await rig.ledger.send(rig.samples(20, ["net.authorize.payment.authcapture.created"]), rig.urls)
    await rig.finish()
    assert daemon.running
    row = await rig.connection.fetchrow("SELECT attempts, dead_reason FROM events WHERE event_type = $1", _BAD)
    assert row is not None
    assert tuple(row) == (0, "its worker, or its connection to PostgreSQL, ended 3 times in the middle of an attempt")
    assert await rig.connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'") == 20
