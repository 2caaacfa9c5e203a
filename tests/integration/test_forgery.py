"""Anyone who can only write to the queues can make webhookd look at events that exist, and can do nothing else."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.helpers.queues import client, depth, url_of
from tests.helpers.wait import until
from tests.integration.test_bundles import drained, received
from tests.integration.test_work import AUTHCAPTURE, Connection, handlers, metric, send, status
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.daemon import Daemon
from webhookd.errors import Permanent
from webhookd.event import Event
from webhookd.queue.message import MOST_EVENTS, EventReference, decode, encode
from webhookd.queue.proof import is_proven, sign

TRAIL = "SELECT from_status, to_status, actor FROM audit ORDER BY at"


async def put(servers: Servers, queue: str, *texts: str) -> None:
    async with client(servers) as sqs:
        url = await url_of(sqs, queue)
        for text in texts:
            await sqs.send_message(QueueUrl=url, MessageBody=text)


async def texts(servers: Servers, queue: str) -> list[str]:
    """Returns the text of each message in the queue, and leaves the messages there."""
    found: dict[str, str] = {}
    async with client(servers) as sqs:
        url = await url_of(sqs, queue)
        while messages := (
            await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=2, WaitTimeSeconds=1)
        ).get("Messages"):
            found |= {message["MessageId"]: message["Body"] for message in messages}
    return list(found.values())


class Shop:
    """A handler that gives up every event while the shop is closed."""

    def __init__(self) -> None:
        self.closed = True

    async def handle(self, _: Event, __: Any) -> None:
        if self.closed:
            raise Permanent("closed")


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest.fixture
async def daemon(start: Start, servers: Servers, connection: Connection, shop: Shop) -> Daemon:
    """Starts a daemon with one dead event, whose copy is in the dead-letter queue; then opens the shop again."""
    daemon = await start(handlers(shop.handle))
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: depth(servers, servers.dead_letter_queue), "a copy in the dead-letter queue")
    await until(lambda: status(connection, "dead"), "the event is dead")
    shop.closed = False
    return daemon


async def copy_of(servers: Servers) -> dict[str, Any]:
    """Returns the fields of the event in the only copy in the dead-letter queue."""
    (text,) = await texts(servers, servers.dead_letter_queue)
    (fields,) = json.loads(text)["events"]
    return dict(fields)


def message(*events: dict[str, Any]) -> str:
    """Returns the text of a message with the given fields of its events."""
    return json.dumps({"v": 3, "consumer": "handlers", "events": events})


FORGERIES: dict[str, dict[str, Any]] = {
    "the issue's": {"dead": "x", "died": None, "mac": None},
    "without a MAC": {"mac": None},
    "with a MAC of nobody's": {"mac": "0" * 64},
    "of another death": {"died": 1},
    "of another reason": {"dead": "something else"},
    "of another account": {"account": "other"},
    "of another type": {"type": "net.authorize.customer.created"},
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=list(FORGERIES))
async def test_a_forged_copy_on_the_queue_revives_no_dead_event(
    daemon: Daemon, servers: Servers, connection: Connection, change: dict[str, Any]
) -> None:
    genuine = await copy_of(servers)
    forged = {name: value for name, value in (genuine | change).items() if value is not None}
    await put(servers, servers.queue, message(forged))
    await until(lambda: metric(daemon, "webhookd_dead_letters_total", action="unproven") == 1, "it is counted")
    await drained(servers, daemon)
    assert await status(connection, "dead")
    assert (await connection.fetch(TRAIL))[-1]["to_status"] == "dead"
    assert await connection.fetchval("SELECT count(*) FROM audit WHERE from_status = 'dead'") == 0


async def test_a_copy_that_is_moved_back_revives_its_event_and_names_nobody(
    daemon: Daemon, servers: Servers, connection: Connection
) -> None:
    await put(servers, servers.queue, message(await copy_of(servers)))
    await until(lambda: status(connection, "processed"), "the event is processed")
    assert ("dead", "received", "queue redrive") in [tuple(row) for row in await connection.fetch(TRAIL)]


async def test_a_copy_of_another_installation_revives_nothing(daemon: Daemon, servers: Servers, connection: Connection) -> None:
    """The event has the same id in both installations, as after a restore, but the secrets differ."""
    (text,) = await texts(servers, servers.dead_letter_queue)
    (body,) = decode(text)
    await put(servers, servers.queue, encode([sign(body, b"another installation's")]))
    await until(lambda: metric(daemon, "webhookd_dead_letters_total", action="unproven") == 1, "it is counted")
    assert await status(connection, "dead")


async def test_every_replica_proves_with_the_same_secret(
    start: Start, daemon: Daemon, servers: Servers, connection: Connection, shop: Shop
) -> None:
    text = message(await copy_of(servers))
    await daemon.stop()
    other = await start(handlers(shop.handle), roles="work,relay", signature_keys="F" * 128)
    await put(servers, servers.queue, text)
    await until(lambda: status(connection, "processed"), "another process revives it, with other signature keys")
    assert await other.store.secret() == await connection.fetchval("SELECT value FROM secrets")


async def test_copies_that_webhookd_did_not_write_are_replaced_by_one_true_copy(
    daemon: Daemon, servers: Servers, connection: Connection, shop: Shop
) -> None:
    """An older release's copies have no MAC; and a stranger can write any number of copies."""
    genuine = await copy_of(servers)
    old = {name: value for name, value in genuine.items() if name != "mac"}
    async with client(servers) as sqs:
        await sqs.purge_queue(QueueUrl=await url_of(sqs, servers.dead_letter_queue))
    await put(servers, servers.dead_letter_queue, *[message(old)] * 12)
    await daemon.dead_letters._read_all(12)
    await until(lambda: _has(servers, [genuine]), "one copy is left, and it is a true one")
    assert metric(daemon, "webhookd_dead_letters_total", action="unproven") == 12
    assert metric(daemon, "webhookd_dead_letters_total", action="copied") == 2, "the first, and one for the twelve"


