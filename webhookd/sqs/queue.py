"""One queue of SQS.

Contract: webhookd/queue/contract.py on one side, and on the other the SQS API reference (SendMessageBatch, ReceiveMessage,
DeleteMessageBatch, ChangeMessageVisibilityBatch, GetQueueAttributes).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError
from prometheus_client import Gauge

from webhookd.errors import MessageRefusedError, UnavailableError
from webhookd.queue.contract import Depth, Failure, Limits
from webhookd.queue.message import EventReference, Message, decode, encode
from webhookd.sqs.attributes import REQUEST_BYTES, Attributes
from webhookd.sqs.clients import Clients
from webhookd.sqs.errors import ERRORS, ODD_ANSWERS, code_of, is_missing, is_refusal, receipt_failure, send_failure
from webhookd.sqs.problem import problem_of
from webhookd.telemetry.logs import logger

_BATCH = 10  # messages in a request
_LONGEST_VISIBILITY = 43_200  # seconds, from a message's receipt
# Seconds at most from SQS's receipt of a message until its answer is here, and from a call until SQS has the call.
_ANSWER = 60
_CALL_TIMEOUT = 10.0


class SqsQueue:
    """A queue by its name or URL; the URL is looked up at first use, and again if the queue was created anew.

    up: the gauge that shows whether SQS answers, if this queue's calls decide that; else None.
    setting: the setting that names the queue.
    """

    def __init__(self, name: str, clients: Clients, up: Gauge | None = None, *, setting: str = "WEBHOOKD_SQS_QUEUE") -> None:
        self.name = name
        self._setting = setting
        self._url = name if "://" in name else None
        self._clients = clients
        self._gauge = up
        self.up = False
        self.problem: str | None = "not yet reached"
        self.note(Attributes())

    def note(self, attributes: Attributes) -> None:
        """Stores the queue's attributes, and takes its limits from them."""
        self.attributes = attributes
        self.limits = Limits(attributes.message_bytes, _BATCH, _LONGEST_VISIBILITY)

    async def send(self, messages: Sequence[Sequence[EventReference]]) -> list[Failure | None]:
        """Sends messages, each with its events."""
        texts = [encode(references) for references in messages]
        return [failure for part in _requests([len(text) for text in texts]) for failure in await self._send(texts[part])]

    async def _send(self, texts: Sequence[str]) -> list[Failure | None]:
        """Sends one request. If SQS refuses the whole request because of one message, sends each message alone."""
        refused = None
        async with self._reach() as url:
            entries: Any = [{"Id": str(n), "MessageBody": text} for n, text in enumerate(texts)]
            try:
                reply = await self._clients.calls.send_message_batch(QueueUrl=url, Entries=entries)
            except ClientError as error:  # the error is an answer of SQS, so SQS is up
                refused = code_of(error)
                if not is_refusal(refused):
                    raise
        if refused is None:
            sent = {entry["Id"] for entry in reply.get("Successful", ())}
            failed = _failed(reply)
            ids = map(str, range(len(texts)))
            return [None if id_ in sent else send_failure(failed.get(id_, "unknown")) for id_ in ids]
        if len(texts) == 1:
            return [MessageRefusedError(refused)]
        return [failure for text in texts for failure in await self._send([text])]

    async def receive(self, limit: int, *, wait: int, visibility: int) -> list[Message]:
        """Receives at most `limit` messages (and ten) by a long poll."""
        async with self._reach(wait + _CALL_TIMEOUT) as url:
            reply = await self._clients.polls.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(limit, _BATCH),
                WaitTimeSeconds=wait,
                VisibilityTimeout=visibility,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        now = asyncio.get_running_loop().time()
        return [
            Message(
                id=message["MessageId"],
                handle=message["ReceiptHandle"],
                references=decode(message["Body"]),
                received=now,
                receive_count=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            )
            for message in reply.get("Messages", ())
        ]

    async def extend(self, messages: Sequence[Message], seconds: int) -> list[Failure | None]:
        """Keeps messages hidden for `seconds` from now on."""
        return await self.change_visibility([(message, seconds) for message in messages])

    async def change_visibility(self, delays: Sequence[tuple[Message, int]]) -> list[Failure | None]:
        """Makes each message visible again after its number of seconds.

        SQS hides a message for at most 12 hours from its receipt, and refuses longer delays; so delays are cut to that time.
        """
        now = asyncio.get_running_loop().time()
        fields = [
            {
                "ReceiptHandle": message.handle,
                "VisibilityTimeout": min(seconds, max(0, int(_LONGEST_VISIBILITY - _ANSWER - (now - message.received)))),
            }
            for message, seconds in delays
        ]
        return await self._acknowledge("change_message_visibility_batch", fields)

    async def delete(self, messages: Sequence[Message]) -> list[Failure | None]:
        """Deletes messages."""
        return await self._acknowledge("delete_message_batch", [{"ReceiptHandle": message.handle} for message in messages])

    async def _acknowledge(self, operation: str, fields: Sequence[dict[str, Any]]) -> list[Failure | None]:
        """Calls `operation`, a method of the client, for received messages, ten entries at a time."""
        results: list[Failure | None] = []
        for part in _requests([0] * len(fields)):
            # Entry ids are positions: one message can stand in a batch twice, and ids must be distinct.
            entries = [{"Id": str(n), **entry} for n, entry in enumerate(fields[part])]
            async with self._reach() as url:
                reply = await getattr(self._clients.calls, operation)(QueueUrl=url, Entries=entries)
            failed = _failed(reply)
            results += [receipt_failure(failed.get(entry["Id"])) for entry in entries]
        return results

    async def depth(self) -> Depth:
        """Returns SQS's approximate counts of messages."""
        return (await self.inspect()).depth

    async def inspect(self) -> Attributes:
        """Returns the attributes that SQS reports for the queue."""
        async with self._reach() as url:
            reply = await self._clients.calls.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        try:
            return Attributes.of({str(name): value for name, value in reply["Attributes"].items()})
        except ValueError as error:
            raise UnavailableError("sqs", "its answer is not one of SQS") from error

    @contextlib.asynccontextmanager
    async def _reach(self, timeout: float = _CALL_TIMEOUT) -> AsyncIterator[str]:
        """Yields the queue's URL for a call, bounds the call to `timeout` seconds, and stores its success or its problem.

        Raises UnavailableError.
        """
        try:
            async with asyncio.timeout(timeout):
                if self._url is None:
                    self._url = (await self._clients.calls.get_queue_url(QueueName=self.name))["QueueUrl"]
                yield self._url
        except (*ERRORS, *ODD_ANSWERS) as error:
            if is_missing(error) and "://" not in self.name:
                self._url = None  # the queue may be created anew, with another URL
            reason = problem_of(error, self.name, self._setting, self._clients.place)
            self._set(up=False, problem=reason)
            raise UnavailableError("sqs", reason) from error
        self._set(up=True)

    def _set(self, *, up: bool, problem: str | None = None) -> None:
        if self._gauge is not None:
            if up != self.up or problem != self.problem:
                logger.log(20 if up else 30, "sqs is up" if up else "sqs is away", problem=problem)
            self._gauge.set(up)
        self.up = up
        self.problem = problem


def _requests(sizes: Sequence[int]) -> Iterator[slice]:
    """Cuts messages of these sizes (bytes) into requests that SQS takes."""
    begin = total = 0
    for end, size in enumerate(sizes):
        if end - begin == _BATCH or (end > begin and total + size > REQUEST_BYTES):
            yield slice(begin, end)
            begin, total = end, 0
        total += size
    if sizes:
        yield slice(begin, len(sizes))


def _failed(reply: Mapping[str, Any]) -> dict[str, str]:
    """Returns the codes of failed entries by their ids: a reply with HTTP 200 can hold some."""
    return {entry["Id"]: str(entry.get("Code", "unknown")) for entry in reply.get("Failed", ())}
