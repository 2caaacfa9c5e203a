"""A collector receives one trace for an event, from its webhook through PostgreSQL and SQS to its handlers."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from tests.conftest import Servers, Start
from tests.helpers.collector import Collector, Received
from tests.helpers.command import webhookd
from tests.helpers.operator import ANN, Operator
from tests.helpers.queues import received_bodies
from tests.helpers.running import KEY, Process
from tests.helpers.secrets import note
from tests.helpers.wait import until
from tests.integration.test_work import AUTHCAPTURE, Connection, handlers, status
from webhookd.authorizenet import sampling
from webhookd.authorizenet.signature import sign
from webhookd.dev.servers import free_port
from webhookd.errors import Permanent, SettingsError
from webhookd.event import Event
from webhookd.queue.message import EventReference, decode, encode
from webhookd.telemetry.metrics import Metrics
from webhookd.telemetry.tracing import Tracing

CUSTOMER = "net.authorize.customer.created"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SECRET = "collectors-secret-token"

HANDLERS = """
import logging
from opentelemetry import trace
from webhookd import on, Retryable

class Declined(Exception):
    pass

@on("net.authorize.payment.*")
async def charge(event, connection):
    with trace.get_tracer("shop").start_as_current_span("ask the bank"):
        logging.getLogger("shop").warning("asked")
    if event.attempt == 1:
        raise Declined(f"no money of {event.payload['email']}")
"""


@pytest_asyncio.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """Yields a collector, and sets the environment so that daemons in this process send their spans to it soon."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{SECRET}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        note([SECRET])
        yield collector


