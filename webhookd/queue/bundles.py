"""Bundles: one SQS message for several events, since a call costs the same however much its messages say.

A bundle is for the way without trouble. It is worked on once; when it comes back, for whatever reason, what is left of it
goes on in messages of their own, so that each event has its own delays, its own count of receives and its own dead letter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from webhookd.errors import UnavailableError
from webhookd.event import Status
from webhookd.queue.sqs import BATCH, Body, Message, Sqs
from webhookd.store.events import EventStore, Outgoing

_MOST = 32  # events in a bundle
BUNDLED = BATCH * _MOST  # events in a call
_LONGEST_TYPE = 100  # characters; a call of bundles must stay below SQS's 256 KiB


def may_be_bundled(event: Outgoing) -> bool:
    """Whether `event` may share its message with others."""
    return not event.alone and len(event.event_type) <= _LONGEST_TYPE and event.event_type.isascii()


def pack(bodies: Sequence[Body]) -> list[Sequence[Body]]:
    """At most 320 events as at most ten messages: each alone while that goes, else in as few bundles of like size."""
    count = len(bodies) if len(bodies) <= BATCH else math.ceil(len(bodies) / _MOST)
    return [bodies[i::count] for i in range(count)]


async def split(message: Message, store: EventStore, sqs: Sqs) -> None:
    """Sends what is left of a bundle, each event in a message of its own; the caller deletes the bundle after that.

    An event that is retrying has another message, or is due for one. Raises UnavailableError, with some of them sent perhaps.
    """
    states = await store.states([body.event_id for body in message.bodies])
    waiting = (Status.RECEIVED, Status.QUEUED)
    left = [b for b in message.bodies if b.event_id not in states or states[b.event_id]["status"] in waiting]
    for i in range(0, len(left), BATCH):
        if not all(await sqs.send([[body] for body in left[i : i + BATCH]])):
            raise UnavailableError("sqs", "an entry of a batch failed")
