"""Admission: what is too much is refused early and cheaply, so that what is accepted stays fast."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from webhookd.metrics import Metrics

_TICK = 0.05  # seconds between two looks at the loop's lag and the oldest wait
_WAIT = 1.0  # seconds that an authentic webhook should wait for its answer at most
_GROUP = 256  # webhooks; one group commit takes as many, so fewer of them would wait no shorter
_GROWTH = 1.1  # of the limit at each look, while waits are short
_LAG = 0.25  # seconds that the loop may be late, twice in a row, before new requests are refused
_RELIEF = 0.5  # the part of either time below which the bounds are loosened again
_PEAK_KEPT = 10.0  # seconds


class _Wait:
    """A context manager; a class of its own, since a generator's costs several times as much, for each webhook."""

    __slots__ = ("_at",)

    def __init__(self, at: Admission) -> None:
        self._at = at

    def __enter__(self) -> None:
        self._at.enter(self)

    def __exit__(self, *_: object) -> None:
        self._at.leave(self)


class Unlimited:
    """The admission of a listener that its number of connections alone bounds."""

    full = False

    def __init__(self) -> None:
        self.coming = self.open_requests = 0


class Admission:
    """Whether a further request is taken.

    A limit on how many authentic webhooks wait for their answer: `max_pending`, and while the oldest waits too long, as many
    as were answered within the last second. So each answer lets one more in, and nothing stands idle; a rule that looked at
    the wait alone would have to let the whole queue drain. And while the loop is late, which tells of a flood before
    anything of it is authentic, nothing new is taken until it has caught up. A single stall (a garbage collection, a machine
    that stood still) is no flood, nor are fewer requests than a group commit takes: those are better off waiting.
    """

    def __init__(self, *, max_pending: int, metrics: Metrics) -> None:
        self._max_pending = max_pending
        self._limit = float(max_pending)
        self._lag_seconds = metrics.loop_lag_seconds
        self._gauge = metrics.shedding
        self._open_gauge = metrics.open_requests
        # In order of arrival. Not a dict: the first key of one that loses its first keys all the time is slow to find.
        self._waiting: OrderedDict[object, float] = OrderedDict()
        self._answered = 0
        self._history: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=round(1 / _TICK))
        self.coming = 0  # requests whose head has come, and whose handler has not begun
        self.open_requests = 0  # that have come entirely and have no answer, whatever comes of them
        self.late = False
        self._was_late = False  # at the last look
        self._peak = self._peak_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # to ask for it at each webhook costs a system call

    async def start(self) -> None:
        """Starts to watch the loop."""
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._schedule(self._loop)

    async def stop(self) -> None:
        """Stops watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def full(self) -> bool:
        """Whether a further request would be refused."""
        return self.late or len(self._waiting) + self.coming >= self._limit

    def waits(self) -> _Wait:
        """An authentic webhook waits for its answer in the block."""
        return _Wait(self)

    def enter(self, webhook: object) -> None:
        """It waits from now on."""
        self._waiting[webhook] = (self._loop or asyncio.get_running_loop()).time()

    def leave(self, webhook: object) -> None:
        """It has its answer."""
        del self._waiting[webhook]
        self._answered += 1

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + _TICK
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.observe(now, lag=max(now - due, 0.0))
        self._schedule(loop)

    def observe(self, now: float, *, lag: float) -> None:
        """Decides anew, at `now` by the loop's clock, with the loop `lag` seconds late."""
        if lag >= self._peak or now - self._peak_at > _PEAK_KEPT:
            self._peak, self._peak_at = lag, now
            self._lag_seconds.set(lag)
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
            rate = (self._answered - before) / max(now - since, _TICK)
            self._limit = min(self._limit, max(rate * _WAIT, _GROUP))
        elif waited < _WAIT * _RELIEF:
            self._limit = min(self._limit * _GROWTH, self._max_pending)
