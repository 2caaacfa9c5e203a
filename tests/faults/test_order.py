"""No webhook is answered or marked in Redis, and no message deleted, before the commit that makes this safe."""

from __future__ import annotations

import signal

from tests.helpers.ledger import COUNTING
from tests.helpers.rig import Rig
from tests.helpers.wait import until

_SLOW = """
import asyncio


@on("*")
async def linger(event, connection):
    await asyncio.sleep(0.5)  # time enough for a delete that came too early
"""


async def _killed_before_the_commit(rig: Rig) -> None:
    """Kills the daemon while the commit of its webhooks hangs. The commit never reaches PostgreSQL."""
    daemon = await rig.daemon(commit_timeout="1")
    rig.proxies.postgresql.stall()
    summary = await rig.send(20)
    assert summary.statuses[200] == 0, "nothing is committed, so nothing is answered 200"
    assert summary.statuses[503] == 20
    daemon.end(signal.SIGKILL)
    await rig.proxies.postgresql.reset()
    await rig.proxies.postgresql.heal()
    assert await rig.connection.fetchval("SELECT count(*) FROM events") == 0
    await daemon.start()
    rig.recovered()


async def test_killed_before_the_commit_nothing_was_answered_200(rig: Rig) -> None:
    await _killed_before_the_commit(rig)
    await rig.finish()


async def test_killed_before_the_commit_the_providers_retry_is_no_duplicate(rig: Rig) -> None:
    await _killed_before_the_commit(rig)
    again = await rig.ledger.send(rig.ledger.unanswered, rig.urls)
    assert again.outcomes == {"accepted": 20}
    await rig.finish()


async def test_killed_before_the_workers_commit_the_message_comes_back(rig: Rig) -> None:
    rig.handlers(COUNTING + _SLOW)
    # The outbox sends again far too late to matter here, so SQS itself must still have the message.
    daemon = await rig.daemon(failpoints="worker.after-handlers:1", resend_after="600")
    await rig.send(1)
    await until(lambda: not daemon.running, "it is killed")
    await daemon.start(failpoints="")
    rig.recovered()
    await rig.finish(deadline=20)
