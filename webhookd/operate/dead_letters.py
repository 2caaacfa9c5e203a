"""Which dead events an operator means, and the list of them.

All of it is in PostgreSQL: a redriven event goes the way of every event, through the outbox; its copy in the dead-letter
queue is taken away by the daemons, as is that of a discarded one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from webhookd.operate.filter import patterns
from webhookd.operate.place import Place
from webhookd.operate.statements import Statements
from webhookd.store.queries import queries


@dataclass(slots=True, frozen=True)
class Dead:
    """Which dead events; None stands for any.

    `event_types`: names, where `*` stands for any text and `net.authorize.` may be left out. `reason`: a part of the reason
    or of the last error. `since`, `until`: of the death. `discarded`: only those that were, or were not, let go.
    """

    ids: tuple[UUID, ...] | None = None
    event_types: tuple[str, ...] | None = None
    account: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    discarded: bool | None = False

    @property
    def parameters(self) -> dict[str, Any]:
        """As `webhookd_dead` takes it."""
        return {
            "ids": self.ids,
            "event_types": patterns(self.event_types),
            "account": self.account,
            "reason": self.reason,
            "since": self.since,
            "until": self.until,
            "discarded": self.discarded,
        }


async def newest_dead(statements: Statements, dead: Dead, place: Place, limit: int) -> list[asyncpg.Record]:
    """The dead events that died last, from `place` on (sql: list_dead), at most `limit`."""
    return await statements.all(queries.list_dead, **dead.parameters, before_death=place.at, before_id=place.id, limit=limit)
