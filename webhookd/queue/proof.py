"""The proof that webhookd wrote a dead-letter copy: a MAC over all data of the copy.

Whoever moves a copy back to the queue revives its event. So a worker must know that webhookd wrote the copy, for this very
death of this event. A migration makes the secret, and stores it in PostgreSQL's table `secrets` for all replicas. Whoever can
only write to the queues cannot read the secret. It needs no setting, and no rotation of keys or tokens makes it void.
"""

from __future__ import annotations

import hashlib
import hmac

import orjson

from webhookd.queue.message import Body


def sign(body: Body, secret: bytes) -> Body:
    """Returns the dead-letter copy `body` with its MAC (HMAC-SHA-256, hexadecimal)."""
    return body._replace(mac=_mac(body, secret))


def is_proven(body: Body, secret: bytes) -> bool:
    """Returns whether `body` is a dead-letter copy that `sign` has made, and nothing in the copy was changed since."""
    if body.dead is None or body.died is None or body.mac is None:
        return False
    return hmac.compare_digest(body.mac.encode(), _mac(body, secret).encode())


def _mac(body: Body, secret: bytes) -> str:
    said = ["dead-letter copy", str(body.event_id), body.account, body.event_type, body.dead, body.died, body.traceparent]
    return hmac.new(secret, orjson.dumps(said), hashlib.sha256).hexdigest()
