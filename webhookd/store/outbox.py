"""The outbox: the statements about work that must be sent to the queue, or is in the queue. The SQL is in `events.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID, uuid4

from webhookd.store.database import Database
from webhookd.store.queries import queries

if TYPE_CHECKING:
    from datetime import datetime

_LONGEST_RESEND = 43_200.0  # seconds; the query mark_sent has the same bound


class Outgoing(NamedTuple):
    """Work to be sent: all that its message says, and `due`, the row's version when the work was chosen."""

    id: UUID
    account: str
    event_type: str
    attempts: int = 0
    traceparent: str | None = None
    due: datetime | None = None  # None if the version is not known: then the send is not recorded


class Leased(NamedTuple):
    """Work that a sweeper took for sending, by its lane."""

    fresh: list[Outgoing]
    rest: list[Outgoing]  # work that was redriven, put back, or tried once
    later: list[Outgoing]  # work that was tried more often
    lost: list[Outgoing]  # work whose message the queue has lost

    @property
    def all(self) -> list[Outgoing]:
        """Returns all the work, the fresh first."""
        return [*self.fresh, *self.rest, *self.later, *self.lost]


class InQueue(NamedTuple):
    """The amount of unfinished work that has a message in SQS, by lane. `turns`: how much all workers do at a time."""

    fresh: int
    rest: int
    later: int
    turns: int


class Outbox:
    """The statements about work that is to be sent. All raise UnavailableError while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._worker = uuid4()  # this process's id in the table of processes that work

    async def mark_sent(self, events: Sequence[Outgoing], *, resend_after: float) -> None:
        """Records that messages of this work reached SQS. Skips work that has changed since it was chosen."""
        await self._database.all(
            queries.mark_sent,
            ids=[event.id for event in events],
            dues=[event.due for event in events],
            resend_after=resend_after,
        )

    async def lease(
        self, *, fresh: int, rest: int, later: int, lost: int, lease: float, resend_after: float, longest_wait: float
    ) -> Leased:
        """Takes work that is due to be sent, up to the given number of each lane. Nobody else takes it for `lease` seconds."""
        rows = await self._database.all(
            queries.lease_work,
            fresh=fresh,
            rest=rest,
            later=later,
            lost=lost,
            lease=lease,
            resend_after=min(resend_after, _LONGEST_RESEND),
            longest_wait=longest_wait,
        )
        lanes: dict[str, list[Outgoing]] = {"fresh": [], "rest": [], "later": [], "lost": []}
        names = ("id", "account", "event_type", "attempts", "traceparent", "due")
        for row in rows:
            lanes[row["lane"]].append(Outgoing(*(row[name] for name in names)))
        return Leased(**lanes)

    async def return_lease(self, events: Sequence[Outgoing], *, delay: float) -> None:
        """Makes leased work that could not be sent due again in `delay` seconds."""
        await self._database.one(
            queries.return_lease, ids=[event.id for event in events], dues=[event.due for event in events], delay=delay
        )

    async def report_worker(self, turns: int, drained_ago: float | None) -> None:
        """Reports that this process does `turns` at a time, and that a poll found the queue empty.

        `drained_ago`: seconds since that poll began; None if there is none.
        """
        await self._database.one(queries.report_worker, id=self._worker, turns=turns, drained_ago=drained_ago)

    async def count_in_queue(self, *, fresh: int) -> InQueue:
        """Counts the work that has a message in SQS; counts at most `fresh` of the fresh work."""
        return InQueue(*await self._database.one(queries.count_in_queue, fresh=fresh))

    async def backlog(self) -> tuple[int, float, float]:
        """Returns the size and the ages of the backlog, as three numbers.

        First the number of events in the outbox, up to 100,000 of each kind. Then the age in seconds of the oldest unfinished
        event, and of the oldest one that waits for no retry; 0 if there is none.
        """
        row = await self._database.one(queries.backlog)
        return row["outbox"], max(row["oldest"] or 0.0, 0.0), max(row["overdue"] or 0.0, 0.0)
