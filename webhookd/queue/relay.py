"""The outbox relay: sends committed work as messages. PostgreSQL knows which work is due; the queue only carries it.

Work reaches the queue in two ways. The hot path takes fresh events from the receiver's memory. The sweeper finds all other due
work in PostgreSQL: events that the hot path left behind (the queue away, a crash after the commit, no room in the window),
retries, events that an operator redrove, and events that the queue has lost. Sending twice is harmless, so in doubt, the relay
sends.

There are three lanes. Fresh work never waits behind the other two: work that was redriven, put back or failed once, and work
that failed more often. Each of these two has a bounded number in the queue at a time. Lost work is sent again beside the lanes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from webhookd.errors import MessageRefusedError, OverloadedError, UnavailableError
from webhookd.queue.bundles import send_events
from webhookd.queue.contract import Failure, Queue
from webhookd.queue.message import MOST_EVENTS, EventReference
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import Loop, Watch
from webhookd.settings import Settings
from webhookd.store.outbox import Outbox, Outgoing
from webhookd.telemetry.logs import Seldom, logger
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing

# Seconds that the hot path has to send an event. Then the sweeper takes the event as left behind.
HOT_PATH_GRACE = 10.0
# Seconds that a sweeper has to send events that it leased. Then another sweeper may send them.
_LEASE = 30.0
_AGAIN = 1.0  # seconds until an event that was leased and could not be sent is due again
_REFUSED_AGAIN = 60.0  # seconds until an event is due again that the queue refused even in a message of its own
_SWEEP = 500  # events of one lane that a round leases at most
# Seconds that a message may wait in a busy queue until it counts as lost; or four times RESEND_AFTER, if that is longer.
_LONGEST_WAIT = 3600.0
# Seconds until the next round if a round left work behind because its lane had no more room: workers make room meanwhile. The
# second value is for a round that sent nothing.
_NO_ROOM, _NO_ROOM_AT_ALL = 0.05, 0.25
# Work that has failed, was redriven or put back has half of what workers do at a time. So handlers that hang at such work leave
# the other half to fresh events. Half of that half is for work that was tried once at most: else events that fail each time
# would keep all others from their second attempt.
_SHARES = 4
_LEAST_TURNS = 4  # turns that are assumed if no worker was seen recently
_MAX_PENDING = 20_000
# Seconds that a request waits for more events if there are many: a request costs the same for one event and for hundreds.
_GATHER = 0.03
_HEAVY = 32  # events: so many at once are a sign of thousands a second
# Seconds from a send to its record in PostgreSQL, well before the end of the hot path's grace. Most events end sooner, and an
# event that has ended needs no record.
_DELAY = 5.0
# The same seconds if a window bounds the work in the queue: until its send is recorded, even an ended event takes room there.
_DELAY_IN_WINDOW = 0.25
_RECORDED = 1000  # events in one statement


class Relay:
    """The sender of events: sends them to the queue and records that they were sent."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        queue: Queue,
        *,
        metrics: Metrics,
        watch: Watch,
        tracing: Tracing | None = None,
    ) -> None:
        self._outbox = outbox
        self._tracing = tracing
        self._queue = queue
        self._window = settings.relay_window  # fresh events that may have a message in the queue; None for no limit
        # Seconds until an event that was sent and has not ended may count as lost; doubles with each send.
        self._resend_after = settings.resend_after
        self._room = 0
        self._unrecorded: deque[tuple[float, list[Outgoing]]] = deque()  # (send by the loop's clock, events), oldest first
        self._uncounted = 0  # events that were sent, and that PostgreSQL does not yet count as in the queue
        # Lane → whether more work may wait than the last round could take.
        self._waits = {"fresh": True, "rest": True, "later": True}
        self._sent = metrics.relayed.labels("sent")
        self._failed = metrics.relayed.labels("failed")
        self._refused = metrics.relayed.labels("refused")
        self._left = metrics.relayed.labels("left")
        self._tell_refused = Seldom()
        batch = queue.limits.batch
        self._hot: Batcher[Outgoing, None] = Batcher(
            "relay",
            self._send_hot,
            watch,
            max_batch=batch * MOST_EVENTS,
            max_pending=_MAX_PENDING,
            workers=4,
            fill=batch,
            linger=_GATHER,
            heavy=_HEAVY,
        )
        delay = _DELAY if self._window is None else _DELAY_IN_WINDOW
        self._recorder = Loop("recorder of sent events", partial(self._record, delay), watch, every=0.1)
        self._sweeper = Loop("outbox sweeper", self.sweep, watch, every=1.0)

    async def start(self) -> None:
        """Starts the recorder, the hot path and the sweeper."""
        await self._recorder.start()
        await self._hot.start()
        await self._sweeper.start()

    async def stop(self) -> None:
        """Sends the events that the hot path holds, records them, and returns."""
        await self._sweeper.stop()
        await self._hot.stop()
        await self._recorder.stop()
        with contextlib.suppress(UnavailableError):  # the events stay due, and a sweeper sends them again, which is harmless
            while self._unrecorded:
                await self._record(0.0)

    def reserve(self, count: int) -> bool:
        """Returns whether the hot path will take `count` events that are about to be committed.

        If False, the caller commits the events as due at once for the sweeper, and does not offer them.
        """
        if self._queue.up and self._hot.pending + count <= _MAX_PENDING:
            if self._window is None:
                return True
            if self._room >= count:
                self._room -= count
                return True
        self._left.inc(count)
        self._waits["fresh"] = True
        self._sweeper.wake()
        return False

    def offer(self, events: Sequence[Outgoing]) -> None:
        """Takes reserved events that are committed now."""
        try:
            for event in events:
                self._hot.post(event)
        except OverloadedError:
            # The events are committed, so the caller must see no error; the sweeper finds the events when they are due.
            self._waits["fresh"] = True

    async def _send_hot(self, events: list[Outgoing]) -> list[BaseException | None]:
        try:
            failures = await self._send(events)
        except UnavailableError as error:
            # The events that wait behind would fail one timeout after the other. The sweeper finds them in the outbox.
            self._hot.drop(error)
            raise
        sent = [event for event in events if event.id not in failures]
        self._unrecorded.append((asyncio.get_running_loop().time(), sent))
        self._uncounted += len(sent)
        return [failures.get(event.id) for event in events]

    async def _send(self, events: Sequence[Outgoing]) -> dict[UUID, Failure]:
        """Sends events, and counts them; returns the failure of each event that the queue did not take."""
        references = [
            EventReference(e.id, e.account, e.event_type, traceparent=e.traceparent, attempts=e.attempts) for e in events
        ]
        reach(Failpoint.RELAY_BEFORE_SEND)
        tracing = self._tracing
        traced = contextlib.nullcontext() if tracing is None else tracing.send([event.traceparent for event in events])
        try:
            with traced:
                failures = await send_events(self._queue, references)
        except UnavailableError:
            self._failed.inc(len(events))
            raise
        reach(Failpoint.RELAY_AFTER_SEND)
        self._sent.inc(len(events) - len(failures))
        refused = {id_: error for id_, error in failures.items() if isinstance(error, MessageRefusedError)}
        self._failed.inc(len(failures) - len(refused))
        self._refused.inc(len(refused))
        if refused and self._tell_refused():
            event_id, refusal = next(iter(refused.items()))
            logger.error("the queue refuses the message of an event", event_id=str(event_id), code=refusal.code)
        return failures

    async def _record(self, delay: float) -> bool:
        """Records in one round the events that the hot path sent at least `delay` seconds ago; True if there are more."""
        due = asyncio.get_running_loop().time() - delay
        events: list[Outgoing] = []
        while self._unrecorded and self._unrecorded[0][0] <= due and len(events) < _RECORDED:
            events += self._unrecorded.popleft()[1]
        try:
            if events:
                await self._mark_sent(events)
        finally:
            self._uncounted -= len(events)
        return len(events) >= _RECORDED

    async def _mark_sent(self, events: Sequence[Outgoing]) -> None:
        # If this statement fails, the events stay due, and a sweeper sends them once more, which is harmless.
        await self._outbox.mark_sent(events, resend_after=self._resend_after)
        reach(Failpoint.RELAY_AFTER_RECORD)

    async def sweep(self) -> bool:
        """Sends in one round the events that are due, as far as the lanes have room; True if there are more."""
        # While the queue is away, lease only one event, to find out when the queue is back: a leased event waits for its lease.
        limit = _SWEEP if self._queue.up else 1
        fresh, rest, later = await self._rooms(limit)
        leased = await self._outbox.lease(
            fresh=fresh,
            rest=rest,
            later=later,
            lost=limit,
            lease=_LEASE,
            resend_after=self._resend_after,
            longest_wait=max(_LONGEST_WAIT, 4 * self._resend_after),
        )
        self._room -= len(leased.fresh)
        if leased.all:
            reach(Failpoint.SWEEPER_AFTER_CLAIM)
            await self._send_leased(leased.all)
        # A lane without room does not show whether more work waits.
        for lane, taken, room in (
            ("fresh", leased.fresh, fresh),
            ("rest", leased.rest, rest),
            ("later", leased.later, later),
        ):
            self._waits[lane] = len(taken) >= room and (room > 0 or self._waits[lane])
        if limit in map(len, leased):
            return True
        if any(self._waits.values()):
            await asyncio.sleep(_NO_ROOM if leased.all else _NO_ROOM_AT_ALL)
            return True
        return False

    async def _rooms(self, limit: int) -> tuple[int, int, int]:
        """Returns how many events of each lane, (fresh, rest, later), may be sent now."""
        in_queue = await self._outbox.count_in_queue(fresh=self._window or 0)
        share = max(1, (in_queue.turns or _LEAST_TURNS) // _SHARES)
        rest, later = (max(0, min(limit, share - count)) for count in (in_queue.rest, in_queue.later))
        if self._window is None:
            return limit, rest, later
        self._room = self._window - in_queue.fresh - self._hot.pending - self._uncounted
        return max(0, min(limit, self._room)), rest, later

    async def _send_leased(self, events: Sequence[Outgoing]) -> None:
        try:
            failures = await self._send(events)
        except UnavailableError:
            await self._outbox.return_lease(events, delay=_AGAIN)
            raise
        if sent := [event for event in events if event.id not in failures]:
            await self._mark_sent(sent)
        refused = [event for event in events if isinstance(failures.get(event.id), MessageRefusedError)]
        if refused:  # the queue works, although it refused some messages: the sweep goes on
            await self._outbox.return_lease(refused, delay=_REFUSED_AGAIN)
        failed = [event for event in events if event.id in failures and event not in refused]
        if failed:
            await self._outbox.return_lease(failed, delay=_AGAIN)
            raise failures[failed[0].id]
