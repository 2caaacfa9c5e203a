"""The outbox relay: committed events become messages.

Two ways lead there. The hot path takes fresh events from the receiver's memory; the sweeper finds in PostgreSQL what the
hot path left behind (the queue away, a crash after the commit, no room in the window), and what was sent long ago and has not
ended (the queue lost it). Sending twice is harmless, so everything here errs on that side.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from webhookd.batcher import Batcher
from webhookd.errors import MessageRefusedError, OverloadedError, UnavailableError
from webhookd.event import Status
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import Loop, Watch
from webhookd.logs import Seldom, logger
from webhookd.metrics import Metrics
from webhookd.queue.bundles import may_be_bundled, send_events
from webhookd.queue.contract import Queue
from webhookd.queue.message import MOST_EVENTS, Body
from webhookd.store.events import EventStore, Outgoing

if TYPE_CHECKING:
    from webhookd.tracing import Tracing

# Seconds that the hot path has before the sweeper takes an event for left behind.
HOT_PATH_GRACE = 10.0
# Seconds that a sweeper has to send what it claimed, before another one may.
_LEASE = 30.0
_AGAIN = 1.0  # seconds until what it claimed and could not send is due again
_REFUSED_AGAIN = 60.0  # the same for what the queue refuses alone
_SWEEP = 500
_MAX_PENDING = 20_000
# Seconds that a request waits for more events where there are many: it costs the same for one and for hundreds.
_GATHER = 0.03
_HEAVY = 32  # events: so many at once are a sign of thousands a second
# Seconds until a send is recorded: well before the hot path's grace is over. Most events end sooner, and then there is
# nothing to record.
_DELAY = 5.0
# The same where a window bounds what is in the queue: what is not recorded takes room in it, ended or not.
_DELAY_IN_WINDOW = 0.25
_RECORDED = 1000  # events in one statement


class Relay:
    """Sends events to the queue and records that they were sent.

    `window`: how many unfinished events may have a message in the queue; None for no limit. `resend_after` (seconds): when an
    event that was sent and has not ended is sent again; doubles with each send.
    """

    def __init__(
        self,
        store: EventStore,
        queue: Queue,
        *,
        window: int | None,
        resend_after: float,
        metrics: Metrics,
        watch: Watch,
        tracing: Tracing | None = None,
    ) -> None:
        self._store = store
        self._tracing = tracing
        self._queue = queue
        self._window = window
        self._resend_after = resend_after
        self._room = 0
        self._unrecorded: deque[tuple[float, list[Outgoing]]] = deque()  # sent at (the loop's clock), oldest first
        self._uncounted = 0  # sent, and not yet counted by PostgreSQL as being in the queue
        self._left_behind = True
        self._sent = metrics.relayed.labels("sent")
        self._failed = metrics.relayed.labels("failed")
        self._refused = metrics.relayed.labels("refused")
        self._left = metrics.relayed.labels("left")
        self._tell_refused = Seldom()
        batch = queue.limits.batch
        self._sender: Batcher[Outgoing, None] = Batcher(
            "relay",
            self._send,
            watch,
            max_batch=batch * MOST_EVENTS,
            max_pending=_MAX_PENDING,
            workers=4,
            fill=batch,
            linger=_GATHER,
            heavy=_HEAVY,
        )
        self._singles: Batcher[Outgoing, None] = Batcher(
            "relay of single events", self._send, watch, max_batch=batch, max_pending=_MAX_PENDING, workers=8
        )
        delay = _DELAY if window is None else _DELAY_IN_WINDOW
        self._recorder = Loop("recorder of sent events", partial(self._record, delay), watch, every=0.1)
        self._sweeper = Loop("outbox sweeper", self.sweep, watch, every=1.0)

    async def start(self) -> None:
        """Starts both ways."""
        await self._recorder.start()
        await self._sender.start()
        await self._singles.start()
        await self._sweeper.start()

    async def stop(self) -> None:
        """Sends what the hot path holds, records it, and returns."""
        await self._sweeper.stop()
        await self._sender.stop()
        await self._singles.stop()
        await self._recorder.stop()
        with contextlib.suppress(UnavailableError):  # they stay due, and are sent once more: harmless
            while self._unrecorded:
                await self._record(0.0)

    def reserve(self, count: int) -> bool:
        """Whether the hot path will take `count` events that are about to be committed.

        False: the caller commits them as due at once for the sweeper, and does not offer them.
        """
        if self._queue.up and self._pending + count <= _MAX_PENDING:
            if self._window is None:
                return True
            if self._room >= count:
                self._room -= count
                return True
        self._left.inc(count)
        self._left_behind = True
        self._sweeper.wake()
        return False

    @property
    def _pending(self) -> int:
        return self._sender.pending + self._singles.pending

    def _batcher(self, event: Outgoing) -> Batcher[Outgoing, None]:
        return self._sender if may_be_bundled(event) else self._singles

    def offer(self, events: Sequence[Outgoing]) -> None:
        """Takes reserved events that are committed now."""
        try:
            for event in events:
                self._batcher(event).post(event)
        except OverloadedError:
            # They are committed, so nobody must be told otherwise; the sweeper finds them when they are due.
            self._left_behind = True

    async def _send(self, events: list[Outgoing]) -> list[BaseException | None]:
        bodies = [Body(event.id, event.account, event.event_type, None, None, event.traceparent) for event in events]
        reach(Failpoint.RELAY_BEFORE_SEND)
        tracing = self._tracing
        traced = contextlib.nullcontext() if tracing is None else tracing.send([event.traceparent for event in events])
        try:
            with traced:
                failures = await send_events(self._queue, bodies)
        except UnavailableError as error:
            self._failed.inc(len(events))
            # What waits behind would fail one timeout after the other; it is in the outbox, where the sweeper finds it.
            self._sender.drop(error)
            self._singles.drop(error)
            raise
        reach(Failpoint.RELAY_AFTER_SEND)
        self._unrecorded.append((asyncio.get_running_loop().time(), [event for event in events if event.id not in failures]))
        self._uncounted += len(events) - len(failures)
        self._sent.inc(len(events) - len(failures))
        refused = {id_: error for id_, error in failures.items() if isinstance(error, MessageRefusedError)}
        self._failed.inc(len(failures) - len(refused))
        self._refused.inc(len(refused))
        if refused and self._tell_refused():
            event_id, refusal = next(iter(refused.items()))
            logger.error("the queue refuses the message of an event", event_id=str(event_id), code=refusal.code)
        return [failures.get(event.id) for event in events]

    async def _record(self, delay: float) -> bool:
        """One round: records what was sent `delay` seconds ago and before; True where there is more."""
        due = asyncio.get_running_loop().time() - delay
        events: list[Outgoing] = []
        while self._unrecorded and self._unrecorded[0][0] <= due and len(events) < _RECORDED:
            events += self._unrecorded.popleft()[1]
        # Where this fails the events stay due, and are sent once more: harmless.
        try:
            if events:
                await self._store.mark_sent(events, resend_after=self._resend_after)
                reach(Failpoint.RELAY_AFTER_RECORD)
        finally:
            self._uncounted -= len(events)
        return len(events) >= _RECORDED

    async def sweep(self) -> bool:
        """One round: sends what is due, as far as the window has room; True where there is more."""
        # While the queue is away, a single event is claimed, to find out when it is back: a claimed event waits for its lease.
        limit = min(_SWEEP, _MAX_PENDING - self._pending) if self._queue.up else 1
        if limit <= 0:
            return False
        fresh = limit
        if self._window is not None:
            in_queue = await self._store.count_in_queue(self._window)
            self._room = self._window - in_queue - self._pending - self._uncounted
            fresh = max(0, min(limit, self._room))
        more = False
        if fresh:
            events = await self._store.claim_unsent([Status.RECEIVED], limit=fresh, lease=_LEASE)
            self._room -= len(events)
            if events:
                reach(Failpoint.SWEEPER_AFTER_CLAIM)
            await self._send_all(events)
            more = self._left_behind = len(events) == fresh
        overdue = await self._store.claim_unsent([Status.QUEUED, Status.RETRYING], limit=limit, lease=_LEASE)
        await self._send_all(overdue)
        if not fresh and self._left_behind:
            await asyncio.sleep(0.05)  # no room in the window: the workers are making some
            return True
        return more or len(overdue) == limit

    async def _send_all(self, events: Sequence[Outgoing]) -> None:
        results = await asyncio.gather(*(self._batcher(event).submit(event) for event in events), return_exceptions=True)
        failures = {event.id: result for event, result in zip(events, results, strict=True) if result is not None}
        refused = [id_ for id_, error in failures.items() if isinstance(error, MessageRefusedError)]
        failed = [id_ for id_, error in failures.items() if not isinstance(error, MessageRefusedError)]
        if refused:  # no failure of the queue: the sweep goes on
            await self._store.put_back(refused, delay=_REFUSED_AGAIN)
        if failed:
            await self._store.put_back(failed, delay=_AGAIN)
            raise failures[failed[0]]
