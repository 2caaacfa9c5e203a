"""SQS gets no payload of a webhook, and anyone who writes to the queues can only name events."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import aiohttp
import asyncpg

from tests.conftest import Servers, Start
from tests.helpers.queues import client, received_bodies, url_of
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd import Permanent
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.process.handlers import Registration, Registry
from webhookd.queue.message import EventReference, decode, encode

HELD = "net.authorize.payment.fraud.held"


async def sent(daemon: Daemon, sample: sampling.Sample) -> str:
    async with aiohttp.ClientSession() as http:
        answer = await traffic.post(http, f"{daemon.public_url}/webhooks/authorize-net", sample, key=KEY)
    assert answer.id is not None
    return answer.id


def told(body: bytes) -> set[str]:
    """Returns each value of a webhook's payload, at any depth, that is long enough to be recognized."""

    def values(of: Any) -> Any:
        if isinstance(of, dict | list):
            for inner in of.values() if isinstance(of, dict) else of:
                yield from values(inner)
        else:
            yield str(of)

    return {value for value in values(json.loads(body)["payload"]) if len(value) > 3 and value != "transaction"}


async def test_no_message_holds_what_a_webhook_says(start: Start, servers: Servers) -> None:
    async def refuse(event: Any, connection: Any) -> None:
        raise Permanent("not for us")

    sample = sampling.sample(HELD, 4711)
    daemon = await start(roles="receive,relay")
    event_id = await sent(daemon, sample)
    (message,) = await received_bodies(servers, servers.queue, 1)
    await daemon.stop()

    second = sampling.sample(HELD, 4712)
    working = await start(Registry([Registration("*", refuse)]))
    await sent(working, second)
    (copy,) = await received_bodies(servers, servers.dead_letter_queue, 1)

    assert event_id in json.dumps(message)
    assert {"authAmount", "invoiceNumber", "fraudList"} < json.loads(sample.body)["payload"].keys()
    for said, body in ((message, sample.body), (copy, second.body)):
        words = set(re.findall(r"[^\"{}\[\]:, ]+", json.dumps(said)))
        assert not told(body) & words, said


async def test_a_forged_message_has_no_effect(
    start: Start, servers: Servers, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Anyone who writes to the queue can name events, and can do nothing else."""
    handled = []

    async def count(event: Any, connection: Any) -> None:
        handled.append(event.id)

    daemon = await start(Registry([Registration("*", count)]))
    event_id = await sent(daemon, sampling.sample(HELD, 1))
    await until(lambda: len(handled) == 1, "the event is handled")
    genuine = json.loads(encode([EventReference(uuid.UUID(event_id), "default", HELD)]))

    def forge(**fields: Any) -> dict[str, Any]:
        return {**genuine, "events": [{**genuine["events"][0], **fields}]}

    named = [
        forge(payload={"authAmount": 1_000_000}, status="received", attempt=1),
        forge(account="other", type="net.authorize.payment.refund.created"),
        forge(event=str(uuid.uuid4())),
    ]
    nameless = [forge(event="1; DROP TABLE events"), {"v": 1, "event": event_id, "account": "default", "type": HELD}]
    assert [len(decode(json.dumps(body))) for body in (*named, *nameless)] == [1, 1, 1, 0, 0]
    async with client(servers) as sqs:
        for body in (*named, *nameless):
            await sqs.send_message(QueueUrl=await url_of(sqs, servers.queue), MessageBody=json.dumps(body))

    def counted(outcome: str) -> float:
        samples = [s for family in daemon.metrics.registry.collect() for s in family.samples]
        return sum(s.value for s in samples if s.name == "webhookd_processed_total" and s.labels["outcome"] == outcome)

    await until(lambda: counted("duplicate") == 2, "the messages that name the event change nothing")
    await until(lambda: counted("unknown"), "the message that names no event is looked at")
    assert len(handled) == 1
    rows = await connection.fetch("SELECT id::text, account, event_type, status, attempts FROM events")
    assert [tuple(row) for row in rows] == [(event_id, "default", HELD, "processed", 1)]
