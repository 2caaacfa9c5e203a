"""The proof that webhookd wrote a dead-letter copy: a MAC over all data of the copy.

Whoever moves a copy back to the queue revives its event. So a worker must know that webhookd wrote the copy, for this very
death of this event. A migration makes the secret, and stores it in PostgreSQL's table `secrets` for all replicas. Whoever can
only write to the queues cannot read the secret. It needs no setting, and no rotation of keys or tokens makes it void.
"""

from __future__ import annotations

import hashlib
import hmac

import orjson

from webhookd.queue.message import EventReference


def sign(reference: EventReference, secret: bytes) -> EventReference:
    """Returns `reference`, a dead-letter copy, with its MAC (HMAC-SHA-256, hexadecimal)."""
    return reference._replace(mac=_mac(reference, secret))


def is_proven(reference: EventReference, secret: bytes) -> bool:
    """Returns whether `sign` made the dead-letter copy `reference`, and nothing in the copy has changed since."""
    if reference.dead is None or reference.died is None or reference.mac is None:
        return False
    return hmac.compare_digest(reference.mac.encode(), _mac(reference, secret).encode())


def _mac(reference: EventReference, secret: bytes) -> str:
    said = [
        "dead-letter copy",
        str(reference.event_id),
        reference.account,
        reference.event_type,
        reference.dead,
        reference.died,
        reference.traceparent,
    ]
    return hmac.new(secret, orjson.dumps(said), hashlib.sha256).hexdigest()
