"""Destinations in AWS, on moto over sockets: what a queue, a topic and a bus get, and the faults of each service."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest
import pytest_asyncio
from aiobotocore.session import get_session
from aiohttp import web
from botocore.loaders import JSONFileLoader, create_loader
from standardwebhooks import Webhook

from tests.conftest import Start
from tests.helpers.operator import ANN, Operator
from tests.helpers.receivers import SECRET, Got, Receiver, receiving
from tests.helpers.running import KEY
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until, until_ended
from tests.integration.test_destinations import (
    CUSTOMER,
    Connection,
    body_of,
    delivery,
    left,
    metric,
    post,
    quick,
    send,
    until_none_is_left,
)
from webhookd.authorizenet import sampling
from webhookd.authorizenet.signature import sign
from webhookd.dev.servers import Stack

__all__ = ["quick"]

ACCOUNT, REGION = "123456789012", "us-east-1"  # moto's


@contextlib.asynccontextmanager
async def aws(service: str, url: str) -> AsyncIterator[Any]:
    session: Any = get_session()
    async with session.create_client(service, endpoint_url=url, region_name=REGION) as client:
        yield client


@pytest.fixture
def moto(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the address of moto, and has SNS and EventBridge there."""
    if not stack.embeds_sqs:
        pytest.skip("the SQS of WEBHOOKD_TEST_SQS_ENDPOINT_URL need not know SNS; unset it to use moto")
    use(monkeypatch, stack.sqs_endpoint_url)
    return stack.sqs_endpoint_url


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for service in ("SNS", "EVENTBRIDGE"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", url)


def local(url: str, **settings: Any) -> dict[str, Any]:
    """Returns a destination at a service of this machine, without TLS."""
    return {"url": url, "allow_private": True, **settings}


@pytest.fixture
def name() -> str:
    return f"shop-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def queue(moto: str, name: str) -> str:
    """Makes a queue, and returns its name."""
    async with aws("sqs", moto) as sqs:
        await sqs.create_queue(QueueName=name)
    return name


async def received(url: str, queue: str, count: int) -> list[dict[str, Any]]:
    """Receives messages from a queue until they are of `count` events. A repeat is among them."""
    messages: list[dict[str, Any]] = []
    async with aws("sqs", url) as sqs:
        queue_url = (await sqs.get_queue_url(QueueName=queue))["QueueUrl"]

        async def look() -> bool:
            reply = await sqs.receive_message(
                QueueUrl=queue_url,
                MaxNumberOfMessages=10,
                VisibilityTimeout=600,
                MessageAttributeNames=["All"],
                AttributeNames=["All"],
            )
            messages.extend(reply.get("Messages", ()))
            return len({message["Body"].partition('"id":"')[2][:36] for message in messages}) >= count

        await until(look, f"{count} messages in {queue}", deadline=60)
    return messages


def attributes_of(message: dict[str, Any]) -> dict[str, str]:
    return {name: one["StringValue"] for name, one in message["MessageAttributes"].items()}


async def test_a_queue_gets_the_envelope_with_attributes_and_a_signature(
    start: Start, connection: Connection, moto: str, queue: str
) -> None:
    daemon = await start(destinations={"shop": {"url": f"sqs://{queue}", "secrets": SECRET, "allow_private": True}})
    body = body_of({"id": "1", "authAmount": 1}, 1).replace(b'"authAmount": 1', b'"authAmount": 100.10, "note": "\xef\xbf\xbf"')
    await post(daemon, body)
    await until_none_is_left(connection)
    (message,) = await received(moto, queue, 1)
    assert '"authAmount": 100.10' in message["Body"]
    found = json.loads(message["Body"])
    event_id = str(await connection.fetchval("SELECT id FROM webhookd.events"))
    assert found.pop("data") == json.loads(body)
    assert (found["id"], found["account"], found["event_type"]) == (event_id, "default", json.loads(body)["eventType"])
    attributes = attributes_of(message)
    assert attributes["webhook-id"] == event_id
    assert attributes["webhookd-event-type"] == json.loads(body)["eventType"]
    assert attributes["webhookd-account"] == "default"
    assert len(attributes) <= 10, "SQS takes no more, and SNS passes no more on to a queue"
    Webhook(SECRET).verify(message["Body"].encode(), attributes)


async def test_a_topic_and_a_bus_get_the_envelope_and_what_filters_need(
    start: Start, connection: Connection, moto: str, queue: str, name: str
) -> None:
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
    async with aws("sns", moto) as sns:
        topic = (await sns.create_topic(Name=name))["TopicArn"]
        chosen = {"webhookd-event-type": [CUSTOMER]}
        raw = {"RawMessageDelivery": "true", "FilterPolicy": json.dumps(chosen)}
        await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=raw)
    async with aws("events", moto) as events:
        await events.create_event_bus(Name=name)
        pattern = {"source": ["webhookd"], "detail-type": [CUSTOMER], "detail": {"account": ["default"]}}
        await events.put_rule(Name=name, EventBusName=name, EventPattern=json.dumps(pattern))
        await events.put_targets(Rule=name, EventBusName=name, Targets=[{"Id": "1", "Arn": arn}])
    daemon = await start(destinations={"topic": local(f"sns:{topic}"), "bus": local(f"eventbridge://{name}")}, admin_tokens=ANN)
    await post(daemon, body_of({"id": "2"}, 2))  # the filters leave this event out
    await send(daemon, sampling.sample(CUSTOMER, 1))
    await until_none_is_left(connection)
    bodies = [json.loads(message["Body"]) for message in await received(moto, queue, 2)]
    from_bus = next(one for one in bodies if "detail" in one)
    assert (from_bus["detail-type"], from_bus["source"]) == (CUSTOMER, "webhookd")
    from_topic = next(one for one in bodies if "detail" not in one)
    assert from_bus["detail"] == from_topic
    assert from_topic["event_type"] == CUSTOMER
    for destination in ("topic", "bus"):
        _, tested = await Operator(daemon.admin_url).post(f"destinations/{destination}/test")
        assert tested["accepted"], tested


