"""Bundles: one SQS message for several events, since a call costs the same however much its messages say.

A bundle is for the way without trouble. It is worked on once; when it comes back, for whatever reason, what is left of it
goes on in messages of their own, so that each event has its own delays, its own count of receives and its own dead letter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from webhookd.queue.message import MOST_EVENTS, Body
from webhookd.queue.sqs import BATCH
from webhookd.store.events import Outgoing

BUNDLED = BATCH * MOST_EVENTS  # events in a call
_LONGEST_TYPE = 100  # characters; a call of bundles must stay below SQS's 256 KiB


def may_be_bundled(event: Outgoing) -> bool:
    """Whether `event` may share its message with others."""
    return not event.alone and len(event.event_type) <= _LONGEST_TYPE and event.event_type.isascii()


def pack(bodies: Sequence[Body]) -> list[Sequence[Body]]:
    """At most 320 events as at most ten messages: each alone while that goes, else in as few bundles of like size."""
    count = len(bodies) if len(bodies) <= BATCH else math.ceil(len(bodies) / MOST_EVENTS)
    return [bodies[i::count] for i in range(count)]
