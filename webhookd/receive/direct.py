"""Webhooks that come in one piece, as nearly all do: parsed by aiohttp's parser, and answered without the rest of its server.

What that makes of each request (a stream, a request object, two turns of a task, a response) costs as much as all of our own
work on a webhook. Whatever is not beyond doubt one whole, plain webhook is left to it, with all bytes as they came.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import HttpVersion11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpProcessingError, HttpRequestParser

from webhookd.errors import UnusableError
from webhookd.logs import logger, where
from webhookd.metrics import Metrics
from webhookd.receive.app import JSON, PublicApp
from webhookd.receive.bodies import SMALL
from webhookd.receive.connections import Connection
from webhookd.receive.intake import Intake, Receipt
from webhookd.receive.refusal import HEAD_END, raw, refusal
from webhookd.store.events import Accepted

if TYPE_CHECKING:
    from webhookd.tracing import Origin

_HEAD = "HTTP/1.1 200 OK\r\n" + "".join(f"{name}: {value}\r\n" for name, value in JSON.items())
_BUFFER = 65_536  # bytes, of a body's stream; larger than any that is taken here
_BROKEN = raw(HTTPStatus.INTERNAL_SERVER_ERROR, "the webhook could not be handled")


class Webhook(NamedTuple):
    """A request that is taken, and when it was (time.perf_counter())."""

    connection: Connection
    account: str
    body: bytes
    signature: str | None
    started: float
    origin: Origin | None  # where requests are traced


class Direct:
    """Answers plain webhooks on the connections that they come on. To be made where the loop runs."""

    def __init__(self, app: PublicApp, intake: Intake, *, max_body_bytes: int, retry_after: int, metrics: Metrics) -> None:
        self._app = app
        self._intake = intake
        self._tracing = intake.tracing
        self._largest = min(SMALL, max_body_bytes)
        self._retry_after = retry_after
        self._received = metrics.received
        self._loop = asyncio.get_running_loop()
        self._protocol = BaseProtocol(self._loop)  # whose flow a stream would hold back, were it ever full
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, connection: Connection, data: bytes) -> bool:
        """Whether `data`, which came on a connection that waits for a request, is one plain webhook; then it is answered.

        Where it is not, nothing has happened, and `connection.parser` is of no further use.
        """
        webhook = self._webhook(connection, data)
        if webhook is None:
            return False
        connection.taken()
        try:
            self._intake.check()
            waiting = self._intake.begin(webhook.account, webhook.body, webhook.signature, webhook.origin)
        except UnusableError as error:
            self._set_aside(webhook, error)
        except Exception as error:  # noqa: BLE001  whatever it is, the client must have an answer
            self._refuse(webhook, error)
        else:
            waiting.add_done_callback(partial(self._end, webhook))
        return True

    def _webhook(self, connection: Connection, data: bytes) -> Webhook | None:
        parser = connection.parser
        if parser is None:
            parser = connection.parser = HttpRequestParser(self._protocol, self._loop, _BUFFER)
        try:
            messages, upgraded, rest = parser.feed_data(data)
        except HttpProcessingError:
            return None
        if len(messages) != 1 or upgraded or rest:
            return None
        message, content = messages[0]
        headers = message.headers
        account = self._app.paths.get(message.path)
        size = len(data) - data.find(HEAD_END) - len(HEAD_END)
        if (
            account is None
            or message.method != "POST"
            or message.version != HttpVersion11
            or message.should_close
            or message.chunked
            or not content.is_eof()
            or size > self._largest
            or headers.get("Content-Length") != str(size)  # so nothing has come after it, and the parser is at a beginning
            or "Content-Encoding" in headers
            or "Expect" in headers
        ):
            return None
        started = time.perf_counter()
        origin = None if self._tracing is None else self._tracing.origin(headers, started)
        return Webhook(connection, account, content.read_nowait(), headers.get("X-ANET-Signature"), started, origin)

    def _end(self, webhook: Webhook, waiting: asyncio.Future[Accepted]) -> None:
        try:
            receipt = self._intake.receipt(webhook.account, waiting.result())
        except UnusableError as error:  # PostgreSQL refused its row
            self._set_aside(webhook, error)
        except Exception as error:  # noqa: BLE001  whatever it is, the client must have an answer
            self._refuse(webhook, error)
        else:
            self._acknowledge(webhook, receipt)

    def _set_aside(self, webhook: Webhook, why: UnusableError) -> None:
        task = self._loop.create_task(self._quarantine(webhook, why))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quarantine(self, webhook: Webhook, why: UnusableError) -> None:
        try:
            receipt = await self._intake.set_aside(webhook.account, webhook.body, why, webhook.origin)
        except Exception as error:  # noqa: BLE001  whatever it is, the client must have an answer
            self._refuse(webhook, error)
        else:
            self._acknowledge(webhook, receipt)

    def _acknowledge(self, webhook: Webhook, receipt: Receipt) -> None:
        text = self._app.acknowledge(webhook.account, receipt, webhook.started)
        head = f"{_HEAD}Date: {rfc822_formatted_time()}\r\nContent-Length: {len(text)}\r\n\r\n{text}"
        webhook.connection.reply(head.encode())

    def _refuse(self, webhook: Webhook, error: Exception) -> None:
        of = refusal(error)
        if of is None:
            logger.error("a request failed", error=where(error))
            self._received.labels(webhook.account, "error").inc()
            webhook.connection.reply(_BROKEN, last=True)
            return
        self._received.labels(webhook.account, of.outcome).inc()
        retry_after = self._retry_after if of.retry else None
        webhook.connection.reply(raw(of.status, of.detail, retry_after, close=False))