async def test_a_fifo_queue_drops_a_repeat_by_the_events_id(start: Start, connection: Connection, moto: str, name: str) -> None:
    async with aws("sqs", moto) as sqs:
        await sqs.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})
    daemon = await start(destinations={"shop": {"url": f"sqs://{name}.fifo", "allow_private": True}})
    await send(daemon, sampling.sample(CUSTOMER, 1), sampling.sample(CUSTOMER, 2))
    await until_none_is_left(connection)
    await connection.execute("INSERT INTO webhookd.deliveries (event_id, destination) SELECT id, 'shop' FROM webhookd.ledger")
    await until_none_is_left(connection)
    messages = await received(moto, f"{name}.fifo", 2)
    ids = [attributes_of(message)["webhook-id"] for message in messages]
    assert len(ids) == len(set(ids)) == 2
    assert [message["Attributes"]["MessageGroupId"] for message in messages] == ids, "no event waits for another"


async def test_a_queues_faults_lose_nothing_and_events_are_sent_together(
    start: Start, connection: Connection, moto: str, queue: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.store.deliveries._FIRST_PROBE", 0.2)
    monkeypatch.setattr("webhookd.store.deliveries._LONGEST_PROBE", 0.4)
    monkeypatch.setattr("webhookd.deliver.role._POLL", 0.1)
    async with StrictSqs(moto) as gateway:
        gateway.throttled, gateway.errors, gateway.failed_entries, gateway.lost_replies = 0.2, 0.1, 0.2, 0.2
        host = urlsplit(gateway.url).netloc
        daemon = await start(
            roles="receive",
            destinations=(settings := {"shop": {"url": f"sqs://http://{host}/{ACCOUNT}/{queue}", "allow_private": True}}),
        )
        await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(60)))
        await start(roles="deliver", destinations=settings)
        await until_ended(lambda: left(connection), "every delivery has ended", patience=60)
        requests = [len(asked["Entries"]) for action, asked in gateway.done if action == "SendMessageBatch"]
        refused = set(gateway.refused)
    assert max(requests) == 10
    assert refused == set(), "no request breaks a rule of SQS for batches"
    messages = await received(moto, queue, 60)
    wanted = {str(row["id"]) for row in await connection.fetch("SELECT id FROM webhookd.ledger")}
    assert {attributes_of(message)["webhook-id"] for message in messages} == wanted


