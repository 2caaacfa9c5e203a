"""Dead letters: the dead-letter queue and `dead` in PostgreSQL agree, whoever moved the message.

A message in the dead-letter queue is either a *copy*, which says why its event is dead, or *raw*, moved there by the queue
itself after too many receives. That proves nothing of the event, so the reader has the work of raw messages sent again, and
removes them, as it removes what is no longer true. So a redrive from
the AWS console brings back copies only, which tell a worker that an operator wants this dead event tried again. SQS knows no
source of a copy, since the daemon sent it: the console must name the main queue as its custom destination. A copy proves by
its MAC that webhookd wrote it; the reader replaces one that does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from webhookd.batcher import Batcher
from webhookd.errors import OverloadedError
from webhookd.event import Status
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import Loop, Watch
from webhookd.logs import logger
from webhookd.metrics import Metrics
from webhookd.queue.contract import Failure, Queue
from webhookd.queue.message import Body, Message, fit
from webhookd.queue.proof import is_proven, sign
from webhookd.store.events import EventStore

_DUTY = "dead-letter reader"
_OWED_AFTER = 15.0  # seconds: by then the copy that follows a death at once has failed
_HIDDEN = 60  # seconds: how long a pass may hide what it looks at
_WAIT = 1  # seconds: an empty answer without a wait says nothing, since SQS then asks some of its servers only
_LOOK_EVERY = 15.0  # seconds
_PASS = 30.0  # seconds that a pass may take; well within what it hides, or it would meet the same messages again
_SHORT = 1000  # messages: so many are looked at each minute, more only every ten minutes
_EVERY = 45.0  # seconds between passes over a short queue even where the counts agree
_EVERY_LONG = 600.0
_SETTLED = 60.0  # seconds until a copy that was sent must show
_COUNTED = 10_000  # dead events; about as many copies as a pass sees
_LOOKED = 1000  # dead events that one statement looks at
_FIRST = datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0)  # before every death


class DeadLetters:
    """Copies dead events to the dead-letter queue, and keeps that queue and PostgreSQL in agreement."""

    def __init__(self, store: EventStore, queue: Queue, *, metrics: Metrics, watch: Watch, reads: bool) -> None:
        self._store = store
        self._queue = queue  # the dead-letter queue
        self._moved = metrics.dead_letters_moved
        self._batch = queue.limits.batch
        self._copies: Batcher[Body, None] = Batcher(
            "dead letters", self._copy, watch, max_batch=self._batch, max_pending=10_000
        )
        # Every process copies what its workers find dead; the upkeep of the queue belongs to the role `relay`.
        self._reader = Loop("dead-letter reader", self.agree, watch, every=_LOOK_EVERY) if reads else None
        self._last_pass = -_EVERY_LONG
        self._foreign = 0  # messages that are none of ours, at the last pass
        self._mended = False  # the last pass found what did not agree
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

    def copy(self, body: Body) -> None:
        """Sends a copy of an event that is `dead` in PostgreSQL; what fails here is sent later from PostgreSQL."""
        try:
            self._copies.post(body)
        except OverloadedError:
            logger.warning("a dead-letter copy is left to the reader", event_id=str(body.event_id))

    async def _copy(self, bodies: list[Body]) -> Sequence[Failure | None]:
        secret = await self._store.secret()
        copies = [sign(fit(body, self._queue.limits.message_bytes), secret) for body in bodies]
        results = await self._queue.send([[copy] for copy in copies])
        reach(Failpoint.DEAD_LETTERS_AFTER_COPY)
        ids = [body.event_id for body, failure in zip(bodies, results, strict=True) if failure is None]
        await self._store.mark_dead_letter_sent(ids)
        self._moved.labels("copied").inc(len(ids))
        return results

    async def agree(self) -> bool:
        """One round of upkeep: sends the copies that are owed, and looks through the queue where it may disagree.

        One process at a time does it, since two would hide messages from each other; False where that is another.
        """
        async with self._one_at_a_time:
            if not await self._store.take_duty(_DUTY, 2 * _LOOK_EVERY + 2 * _PASS):
                return False
            return await self._round()

    async def _round(self) -> bool:
        depth = (await self._queue.depth()).total
        now = time.monotonic()
        every = _EVERY if depth <= _SHORT else _EVERY_LONG
        count = await self._store.count_dead(_COUNTED)
        # Too many to count each time: then a pass that found something is followed by another.
        differ = self._mended if count is None else depth - self._foreign != count
        if differ or (now - self._last_pass > every and (depth or count is None)):
            self._mended = await self._pass(depth)
            self._last_pass = now
        owed = await self._store.owed_dead_letters(grace=_OWED_AFTER, limit=self._batch)
        if owed:
            for result in await self._copy([_body(row["id"], row) for row in owed]):
                if result is not None:
                    raise result
        return bool(owed)

    async def _pass(self, depth: int) -> bool:
        """Looks once at every message of the dead-letter queue, as far as the time goes; returns whether anything was amiss."""
        seen = _Seen()
        end = time.monotonic() + _PASS
        whole = mended = False
        try:
            while time.monotonic() < end:
                messages = await self._queue.receive(self._batch, wait=_WAIT, visibility=_HIDDEN)
                if not messages:
                    whole = True
                    break
                states = await self._store.states([body.event_id for message in messages for body in message.bodies])
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
            # If the time was too short, what was seen stays hidden for its minute, and the next pass sees the rest.
            if whole:
                await self._queue.hide([(message, 0) for message in seen.kept])
        self._foreign = len(seen.foreign)
        # Copies that the queue no longer has (purged, or older than it keeps them) are owed again; but only where all that
        # is there was seen: another reader, or an operator's console, may have hidden some.
        if whole and len({message.id for message in seen.kept}) >= depth:
            mended |= await self._owe(list(seen.copies), time.monotonic() + _PASS)
        return mended

    async def _owe(self, found: list[UUID], end: float) -> bool:
        """Owes again the copies that were not found, the oldest deaths first, until `end`; returns whether there were any.

        In steps, since all may be lost, and a statement that locks every dead event would keep operators from all of them.
        """
        lost = 0
        place: tuple[datetime, UUID] | None = _FIRST
        while place is not None and (place is _FIRST or time.monotonic() < end):
            owed, place = await self._store.owe_dead_letters(found, settled=_SETTLED, after=place, looked=_LOOKED)
            lost += owed
            self._moved.labels("lost").inc(owed)
        if lost:
            logger.warning("the dead-letter queue has lost copies, which are sent again", count=lost)
        return bool(lost)

    async def _belongs(self, message: Message, states: dict[UUID, Any], seen: _Seen) -> bool:
        """Whether `message` belongs in the dead-letter queue; makes PostgreSQL agree if the queue has moved it."""
        known = [body for body in message.bodies if body.event_id in states]
        if not known:
            seen.foreign.add(message.id)
            return True  # not ours to judge; it stays for a person to look at
        if known[0].dead is not None:
            row = states[known[0].event_id]
            return await self._is_copy(message, known[0], row, seen) if _is_dead(row) else self._removed()
        open_ = {body.event_id for body in known if not Status(states[body.event_id]["status"]).finished}
        if not open_:
            return self._removed()
        reason = f"SQS moved its message to the dead-letter queue after {message.receive_count} receives: put back"
        if not await self._store.put_back(sorted(open_), reason=reason):
            return True  # some have ended, or are in a worker's hands; the next pass sees which
        reach(Failpoint.DEAD_LETTERS_AFTER_PUT_BACK)
        self._moved.labels("put_back").inc(len(open_))
        return False

    async def _is_copy(self, message: Message, body: Body, row: Any, seen: _Seen) -> bool:
        """Whether `message` is the one copy of its dead event's present death; replaces a copy that webhookd did not write."""
        if body.died not in (None, row["died"]):
            return self._removed()
        if not is_proven(body, await self._store.secret()):
            # A stranger's, or an older release's. However many there are of an event, one true copy takes their place.
            if body.event_id not in seen.copies and body.event_id not in seen.replaced:
                [problem] = await self._copy([_body(body.event_id, row)])
                if problem is not None:
                    return True
                seen.replaced.add(body.event_id)
            self._moved.labels("unproven").inc()
            return False
        # The same message may be delivered twice, hence its id.
        if seen.copies.setdefault(body.event_id, message.id) != message.id:
            return self._removed()
        if not row["dead_letter_sent"]:
            await self._store.mark_dead_letter_sent([body.event_id])
        return True

    def _removed(self) -> bool:
        self._moved.labels("removed").inc()
        return False


@dataclass(slots=True)
class _Seen:
    """What one pass has met in the dead-letter queue."""

    kept: list[Message] = field(default_factory=list)
    copies: dict[UUID, str] = field(default_factory=dict)  # the id of the message that is an event's copy
    replaced: set[UUID] = field(default_factory=set)  # events whose unproven copy gave way to a true one
    foreign: set[str] = field(default_factory=set)  # ids of messages that are none of ours


def _is_dead(row: Any) -> bool:
    return Status(row["status"]) is Status.DEAD and not row["discarded"]


def _body(event_id: UUID, row: Any) -> Body:
    return Body(event_id, row["account"], row["event_type"], row["dead_reason"] or "dead", row["died"], row["traceparent"])
