"""The fold as the worker does it: one statement."""

from __future__ import annotations

from typing import Any, cast

from webhookd.event import Event
from webhookd.process.timeline import fold_all
from webhookd.store.events import EventStore

_STORE = EventStore(cast("Any", None))  # the statement stands on the caller's connection


async def keep_timeline(event: Event, connection: Any) -> None:
    """Folds `event` into its entity's row."""
    await _STORE.process(connection, [], fold_all([event]))