async def test_an_event_that_is_refused_is_dead_and_its_neighbours_are_sent(
    start: Start, connection: Connection, moto: str, queue: str
) -> None:
    async with StrictSqs(moto) as gateway:
        gateway.unwanted = "refuse this"
        host = urlsplit(gateway.url).netloc
        settings = {"shop": {"url": f"sqs://http://{host}/{ACCOUNT}/{queue}", "allow_private": True}}
        daemon = await start(roles="receive", destinations=settings)
        await post(daemon, body_of({"id": "refuse this"}, 1))
        for number in range(2, 8):
            await post(daemon, body_of({"id": str(number)}, number))
        await start(roles="deliver", destinations=settings)
        row = await delivery(connection, "status = 'dead'")
        await until(lambda: _is_one(connection), "the others have ended", deadline=30)
    assert "InvalidMessageContents" in row["last_error"]
    assert row["attempts"] == 1
    assert len(await received(moto, queue, 6)) == 6


async def _is_one(connection: Connection) -> bool:
    return await left(connection) == 1


async def test_what_is_too_large_is_dead_at_once_and_asks_nobody(
    start: Start, connection: Connection, moto: str, queue: str
) -> None:
    async with StrictSqs(moto) as gateway:
        host = urlsplit(gateway.url).netloc
        daemon = await start(
            max_body_bytes=2_097_152,
            destinations={"shop": {"url": f"sqs://http://{host}/{ACCOUNT}/{queue}", "allow_private": True}},
        )
        body = body_of({"id": "x" * 1_048_576}, 1)
        url = f"{daemon.public_url}/webhooks/authorize-net"
        headers = {"X-ANET-Signature": sign(body, KEY)}
        async with aiohttp.ClientSession() as http, http.post(url, data=io.BytesIO(body), headers=headers) as answer:
            assert answer.status == 200
        row = await delivery(connection, "status = 'dead'")
        assert not [action for action, _ in gateway.done if action == "SendMessageBatch"]
    assert row["attempts"] == 1
    assert "bytes, and SQS takes 1048576 at most" in row["last_error"]


@pytest.mark.parametrize("service", ["sqs", "sns", "eventbridge"])
async def test_what_is_missing_is_named_and_tried_again(
    start: Start, connection: Connection, moto: str, name: str, service: str, quick: None
) -> None:
    urls = {
        "sqs": f"sqs://{name}",
        "sns": f"sns:arn:aws:sns:{REGION}:{ACCOUNT}:{name}",
        "eventbridge": f"eventbridge://{name}",
    }
    daemon = await start(destinations={"shop": {"url": urls[service], "allow_private": True}})
    await send(daemon, sampling.sample(CUSTOMER, 1))
    row = await delivery(connection, "status = 'retrying'")
    assert f"{name} does not exist in the region us-east-1" in row["last_error"], row["last_error"]
    async with aws({"eventbridge": "events"}.get(service, service), moto) as client:
        if service == "sqs":
            await client.create_queue(QueueName=name)
        elif service == "sns":
            await client.create_topic(Name=name)
        else:
            await client.create_event_bus(Name=name)
    await until_none_is_left(connection)


def error_of(service: str, code: str, status: int) -> web.Response:
    """Returns an error in the form of a service: JSON, or XML for SNS."""
    if service == "sns":
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>AKIAQUOTED</Message></Error></ErrorResponse>"
        )
        return web.Response(status=status, text=text, content_type="text/xml")
    return web.Response(status=status, body=orjson.dumps({"__type": code, "message": "AKIAQUOTED"}))


@pytest_asyncio.fixture
async def service_in_place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """Runs a server that answers as a test asks, in the place of SNS and EventBridge."""
    async with receiving() as server:
        use(monkeypatch, server.url.removesuffix("/hooks"))
        yield server


TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:shop"


