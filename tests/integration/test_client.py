"""The clients of SQS: the meaning of unexpected answers, the number of tries of a call, and the credentials that sign it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from tests.helpers.wait import until
from webhookd.dev.servers import free_port
from webhookd.errors import UnavailableError
from webhookd.queue.message import Message
from webhookd.sqs import credentials as credentials_module
from webhookd.sqs.clients import Clients
from webhookd.sqs.queue import SqsQueue

QUEUE = "http://queue.test/1/q"


@asynccontextmanager
async def started(url: str) -> AsyncIterator[Clients]:
    clients = Clients(endpoint_url=url, region="eu-west-1", wait=1, polls=1)
    await clients.start()
    try:
        yield clients
    finally:
        await clients.stop()


class Scripted:
    """A server that sends the next of `answers` to each request: (status, headers, body), or None to close the connection."""

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


JSON = {"Content-Type": "application/x-amz-json-1.0"}
OK: tuple[int, dict[str, str], bytes] = (200, JSON, b'{"Successful":[]}')


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
    ],
)
async def test_codes_of_errors(headers: dict[str, str], body: bytes, code: str) -> None:
    async with serving(Scripted((400, headers, body))) as url, started(url) as clients:
        with pytest.raises(ClientError) as raised:
            await clients.calls.send_message_batch(QueueUrl=QUEUE, Entries=[])
    assert raised.value.response["Error"]["Code"] == code


@pytest.mark.parametrize(
    "first",
    [
        None,
        (500, {}, b""),
        (503, {}, b"<html>busy</html>"),
        (400, {}, b'{"__type":"com.amazonaws.sqs#RequestThrottled"}'),
    ],
)
async def test_a_call_that_may_succeed_the_next_time_is_made_twice(first: Any) -> None:
    script = Scripted(first, OK)
    async with serving(script) as url, started(url) as clients:
        assert (await clients.calls.send_message_batch(QueueUrl=QUEUE, Entries=[]))["Successful"] == []
    assert len(script.requests) == 2


async def test_and_not_a_third_time() -> None:
    script = Scripted((503, {}, b""), (503, {}, b""), OK)
    async with serving(script) as url, started(url) as clients:
        with pytest.raises(ClientError):
            await clients.calls.send_message_batch(QueueUrl=QUEUE, Entries=[])
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, b"<html>sign in</html>"),
        (200, {}, b""),
        (200, JSON, b""),
        (200, JSON, b"<html>"),
        (200, JSON, b'{"Successful":[{"Id":'),
        (200, JSON, b"caf\xe9"),
        (200, JSON, b"[" * 100_000),
        (403, {"Content-Type": "text/html"}, b"<html>caf\xe9</html>"),
        (503, {"Content-Type": "text/html"}, b"<html>caf\xe9</html>"),
        (400, JSON, b"[" * 100_000),
        (200, JSON, b"[]"),
        (400, JSON, b"[]"),
        (400, JSON, b'{"__type":null,"message":7}'),
        (400, JSON, b'{"__type":7}'),
    ],
    ids=range(14),
)
async def test_an_answer_that_is_not_one_of_sqs_means_that_sqs_is_away(answer: Any) -> None:
    """An unusable answer does not prove that messages were sent or deleted, or that the queue is empty."""
    message = Message(id="m", handle="h", references=(), received=asyncio.get_running_loop().time(), receive_count=1)
    async with serving(Scripted(*[answer] * 6)) as url, started(url) as clients:
        queue = SqsQueue(QUEUE, clients)
        for call in (queue.send([[]]), queue.receive(1, wait=0, visibility=1), queue.delete([message])):
            with pytest.raises(UnavailableError):
                await call
            assert not queue.up


async def test_a_refusal_is_not_repeated() -> None:
    script = Scripted((403, {}, b'{"__type":"AccessDeniedException"}'), OK)
    async with serving(script) as url, started(url) as clients:
        with pytest.raises(ClientError):
            await clients.calls.send_message_batch(QueueUrl=QUEUE, Entries=[])
    assert len(script.requests) == 1


async def test_nobody_there_is_an_error_of_botocore_after_two_tries() -> None:
    async with started(f"http://127.0.0.1:{free_port(0)}") as clients:
        tries: list[Any] = []

        def counted(request: Any, **_: Any) -> None:
            tries.append(request)

        clients.calls.meta.events.register("before-send.sqs", counted)
        with pytest.raises(EndpointConnectionError):
            await clients.calls.send_message_batch(QueueUrl=QUEUE, Entries=[])
    assert len(tries) == 2


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns a function that writes the AWS configuration file, and removes credentials from the environment."""

    def configure(text: str) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        path = tmp_path / "config"
        path.write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    return configure


async def test_credentials_that_end_are_renewed(
    configured: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role's credentials end, too. Here the first ones are good for a minute, less than botocore wants to have left."""
    monkeypatch.setattr(credentials_module, "_PAUSE", 0.0)
    program = tmp_path / "credentials.py"
    program.write_text(
        "import datetime, json, pathlib\n"
        f"path = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "number = int(path.read_text()) + 1 if path.exists() else 1\n"
        "path.write_text(str(number))\n"
        # The first call fetches two. The next credentials last an hour, so that no program runs when the test ends.
        "good = datetime.timedelta(minutes=1 if number < 3 else 60)\n"
        "end = (datetime.datetime.now(datetime.UTC) + good).isoformat()\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'key{number}', 'SecretAccessKey': 's', 'Expiration': end}))\n"
    )
    configured(f"[default]\ncredential_process = {sys.executable} {program}\n")
    script = Scripted(*[OK] * 1000)

    async def is_renewed() -> bool:
        await clients.calls.send_message_batch(QueueUrl=QUEUE, Entries=[])
        signers = {
            request.headers["Authorization"].partition("Credential=")[2].partition("/")[0] for request in script.requests
        }
        return len(signers) > 1

    async with serving(script) as url, started(url) as clients:
        await until(is_renewed, "a call is signed by newer credentials")


async def test_no_credentials_are_an_error_of_botocore(configured: Callable[[str], None]) -> None:
    configured("")
    script = Scripted(OK)
    async with serving(script) as url, started(url) as clients:
        with pytest.raises(NoCredentialsError):
            await clients.calls.send_message_batch(QueueUrl=QUEUE, Entries=[])
    assert not script.requests
