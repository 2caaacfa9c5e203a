"""Bundles: one message for several events, since a request costs the same whatever its messages hold.

Each event of a bundle is worked on alone, in its own time and with its own outcome. If the queue refuses a bundle, each of its
events is sent in a message of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from uuid import UUID

from webhookd.errors import MessageRefusedError
from webhookd.queue.contract import Failure, Limits, Queue
from webhookd.queue.message import LONGEST_MESSAGE, MOST_EVENTS, Body, dump

_FRAME = 48  # bytes of a message around its events


def pack(bodies: Sequence[Body], limits: Limits) -> list[Sequence[Body]]:
    """Packs events into few messages: each event alone if one request holds them all, else in bundles of similar size.

    No bundle is larger than the queue's largest message, or than the longest text that `load` reads. If the queue's limit is
    small, there are more messages than one request holds.
    """
    if len(bodies) <= limits.batch:
        return [[body] for body in bodies]
    largest = max(len(dump([body])) for body in bodies)
    most_bytes = min(limits.message_bytes, LONGEST_MESSAGE)
    fitting = min(MOST_EVENTS, max(1, (most_bytes - _FRAME) // largest))
    count = math.ceil(len(bodies) / fitting)
    return [bodies[i::count] for i in range(count)]


async def send_events(queue: Queue, bodies: Sequence[Body]) -> dict[UUID, Failure]:
    """Sends events in few messages; returns the failure of each event that the queue did not take.

    The events of a refused bundle are sent alone before an event counts as refused. Raises UnavailableError, perhaps after
    some events were sent.
    """
    failures: dict[UUID, Failure] = {}
    messages = pack(bodies, queue.limits)
    while messages:
        again: list[Sequence[Body]] = []
        for message, failure in zip(messages, await queue.send(messages), strict=True):
            if failure is None:
                continue
            if isinstance(failure, MessageRefusedError) and len(message) > 1:
                again += [[body] for body in message]
            else:
                failures |= {body.event_id: failure for body in message}
        messages = again
    return failures
