"""Admission: refuses excess requests early and cheaply, so that accepted requests are answered fast."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from webhookd.runtime.lag import TICK, Ticks
from webhookd.telemetry.metrics import Metrics

_WAIT = 1.0  # seconds; the longest time that an authentic webhook should wait for its answer
_GROUP = 256  # webhooks; one group commit takes as many, so a lower limit would not shorten their wait
_GROWTH = 1.1  # factor of the limit at each measurement, while waits are short
_LAG = 0.25  # seconds that the loop may be late, twice in a row, before new requests are refused
_RELIEF = 0.5  # fraction of _WAIT, and of _LAG, below which the bounds are loosened again


class _Wait:
    """The context manager of a waiting webhook. A class, since a generator costs several times as much for each webhook."""

    __slots__ = ("_at",)

    def __init__(self, at: Admission) -> None:
        self._at = at

    def __enter__(self) -> None:
        self._at.enter(self)

    def __exit__(self, *_: object) -> None:
        self._at.leave(self)


class Unlimited:
    """The admission of a listener that only its number of connections bounds."""

    full = False

    def __init__(self) -> None:
        self.handlers_pending = self.open_requests = 0


class Admission:
    """The admission of the public listener: decides whether a further request is accepted.

    At most `max_pending` authentic webhooks may wait for their answer. While the oldest waits too long, the limit is the number
    of answers in the last second. So each answer admits one more webhook, and no capacity stands idle. A limit on the wait
    alone would admit nothing until the whole queue had drained. While the loop is late, no new request is accepted until the
    loop has caught up: lateness shows a flood before any of its webhooks is verified. A single stall (a garbage collection, a
    machine that stood still) is no flood. Fewer requests than a group commit takes are no flood either: it is better that they
    wait.
    """

    def __init__(self, *, max_pending: int, metrics: Metrics) -> None:
        self._max_pending = max_pending
        self._limit = float(max_pending)
        self._gauge = metrics.shedding
        self._open_gauge = metrics.open_requests
        # In order of arrival. Not a dict: while its first keys are removed all the time, a dict finds its first key slowly.
        self._waiting: OrderedDict[object, float] = OrderedDict()
        self._answered = 0
        self._history: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=round(1 / TICK))
        self.handlers_pending = 0  # requests whose head has arrived, and whose handler has not begun
        self.open_requests = 0  # requests that have arrived entirely and have no answer yet, of whatever outcome
        self.late = False
        self._was_late = False  # whether the loop was late at the last measurement
        self._ticks = Ticks(self.observe)
        self._loop: asyncio.AbstractEventLoop | None = None  # stored, because a look-up for each webhook costs a system call

    async def start(self) -> None:
        """Starts to watch the loop."""
        self._loop = asyncio.get_running_loop()
        await self._ticks.start()

    async def stop(self) -> None:
        """Stops watching."""
        await self._ticks.stop()

    @property
    def full(self) -> bool:
        """Returns whether a further request would be refused."""
        return self.late or len(self._waiting) + self.handlers_pending >= self._limit

    def waits(self) -> _Wait:
        """Returns a context manager, in whose block an authentic webhook waits for its answer."""
        return _Wait(self)

    def enter(self, webhook: object) -> None:
        """Counts `webhook` as waiting from now on."""
        self._waiting[webhook] = (self._loop or asyncio.get_running_loop()).time()

    def leave(self, webhook: object) -> None:
        """Counts `webhook` as answered."""
        del self._waiting[webhook]
        self._answered += 1

    def observe(self, now: float, *, lag: float) -> None:
        """Sets the bounds anew. `now`: the time of the loop's clock; `lag`: the seconds that the loop is late."""
        late = lag > _LAG and self.open_requests >= _GROUP
        self.late = lag > _LAG * _RELIEF if self.late else late and self._was_late
        self._was_late = late
        self._adapt(now)
        self._gauge.set(self.full)
        self._open_gauge.set(self.open_requests)

    def _adapt(self, now: float) -> None:
        since, before = self._history[0]
        self._history.append((now, self._answered))
        waited = now - next(iter(self._waiting.values())) if self._waiting else 0.0
        if waited > _WAIT:
            rate = (self._answered - before) / max(now - since, TICK)
            self._limit = min(self._limit, max(rate * _WAIT, _GROUP))
        elif waited < _WAIT * _RELIEF:
            self._limit = min(self._limit * _GROWTH, self._max_pending)
