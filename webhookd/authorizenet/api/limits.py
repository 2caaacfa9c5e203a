"""When the next call of an account may be sent: its rate, its pauses after failures, and the parts of the API that are off."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from webhookd.authorizenet.api.errors import (
    FeatureOffError,
    ProviderError,
    ProviderUnavailableError,
)
from webhookd.authorizenet.api.operations import Feature
from webhookd.runtime.backoff import ceiling

BURST = 5  # calls
AT_ONCE = 2  # calls that are in flight together
_BASE, _CAP = 5.0, 900.0  # seconds of the pauses after 1, 2, … failures
_LONGEST_ASKED = 3600.0  # seconds for which the provider may ask to wait
FEATURE_AGAIN = 86_400.0  # seconds between two tries of a part of the API that the account may not use

Clock = Callable[[], float]


class Bucket:
    """A token bucket: `rate` calls per second, of which BURST may go at once. Callers go in the order of their coming."""

    def __init__(self, rate: float, now: Clock) -> None:
        self._seconds = 1 / rate
        self._now = now
        self._free = now()  # when the bucket is full again, but for the calls in the burst

    def reserve(self) -> float:
        """Takes a call. Returns the seconds after which the call may be sent."""
        now = self._now()
        at = max(self._free, now)
        self._free = at + self._seconds
        return max(0.0, at - (BURST - 1) * self._seconds - now)


class State(NamedTuple):
    """The state of an account's calls, for alerts and people. Durations are seconds; None if there is no such state."""

    refused_for: float | None = None
    refused_code: str = ""
    failing_for: float | None = None
    next_call_in: float = 0.0
    features_off: tuple[Feature, ...] = ()


@dataclass(slots=True)
class _Stop:
    error: ProviderError
    since: float
    until: float


class Gate:
    """Lets calls pass, or raises the error for which they are stopped.

    - A part of the API that the account may not use is off for FEATURE_AGAIN seconds.
    - After a failure that passes, calls pause: 5 s, doubled with each further failure up to 15 minutes, or as long as the
      provider asks.
    """

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._off: dict[Feature, _Stop] = {}
        self._failing: _Stop | None = None
        self._failures = 0

    def check(self, feature: Feature) -> None:
        """Returns if a call may be sent now. Raises FeatureOffError or ProviderUnavailableError."""
        now = self._now()
        if (stop := self._off.get(feature)) is not None and now < stop.until:
            raise FeatureOffError(f"{stop.error}; the next try in {stop.until - now:.0f} s", stop.error.code)
        if (stop := self._failing) is not None and now < stop.until:
            wait = stop.until - now
            raise ProviderUnavailableError(f"{stop.error}; the next call in {wait:.0f} s", stop.error.code, wait, sent=False)

    def succeeded(self, feature: Feature) -> None:
        """Notes an answer that is no error."""
        self._answered()
        self._off.pop(feature, None)

    def failed(self, error: ProviderError, feature: Feature) -> None:
        """Notes a failed call, and stops or pauses further calls, if the error is of such a kind."""
        now = self._now()
        if not isinstance(error, ProviderUnavailableError):
            self._answered()
            if isinstance(error, FeatureOffError):
                self._off[feature] = _Stop(error, now, now + FEATURE_AGAIN)
            return
        self._failures += 1
        wait = ceiling(self._failures, _BASE, _CAP) * random.uniform(0.8, 1.2)
        wait = max(wait, min(error.retry_in, _LONGEST_ASKED))
        error.retry_in = wait
        since = now if self._failing is None else self._failing.since
        self._failing = _Stop(error, since, now + wait)

    def _answered(self) -> None:
        self._failing, self._failures = None, 0

    @property
    def state(self) -> State:
        """Returns the present state, without that of the credentials."""
        now = self._now()
        failing = self._failing
        return State(
            failing_for=None if failing is None else now - failing.since,
            next_call_in=0.0 if failing is None else max(0.0, failing.until - now),
            features_off=tuple(feature for feature, stop in self._off.items() if now < stop.until),
        )


class Lane:
    """The limits that the accounts with one API Login ID at one host share: the rate, the pauses, and the calls in flight.

    first: while no answer has shown that the credentials are good, one call is in flight at a time.
    """

    def __init__(self, rate: float, now: Clock) -> None:
        self.bucket = Bucket(rate, now)
        self.gate = Gate(now)
        self.in_flight = asyncio.Semaphore(AT_ONCE)
        self.first = asyncio.Lock()
