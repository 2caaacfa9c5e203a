"""The short way to SQS: the same answers as botocore's client, the same signature, and the same patience."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.session import get_session
from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from tests.conftest import Servers
from webhookd.dev.servers import free_port
from webhookd.sqs import client as client_module
from webhookd.sqs.client import Client

QUEUE = "http://queue.test/1/q"


@asynccontextmanager
async def started(url: str) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        yield await Client.start(
            get_session(),
            stack,
            region="eu-west-1",
            endpoint_url=url,
            user_agent="test",
            retries={"mode": "standard", "total_max_attempts": 2},
        )


class Scripted:
    """A server that answers each request by the next of `answers`: (status, headers, body), or None for a closed connection."""

    def __init__(self, *answers: tuple[int, dict[str, str], bytes] | None) -> None:
        self.answers = list(answers)
        self.requests: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        self.requests.append(request)
        answer = self.answers.pop(0)
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status, headers, body = answer
        return web.Response(status=status, headers=headers, body=body)


OK: tuple[int, dict[str, str], bytes] = (200, {}, b'{"Successful":[]}')


@asynccontextmanager
async def serving(script: Scripted) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", script.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port(0)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_PAUSE", 0.0)


async def test_the_short_way_answers_as_botocore_does(servers: Servers) -> None:
    """Each call that goes the short way, beside the same call of botocore's client."""
    async with started(servers.sqs_endpoint_url) as client:
        url = (await client.rare.create_queue(QueueName=f"client-{uuid.uuid4().hex}"))["QueueUrl"]
        entries: Any = [{"Id": "0", "MessageBody": "é ✓ <&>"}, {"Id": "1", "MessageBody": "x" * 1000}]

        def same(short: Any, long: Any, *but: str) -> None:
            def plain(value: Any) -> Any:
                if isinstance(value, dict):
                    return {k: plain(v) for k, v in value.items() if k not in but and k != "ResponseMetadata" and v != []}
                return [plain(one) for one in value] if isinstance(value, list) else value

            assert plain(short) == plain(long)

        sent = await client.call("SendMessageBatch", QueueUrl=url, Entries=entries)
        same(sent, await client.rare.send_message_batch(QueueUrl=url, Entries=entries), "MessageId")
        assert [one["Id"] for one in sent["Successful"]] == ["0", "1"]
        asked: dict[str, Any] = {"QueueUrl": url, "MaxNumberOfMessages": 2, "VisibilityTimeout": 60}
        asked["MessageSystemAttributeNames"] = ["ApproximateReceiveCount"]
        received = await client.call("ReceiveMessage", **asked)
        same(received, await client.rare.receive_message(**asked), "MessageId", "ReceiptHandle")
        assert [one["Body"] for one in received["Messages"]] == [one["MessageBody"] for one in entries]
        handles = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(received["Messages"])]
        hidden: Any = [{**one, "VisibilityTimeout": 30} for one in handles]
        same(
            await client.call("ChangeMessageVisibilityBatch", QueueUrl=url, Entries=hidden),
            await client.rare.change_message_visibility_batch(QueueUrl=url, Entries=hidden),
        )
        deleted = await client.call("DeleteMessageBatch", QueueUrl=url, Entries=handles)
        same(deleted, {"Successful": [{"Id": "0"}, {"Id": "1"}]}, "Failed")
        none = await client.call("ReceiveMessage", **asked)
        same(none, await client.rare.receive_message(**asked))


async def test_an_error_has_the_code_that_botocore_gives_it(servers: Servers) -> None:
    async with started(servers.sqs_endpoint_url) as client:
        missing = f"{servers.sqs_endpoint_url}/123456789012/missing"
        entries: Any = [{"Id": "0", "MessageBody": "x"}]
        with pytest.raises(ClientError) as short:
            await client.call("SendMessageBatch", QueueUrl=missing, Entries=entries)
        with pytest.raises(ClientError) as long:
            await client.rare.send_message_batch(QueueUrl=missing, Entries=entries)
    assert short.value.response["Error"]["Code"] == long.value.response["Error"]["Code"]
    assert short.value.response["Error"]["Message"] == long.value.response["Error"]["Message"]
    assert short.value.operation_name == long.value.operation_name


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        (
            {"x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender"},
            b"{}",
            "AWS.SimpleQueueService.NonExistentQueue",
        ),
        ({}, b'{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"gone"}', "QueueDoesNotExist"),
        ({}, b'{"__type":"AccessDeniedException"}', "AccessDeniedException"),
        ({}, b"<html>a proxy's page</html>", "400"),
        ({}, b"[]", "400"),
        ({}, b'{"__type":null,"message":7}', "400"),
    ],
)
async def test_codes_of_errors(headers: dict[str, str], body: bytes, code: str) -> None:
    async with serving(Scripted((400, headers, body))) as url, started(url) as client:
        with pytest.raises(ClientError) as raised:
            await client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[])
    assert raised.value.response["Error"]["Code"] == code


@pytest.mark.parametrize(
    "first",
    [
        None,
        (500, {}, b""),
        (503, {}, b"<html>busy</html>"),
        (200, {}, b"<html>sign in</html>"),
        (200, {}, b"[]"),
        (400, {}, b'{"__type":"com.amazonaws.sqs#RequestThrottled"}'),
    ],
)
async def test_a_call_that_may_succeed_the_next_time_is_made_twice(first: Any) -> None:
    script = Scripted(first, OK)
    async with serving(script) as url, started(url) as client:
        assert await client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[]) == {"Successful": []}
    assert len(script.requests) == 2


