"""Queue settings that do not fit are reported, and a message that SQS refuses holds up no other event."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import Servers, Start, settings_of
from tests.helpers.queues import client, received_bodies, url_of
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until
from tests.integration.test_bundles import CREATED, once, received
from tests.integration.test_work import AUTHCAPTURE, Connection, metric, send, status
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.doctor import Verdict, examine
from webhookd.queue.message import EventReference, decode, encode, fit
from webhookd.sqs.attributes import Attributes
from webhookd.store.outbox import Outgoing

SMALL = 2048  # bytes


@pytest_asyncio.fixture
async def sqs(servers: Servers) -> AsyncIterator[StrictSqs]:
    async with StrictSqs(servers.sqs_endpoint_url) as made:
        yield made


async def set_attributes(servers: Servers, queue: str, **attributes: str) -> None:
    async with client(servers) as plain:
        await plain.set_queue_attributes(QueueUrl=await url_of(plain, queue), Attributes=attributes)


def offer(relay: Daemon, bodies: list[EventReference]) -> None:
    """Offers all events to the hot path at once, so that it sends bundles."""
    assert relay.relay is not None
    relay.relay.offer([Outgoing(body.event_id, body.account, body.event_type) for body in bodies])


async def test_a_hundred_events_go_through_a_queue_of_small_messages(
    start: Start, servers: Servers, sqs: StrictSqs, connection: Connection
) -> None:
    await set_attributes(servers, servers.queue, MaximumMessageSize=str(SMALL))
    _, bodies = await received(start, connection, *[AUTHCAPTURE] * 100)
    relay = await start(roles="relay", relay_window=1, resend_after=600, sqs_endpoint_url=sqs.url)
    await until(lambda: relay.sqs.queue.limits.message_bytes == SMALL, "the limit is known")
    offer(relay, bodies)
    await until(lambda: metric(relay, "webhookd_relayed_total", outcome="sent") >= 100, "every event is sent")
    assert metric(relay, "webhookd_queue_unfit", check="message size") == 1
    assert metric(relay, "webhookd_queue_unfit", check="retention") == 0
    texts = [entry["MessageBody"] for action, asked in sqs.done if action == "SendMessageBatch" for entry in asked["Entries"]]
    assert max(len(text) for text in texts) <= SMALL
    assert max(len(decode(text)) for text in texts) > 1, "events share messages, as many as fit"
    await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=30)
    await once(connection)


async def test_events_of_a_bundle_that_sqs_refuses_are_sent_alone(
    start: Start, servers: Servers, connection: Connection
) -> None:
    """The relay does not know the limit yet, or the limit was made smaller since."""
    _, bodies = await received(start, connection, *[AUTHCAPTURE] * 100)
    relay = await start(roles="relay", relay_window=1, resend_after=600)
    await until(lambda: relay.sqs.queue.attributes != Attributes(), "the limits are known")
    await set_attributes(servers, servers.queue, MaximumMessageSize=str(SMALL))
    offer(relay, bodies)
    await until(lambda: metric(relay, "webhookd_relayed_total", outcome="sent") >= 100, "every event is sent")
    assert metric(relay, "webhookd_relayed_total", outcome="refused") == 0
    assert relay.sqs.queue.up
    await start(roles="work")
    await until(lambda: status(connection, "processed"), "every event is processed", deadline=30)
    await once(connection)


async def test_an_event_whose_message_is_refused_holds_up_no_other(
    start: Start, servers: Servers, sqs: StrictSqs, connection: Connection
) -> None:
    await received(start, connection, *[AUTHCAPTURE] * 30, CREATED, *[AUTHCAPTURE] * 30)
    sqs.unwanted = CREATED
    relay = await start(roles="relay", resend_after=600, sqs_endpoint_url=sqs.url)
    await start(roles="work")
    await connection.execute("UPDATE work SET due = now()")  # for the sweeper
    others = "SELECT count(*) = 60 FROM events WHERE status = 'processed'"
    await until(lambda: connection.fetchval(others), "the others are processed", deadline=30)
    put_back = "SELECT due > now() + interval '40 s' FROM work WHERE status = 'received'"
    await until(lambda: connection.fetchval(put_back), "the refused event waits for a minute")
    assert metric(relay, "webhookd_relayed_total", outcome="refused") >= 1
    assert relay.sqs.queue.up, "SQS answers"
    sqs.heal()
    await connection.execute("UPDATE work SET due = now() WHERE status = 'received'")
    await until(lambda: status(connection, "processed"), "what is taken now is processed", deadline=30)
    await once(connection)


async def test_a_copy_of_a_dead_event_fits_a_small_dead_letter_queue(
    start: Start, servers: Servers, connection: Connection
) -> None:
    await set_attributes(servers, servers.dead_letter_queue, MaximumMessageSize="1024")
    daemon = await start(roles="receive,relay")
    await until(lambda: daemon.sqs.dead_letter_queue.limits.message_bytes == 1024, "the limit is known")
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await connection.execute(
        "UPDATE work SET status = 'dead', dead_reason = repeat('ü', 2000), due = now() - interval '1 minute'"
    )
    await daemon.dead_letters.reconcile()
    [copy] = await received_bodies(servers, servers.dead_letter_queue, 1)
    assert copy["dead"].startswith("üüü")


def test_a_reason_that_fits_stays_whole() -> None:
    body = EventReference(uuid.uuid4(), "default", AUTHCAPTURE, "x" * 2000)
    assert fit(body, 262_144) == body
    assert len(encode([fit(body, SMALL)])) < SMALL


@pytest.mark.parametrize(
    ("queue", "attributes", "check", "remedy"),
    [
        ("queue", {"MaximumMessageSize": "2048"}, "message size", "set MaximumMessageSize to 262144"),
        ("queue", {"MessageRetentionPeriod": "3600"}, "retention", "set at least 345600"),
        ("dead_letter_queue", {"MessageRetentionPeriod": "3600"}, "retention", "set 1209600"),
        ("queue", {"DelaySeconds": "900"}, "delay", "set DelaySeconds to 0"),
        ("queue", {"RedrivePolicy": ""}, "redrive policy", "set the queue's redrive policy"),
    ],
)
async def test_what_does_not_fit_is_found_at_the_start(
    start: Start, servers: Servers, queue: str, attributes: dict[str, str], check: str, remedy: str
) -> None:
    await set_attributes(servers, getattr(servers, queue), **attributes)
    daemon = await start()
    await until(lambda: metric(daemon, "webhookd_queue_unfit", check=check) == 1, "the metric reports the check")
    assert daemon.sqs.queue.up
    findings = [finding async for finding in examine(settings_of(servers.settings)) if finding.verdict is not Verdict.OK]
    assert [finding.check for finding in findings] == [f"sqs {check}"]
    assert remedy in findings[0].detail