@pytest.mark.parametrize(
    ("service", "code", "status", "last_status", "said"),
    [
        ("sns", "AuthorizationError", 403, None, f"lack the right sns:Publish on the topic {TOPIC}"),
        ("sns", "Throttled", 429, 429, "SNS throttles webhookd's calls"),
        ("sns", "InvalidParameter", 400, None, "SNS refuses PublishBatch (InvalidParameter)"),
        ("events", "ValidationException", 400, None, "EventBridge refuses DescribeEventBus (ValidationException)"),
        ("sns", "KMSAccessDenied", 400, None, "kms:Decrypt on the topic's key"),
        ("events", "AccessDeniedException", 400, None, "lack the right events:DescribeEventBus on the bus shop"),
        ("events", "ThrottlingException", 400, 429, "EventBridge throttles webhookd's calls"),
        ("events", "InternalException", 500, None, "EventBridge refuses DescribeEventBus (InternalException)"),
    ],
)
async def test_a_refusal_of_a_service_is_explained_and_tried_again(
    start: Start,
    connection: Connection,
    service_in_place: Receiver,
    service: str,
    code: str,
    status: int,
    last_status: int | None,
    said: str,
) -> None:
    service_in_place.answer = lambda _: error_of(service, code, status)
    daemon = await start(destinations={"shop": local(f"sns:{TOPIC}" if service == "sns" else "eventbridge://shop")})
    await send(daemon, sampling.sample(CUSTOMER, 1))
    row = await delivery(connection, "status = 'retrying'")
    assert said in row["last_error"], row["last_error"]
    assert "AKIA" not in row["last_error"], "AWS' messages quote access keys"
    assert (row["last_status"], row["last_answer"]) == (last_status, None)


async def test_of_a_bus_each_event_has_its_own_result(
    start: Start, connection: Connection, service_in_place: Receiver, quick: None
) -> None:
    ends: dict[str, int] = {}

    def answer(got: Got) -> web.Response:
        if got.headers["X-Amz-Target"].endswith("DescribeEventBus"):
            return web.Response(body=b"{}")
        results = []
        for entry in orjson.loads(got.body)["Entries"]:
            event_id = orjson.loads(entry["Detail"])["id"]
            ends[event_id] = ends.get(event_id, 0) + 1
            if b"broken" in entry["Detail"].encode():
                results.append({"ErrorCode": "MalformedDetail", "ErrorMessage": "x"})
            elif ends[event_id] == 1 and len(results) % 2:
                results.append({"EventId": "x", "ErrorCode": "InternalFailure"})  # what contradicts itself is no success
            else:
                results.append({"EventId": "x"})
        return web.Response(body=orjson.dumps({"FailedEntryCount": 1, "Entries": results}))

    service_in_place.answer = answer
    settings = {"shop": local("eventbridge://shop")}
    daemon = await start(roles="receive", destinations=settings)
    for number in range(8):
        await post(daemon, body_of({"id": "broken" if number == 0 else str(number)}, number))
    await start(roles="deliver", destinations=settings)
    row = await delivery(connection, "status = 'dead'")
    await until(lambda: _is_one(connection), "the others have ended", deadline=30)
    assert "EventBridge refuses the event" in row["last_error"]
    assert "MalformedDetail" in row["last_error"]
    assert ends[str(row["event_id"])] == 1
    assert len(ends) == 8
    assert max(ends.values()) == 2, "an event that failed is sent again, and no other event"


async def test_an_answer_that_names_no_event_is_no_success(
    start: Start, connection: Connection, service_in_place: Receiver
) -> None:
    empty = "<PublishBatchResponse><PublishBatchResult><Successful/></PublishBatchResult></PublishBatchResponse>"
    service_in_place.answer = lambda got: web.Response(text="{}" if "X-Amz-Target" in got.headers else empty)
    daemon = await start(destinations={"bus": local("eventbridge://shop"), "topic": local(f"sns:{TOPIC}")})
    await send(daemon, sampling.sample(CUSTOMER, 1))
    for name in ("bus", "topic"):
        await delivery(connection, f"destination = '{name}' AND status = 'retrying'")
    assert metric(daemon, "webhookd_deliveries_total", destination="bus", outcome="delivered") == 0


async def test_a_service_that_hangs_delays_neither_a_stop_nor_another_destination(
    start: Start, connection: Connection, service_in_place: Receiver, moto: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, service_in_place.url.removesuffix("/hooks"))

    async def hang(_: Got) -> web.StreamResponse:
        await asyncio.sleep(600)
        return web.Response()

    service_in_place.answer = hang
    monkeypatch.setattr("webhookd.deliver.role._STOP", 0.1)
    daemon = await start(
        destinations={
            "topic": local(f"sns:{TOPIC}", timeout=300),
            "queue": {"url": f"sqs://{queue}", "allow_private": True},
        }
    )
    await send(daemon, sampling.sample(CUSTOMER, 1))
    await until(lambda: service_in_place.got, "the topic hangs", deadline=30)
    await received(moto, queue, 1)
    async with asyncio.timeout(60):
        await daemon.stop()
    assert await left(connection) == 1


