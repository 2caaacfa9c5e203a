"""AWS SQS. This module and its client are the ones that know aiobotocore.

Contract: the SQS API reference (SendMessageBatch, ReceiveMessage, DeleteMessageBatch, ChangeMessageVisibilityBatch).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import orjson
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError, ClientError, ConfigParseError, NoRegionError, ProfileNotFound

from webhookd.errors import SettingsError, UnavailableError
from webhookd.lifecycle import Loop, Watch
from webhookd.logs import logger, where
from webhookd.metrics import Metrics
from webhookd.queue.client import Client, code_of, is_refusal
from webhookd.queue.credentials import Credentials, CredentialsError
from webhookd.queue.limits import Limits, QueueLimits
from webhookd.queue.message import Body, Message, dump, load

BATCH = 10  # SQS's limit for every batch call
MAX_VISIBILITY = 43_200  # seconds, from a message's receipt
# Seconds at most from the receipt, as SQS counts it, to ours of the answer, and from a call to SQS's receipt of it.
_ANSWER = 60
_CALL_TIMEOUT = 10.0


@dataclass(slots=True)
class Queue:
    """A queue by name or URL; the URL is looked up at first use, and again when the queue was made anew."""

    name: str
    url: str | None = None

    def __post_init__(self) -> None:
        if "://" in self.name:
            self.url = self.name


class Sqs:
    """The main queue and its dead-letter queue. Every call is bounded in time; all raise UnavailableError."""

    def __init__(
        self,
        *,
        queue: str,
        dead_letter_queue: str,
        endpoint_url: str | None,
        region: str | None,
        pollers: int,
        wait: int,
        visibility_timeout: int,
        max_attempts: int,
        metrics: Metrics,
        watch: Watch,
    ) -> None:
        self.queue = Queue(queue)
        self.dead_letter_queue = Queue(dead_letter_queue)
        self._endpoint_url = endpoint_url
        self._region = region
        self._pollers = pollers
        self._wait = wait
        self._visibility_timeout = visibility_timeout
        self.limits = Limits(max_attempts=max_attempts, metrics=metrics)
        self._stack = AsyncExitStack()
        self._calls: Client | None = None
        self._polls: Client | None = None
        self._up = metrics.dependency_up.labels("sqs")
        self._depth = metrics.queue_depth
        self._prober = Loop("sqs prober", self._probe, watch, every=15.0)
        self.up = False
        self.problem: str | None = "not yet reached"

    async def start(self) -> None:
        """Makes the clients; they connect at first use."""
        if self._calls is not None:
            return
        session = get_session()
        credentials = Credentials(session, self._region)
        session.register_component("credential_provider", credentials)
        self._stack.push_async_callback(credentials.stop)
        # One after the other (loading the service model is not safe at once), and apart from each other: a long poll
        # holds its connection, and the pool's wait has no timeout, so polls would block every delete.
        self._calls = await self._client(session, connections=32)
        self._polls = await self._client(session, connections=self._pollers + 1)
        await self._prober.start()

    async def _client(self, session: AioSession, *, connections: int) -> Client:
        try:
            return await Client.start(
                session,
                self._stack,
                region=self._region,
                endpoint_url=self._endpoint_url,
                user_agent=f"webhookd/{version('webhookd')} aiobotocore/{version('aiobotocore')}",
                connect_timeout=3,
                read_timeout=self._wait + 10,
                max_pool_connections=connections,
                parameter_validation=False,
                retries={"mode": "standard", "total_max_attempts": 2},
            )
        except NoRegionError as error:
            raise SettingsError("no AWS region: set AWS_REGION (or WEBHOOKD_SQS_REGION) to the queue's region") from error
        except (ProfileNotFound, ConfigParseError) as error:
            raise SettingsError(f"the AWS SDK's own settings: {error}") from error

    async def stop(self) -> None:
        """Closes the clients."""
        await self._prober.stop()
        self._calls = self._polls = None
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def _gateway(self, queue: Queue, timeout: float = _CALL_TIMEOUT) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(timeout):
                yield await self._url(queue)
        except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
            reason = where(error)
            if isinstance(error, ClientError):
                reason = code_of(error)
                if "NonExistentQueue" in reason or "QueueDoesNotExist" in reason:
                    reason = f"the queue {queue.name} does not exist"
                    if "://" not in queue.name:
                        queue.url = None  # it may be made anew, with another URL
                elif reason.upper().startswith("KMS"):
                    reason += ": give webhookd's role kms:GenerateDataKey and kms:Decrypt on the queue's key"
            elif isinstance(error, CredentialsError):
                reason = str(error)
            if queue is self.queue:
                self._set(up=False, problem=reason)
            raise UnavailableError("sqs", reason) from error
        if queue is self.queue:
            self._set(up=True)

    async def _url(self, queue: Queue) -> str:
        if queue.url is None:
            queue.url = (await self._client_for_calls.rare.get_queue_url(QueueName=queue.name))["QueueUrl"]
        return queue.url

    @property
    def _client_for_calls(self) -> Client:
        if self._calls is None:
            raise UnavailableError("sqs", "not started")
        return self._calls

    def _set(self, *, up: bool, problem: str | None = None) -> None:
        if up != self.up or problem != self.problem:
            logger.log(20 if up else 30, "sqs is up" if up else "sqs is away", problem=problem)
        self.up = up
        self.problem = problem
        self._up.set(up)

    async def send(self, messages: Sequence[Sequence[Body]], queue: Queue | None = None) -> list[str | None]:
        """Sends at most ten messages, each with its events; for each message, None or the code of its failure.

        An HTTP 200 can hold failed entries. If SQS refuses the whole call for what one message is, each is sent alone.
        """
        refused = None
        async with self._gateway(queue or self.queue) as url:
            entries: Any = [{"Id": str(n), "MessageBody": dump(bodies)} for n, bodies in enumerate(messages)]
            try:
                reply = await self._client_for_calls.call("SendMessageBatch", QueueUrl=url, Entries=entries)
            except ClientError as error:  # an answer, so SQS is there
                refused = code_of(error)
                if not is_refusal(refused):
                    raise
        if refused is None:
            sent = {entry["Id"] for entry in reply.get("Successful", ())}
            failed = {entry["Id"]: str(entry.get("Code", "unknown")) for entry in reply.get("Failed", ())}
            return [None if (id_ := str(n)) in sent else failed.get(id_, "unknown") for n in range(len(messages))]
        if len(messages) == 1:
            return [refused]
        return [code for message in messages for code in await self.send([message], queue)]

    async def receive(self, limit: int) -> list[Message]:
        """Long-polls for at most `limit` (1 to 10) messages of the main queue."""
        if self._polls is None:
            raise UnavailableError("sqs", "not started")
        async with self._gateway(self.queue, self._wait + _CALL_TIMEOUT) as url:
            reply = await self._polls.call(
                "ReceiveMessage",
                QueueUrl=url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=self._wait,
                VisibilityTimeout=self._visibility_timeout,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        return self._messages(reply)

    async def look(self, *, visibility: int) -> list[Message]:
        """Up to ten messages of the dead-letter queue, hidden from others for `visibility` seconds."""
        async with self._gateway(self.dead_letter_queue) as url:
            reply = await self._client_for_calls.call(
                "ReceiveMessage",
                QueueUrl=url,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=1,  # a short poll asks some of SQS's servers only, so its empty answer says nothing
                VisibilityTimeout=visibility,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        return self._messages(reply)

    def _messages(self, reply: Any) -> list[Message]:
        now = asyncio.get_running_loop().time()
        return [
            Message(
                id=message["MessageId"],
                handle=message["ReceiptHandle"],
                bodies=load(message["Body"]),
                received=now,
                receive_count=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            )
            for message in reply.get("Messages", ())
        ]

    async def delete(self, messages: Sequence[Message], queue: Queue | None = None) -> list[str | None]:
        """Deletes at most ten messages; for each, None or the code of its failure."""
        async with self._gateway(queue or self.queue) as url:
            # Entry ids are positions: one message can stand in a batch twice, and ids must be distinct.
            entries: Any = [{"Id": str(n), "ReceiptHandle": message.handle} for n, message in enumerate(messages)]
            reply = await self._client_for_calls.call("DeleteMessageBatch", QueueUrl=url, Entries=entries)
        return _failures(reply, len(messages))

    async def hide(self, messages: Sequence[tuple[Message, int]], queue: Queue | None = None) -> list[str | None]:
        """Sets how many seconds at most ten messages stay invisible; for each, None or the code of its failure.

        SQS hides a message for 12 hours from its receipt at most, and refuses what goes beyond; so the rest of them is taken.
        """
        now = asyncio.get_running_loop().time()
        async with self._gateway(queue or self.queue) as url:
            entries: Any = [
                {
                    "Id": str(n),
                    "ReceiptHandle": message.handle,
                    "VisibilityTimeout": min(seconds, max(0, int(MAX_VISIBILITY - _ANSWER - (now - message.received)))),
                }
                for n, (message, seconds) in enumerate(messages)
            ]
            reply = await self._client_for_calls.call("ChangeMessageVisibilityBatch", QueueUrl=url, Entries=entries)
        return _failures(reply, len(messages))

    async def depths(self, queue: Queue) -> dict[str, int]:
        """How many messages the queue holds by state (visible, in_flight, delayed), as SQS approximates them."""
        return _depths(await self.attributes(queue))

    async def attributes(self, queue: Queue) -> dict[str, Any]:
        """The queue's attributes, all texts, as SQS names them."""
        async with self._gateway(queue) as url:
            reply = await self._client_for_calls.rare.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return {str(name): value for name, value in reply["Attributes"].items()}

    async def create_queues(self, *, max_receive_count: int) -> None:
        """Makes the queue and its dead-letter queue with a redrive policy; finding them made is fine."""
        client = self._client_for_calls.rare
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                dead = await client.create_queue(
                    QueueName=self.dead_letter_queue.name, Attributes={"MessageRetentionPeriod": "1209600"}
                )
                target = await client.get_queue_attributes(QueueUrl=dead["QueueUrl"], AttributeNames=["QueueArn"])
                policy = {"deadLetterTargetArn": target["Attributes"]["QueueArn"], "maxReceiveCount": max_receive_count}
                attributes: Any = {
                    "RedrivePolicy": orjson.dumps(policy).decode(),
                    "VisibilityTimeout": str(self._visibility_timeout),
                    "MessageRetentionPeriod": "1209600",
                }
                await client.create_queue(QueueName=self.queue.name, Attributes=attributes)
        except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
            raise UnavailableError("sqs", where(error)) from error

    async def _probe(self) -> None:
        main, dead = await self.attributes(self.queue), await self.attributes(self.dead_letter_queue)
        for label, attributes in (("main", main), ("dead_letter", dead)):
            for state, depth in _depths(attributes).items():
                self._depth.labels(label, state).set(depth)
        self.limits.update(QueueLimits.of(main), QueueLimits.of(dead))


def _depths(attributes: dict[str, Any]) -> dict[str, int]:
    names = {
        "ApproximateNumberOfMessages": "visible",
        "ApproximateNumberOfMessagesNotVisible": "in_flight",
        "ApproximateNumberOfMessagesDelayed": "delayed",
    }
    return {state: int(attributes.get(name, 0)) for name, state in names.items()}


def _failures(reply: Any, count: int) -> list[str | None]:
    failed = {entry["Id"]: entry.get("Code", "unknown") for entry in reply.get("Failed", ())}
    return [failed.get(str(n)) for n in range(count)]