@pytest.mark.parametrize("answer", [(503, {}, b""), (200, {}, b"<html>sign in</html>")])
async def test_and_not_a_third_time(answer: Any) -> None:
    script = Scripted(answer, answer, OK)
    async with serving(script) as url, started(url) as client:
        with pytest.raises((ClientError, BotoCoreError)):
            await client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[])
    assert len(script.requests) == 2


async def test_a_refusal_is_not_repeated() -> None:
    script = Scripted((403, {}, b'{"__type":"AccessDeniedException"}'), OK)
    async with serving(script) as url, started(url) as client:
        with pytest.raises(ClientError):
            await client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[])
    assert len(script.requests) == 1


async def test_nobody_there_is_an_error_of_botocore_after_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(f"http://127.0.0.1:{free_port(0)}") as client:
        send, tries = client._http.send, []

        async def counted(request: Any) -> Any:
            tries.append(request)
            return await send(request)

        monkeypatch.setattr(client._http, "send", counted)
        with pytest.raises(EndpointConnectionError):
            await client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[])
    assert len(tries) == 2


def signature(request: web.Request, body: bytes, secret: str) -> str:
    """AWS Signature Version 4 of a request as it arrived, by the signing process that AWS documents."""
    scope, signed, _ = (part.partition("=")[2].rstrip(",") for part in request.headers["Authorization"].split()[1:])
    names = signed.split(";")
    lines = [f"{name}:{' '.join(request.headers[name].split())}" for name in names]
    canonical = ["POST", "/", "", *lines, "", signed, hashlib.sha256(body).hexdigest()]
    date, region, service, end = scope.split("/")[1:]
    text = ["AWS4-HMAC-SHA256", request.headers["X-Amz-Date"], f"{date}/{region}/{service}/{end}"]
    text.append(hashlib.sha256("\n".join(canonical).encode()).hexdigest())
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, end):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, "\n".join(text).encode(), "sha256").hex()


async def test_what_arrives_is_signed_as_aws_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-token")
    script = Scripted(OK)
    async with serving(script) as url, started(url) as client:
        await client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[{"Id": "0", "MessageBody": "é"}])
    (request,) = script.requests
    authorization = request.headers["Authorization"]
    assert authorization.startswith("AWS4-HMAC-SHA256 Credential=test/")
    assert "/eu-west-1/sqs/aws4_request, SignedHeaders=" in authorization
    for name in ("content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"):
        assert name in authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert authorization.rpartition("Signature=")[2] == signature(request, await request.read(), "test")
    assert request.headers["X-Amz-Security-Token"] == "the-token"
    assert request.headers["X-Amz-Target"] == "AmazonSQS.SendMessageBatch"
    assert request.headers["Content-Type"] == "application/x-amz-json-1.0"
    assert json.loads(await request.read()) == {"QueueUrl": QUEUE, "Entries": [{"Id": "0", "MessageBody": "é"}]}


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what the AWS configuration file says; there are no credentials in the environment."""

    def configure(text: str) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        path = tmp_path / "config"
        path.write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    return configure


async def test_credentials_that_end_are_renewed(configured: Callable[[str], None], tmp_path: Path) -> None:
    """As those of a role do: each is good for a minute, which is less than botocore wants to see left."""
    program = tmp_path / "credentials.py"
    program.write_text(
        "import datetime, json, pathlib\n"
        f"path = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "number = int(path.read_text()) + 1 if path.exists() else 1\n"
        "path.write_text(str(number))\n"
        "end = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)).isoformat()\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'key{number}', 'SecretAccessKey': 's', 'Expiration': end}))\n"
    )
    configured(f"[default]\ncredential_process = {sys.executable} {program}\n")
    script = Scripted(OK, OK)
    async with serving(script) as url, started(url) as client:
        for _ in range(2):
            await client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[])
    keys = [request.headers["Authorization"].partition("Credential=")[2].partition("/")[0] for request in script.requests]
    assert keys[0] != keys[1]


async def test_no_credentials_are_an_error_of_botocore(configured: Callable[[str], None]) -> None:
    configured("")
    script = Scripted(OK)
    async with serving(script) as url, started(url) as client:
        with pytest.raises(NoCredentialsError):
            await client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[])
    assert not script.requests


@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1", "cn-north-1", "us-gov-west-1"])
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_ENDPOINT_URL_SQS": "http://sqs.test:1"},
    ],
    ids=lambda given: next(iter(given), "plain"),
)
async def test_the_endpoint_is_the_one_that_botocore_chooses(
    region: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    urls: list[str] = []
    async with AsyncExitStack() as stack:
        client = await Client.start(get_session(), stack, region=region, endpoint_url=None, user_agent="test")

        async def send(request: Any) -> None:
            urls.append(request.url)
            raise LookupError

        monkeypatch.setattr(client._http, "send", send)
        for call in (
            client.rare.send_message_batch(QueueUrl=QUEUE, Entries=[]),
            client.call("SendMessageBatch", QueueUrl=QUEUE, Entries=[]),
        ):
            with pytest.raises(LookupError):
                await call
    assert len(set(urls)) == 1
