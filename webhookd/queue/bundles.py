"""Bundles: one SQS message for several events, since a call costs the same however much its messages say.

A bundle is for the way without trouble. It is worked on once; when it comes back, for whatever reason, what is left of it
goes on in messages of their own, so that each event has its own delays, its own count of receives and its own dead letter.
The same holds for a bundle that SQS refuses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from uuid import UUID

from webhookd.errors import MessageRefusedError, UnavailableError
from webhookd.queue.client import is_refusal
from webhookd.queue.message import MOST_EVENTS, Body, dump
from webhookd.queue.sqs import BATCH, Sqs
from webhookd.store.events import Outgoing

BUNDLED = BATCH * MOST_EVENTS  # events in a call
_LONGEST_TYPE = 100  # characters; a call of bundles must stay below SQS's 256 KiB
_FRAME = 32  # bytes of a bundle around its events


def may_be_bundled(event: Outgoing) -> bool:
    """Whether `event` may share its message with others."""
    return not event.alone and len(event.event_type) <= _LONGEST_TYPE and event.event_type.isascii()


def pack(bodies: Sequence[Body], most_bytes: int) -> list[Sequence[Body]]:
    """At most 320 events as few messages: each alone while ten do, else in bundles of like size.

    No bundle is larger than `most_bytes`. A small limit makes more than ten messages of many events.
    """
    if len(bodies) <= BATCH:
        return [[body] for body in bodies]
    largest = max(len(dump([body])) for body in bodies)
    fitting = min(MOST_EVENTS, max(1, (most_bytes - _FRAME) // largest))
    count = math.ceil(len(bodies) / fitting)
    return [bodies[i::count] for i in range(count)]


async def send_events(sqs: Sqs, bodies: Sequence[Body]) -> dict[UUID, MessageRefusedError | UnavailableError]:
    """Sends events in as few messages as fit; returns those that SQS did not take.

    The events of a refused bundle are sent alone before one of them counts as refused. Raises UnavailableError, perhaps after
    some of them were sent.
    """
    failures: dict[UUID, MessageRefusedError | UnavailableError] = {}
    messages = pack(bodies, sqs.limits.main.message_bytes)
    while messages:
        again: list[Sequence[Body]] = []
        for i in range(0, len(messages), BATCH):
            batch = messages[i : i + BATCH]
            for message, code in zip(batch, await sqs.send(batch), strict=True):
                if code is None:
                    continue
                if not is_refusal(code):
                    failures |= {body.event_id: UnavailableError("sqs", code) for body in message}
                elif len(message) > 1:
                    again += [[body] for body in message]
                else:
                    failures[message[0].event_id] = MessageRefusedError(code)
        messages = again
    return failures
