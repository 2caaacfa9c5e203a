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
from webhookd.queue.message import LONGEST_MESSAGE, MOST_EVENTS, EventReference, encode

_FRAME = 48  # bytes of a message around its events


def pack(references: Sequence[EventReference], limits: Limits) -> list[Sequence[EventReference]]:
    """Packs events into few messages: each event alone if one request holds them all, else in bundles of similar size.

    No bundle is larger than the queue's largest message, or than the longest text that `load` reads. If the queue's limit is
    small, there are more messages than one request holds.
    """
    if len(references) <= limits.batch:
        return [[reference] for reference in references]
    largest = max(len(encode([reference])) for reference in references)
    most_bytes = min(limits.message_bytes, LONGEST_MESSAGE)
    fitting = min(MOST_EVENTS, max(1, (most_bytes - _FRAME) // largest))
    count = math.ceil(len(references) / fitting)
    return [references[i::count] for i in range(count)]


async def send_events(queue: Queue, references: Sequence[EventReference]) -> dict[UUID, Failure]:
    """Sends events in few messages; returns the failure of each event that the queue did not take.

    The events of a refused bundle are sent alone before an event counts as refused. Raises UnavailableError, perhaps after
    some events were sent.
    """
    failures: dict[UUID, Failure] = {}
    messages = pack(references, queue.limits)
    while messages:
        again: list[Sequence[EventReference]] = []
        for message, failure in zip(messages, await queue.send(messages), strict=True):
            if failure is None:
                continue
            if isinstance(failure, MessageRefusedError) and len(message) > 1:
                again += [[reference] for reference in message]
            else:
                failures |= {reference.event_id: failure for reference in message}
        messages = again
    return failures
