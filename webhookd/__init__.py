"""webhookd receives Authorize.Net webhooks: durable before the 200, each one's effects exactly once.

Users' handler modules import these names: `from webhookd import on, lifespan, Event, Permanent, Retry, Retryable`, and for
annotations `Details` and `Connection`, the asyncpg connection that a handler gets.
"""

from typing import TYPE_CHECKING, Any

from webhookd.authorizenet.details import Details
from webhookd.errors import Permanent, Retryable
from webhookd.event import Event
from webhookd.process.handlers import lifespan, on
from webhookd.process.retry import Retry

if TYPE_CHECKING:
    from webhookd.store.pools import Connection

__all__ = ["Connection", "Details", "Event", "Permanent", "Retry", "Retryable", "lifespan", "on"]


def __getattr__(name: str) -> Any:
    if name == "Connection":  # import asyncpg only for users' annotations, to keep `webhookd --help` quick
        from webhookd.store.pools import HandlerConnection

        return HandlerConnection
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
