"""Dead letters: keeps the dead-letter queue in agreement with the dead events in PostgreSQL, whoever moved a message.

A message in the dead-letter queue is a *copy* or *raw*. A copy names the reason why its event is dead. The queue itself moved a
raw message there after too many receives, which proves nothing about the event. So the reader has the work of raw messages sent
again, and removes them; it removes copies that are no longer true, too. So a redrive from the AWS console brings back copies
only. Such a copy means that an operator wants its dead event tried again. SQS knows no source of a copy, since the daemon sent
it: the console must name the main queue as its custom destination. A copy proves by its MAC that webhookd wrote it; the reader
replaces a copy without this proof.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from webhookd.errors import OverloadedError
from webhookd.event import Status
from webhookd.queue.contract import Failure, Queue
from webhookd.queue.message import EventReference, Message, fit
from webhookd.queue.proof import is_proven, sign
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import Loop, Watch
from webhookd.store.event_store import EventStore
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

_DUTY = "dead-letter reader"
_OWED_AFTER_SECONDS = 15.0  # after a death: by then, the copy that is sent at once has failed
_VISIBILITY_SECONDS = 60  # time for which a pass hides the messages that it reads
_WAIT_SECONDS = 1  # without a wait, an empty answer proves nothing, since SQS then asks only some of its servers
_ROUND_EVERY_SECONDS = 15.0
# A pass takes this time at most. It is well below _VISIBILITY_SECONDS, or the pass would receive the same messages again.
_PASS_SECONDS = 30.0
_SHORT_QUEUE = 1000  # messages: a queue of so many is read each minute, a longer one only every ten minutes
_PASS_EVERY_SECONDS = 45.0  # between passes over a short queue, even if the counts agree
_LONG_PASS_EVERY_SECONDS = 600.0
_SETTLED_SECONDS = 60.0  # after its send, a copy must be in the queue by then
_COUNTED = 10_000  # dead events that are counted at most; one pass reads about as many copies
_LOOKED = 1000  # dead events that one statement reads
_FIRST = datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0)  # before every death


class DeadLetters:
    """The dead-letter queue's upkeep: copies dead events to the queue, and keeps the queue and PostgreSQL in agreement."""

    def __init__(self, store: EventStore, queue: Queue, *, metrics: Metrics, watch: Watch, reads: bool) -> None:
        self._store = store
        self._queue = queue  # the dead-letter queue
        self._moved = metrics.dead_letters_moved
        self._batch = queue.limits.batch
        self._copies: Batcher[EventReference, None] = Batcher(
            "dead letters", self._copy, watch, max_batch=self._batch, max_pending=10_000
        )
        # Every process copies the events that its workers find dead; the upkeep of the queue belongs to the role `relay`.
        self._reader = Loop("dead-letter reader", self.reconcile, watch, every=_ROUND_EVERY_SECONDS) if reads else None
        self._last_pass = -_LONG_PASS_EVERY_SECONDS
        self._not_ours = 0  # messages that are not webhookd's, at the last pass
        self._mended = False  # whether the last pass found a disagreement
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Starts copying and reading."""
        await self._copies.start()
        if self._reader is not None:
            await self._reader.start()

    async def stop(self) -> None:
        """Sends the copies that are pending, and returns."""
        if self._reader is not None:
            await self._reader.stop()
        await self._copies.stop()

    def copy(self, reference: EventReference) -> None:
        """Sends a copy of an event that is `dead` in PostgreSQL; if this fails, the copy is sent later from PostgreSQL."""
        try:
            self._copies.post(reference)
        except OverloadedError:
            logger.warning(
                "a dead-letter copy was not sent; the dead-letter reader sends it later", event_id=str(reference.event_id)
            )

    async def _copy(self, references: list[EventReference]) -> Sequence[Failure | None]:
        secret = await self._store.secret()
        copies = [sign(fit(reference, self._queue.limits.message_bytes), secret) for reference in references]
        results = await self._queue.send([[copy] for copy in copies])
        reach(Failpoint.DEAD_LETTERS_AFTER_COPY)
        ids = [reference.event_id for reference, failure in zip(references, results, strict=True) if failure is None]
        await self._store.mark_dead_letter_sent(ids)
        self._moved.labels("copied").inc(len(ids))
        return results

    async def reconcile(self) -> bool:
        """Runs one round of upkeep: reads the queue if it may disagree, and sends copies that are owed; True if there were any.

        Only one process at a time does this, since two would hide messages from each other. False if another process does it.
        """
        async with self._one_at_a_time:
            if not await self._store.take_duty(_DUTY, 2 * _ROUND_EVERY_SECONDS + 2 * _PASS_SECONDS):
                return False
            return await self._reconcile()

    async def _reconcile(self) -> bool:
        depth = (await self._queue.depth()).total
        now = time.monotonic()
        every = _PASS_EVERY_SECONDS if depth <= _SHORT_QUEUE else _LONG_PASS_EVERY_SECONDS
        count = await self._store.count_dead(_COUNTED)
        # `count` is None if too many events are dead. Then another pass follows a pass that found a disagreement.
        differ = self._mended if count is None else depth - self._not_ours != count
        if differ or (now - self._last_pass > every and (depth or count is None)):
            self._mended = await self._read_all(depth)
            self._last_pass = now
        owed = await self._store.owed_dead_letters(grace=_OWED_AFTER_SECONDS, limit=self._batch)
        if owed:
            for result in await self._copy([_reference(row["id"], row) for row in owed]):
                if result is not None:
                    raise result
        return bool(owed)

    async def _read_all(self, depth: int) -> bool:
        """Reads each message of the dead-letter queue once, as far as the time allows; returns whether anything disagreed."""
        seen = _Seen()
        end = time.monotonic() + _PASS_SECONDS
        whole = mended = False
        try:
            while time.monotonic() < end:
                messages = await self._queue.receive(self._batch, wait=_WAIT_SECONDS, visibility=_VISIBILITY_SECONDS)
                if not messages:
                    whole = True
                    break
                states = await self._store.states(
                    [reference.event_id for message in messages for reference in message.references]
                )
                gone = []
                for message in messages:
                    if await self._belongs(message, states, seen):
                        seen.kept.append(message)
                    else:
                        gone.append(message)
                if gone:
                    mended = True
                    await self._queue.delete(gone)
        finally:
            # If the time was too short, the messages that were read stay hidden for a minute, and the next pass reads the rest.
            if whole:
                await self._queue.change_visibility([(message, 0) for message in seen.kept])
        self._not_ours = len(seen.not_ours)
        # Copies that the queue no longer has (purged or expired) are owed again, but only if this pass read all messages of
        # the queue: another reader, or an operator's console, may have hidden some.
        if whole and len({message.id for message in seen.kept}) >= depth:
            mended |= await self._owe(list(seen.copies), time.monotonic() + _PASS_SECONDS)
        return mended

    async def _owe(self, found: list[UUID], end: float) -> bool:
        """Marks copies that were not found as owed, the oldest deaths first, until `end`; returns whether there were any.

        Works in steps: all copies may be lost, and one statement that locks every dead event would keep operators from them.
        """
        lost = 0
        after: tuple[datetime, UUID] | None = _FIRST
        while after is not None and (after is _FIRST or time.monotonic() < end):
            owed, after = await self._store.owe_dead_letters(found, settled=_SETTLED_SECONDS, after=after, looked=_LOOKED)
            lost += owed
            self._moved.labels("lost").inc(owed)
        if lost:
            logger.warning("the dead-letter queue has lost copies, which are sent again", count=lost)
        return bool(lost)

    async def _belongs(self, message: Message, states: dict[UUID, Any], seen: _Seen) -> bool:
        """Returns whether `message` may stay in this queue. Puts its work back if the queue itself moved it here."""
        known = [reference for reference in message.references if reference.event_id in states]
        if not known:
            seen.not_ours.add(message.id)
            return True  # the message is not webhookd's, so it stays here for a person to look at
        if known[0].dead is not None:
            row = states[known[0].event_id]
            return await self._is_copy(message, known[0], row, seen) if _is_dead(row) else self._removed()
        open_ = {reference.event_id for reference in known if not Status(states[reference.event_id]["status"]).finished}
        if not open_:
            return self._removed()
        reason = f"SQS moved its message to the dead-letter queue after {message.receive_count} receives; webhookd put it back"
        if not await self._store.put_back(sorted(open_), reason=reason):
            return True  # one of the events has ended, or a worker has it; the next pass finds out which
        reach(Failpoint.DEAD_LETTERS_AFTER_PUT_BACK)
        self._moved.labels("put_back").inc(len(open_))
        return False

    async def _is_copy(self, message: Message, reference: EventReference, row: Any, seen: _Seen) -> bool:
        """Returns whether `message` is the one copy of its event's present death; replaces a copy that has no valid proof."""
        if reference.died not in (None, row["died"]):
            return self._removed()
        if not is_proven(reference, await self._store.secret()):
            # A stranger or an older release wrote this copy. One true copy replaces all such copies of an event.
            if reference.event_id not in seen.copies and reference.event_id not in seen.replaced:
                [problem] = await self._copy([_reference(reference.event_id, row)])
                if problem is not None:
                    return True
                seen.replaced.add(reference.event_id)
            self._moved.labels("unproven").inc()
            return False
        # Compare the ids: the same message may be delivered twice.
        if seen.copies.setdefault(reference.event_id, message.id) != message.id:
            return self._removed()
        if not row["dead_letter_sent"]:
            await self._store.mark_dead_letter_sent([reference.event_id])
        return True

    def _removed(self) -> bool:
        self._moved.labels("removed").inc()
        return False


@dataclass(slots=True)
class _Seen:
    """The messages that one pass has read in the dead-letter queue."""

    kept: list[Message] = field(default_factory=list)
    copies: dict[UUID, str] = field(default_factory=dict)  # event → id of the message that is its copy
    replaced: set[UUID] = field(default_factory=set)  # events whose unproven copy was replaced by a true one
    not_ours: set[str] = field(default_factory=set)  # ids of messages that are not webhookd's


def _is_dead(row: Any) -> bool:
    return Status(row["status"]) is Status.DEAD and not row["discarded"]


def _reference(event_id: UUID, row: Any) -> EventReference:
    return EventReference(
        event_id, row["account"], row["event_type"], row["dead_reason"] or "dead", row["died"], row["traceparent"]
    )
