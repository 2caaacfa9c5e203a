"""StartMessageMoveTask and ListMessageMoveTasks, which the SQS console calls to redrive a dead-letter queue.

SQS knows the source of a message only if its own redrive policy moved the message to the dead-letter queue. A message that
was sent there directly has no source: a task without `DestinationArn` fails by `CouldNotDetermineMessageSource` (SQS developer
guide, "Troubleshoot dead-letter queue and DLQ redrive issues"). The guide does not say what such a task does with the messages
that have a source. Here the task moves those messages back.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

ACTIONS = {"StartMessageMoveTask", "ListMessageMoveTasks"}
_VISIBILITY_SECONDS = 600  # longer than any task


class RefusedError(Exception):
    """SQS answers 400 with this code."""


@dataclass
class _Task:
    source: str
    destination: str | None
    started: int
    status: str = "RUNNING"
    failure: str | None = None
    moved: int = 0

    def shown(self) -> Json:
        """Returns the task in the format of ListMessageMoveTasks."""
        found = {
            "SourceArn": self.source,
            "DestinationArn": self.destination,
            "Status": self.status,
            "FailureReason": self.failure,
            "ApproximateNumberOfMessagesMoved": self.moved,
            "StartedTimestamp": self.started,
        }
        return {name: value for name, value in found.items() if value is not None}


class MoveTasks:
    """The tasks of one SQS. Call `note_sent` for each message that is sent: no other message has a source."""

    def __init__(self) -> None:
        self._sent: dict[str, str] = {}  # message id → name of the queue that the message was sent to
        self._tasks: list[_Task] = []
        self._running: dict[str, asyncio.Task[None]] = {}  # ARN of the source → its task

    def note_sent(self, action: str, asked: Json, reply: Json) -> None:
        """Stores the queue of each message that this call has sent."""
        if action in ("SendMessage", "SendMessageBatch"):
            for message in reply.get("Successful", [reply]):
                if "MessageId" in message:
                    self._sent[message["MessageId"]] = asked["QueueUrl"].rpartition("/")[2]

    async def answer(self, action: str, asked: Json, call: Callable[[str, Json], Awaitable[Json]]) -> Json:
        """Answers one of `ACTIONS`. `call` asks the SQS behind, and raises RefusedError if that SQS refuses the call."""
        source = asked["SourceArn"]
        if action == "ListMessageMoveTasks":
            latest = [task.shown() for task in reversed(self._tasks) if task.source == source]
            return {"Results": latest[: asked.get("MaxResults", 1)]}
        url = await _url(source, call)
        if not (await call("ListDeadLetterSourceQueues", {"QueueUrl": url})).get("queueUrls"):
            raise RefusedError("InvalidParameterValue")  # no queue uses the source as its dead-letter queue
        destination = asked.get("DestinationArn")
        to = None if destination is None else await _url(destination, call)
        if source in self._running and not self._running[source].done():
            raise RefusedError("UnsupportedOperation")  # each source may have one task at a time
        task = _Task(source, destination, round(time.time() * 1000))
        self._tasks.append(task)
        self._running[source] = asyncio.create_task(self._run(task, url, to, call))
        return {"TaskHandle": uuid.uuid4().hex}

    async def stop(self) -> None:
        """Ends the tasks that are still running."""
        for running in self._running.values():
            running.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(
        self, task: _Task, source: str, destination: str | None, call: Callable[[str, Json], Awaitable[Json]]
    ) -> None:
        look = {"QueueUrl": source, "MaxNumberOfMessages": 10, "VisibilityTimeout": _VISIBILITY_SECONDS}
        left = []
        while messages := (await call("ReceiveMessage", look)).get("Messages"):
            for message in messages:
                own = {"QueueUrl": source, "ReceiptHandle": message["ReceiptHandle"]}
                to = destination or await self._source(message, source, call)
                if to is None:
                    left.append(own)
                    continue
                # For SQS, a moved message is a new message: it has another id, and no receives yet.
                sent = {"QueueUrl": to, "MessageBody": message["Body"]}
                self.note_sent("SendMessage", sent, await call("SendMessage", sent))
                await call("DeleteMessage", own)
                task.moved += 1
        for own in left:
            await call("ChangeMessageVisibility", own | {"VisibilityTimeout": 0})
        task.failure = "CouldNotDetermineMessageSource" if left else None
        task.status = "FAILED" if left else "COMPLETED"

    async def _source(self, message: Json, now: str, call: Callable[[str, Json], Awaitable[Json]]) -> str | None:
        """Returns the URL of the queue that SQS moved the message from. SQS keeps a message's id when it moves the message."""
        name = self._sent.get(message["MessageId"])
        if name is None or name == now.rpartition("/")[2]:
            return None
        return str((await call("GetQueueUrl", {"QueueName": name}))["QueueUrl"])


async def _url(arn: str, call: Callable[[str, Json], Awaitable[Json]]) -> str:
    try:
        return str((await call("GetQueueUrl", {"QueueName": arn.rpartition(":")[2]}))["QueueUrl"])
    except RefusedError as error:
        raise RefusedError("ResourceNotFoundException") from error
