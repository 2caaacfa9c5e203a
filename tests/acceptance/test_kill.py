"""kill -9 under load: every webhook that was answered 200 is one event with one effect."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from functools import partial

import asyncpg

from tests.conftest import Servers
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.dev import traffic

_ROUNDS = 4


async def test_killed_again_and_again_nothing_acknowledged_is_lost_or_doubled(
    servers: Servers, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    (servers.folder / "counting.py").write_text(
        "from webhookd import on\n\n@on('*')\nasync def count(event, connection):\n"
        "    await connection.execute('INSERT INTO effects VALUES ($1)', event.id)\n"
    )
    await connection.execute("CREATE TABLE effects (event_id uuid)")
    settings = {
        **servers.settings,
        "WEBHOOKD_HANDLERS": "counting",
        "PYTHONPATH": str(servers.folder),
        # What was in a killed worker's hands comes back soon.
        "WEBHOOKD_VISIBILITY_TIMEOUT": "3",
        "WEBHOOKD_HANDLER_TIMEOUT": "2",
        "WEBHOOKD_RESEND_AFTER": "2",
    }
    acknowledged: dict[str, str] = {}  # notification id → event id
    unanswered: list[traffic.Sample] = []

    def answered(answer: traffic.Answer) -> None:
        if answer.status == 200 and answer.id:
            acknowledged[answer.sample.notification_id] = answer.id
        else:
            unanswered.append(answer.sample)

    daemon = Process(settings, servers.folder)
    try:
        for round_ in range(_ROUNDS):
            await daemon.start()
            samples = traffic.stream(EVENT_TYPES, 300, first=1000 * round_)
            sending = asyncio.create_task(traffic.send(samples, daemon.webhook_url, KEY, connections=16, answered=answered))
            moment = len(acknowledged) + random.randrange(20, 250)
            await until(partial(_reached, acknowledged, moment, sending), "a random number are acknowledged", every=0.002)
            await asyncio.to_thread(daemon.end, signal.SIGKILL)
            await sending
        await daemon.start()
        # The provider sends again what it has no 200 for; half of it may be committed already.
        resent, unanswered[:] = list(unanswered), []
        assert (await traffic.send(resent, daemon.webhook_url, KEY, answered=answered)).failed == 0
        await until(lambda: _all_processed(connection), "every event is processed", deadline=90, every=0.3)
    finally:
        daemon.end(signal.SIGKILL)
    assert len(acknowledged) == 300 * _ROUNDS
    events = {str(row["id"]) for row in await connection.fetch("SELECT id FROM events")}
    assert events == set(acknowledged.values()), "one event for each webhook, and no other"
    effects = Counter(str(row["event_id"]) for row in await connection.fetch("SELECT event_id FROM effects"))
    assert effects == dict.fromkeys(events, 1), "one effect for each event"


def _reached(acknowledged: dict[str, str], moment: int, sending: asyncio.Task[traffic.Summary]) -> bool:
    return len(acknowledged) >= moment or sending.done()


async def _all_processed(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    return bool(await connection.fetchval("SELECT count(*) = 0 FROM events WHERE status <> 'processed'"))
