"""Shared transactions: the events of several messages are folded into the timeline in one statement.

No user's handler runs in such a transaction, so no handler can harm another event. If the transaction fails, each of its events
is tried alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from webhookd.errors import UnavailableError
from webhookd.process.fold import Folds
from webhookd.process.result import Left, Outcome, Result, is_suspect, standing
from webhookd.queue.message import EventReference
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.loops import Watch
from webhookd.store.database import Database
from webhookd.store.event_store import Claimed, EventStore
from webhookd.store.failures import gateway
from webhookd.telemetry.logs import logger, where

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing

_GROUP = 10  # messages whose events share a transaction
_GROUPS = 3  # shared transactions at a time
_DONE = Result(Outcome.PROCESSED)

Shared: TypeAlias = Result | Left


class SharedFolds:
    """The part of the worker that folds the events of many messages in one transaction."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        folds: Folds,
        *,
        watch: Watch,
        tracing: Tracing | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._folds = folds
        self._tracing = tracing
        # While the events of some messages are folded, the next messages gather.
        self._groups: Batcher[Sequence[EventReference], list[Shared]] = Batcher(
            "timeline", self._work, watch, max_batch=_GROUP, max_pending=100_000, workers=_GROUPS, fill=_GROUP // 2
        )

    async def start(self) -> None:
        """Starts to gather messages and to fold their events."""
        await self._groups.start()

    async def stop(self) -> None:
        """Finishes the messages that are gathered, and returns."""
        await self._groups.stop()

    def submit(self, references: Sequence[EventReference]) -> asyncio.Future[list[Shared]]:
        """Adds a message's events; returns a future with the Result of each event, or the steps that are Left for it.

        The future raises UnavailableError if PostgreSQL is unavailable.
        """
        return self._groups.submit(references)

    async def _work(self, groups: list[Sequence[EventReference]]) -> list[list[Shared]]:
        began = time.time_ns()
        ids = list({reference.event_id for references in groups for reference in references})
        claimed: dict[UUID, Claimed] | None = None
        ended: set[UUID] = set()
        try:
            claimed, ended = await self._transact(ids, groups)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  an error that one event causes must not fail the others
            logger.debug("events that shared a transaction are tried alone", count=len(ids), error=where(error))
        if claimed is None:
            results: list[list[Shared]] = [[Left.ALL] * len(references) for references in groups]
        else:
            results = [
                [self._result(reference, claimed.get(reference.event_id), ended) for reference in references]
                for references in groups
            ]
        if self._tracing is not None:
            self._trace(self._tracing, groups, results, began)
        return results

    async def _transact(
        self, ids: Sequence[UUID], groups: list[Sequence[EventReference]]
    ) -> tuple[dict[UUID, Claimed], set[UUID]]:
        """Reads, folds and commits events; returns the events as they were read, and the ids of the events that ended.

        If this method raises an error, nothing was written.
        """
        with gateway():
            async with self._folds.turns, self._database.acquire("fold") as connection:
                claimed = {c.event.id: c for c in await self._store.read(connection, ids)}
                wanted = {
                    reference.event_id
                    for references in groups
                    for reference in references
                    if reference.event_id in claimed and standing(claimed[reference.event_id], reference.attempts) is None
                }
                due = [c for event_id, c in claimed.items() if event_id in wanted and c.has_body]
                return claimed, await self._folds.fold(connection, due) if due else set()

    def _result(self, reference: EventReference, claimed: Claimed | None, ended: set[UUID]) -> Shared:
        if claimed is None:
            return Result(Outcome.UNKNOWN)
        if (outcome := standing(claimed, reference.attempts)) is not None:
            return Result(outcome)
        if not claimed.has_body:
            return Left.ALL
        if not self._folds.ends(claimed.event.event_type):
            return Left.SUSPECT if is_suspect(claimed) else Left.HANDLERS
        if reference.event_id not in ended:  # another worker, or another message of this transaction, ended the event
            return Result(Outcome.DUPLICATE)
        ended.discard(reference.event_id)
        return _DONE if self._tracing is None else _DONE._replace(attempt=claimed.event.attempt)

    @staticmethod
    def _trace(tracing: Tracing, groups: list[Sequence[EventReference]], told: list[list[Shared]], began: int) -> None:
        for references, results in zip(groups, told, strict=True):
            for reference, result in zip(references, results, strict=True):
                if isinstance(result, Result):  # an event that is Left gets its span when it is tried alone
                    tracing.shared(
                        reference.traceparent,
                        reference.event_id,
                        reference.account,
                        reference.event_type,
                        began=began,
                        outcome=result.outcome,
                        attempt=result.attempt,
                    )
