"""A test's own access to its queues."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiobotocore.session import get_session

from tests.conftest import Servers
from tests.helpers.wait import until


@contextlib.asynccontextmanager
async def client(servers: Servers) -> AsyncIterator[Any]:
    """Opens a plain SQS client for the test's server."""
    async with get_session().create_client("sqs", endpoint_url=servers.sqs_endpoint_url) as sqs:
        yield sqs


async def url_of(sqs: Any, queue: str) -> str:
    """Returns the URL of the queue with this name."""
    return str((await sqs.get_queue_url(QueueName=queue))["QueueUrl"])


async def depth(servers: Servers, queue: str) -> int:
    """Returns the number of messages in the queue, in every state."""
    async with client(servers) as sqs:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]
        reply = await sqs.get_queue_attributes(QueueUrl=await url_of(sqs, queue), AttributeNames=names)
        return sum(int(value) for value in reply["Attributes"].values())


async def received_bodies(servers: Servers, queue: str, count: int) -> list[dict[str, Any]]:
    """Receives messages until they hold `count` events; returns the parsed entry of each event."""
    bodies: list[dict[str, Any]] = []
    async with client(servers) as sqs:
        url = await url_of(sqs, queue)

        async def look() -> bool:
            reply = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=600)
            bodies.extend(event for message in reply.get("Messages", ()) for event in json.loads(message["Body"])["events"])
            return len(bodies) >= count

        await until(look, f"{count} events in {queue}")
    return bodies
