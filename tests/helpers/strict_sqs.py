"""An SQS that is stricter and less reliable than moto: an HTTP server between the daemons and moto.

It speaks SQS's JSON protocol (`X-Amz-Target: AmazonSQS.<Action>`). It always refuses a batch that AWS refuses
(BatchEntryIdsNotDistinct, TooManyEntriesInBatchRequest, EmptyBatchRequest: SQS API reference, DeleteMessageBatch). On demand,
it produces the faults that a caller must survive: a 200 with `Failed` entries, throttling, lost replies, repeated deliveries.
It redrives a dead-letter queue as AWS does; moto does not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from tests.helpers.move_tasks import ACTIONS, MoveTasks, RefusedError

_BATCHES = {"SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"}
_JSON = "application/x-amz-json-1.0"
_LONGEST_VISIBILITY = 43_200  # seconds from the receipt


class StrictSqs:
    """One gateway. The rates are probabilities from 0 to 1, for each call or entry. All are 0 at first."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.failed_entries = 0.0  # entries that a 200 reports as failed, and that were not done
        self.expired = 0.0  # entries of deletes and delays that fail because their receipt handle has expired
        self.shuffled = 0.0  # receives whose messages are in another order, and arrive later than those of the next receives
        self.throttled = 0.0  # calls refused with RequestThrottled
        self.denied = 0.0  # calls refused with AccessDenied, as if the credentials were withdrawn
        self.errors = 0.0  # calls answered 500
        self.lost_replies = 0.0  # calls that were done, and whose reply never arrives
        self.repeated = 0.0  # receives after which the same messages can be received again at once
        self.doubled = 0.0  # receives that contain their first message twice
        self.unwanted = ""  # a call is refused as a whole if one of its messages holds this text
        self.seconds = 0.0  # delay before each call
        self.before: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None
        self.done: list[tuple[str, dict[str, Any]]] = []  # (action, request) in the order in which they were done
        self.refused: list[str] = []  # error codes of the refused calls
        self._move_tasks = MoveTasks()
        self._received: dict[str, float] = {}  # receipt handle → time of the receipt, by the monotonic clock
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.url = ""

    async def __aenter__(self) -> StrictSqs:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/{path:.*}", self._serve)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._move_tasks.stop()
        await self._session.close()

    def heal(self) -> None:
        """Removes all faults."""
        self.failed_entries = self.throttled = self.errors = self.lost_replies = self.repeated = self.doubled = 0.0
        self.expired = self.shuffled = self.denied = self.seconds = 0.0
        self.unwanted = ""

    async def _serve(self, request: web.Request) -> web.Response:
        action = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        asked = orjson.loads(await request.read())
        if action in _BATCHES and (code := _refusal(asked["Entries"])):
            self.refused.append(code)
            return _error(400, code)
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.before is not None:
            await self.before(action, asked)
        if self.unwanted and any(self.unwanted in entry.get("MessageBody", "") for entry in asked.get("Entries", ())):
            return _error(400, "InvalidMessageContents")
        if random.random() < self.throttled:
            return _error(400, "RequestThrottled")
        if random.random() < self.denied:
            return _error(403, "AccessDenied")
        if random.random() < self.errors:
            return _error(500, "InternalFailure")
        if action in ACTIONS:
            return await self._redrive(request, action, asked)
        status, reply = await self._forward(request, action, asked)
        self.done.append((action, asked))
        if random.random() < self.lost_replies and request.transport is not None:
            request.transport.abort()
        return web.Response(status=status, body=orjson.dumps(reply), content_type=_JSON)

    async def _forward(self, request: web.Request, action: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        failed: list[dict[str, Any]] = []
        if action in _BATCHES:
            left = []
            for entry in asked["Entries"]:
                if random.random() < self.failed_entries:
                    failed.append({"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"})
                elif action == "ChangeMessageVisibilityBatch" and self._is_beyond_limit(entry):
                    self.refused.append("InvalidParameterValue")
                    failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "InvalidParameterValue"})
                elif "ReceiptHandle" in entry and random.random() < self.expired:
                    failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "ReceiptHandleIsInvalid"})
                else:
                    left.append(entry)
            asked = asked | {"Entries": left}
            if not asked["Entries"]:
                return 200, {"Successful": [], "Failed": failed}
        if action == "DeleteMessageBatch":  # AWS accepts one handle twice, since deleting is idempotent there; moto does not
            asked = asked | {"Entries": list({entry["ReceiptHandle"]: entry for entry in asked["Entries"]}.values())}
        if action == "ReceiveMessage" and random.random() < self.repeated:
            asked = asked | {"VisibilityTimeout": 0}
        status, reply = await self._ask(request, action, asked)
        self._move_tasks.note_sent(action, asked, reply)
        for message in reply.get("Messages", ()):
            self._received[message["ReceiptHandle"]] = time.monotonic()
        if failed:
            reply["Failed"] = reply.get("Failed", []) + failed
        if action == "ReceiveMessage" and (messages := reply.get("Messages")) and random.random() < self.doubled:
            if len(messages) < asked.get("MaxNumberOfMessages", 1):
                messages.append(messages[0])
            elif len(messages) > 1:
                messages[-1] = messages[0]  # the replaced message comes back after its visibility timeout
        if action == "ReceiveMessage" and reply.get("Messages") and random.random() < self.shuffled:
            random.shuffle(reply["Messages"])
            await asyncio.sleep(random.uniform(0, 1))
        return status, reply

    async def _ask(self, request: web.Request, action: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Asks moto with the headers of the caller's `request`: moto reads the region from the request's signature."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "content-length")}
        headers["X-Amz-Target"] = f"AmazonSQS.{action}"
        assert self._session is not None
        async with self._session.post(self._upstream, data=orjson.dumps(asked), headers=headers) as response:
            raw = await response.read()
            return response.status, orjson.loads(raw) if raw else {}

    async def _redrive(self, request: web.Request, action: str, asked: dict[str, Any]) -> web.Response:
        async def call(action: str, asked: dict[str, Any]) -> dict[str, Any]:
            status, reply = await self._ask(request, action, asked)
            if status != HTTPStatus.OK:
                raise RefusedError(reply.get("__type", ""))
            return reply

        try:
            reply = await self._move_tasks.answer(action, asked, call)
        except RefusedError as error:
            self.refused.append(str(error))
            return _error(400, str(error))
        self.done.append((action, asked))
        return web.Response(body=orjson.dumps(reply), content_type=_JSON)

    def _is_beyond_limit(self, entry: dict[str, Any]) -> bool:
        """Returns whether a message would be hidden over 12 hours from its receipt on (SQS API, ChangeMessageVisibility)."""
        since = time.monotonic() - self._received.get(entry["ReceiptHandle"], time.monotonic())
        return float(entry["VisibilityTimeout"]) + since > _LONGEST_VISIBILITY


def _refusal(entries: list[dict[str, Any]]) -> str | None:
    if not entries:
        return "EmptyBatchRequest"
    if len(entries) > 10:
        return "TooManyEntriesInBatchRequest"
    return "BatchEntryIdsNotDistinct" if len({entry["Id"] for entry in entries}) < len(entries) else None


def _error(status: int, code: str) -> web.Response:
    body = {"__type": f"com.amazonaws.sqs#{code}", "message": code}
    return web.Response(status=status, body=orjson.dumps(body), content_type=_JSON)
