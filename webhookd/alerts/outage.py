"""The alert that PostgreSQL is away. No state can be stored then, so Redis keeps the replicas from sending it twice.

One replica at a time may send: it has a mark in Redis that expires soon. After the message, another mark shows that it was
sent. The replicas keep this mark while PostgreSQL is away, and five minutes later it expires. If Redis is away, too, each
replica sends its own message. When PostgreSQL answers again, the state is stored as firing, with a message for each channel
that has none yet, and ends as any other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

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
_MARK = 300.0  # seconds for which a mark outlives the outage; a state that fires lasts as long, and ends with a message


class Outage:
    """PostgreSQL's outage as this replica sees it."""

    def __init__(self, database: Database, redis: IdempotencyKeys, place: str, evaluation: Evaluation, sender: Sender) -> None:
        self._database = database
        self._redis = redis
        self._place = place  # names the database in Redis
        self._evaluation = evaluation
        self._sender = sender
        self._began: float | None = None  # by the monotonic clock
        self._was_up = False
        self._due = False  # whether this outage has lasted long enough for a message
        self._id = new_id()  # of this outage
        self._informed: set[str] = set()  # the channels that took a message about this outage
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
            if self._informed or self._due:
                await self._end()
            self._was_up, self._due, self._began = True, False, None
            return
        if self._began is None:
            self._began = time.monotonic()
            self._id = new_id()
            self._tries.clear()
        await self._look_at_marks()
        if (finding := self.finding) is not None:
            self._due = True
            for channel in self.channels.values():
                if channel.name not in self._informed:
                    await self._send(channel, finding)

    async def _look_at_marks(self) -> None:
        """Keeps the marks of this outage, and notes the channels that have a message, from this replica or another."""
        self._id = UUID(await self._redis.keep_mark(self._place, "outage", str(self._id), _MARK))
        for name in self.channels:
            if name in self._informed or await self._redis.marked(self._place, _sent(name)):
                self._informed.add(name)
                await self._redis.keep_mark(self._place, _sent(name), FIRES, _MARK)

    async def _send(self, channel: Channel, finding: Finding) -> None:
        tries, due = self._tries.get(channel.name, (0, 0.0))
        if time.monotonic() < due or not await self._redis.claim_mark(self._place, f"alert-turn:{channel.name}", _CLAIM):
            return
        message = Message(
            self._id_for(channel.name),
            FIRES,
            finding.name,
            finding.subject,
            finding.detail,
            datetime.now(UTC),
            self._sender.dashboard,
        )
        problem = await self._sender.deliver(channel, message)
        if problem is None or problem.taken:
            self._informed.add(channel.name)
            await self._redis.keep_mark(self._place, _sent(channel.name), FIRES, _MARK)
        else:
            self._tries[channel.name] = tries + 1, time.monotonic() + backoff(tries + 1)

    async def _end(self) -> None:
        """Stores that the condition fires, with the messages that are still due. An evaluation then ends the condition.

        The marks stay until they expire: other replicas may notice the end later.
        """
        await self._look_at_marks()
        await self._evaluation.adopt(
            Finding("postgresql_away", "", "Replicas could not use PostgreSQL. They answered webhooks 503."),
            self.channels,
            {name: self._id_for(name) for name in self.channels if name not in self._informed},
        )
        self._informed.clear()

    def _id_for(self, channel: str) -> UUID:
        return uuid5(self._id, channel)  # the same in all replicas, which share the id of the outage by Redis


def _sent(channel: str) -> str:
    return f"alert-sent:{channel}"
