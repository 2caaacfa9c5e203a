"""The client of a cloud destination, on a queue that a test plays: which events of a batch were sent."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from webhookd.cloud.client import CloudClient
from webhookd.cloud.session import CloudSession
from webhookd.deliver.client import Answer
from webhookd.deliver.destination import Destination
from webhookd.runtime.loops import Watch
from webhookd.settings.destinations import DestinationSettings
from webhookd.sqs.place import Place

LARGE = b"x" * 120_000  # two of these fill a request


class Queue:
    """A queue that answers no request before `open`. `asked`: how many events each request had."""

    def __init__(self, endpoint_url: str = "https://sqs.us-east-1.amazonaws.com") -> None:
        self.meta = SimpleNamespace(endpoint_url=endpoint_url)
        self.open = asyncio.Event()
        self.asked: list[int] = []

    async def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803  AWS' names
        self.asked.append(len(Entries))
        await self.open.wait()
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries]}


class Session:
    """The session of AWS, which connects to the queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def place(self, *_: object) -> Place:
        return Place("us-east-1", "WEBHOOKD_SQS_REGION", None)

    async def open(self, *_: object, **__: object) -> Queue:
        return self._queue


async def answers_of(queue: Queue, events: int, *, timeout: float) -> list[Answer]:
    """Sends events by one request at a time, and returns their answers."""
    url = "sqs://https://sqs.us-east-1.amazonaws.com/123456789012/shop"
    shop = Destination("shop", DestinationSettings.model_validate({"url": url, "concurrency": 1, "timeout": timeout}))
    assert shop.target is not None
    client = CloudClient(shop, shop.target, cast("CloudSession", Session(queue)), Watch())
    try:
        return await asyncio.gather(*(client.send(LARGE, {"webhook-id": str(n)}) for n in range(events)))
    finally:
        await client.close()


async def test_an_event_that_waited_for_its_request_in_vain_was_not_sent() -> None:
    queue = Queue()
    answers = await answers_of(queue, 6, timeout=0.5)
    assert len(queue.asked) == 1, "the first request took the whole time of the others"
    sent = [answer for answer in answers if answer.sent]
    assert len(sent) == queue.asked[0] < 6
    assert {answer.error for answer in sent} == {"no answer within 0.5 s"}
    assert {answer.error for answer in answers if not answer.sent} == {
        "not sent, because earlier requests were not answered within 0.5 s"
    }


async def test_no_request_begins_at_the_end_of_its_events_time() -> None:
    queue = Queue()
    asyncio.get_running_loop().call_later(0.95 * 2.0, queue.open.set)
    answers = await answers_of(queue, 6, timeout=2.0)
    assert len(queue.asked) == 1
    assert sum(not answer.sent for answer in answers) == 6 - queue.asked[0]


async def test_events_that_a_service_takes_were_sent() -> None:
    queue = Queue()
    queue.open.set()
    answers = await answers_of(queue, 6, timeout=60)
    assert [(answer.status, answer.sent) for answer in answers] == [(200, True)] * 6
    assert sum(queue.asked) == 6


async def test_an_event_for_which_there_is_no_room_was_not_sent() -> None:
    answers = await answers_of(Queue(), 50, timeout=0.5)
    assert {answer.sent for answer in answers if "too much to send" in (answer.error or "")} == {False}


async def test_an_address_in_the_configuration_of_aws_gets_no_event_in_clear() -> None:
    queue = Queue("http://proxy.example.com:4566")
    queue.open.set()
    (answer,) = await answers_of(queue, 1, timeout=60)
    assert queue.asked == []
    assert answer.error == (
        "the endpoint in the AWS configuration file has http://, so everybody on the way could read the events: use https://, "
        "or set WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE=true if the address is in your own network"
    )