async def test_an_answer_of_another_kind_is_no_defect_of_webhookd(
    start: Start, connection: Connection, service_in_place: Receiver
) -> None:
    service_in_place.answer = lambda _: web.Response(text='{"Entries": 5}')
    daemon = await start(destinations={"bus": local("eventbridge://shop"), "topic": local(f"sns:{TOPIC}")})
    await send(daemon, sampling.sample(CUSTOMER, 1))
    for name in ("bus", "topic"):
        row = await delivery(connection, f"destination = '{name}' AND status = 'retrying'")
        assert row["last_error"].startswith("the answer is not one of "), row["last_error"]


def queue_at(server: Receiver, **settings: Any) -> dict[str, Any]:
    """Returns a destination in the queue of a server."""
    return {"url": f"sqs://{server.url.removesuffix('/hooks')}/{ACCOUNT}/shop", "allow_private": True, **settings}


def sent(got: Got) -> web.Response:
    """Returns SQS's answer to a request all of whose events were taken."""
    ids = [entry["Id"] for entry in orjson.loads(got.body)["Entries"]]
    return web.Response(body=orjson.dumps({"Successful": [{"Id": id_, "MessageId": "x"} for id_ in ids]}))


async def test_no_redirect_is_followed(start: Start, connection: Connection) -> None:
    async with receiving() as service, receiving() as elsewhere:
        elsewhere.answer = sent
        service.answer = lambda _: web.Response(status=307, headers={"Location": elsewhere.url})
        daemon = await start(destinations={"shop": queue_at(service)})
        await send(daemon, sampling.sample(CUSTOMER, 1))
        await delivery(connection, "status = 'retrying'")
    assert elsewhere.got == []


async def post_large(daemon: Any, count: int) -> None:
    for number in range(1, count + 1):
        await post(daemon, body_of({"id": str(number), "note": "x" * 120_000}, number))


async def test_each_event_is_confirmed_as_soon_as_its_request_is_answered(start: Start, connection: Connection) -> None:
    """Ten events are five requests, one after the other, which take longer than one attempt may."""
    taken: list[str] = []

    async def answer(got: Got) -> web.Response:
        taken.extend(orjson.loads(entry["MessageBody"])["id"] for entry in orjson.loads(got.body)["Entries"])
        await asyncio.sleep(2)
        return sent(got)

    async with receiving() as service:
        service.answer = answer
        settings = {"shop": queue_at(service, concurrency=1, timeout=7)}
        daemon = await start(roles="receive", destinations=settings)
        await post_large(daemon, 10)
        await start(roles="deliver", destinations=settings)
        await until(lambda: len(taken) >= 8, "the fourth request has begun", deadline=60)
        rows = await connection.fetch("SELECT event_id FROM webhookd.deliveries")
    unfinished = {str(row["event_id"]) for row in rows}
    assert not unfinished & set(taken[:4]), "those of the first two requests are confirmed by then"


async def test_a_stop_waits_for_none_of_the_requests_that_are_left(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: Got) -> web.StreamResponse:
        await asyncio.sleep(600)
        return web.Response()

    monkeypatch.setattr("webhookd.deliver.role._STOP", 0.1)
    async with receiving() as service:
        service.answer = hang
        settings = {"shop": queue_at(service, concurrency=1, timeout=60)}
        daemon = await start(roles="receive", destinations=settings)
        await post_large(daemon, 6)
        sender = await start(roles="deliver", destinations=settings)
        await until(lambda: service.got, "the queue hangs", deadline=30)
        async with asyncio.timeout(45):
            await sender.stop()
        assert len(service.got) == 1
    assert await left(connection) == 6


async def test_the_models_of_the_services_are_loaded_before_the_daemon_serves(
    start: Start, connection: Connection, moto: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.session.create_loader", create_loader)  # the tests share one otherwise
    daemon = await start(destinations={"shop": {"url": f"sqs://{queue}", "secrets": SECRET, "allow_private": True}})
    load, loaded = JSONFileLoader.load_file, []

    def watched(self: JSONFileLoader, path: str) -> Any:
        if threading.current_thread() is threading.main_thread():  # moto has threads of its own
            loaded.append(path)
        return load(self, path)

    monkeypatch.setattr(JSONFileLoader, "load_file", watched)
    await send(daemon, sampling.sample(CUSTOMER, 1))
    await until_none_is_left(connection)
    assert not loaded