async def post(
    url: str,
    body: bytes,
    *,
    traceparent: str | list[str] | None = None,
    signature: str | None = None,
    expect: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Sends a webhook; with `expect` as the provider does, which takes another way through the receiver."""
    given = [traceparent] if isinstance(traceparent, str) else traceparent or []
    headers = [("X-ANET-Signature", signature or sign(body, KEY)), *(("traceparent", one) for one in given)]
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/webhooks/authorize-net", data=body, headers=headers, expect100=expect) as response,
    ):
        return response.status, await response.json(content_type=None)


def payment(**more: Any) -> bytes:
    envelope = orjson.loads(sampling.sample(AUTHCAPTURE, 1).body)
    envelope["payload"] |= more
    return orjson.dumps(envelope)


async def the(collector: Collector, name: str, count: int = 1, **attributes: Any) -> list[Received]:
    """Waits for `count` spans with this name and these attributes; returns them, and fails if there are more."""
    await until(lambda: len(collector.named(name, **attributes)) >= count, f"{count} spans {name!r} {attributes}")
    found = collector.named(name, **attributes)
    assert len(found) == count, found
    return found


async def test_one_trace_leads_through_two_processes_and_a_retry(servers: Servers, collector: Collector) -> None:
    (servers.folder / "shop.py").write_text(HANDLERS)
    settings = {**servers.settings, "WEBHOOKD_TRACING": "true", "WEBHOOKD_RETRY_BASE": "0.1", "WEBHOOKD_RETRY_CAP": "0.1"}
    receiving, working = ({**settings, "WEBHOOKD_ROLES": roles} for roles in ("receive,relay", "work"))
    receiving["OTEL_SERVICE_NAME"] = "payments-in"
    working |= {"WEBHOOKD_HANDLERS": "shop", "PYTHONPATH": str(servers.folder)}
    folders = [servers.folder / name for name in ("receiver", "worker")]
    for folder in folders:
        folder.mkdir()
    body = payment(email="jane.doe@example.com", invoiceNumber="INV-4711-JANE")
    async with Process(receiving, folders[0]) as receiver, Process(working, folders[1]) as worker:
        code, answer = await post(receiver.public_url, body, traceparent=PARENT)
        assert (code, answer["status"]) == (200, "accepted")
        id_ = answer["id"]
        await the(collector, "process", outcome="processed")
        [receive], [commit] = [await the(collector, name) for name in ("POST", "commit")]
        sends = await the(collector, "send", 2)  # a retry has its own message
        deliveries, calls = await the(collector, "process", 2), await the(collector, "handle shop.charge", 2)
        own = await the(collector, "ask the bank", 2)

        async def are_exported() -> bool:  # spans are counted when the collector has answered
            return await worker.metric("webhookd_spans_total", outcome="exported") >= 6

        await until(are_exported, "the worker's spans are exported")
        assert await receiver.stop() == await worker.stop() == 0

    assert {span.trace for span in collector.spans} == {TRACE}
    assert (receive.kind, receive.parent, receive.service) == ("server", "00f067aa0ba902b7", "payments-in")
    assert receive.attributes == {
        "http.request.method": "POST",
        "http.route": "/webhooks/authorize-net/{account}",
        "http.response.status_code": 200,
        "webhookd.account": "default",
        "webhookd.event.id": id_,
        "webhookd.event.type": AUTHCAPTURE,
        "webhookd.outcome": "accepted",
    }
    assert (commit.parent, commit.links, commit.attributes["db.operation.batch.size"]) == (receive.id, (receive.id,), 1)
    for send in sends:
        assert (send.kind, send.parent, send.links) == ("producer", receive.id, (receive.id,))
        assert send.attributes["messaging.system"] == "aws_sqs"
        assert send.attributes["messaging.destination.name"] == servers.queue

    assert {(span.kind, span.parent, span.service) for span in deliveries} == {("consumer", receive.id, "webhookd")}
    told = [(span.attributes["webhookd.attempt"], span.attributes["webhookd.outcome"]) for span in deliveries]
    assert told == [(1, "retrying"), (2, "processed")]
    assert all(span.attributes["webhookd.event.id"] == id_ for span in deliveries)
    assert all(span.attributes["messaging.message.id"] for span in deliveries)
    assert [span.parent for span in calls] == [span.id for span in deliveries]
    assert [span.parent for span in own] == [span.id for span in calls], "the handler's own spans are below it"
    assert deliveries[0].seconds >= calls[0].seconds > 0
    for span in (deliveries[0], calls[0]):
        assert span.attributes["error.type"] == "Declined"
        assert span.error == f"Declined at {servers.folder}/shop.py:14 in shop.charge"
    assert deliveries[1].error is calls[1].error is None

    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    told_in = {line["message"]: line for line in lines if line.get("trace_id")}
    assert told_in["an attempt failed"]["trace_id"] == told_in["asked"]["trace_id"] == TRACE
    assert told_in["an attempt failed"]["span_id"] == deliveries[0].id

    payload = orjson.loads(body)["payload"]
    for private in (payload["email"], payload["invoiceNumber"], payload["id"], "no money", KEY, servers.database_url):
        assert private.encode() not in collector.raw
    assert collector.headers[0]["Authorization"] == f"Bearer {SECRET}"
    for log in (receiver.log, worker.log):
        assert SECRET not in log.read_text()


async def test_what_the_sweeper_sends_each_event_of_a_bundle_and_a_dead_letter_keep_their_traces(
    servers: Servers, start: Start, connection: Connection, collector: Collector
) -> None:
    async def give_up(event: Event, _: Any) -> None:
        raise Permanent("closed")

    receiver = await start(roles="receive", tracing=True)
    given = {}
    for number in range(1, 13):
        trace = f"{number:032x}"
        given[trace] = await post(
            receiver.public_url,
            sampling.sample(AUTHCAPTURE if number == 1 else CUSTOMER, number).body,
            traceparent=f"00-{trace}-{number:016x}-01",
            expect=number % 2 == 0,
        )
    roots = {span.trace: span for span in await the(collector, "POST", 12)}
    stored = [row["traceparent"] for row in await connection.fetch("SELECT traceparent FROM events")]
    assert {text[3:35]: text[36:52] for text in stored} == {trace: span.id for trace, span in roots.items()}
    await receiver.stop()

    # The relay does not trace, and passes on the traceparent that it receives.
    relay = await start(roles="relay")
    await until(lambda: status(connection, "queued"), "the sweeper has sent them")
    await relay.stop()
    worker = await start(handlers(give_up, pattern=AUTHCAPTURE), roles="work", tracing=True)
    deliveries = await the(collector, "process", 12)
    assert {span.trace: (span.parent, span.attributes["webhookd.event.id"]) for span in deliveries} == {
        trace: (span.id, given[trace][1]["id"]) for trace, span in roots.items()
    }
    shared = [span for span in deliveries if span.attributes.get("webhookd.shared")]
    assert len(shared) == 11, "they were bundled"
    assert {(span.attributes["webhookd.outcome"], span.attributes["webhookd.attempt"]) for span in shared} == {("processed", 1)}
    [dead] = collector.named("process", outcome="dead")
    [copy] = await received_bodies(servers, servers.dead_letter_queue, 1)
    assert copy["traceparent"] == f"00-{dead.trace}-{dead.parent}-01"
    await worker.stop()

    # An operator retries the event: the new attempt stays in the event's trace.
    daemon = await start(tracing=True, admin_tokens=ANN)
    code, _ = await Operator(daemon.admin_url).post(f"events/{copy['event']}/retry", {"reason": "open again"})
    assert code == 202
    [again] = await the(collector, "process", event_id=copy["event"], outcome="processed")
    assert (again.trace, again.parent) == (dead.trace, dead.parent)


@pytest.mark.parametrize("expect", [False, True], ids=["whole", "expecting 100-continue"])
async def test_a_trace_is_taken_from_an_authentic_webhook_alone_and_only_where_it_is_one(
    start: Start, connection: Connection, collector: Collector, expect: bool
) -> None:
    daemon = await start(roles="receive", tracing=True)
    url = daemon.public_url
    code, _ = await post(url, payment(), traceparent=PARENT, signature="sha512=" + "0" * 128, expect=expect)
    assert code == 401
    for wrong in WRONG:
        code, _ = await post(url, payment(), traceparent=wrong, expect=expect)
        assert code == 200
    body = payment()
    for _ in range(2):
        await post(url, body, traceparent=f"01-{'a' * 32}-{'b' * 16}-01-of-a-later-version", expect=expect)
    await post(url, b"{", traceparent=PARENT, expect=expect)
    await post(url, payment(), traceparent=f"00-{'c' * 32}-{'d' * 16}-00", expect=expect)
    spans = await the(collector, "POST", len(WRONG) + 3)
    assert TRACE not in {span.trace for span in spans[:-1]}, "an unsigned request has no span"
    assert all(span.parent == "" for span in spans[: len(WRONG)])
    *_, first, second, aside = spans
    assert {first.parent, second.parent} == {"b" * 16}
    assert second.attributes["webhookd.outcome"] == "duplicate"
    assert second.attributes["webhookd.event.id"] == first.attributes["webhookd.event.id"]
    assert (aside.trace, aside.attributes["webhookd.outcome"]) == (TRACE, "quarantined")
    # If a proxy in front does not sample a request, webhookd does not sample it either, and passes the decision on.
    last = await connection.fetchval("SELECT traceparent FROM events ORDER BY id DESC LIMIT 1")
    assert last.startswith(f"00-{'c' * 32}-")
    assert last.endswith("-00")


WRONG: list[str | list[str]] = [
    "",
    "00",
    PARENT.upper(),
    PARENT + "-more",
    "ff" + PARENT[2:],
    "01" + PARENT[2:] + "x",
    f"00-{'0' * 32}-00f067aa0ba902b7-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE[1:]}-00f067aa0ba902b7-01",
    "x" * 5000,
    [PARENT, PARENT],
]


@pytest.mark.parametrize("away", ["hangs", "refuses"])
async def test_a_collector_that_is_away_costs_spans_only(
    servers: Servers, connection: Connection, collector: Collector, away: str
) -> None:
    collector.hangs = True
    at = collector.url if away == "hangs" else f"http://127.0.0.1:{free_port(0)}"
    settings = {
        **servers.settings,
        "WEBHOOKD_TRACING": "true",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{at.replace('//', f'//ann:{SECRET}@')}/v1/traces?key={SECRET}",
    }
    async with Process(settings, servers.folder) as daemon:
        for _ in range(20):
            code, _ = await post(daemon.public_url, payment())
            assert code == 200
        await until(lambda: status(connection, "processed"), "all are processed")
        began = time.monotonic()
        assert await daemon.stop() == 0
        assert time.monotonic() - began < float(servers.settings["WEBHOOKD_SHUTDOWN_GRACE"])
    assert await connection.fetchval("SELECT count(*) FROM events") == 20
    log = daemon.log.read_text()
    assert "Traceback" not in log
    complaints = [line for line in log.splitlines() if "OpenTelemetry complains" in line]
    assert len({json.loads(line)["at"] for line in complaints}) == len(complaints), "each once a minute"
    assert complaints if away == "refuses" else "the last spans could not be sent in time" in log
    # tests/helpers/secrets.py looks for the secret in the log.


async def test_without_the_extra_the_setting_is_refused_and_the_rest_works(servers: Servers, connection: Connection) -> None:
    blocked = servers.folder / "blocked"
    (blocked / "opentelemetry").mkdir(parents=True)
    (blocked / "opentelemetry" / "__init__.py").write_text("raise ImportError('not installed')")
    settings = {**servers.settings, "PYTHONPATH": str(blocked)}
    code, _, err = await webhookd("serve", folder=servers.folder, **settings, WEBHOOKD_TRACING="true")
    assert code == 2
    assert "WEBHOOKD_TRACING" in err
    assert "pip install 'webhookd[tracing]'" in err
    async with Process(settings, servers.folder) as daemon:
        code, _ = await post(daemon.public_url, payment(), traceparent=PARENT)
        assert code == 200
        await until(lambda: status(connection, "processed"), "it is processed")
        assert await daemon.stop() == 0
    assert await connection.fetchval("SELECT traceparent FROM events") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"), ("OTEL_SPAN_LINK_COUNT_LIMIT", SECRET)],
)
async def test_what_opentelemetry_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="OTEL_") as told:
        await Tracing(queue="webhookd", system="aws_sqs", metrics=Metrics()).start()
    assert SECRET not in str(told.value)


def test_a_message_keeps_each_event_s_trace() -> None:
    bodies = [
        EventReference(uuid.uuid4(), "default", AUTHCAPTURE, traceparent=PARENT),
        EventReference(uuid.uuid4(), "default", CUSTOMER),
    ]
    dead = bodies[0]._replace(dead="closed", died=1)
    assert [decode(encode(some)) for some in (bodies, bodies[:1], [dead])] == [tuple(bodies), tuple(bodies[:1]), (dead,)]
