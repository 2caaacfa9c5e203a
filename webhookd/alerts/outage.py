"""The alert that PostgreSQL is away. No state can be stored then, so Redis keeps the replicas from sending it twice.

One replica at a time may send: it has a mark in Redis that expires soon. After the message, another mark says for a day that
it was sent. If Redis is away, too, each replica sends its own message. When PostgreSQL answers again, the state is stored as
firing, and ends as any other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from webhookd.alerts.catalogue import CONDITIONS
from webhookd.alerts.channel import Channel
from webhookd.alerts.conditions import Finding
from webhookd.alerts.evaluation import Evaluation
from webhookd.alerts.message import FIRES, Message
from webhookd.alerts.sender import Sender, backoff
from webhookd.store.database import Database
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.store.keys import new_id

EVERY = 5.0  # seconds
NEVER_UP = 900.0  # seconds that a process that never had PostgreSQL may wait for it: a new replica waits for its migration
_CLAIM = 60.0  # seconds for which one replica may try to send
_TOLD = 86_400.0  # seconds for which no other replica sends


class Outage:
    """PostgreSQL's outage as this replica sees it."""

    def __init__(self, database: Database, idempotency: IdempotencyKeys, evaluation: Evaluation, sender: Sender) -> None:
        self._database = database
        self._idempotency = idempotency
        self._evaluation = evaluation
        self._sender = sender
        self._began: float | None = None  # by the monotonic clock
        self._was_up = False
        self._told: set[str] = set()  # the channels that took this replica's message
        self._tries: dict[str, tuple[int, float]] = {}  # channel → tries, and when the next one is due
        self.channels: Mapping[str, Channel] = {}

    @property
    def finding(self) -> Finding | None:
        """Returns the condition, if PostgreSQL has been away for its time."""
        patience = CONDITIONS["postgresql_away"].lasts if self._was_up else NEVER_UP
        if self._began is None or time.monotonic() - self._began < patience:
            return None
        return Finding(
            "postgresql_away", "", "A replica cannot use PostgreSQL. It answers webhooks 503, and processes no event."
        )

    @property
    def since(self) -> datetime:
        """Returns when the outage began."""
        lasted = 0.0 if self._began is None else time.monotonic() - self._began
        return datetime.now(UTC) - timedelta(seconds=lasted)

    async def look(self) -> None:
        """Sends the message if it is due; after an outage, stores its state. Raises UnavailableError."""
        if self._database.up:
            await self._end()
            self._was_up = True
            return
        if self._began is None:
            self._began = time.monotonic()
        if (finding := self.finding) is not None:
            for channel in self.channels.values():
                await self._tell(channel, finding)

    async def _tell(self, channel: Channel, finding: Finding) -> None:
        tries, due = self._tries.get(channel.name, (0, 0.0))
        if channel.name in self._told or time.monotonic() < due or await self._idempotency.marked(_told(channel.name)):
            return
        if not await self._idempotency.mark(f"alert-turn:{channel.name}", _CLAIM):
            return
        message = Message(
            new_id(), FIRES, finding.name, finding.subject, finding.detail, datetime.now(UTC), self._sender.dashboard
        )
        if await self._sender.deliver(channel, message) is None:
            self._told.add(channel.name)
            await self._idempotency.mark(_told(channel.name), _TOLD)
        else:
            self._tries[channel.name] = tries + 1, time.monotonic() + backoff(tries + 1)

    async def _end(self) -> None:
        """Stores that the condition fires if a replica has sent so. The evaluation then ends it with a message."""
        if self._began is None and self._was_up:
            return
        marked = [name for name in self.channels if await self._idempotency.marked(_told(name))]
        if self._told or marked:
            await self._evaluation.adopt(
                Finding("postgresql_away", "", "Replicas could not use PostgreSQL. They answered webhooks 503.")
            )
            for name in self.channels:
                await self._idempotency.unmark(_told(name))
        self._began = None
        self._told.clear()
        self._tries.clear()


def _told(channel: str) -> str:
    return f"alert-told:{channel}"