async def _has(servers: Servers, copies: list[dict[str, Any]]) -> bool:
    return [json.loads(text)["events"] for text in await texts(servers, servers.dead_letter_queue)] == [copies]


async def test_a_bundle_of_unknown_events_does_not_become_more_messages(
    start: Start, servers: Servers, connection: Connection
) -> None:
    unknown = [{"event": str(uuid.uuid4()), "account": "default", "type": AUTHCAPTURE} for _ in range(500)]
    await put(
        servers,
        servers.queue,
        *(message(*events) for events in (unknown, unknown[:MOST_EVENTS])),
    )
    # SQS delivers each message a second time after 2 s.
    daemon = await start(visibility_timeout=2, handler_timeout=1)
    counted = "webhookd_processed_total"
    await until(lambda: metric(daemon, counted, outcome="unknown") >= 3 + MOST_EVENTS, "each is met again", deadline=30)
    assert await depth(servers, servers.queue) == 2
    await daemon.stop()
    assert await depth(servers, servers.queue) == 2
    assert metric(daemon, "webhookd_relayed_total", outcome="sent") == 0


async def test_many_raw_messages_of_one_event_make_one_more_message(
    start: Start, servers: Servers, connection: Connection
) -> None:
    """Anyone who can write to the dead-letter queue can have unfinished events sent again, and can do no more."""
    receiver, [body] = await received(start, connection, AUTHCAPTURE)
    await put(servers, servers.dead_letter_queue, *[encode([body])] * 30)
    await until(lambda: _is_gone(receiver, servers), "the raw messages are removed")
    assert metric(receiver, "webhookd_dead_letters_total", action="put_back") == 30
    relay = await start(roles="relay", relay_window=None, resend_after=600)
    await until(lambda: metric(relay, "webhookd_relayed_total", outcome="sent") >= 1, "the event is sent")
    await relay.stop()
    assert metric(relay, "webhookd_relayed_total", outcome="sent") == 1


async def _is_gone(daemon: Daemon, servers: Servers) -> bool:
    await daemon.dead_letters.reconcile()
    return await depth(servers, servers.dead_letter_queue) == 0


def _twisted(seed: int) -> list[str]:
    """Returns texts that are nearly webhookd's messages, or not at all, or made to be expensive."""
    chance = random.Random(seed)
    ours: dict[str, Any] = {"event": str(uuid.uuid4()), "account": "default", "type": AUTHCAPTURE}
    odd: list[Any] = [None, True, -1, 0, 2**63, 2**64, 1.5, 1e300, "", "x" * 5000, "\x00", "ü\u20ac", [], [[]], {}, {"a": 1}]
    found = ["", "null", "[]", "0", "[" * 5000, '{"v":' * 2000, '"' + "x" * 200_000 + '"', '{"v":1e400}', "9" * 5000]
    for _ in range(60):
        fields = dict(ours)
        for name in chance.sample(["event", "account", "type", "attempts", "dead", "died", "mac", "traceparent"], 3):
            fields[name] = chance.choice(odd)
        found.append(json.dumps(fields))
        found.append(message(*[fields] * chance.choice([1, 2, 40])))
        found.append(json.dumps(json.loads(message(ours)) | {chance.choice(["v", "consumer", "events"]): chance.choice(odd)}))
        text = bytearray(message(ours).encode())
        text[chance.randrange(len(text))] = chance.randrange(32, 127)
        found.append(text.decode())
    return found


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_message_says_is_read_into_a_few_short_fields_or_nothing(seed: int) -> None:
    for text in _twisted(seed):
        bodies = decode(text)
        assert len(bodies) <= MOST_EVENTS
        assert len({body.event_id for body in bodies}) == len(bodies)
        for body in bodies:
            assert all(len(value) <= 2000 for value in body if isinstance(value, str))
            assert not is_proven(body, b"secret")
            assert decode(encode([body])) == (body,)


async def test_whatever_a_message_says_the_worker_goes_on_and_counts_it(
    start: Start, servers: Servers, connection: Connection
) -> None:
    daemon = await start(handlers())
    twisted = [text for text in _twisted(0) if text and "\x00" not in text]
    await put(servers, servers.queue, *twisted[::3])
    outcomes = ("unknown", "duplicate")
    known = "webhookd_processed_total"

    def seen() -> float:
        return sum(metric(daemon, known, outcome=outcome) for outcome in outcomes)

    await until(lambda: seen() >= len(twisted[::3]), "each is counted", deadline=30)
    await send(daemon, sampling.sample(AUTHCAPTURE, 1))
    await until(lambda: status(connection, "processed"), "the worker goes on")
    assert not daemon.watch.broken.is_set()
    types = {s.labels["event_type"] for f in daemon.metrics.registry.collect() for s in f.samples if s.name == known}
    assert types <= {*EVENT_TYPES, "other"}


async def test_event_types_that_messages_make_up_fill_no_cache(start: Start, servers: Servers) -> None:
    daemon = await start(handlers(), roles="work")
    made_up = [encode([EventReference(uuid.uuid4(), "default", f"made.up.{number}")]) for number in range(40)]
    await put(servers, servers.queue, *made_up)
    await until(lambda: metric(daemon, "webhookd_processed_total", outcome="unknown") >= 40, "each is met", deadline=30)
    worker = daemon.worker
    assert worker is not None
    kinds = 3 * (len(EVENT_TYPES) + 1)
    assert worker._processed.cache_info().currsize <= kinds
