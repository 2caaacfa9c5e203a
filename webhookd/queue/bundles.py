"""Bundles: one message for several events, since a request costs the same however much its messages say.

A bundle is for the way without trouble. It is worked on once; when it comes back, for whatever reason, what is left of it
goes on in messages of their own, so that each event has its own delays, its own count of receives and its own dead letter.
The same holds for a bundle that the queue refuses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from uuid import UUID

from webhookd.errors import MessageRefusedError
from webhookd.queue.contract import Failure, Limits, Queue
from webhookd.queue.message import MOST_EVENTS, Body, dump
from webhookd.store.events import Outgoing

_LONGEST_TYPE = 100  # characters: an event of a longer one would make all bundles of its request smaller
_FRAME = 32  # bytes of a bundle around its events


def may_be_bundled(event: Outgoing) -> bool:
    """Whether `event` may share its message with others."""
    return not event.alone and len(event.event_type) <= _LONGEST_TYPE and event.event_type.isascii()


def pack(bodies: Sequence[Body], limits: Limits) -> list[Sequence[Body]]:
    """Few messages for many events: each event alone while one request holds them, else in bundles of like size.

    No bundle is larger than the queue's largest message. A small limit makes more messages than a request holds.
    """
    if len(bodies) <= limits.batch:
        return [[body] for body in bodies]
    largest = max(len(dump([body])) for body in bodies)
    fitting = min(MOST_EVENTS, max(1, (limits.message_bytes - _FRAME) // largest))
    count = math.ceil(len(bodies) / fitting)
    return [bodies[i::count] for i in range(count)]


async def send_events(queue: Queue, bodies: Sequence[Body]) -> dict[UUID, Failure]:
    """Sends events in as few messages as fit; returns those that the queue did not take.

    The events of a refused bundle are sent alone before one of them counts as refused. Raises UnavailableError, perhaps after
    some of them were sent.
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
