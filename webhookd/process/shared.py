"""Shared transactions: the events of several messages are folded into the timeline in one statement.

No handler of a user runs there, so none can harm a neighbour's event; and where such a transaction fails, each of its events is
to be tried alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from webhookd.batcher import Batcher
from webhookd.errors import UnavailableError
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import Watch
from webhookd.logs import logger, where
from webhookd.process.fold import Folds
from webhookd.process.result import BUSY, Left, Outcome, Result, standing
from webhookd.queue.message import Body
from webhookd.store.claims import Claims
from webhookd.store.database import Database
from webhookd.store.events import Claimed, EventStore
from webhookd.store.failures import gateway

if TYPE_CHECKING:
    from webhookd.tracing import Tracing

_TRIES = 2  # until what another worker did meanwhile is no longer in the way
_GROUP = 10  # messages whose events share a transaction
_GROUPS = 3  # such transactions at a time
_DONE = Result(Outcome.PROCESSED)

Shared: TypeAlias = Result | Left


class SharedTransactions:
    """Gathers messages' events, and folds them together; `folding` bounds the folds that the worker does at a time."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        claims: Claims,
        folds: Folds,
        folding: asyncio.Semaphore,
        *,
        watch: Watch,
        tracing: Tracing | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._claims = claims
        self._folds = folds
        self._folding = folding
        self._tracing = tracing
        # While some messages' events are worked on, the next ones gather.
        self._groups: Batcher[Sequence[Body], list[Shared]] = Batcher(
            "timeline", self._work, watch, max_batch=_GROUP, max_pending=100_000, workers=_GROUPS, fill=_GROUP // 2
        )

    async def start(self) -> None:
        """Starts gathering."""
        await self._groups.start()

    async def stop(self) -> None:
        """Ends what is gathered."""
        await self._groups.stop()

    def submit(self, bodies: Sequence[Body]) -> asyncio.Future[list[Shared]]:
        """A message's events; the future gets for each what came of it, or what is left to do.

        It raises UnavailableError where PostgreSQL was not there.
        """
        return self._groups.submit(bodies)

    async def _work(self, groups: list[Sequence[Body]]) -> list[list[Shared]]:
        began = time.time_ns()
        types = {body.event_id: body.event_type for bodies in groups for body in bodies}
        # Only what may end here is claimed: two workers that fold one event do no harm.
        ending = [event_id for event_id, event_type in types.items() if self._folds.ends(event_type)]
        token, ours = await self._claims.acquire(ending) if ending else ("", [])
        if ending:
            reach(Failpoint.WORKER_AFTER_CLAIM)
        mine = [event_id for event_id, got in zip(ending, ours, strict=True) if got]
        taken = set(ending) - set(mine)
        ids = [event_id for event_id in types if event_id not in taken]
        results: dict[UUID, Shared] = dict.fromkeys(taken, Result(Outcome.BUSY, BUSY))
        try:
            results |= await self._transact(ids)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  whatever one of them causes, it must not fail its neighbours
            logger.debug("events that shared a transaction are tried alone", count=len(ids), error=where(error))
            results |= dict.fromkeys(ids, Left.ALL)
        finally:
            self._claims.release(mine, token)
        told: list[list[Shared]] = []
        for bodies in groups:
            told.append([results[body.event_id] for body in bodies])
            # Another message of the same event finds it ended.
            for body in bodies:
                result = results[body.event_id]
                if isinstance(result, Result) and result.outcome is Outcome.PROCESSED:
                    results[body.event_id] = Result(Outcome.DUPLICATE)
        if self._tracing is not None:
            self._trace(self._tracing, groups, told, began)
        return told

    async def _transact(self, ids: Sequence[UUID]) -> dict[UUID, Shared]:
        """Reads, folds and commits. If this raises, nothing was written."""
        results: dict[UUID, Shared] = dict.fromkeys(ids, Left.ALL)
        with gateway():
            async with self._folding, self._database.acquire("fold") as connection:
                for _ in range(_TRIES):
                    due: list[Claimed] = []
                    for claimed in await self._store.read(connection, ids):
                        outcome = standing(claimed)
                        if outcome is Outcome.DUPLICATE:
                            results[claimed.event.id] = Result(outcome)
                        elif outcome is None and claimed.has_body:
                            due.append(claimed)
                    if not due or await self._folds.fold(connection, due):
                        break
                else:
                    return results  # another worker is at them
        for claimed in due:
            event = claimed.event
            if not self._folds.ends(event.event_type):
                results[event.id] = Left.HANDLERS
            else:
                results[event.id] = _DONE if self._tracing is None else _DONE._replace(attempt=event.attempt)
        return results

    @staticmethod
    def _trace(tracing: Tracing, groups: list[Sequence[Body]], told: list[list[Shared]], began: int) -> None:
        for bodies, results in zip(groups, told, strict=True):
            for body, result in zip(bodies, results, strict=True):
                if isinstance(result, Result):  # else it has a span when it is tried alone
                    tracing.shared(
                        body.traceparent,
                        body.event_id,
                        body.account,
                        body.event_type,
                        began=began,
                        outcome=result.outcome,
                        attempt=result.attempt,
                    )
