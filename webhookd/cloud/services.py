"""The services of AWS that take events: the form of an event for each, its size, and the call that sends some events.

Contract: the API references of SQS (SendMessageBatch), SNS (PublishBatch) and EventBridge (PutEvents, DescribeEventBus), and
"Calculating PutEvents event entry size" of the EventBridge guide. Their limits, as of botocore 1.43: SQS takes 1 MiB, for a
message and for a request. SNS takes 256 KiB, or the topic's MaximumMessageSize, which is 1 MiB at most. EventBridge takes less
than 1 MB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from webhookd.settings.cloud import Service, Target
from webhookd.sqs.errors import is_missing, plain
from webhookd.sqs.problem import SQS, Api

MOST_ENTRIES = 10  # in a request to each of the services
# Size of the largest event, for each of the services. A queue, topic or server may allow less, and refuses the event then.
MOST_BYTES = 1_048_576
# Size of a request with several events. Older servers, and topics by default, take no larger one.
REQUEST_BYTES = 262_144
_LONGEST_TYPE = 128  # characters of a detail-type
_TIME_BYTES = 14  # of an entry's time, as EventBridge counts it
_LOOK = 60.0  # seconds between two looks at whether a bus exists
# Codes for an event that a service never takes, whatever its queue, topic or bus is like.
_REFUSALS = frozenset({"BatchRequestTooLong", "InvalidMessageContents", "MalformedDetail"})
# Codes for such an event, or for a queue, topic or bus that is not right: if a neighbour was accepted, the event is the reason.
_DOUBTFUL = frozenset(
    {
        "InvalidArgument",
        "InvalidAttributeValue",
        "InvalidParameter",
        "InvalidParameterValue",
        "ParameterValueInvalid",
        "Validation",
        "ValidationError",
    }
)


@dataclass(slots=True, frozen=True)
class Entry:
    """An event in the form of a service. `size`: its bytes, as the service counts them."""

    fields: dict[str, Any]
    size: int


class Channel(Protocol):
    """A queue, a topic or a bus. `operation`: the name of the call that sends."""

    api: Api
    operation: str

    def entry(self, content: bytes, headers: Mapping[str, str]) -> Entry:
        """Returns an event in the form of the service."""

    async def put(self, client: Any, entries: Sequence[Entry]) -> list[str | None]:
        """Sends up to ten events by one call. Returns for each the service's code of its failure, or None.

        Raises the errors of the AWS SDK if the whole call fails.
        """


def channel_of(target: Target) -> Channel:
    """Returns the channel of a target."""
    match target.service:
        case Service.SQS:
            return _Queue(target)
        case Service.SNS:
            return _Topic(target)
        case Service.EVENTBRIDGE:
            return _Bus(target)


def is_refusal(code: str) -> bool:
    """Returns whether `code` means that the service refuses the event, whenever it is sent."""
    return plain(code) in _REFUSALS


def may_be_refusal(code: str) -> bool:
    """Returns whether `code` may mean that: the queue, topic or bus may be the reason, too."""
    return plain(code) in _REFUSALS | _DOUBTFUL


class _Queue:
    """A queue of SQS, by its name or URL."""

    api = SQS
    operation = "SendMessageBatch"

    def __init__(self, target: Target) -> None:
        self._target = target
        self._url = target.name if target.endpoint is not None else None

    def entry(self, content: bytes, headers: Mapping[str, str]) -> Entry:
        attributes, size = _attributes(headers)
        fields = {"MessageBody": content.decode(), "MessageAttributes": attributes, **_fifo(self._target, headers)}
        return Entry(fields, len(content) + size)

    async def put(self, client: Any, entries: Sequence[Entry]) -> list[str | None]:
        if self._url is None:
            self._url = (await client.get_queue_url(QueueName=self._target.name))["QueueUrl"]
        try:
            reply = await client.send_message_batch(QueueUrl=self._url, Entries=_numbered(entries))
        except Exception as error:
            if is_missing(error) and self._target.endpoint is None:
                self._url = None  # the queue may be created anew, with another URL
            raise
        return _codes(reply, len(entries))


class _Topic:
    """A topic of SNS, by its ARN."""

    api = Api("SNS", "sns", "topic", "AWS_ENDPOINT_URL_SNS")
    operation = "PublishBatch"

    def __init__(self, target: Target) -> None:
        self._target = target

    def entry(self, content: bytes, headers: Mapping[str, str]) -> Entry:
        attributes, size = _attributes(headers)
        fields = {"Message": content.decode(), "MessageAttributes": attributes, **_fifo(self._target, headers)}
        return Entry(fields, len(content) + size)

    async def put(self, client: Any, entries: Sequence[Entry]) -> list[str | None]:
        reply = await client.publish_batch(TopicArn=self._target.name, PublishBatchRequestEntries=_numbered(entries))
        return _codes(reply, len(entries))


class _Bus:
    """A bus of EventBridge, by its name or ARN.

    AWS reports success for an event to a bus that does not exist (https://github.com/aws/aws-cli/issues/9186), and the event is
    lost. So this class looks whether the bus exists, before the first event and then once a minute.
    """

    api = Api("EventBridge", "events", "bus", "AWS_ENDPOINT_URL_EVENTBRIDGE")
    operation = "PutEvents"

    def __init__(self, target: Target) -> None:
        self._name = target.name
        self._look_at = 0.0  # the time by the loop's clock at which the bus is looked for again

    def entry(self, content: bytes, headers: Mapping[str, str]) -> Entry:
        detail_type = headers["webhookd-event-type"][:_LONGEST_TYPE]
        fields = {
            "EventBusName": self._name,
            "Source": "webhookd",
            "DetailType": detail_type,
            "Detail": content.decode(),
            "Time": datetime.fromisoformat(headers["webhookd-received-at"]),
        }
        return Entry(fields, _TIME_BYTES + len("webhookd") + len(detail_type) + len(content))

    async def put(self, client: Any, entries: Sequence[Entry]) -> list[str | None]:
        now = asyncio.get_running_loop().time()
        if now >= self._look_at:
            await client.describe_event_bus(Name=self._name)
            self._look_at = now + _LOOK
        reply = await client.put_events(Entries=[entry.fields for entry in entries])
        results = reply.get("Entries", ())
        if len(results) != len(entries):
            return ["unknown"] * len(entries)
        return [
            None if one.get("EventId") and not one.get("ErrorCode") else str(one.get("ErrorCode", "unknown")) for one in results
        ]


def _attributes(headers: Mapping[str, str]) -> tuple[dict[str, Any], int]:
    """Returns the attributes of a message, at most ten, for filters and for receivers; and their size in bytes."""
    chosen = {name: value for name, value in headers.items() if value and (name.startswith("webhook") or name == "traceparent")}
    made = {name: {"DataType": "String", "StringValue": value} for name, value in chosen.items()}
    return made, sum(len(name) + len("String") + len(value.encode()) for name, value in chosen.items())


def _fifo(target: Target, headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the fields for a FIFO queue or topic. Each event is a group of its own: webhookd promises no order."""
    if not target.is_fifo:
        return {}
    return {"MessageGroupId": headers["webhook-id"], "MessageDeduplicationId": headers["webhook-id"]}


def _numbered(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [{"Id": str(number), **entry.fields} for number, entry in enumerate(entries)]


def _codes(reply: Mapping[str, Any], count: int) -> list[str | None]:
    """Returns the codes of an answer with HTTP status 200. An event that the answer does not name counts as failed."""
    sent = {entry.get("Id") for entry in reply.get("Successful", ())}
    failed = {entry.get("Id"): str(entry.get("Code", "unknown")) for entry in reply.get("Failed", ())}
    return [None if id_ in sent and id_ not in failed else failed.get(id_, "unknown") for id_ in map(str, range(count))]
