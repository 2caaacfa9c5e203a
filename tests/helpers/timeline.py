"""The worker's fold in one statement, and the facts as PostgreSQL stores them."""

from __future__ import annotations

import json
from typing import Any, cast

from webhookd.authorizenet.facts import Facts
from webhookd.authorizenet.timeline import fold_all
from webhookd.event import Event
from webhookd.store.event_store import EventStore

_STORE = EventStore(cast("Any", None))  # the statement runs on the caller's connection


async def keep_timeline(event: Event, connection: Any) -> None:
    """Folds `event` into its entity's row."""
    await _STORE.process(connection, [], fold_all([event]))


def decode(text: str) -> Facts:
    """Returns each fact that PostgreSQL stores, by name. A name may not stand in two groups."""
    facts: Facts = {}
    for at, rank, values in json.loads(text):
        assert not facts.keys() & values.keys(), text
        facts |= {name: (at, rank, value) for name, value in values.items()}
    return facts
