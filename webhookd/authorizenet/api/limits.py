"""When the next call of an account may be sent: its rate, pauses after failures, and stops after refusals."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from webhookd.authorizenet.api.errors import (
    CredentialsRefusedError,
    FeatureOffError,
    ProviderError,
    ProviderUnavailableError,
    RecordNotFoundError,
)
from webhookd.authorizenet.api.operations import Feature
from webhookd.runtime.backoff import ceiling

BURST = 5  # calls
_BASE, _CAP = 5.0, 900.0  # seconds of the pauses after 1, 2, … failures
_LONGEST_ASKED = 3600.0  # seconds for which the provider may ask to wait
CREDENTIALS_AGAIN = 900.0  # seconds between two tries of credentials that are refused: more tries might lock the account
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

    - Credentials that are refused stop all calls. Each CREDENTIALS_AGAIN seconds, one call passes as a try.
    - A part of the API that the account may not use is off for FEATURE_AGAIN seconds.
    - After a failure that passes, calls pause: 5 s, doubled with each further failure up to 15 minutes, or as long as the
      provider asks.
    """

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._refused: _Stop | None = None
        self._off: dict[Feature, _Stop] = {}
        self._failing: _Stop | None = None
        self._failures = 0

    def check(self, feature: Feature, *, credentials: bool = True) -> None:
        """Returns if a call may be sent now. Raises CredentialsRefusedError, FeatureOffError or ProviderUnavailableError."""
        now = self._now()
        if credentials and (stop := self._refused) is not None and now < stop.until:
            raise CredentialsRefusedError(f"{stop.error}; the next try in {stop.until - now:.0f} s", stop.error.code)
        if (stop := self._off.get(feature)) is not None and now < stop.until:
            raise FeatureOffError(f"{stop.error}; the next try in {stop.until - now:.0f} s", stop.error.code)
        if (stop := self._failing) is not None and now < stop.until:
            wait = stop.until - now
            raise ProviderUnavailableError(f"{stop.error}; the next call in {wait:.0f} s", stop.error.code, wait, sent=False)

    def begin(self, feature: Feature, *, credentials: bool = True) -> None:
        """As `check`, for a call that is sent now. If credentials are refused, this call is the try, and no other passes."""
        self.check(feature, credentials=credentials)
        if credentials and self._refused is not None:
            self._refused.until = self._now() + CREDENTIALS_AGAIN

    def succeeded(self, feature: Feature, *, credentials: bool = True) -> None:
        """Notes an answer that is no refusal."""
        self._failing, self._failures = None, 0
        self._off.pop(feature, None)
        if credentials:
            self._refused = None

    def failed(self, error: ProviderError, feature: Feature) -> None:
        """Notes a failed call, and stops or pauses further calls, if the error is of such a kind."""
        now = self._now()
        if isinstance(error, CredentialsRefusedError):
            since = now if self._refused is None else self._refused.since
            self._refused = _Stop(error, since, now + CREDENTIALS_AGAIN)
        elif isinstance(error, FeatureOffError):
            self._off[feature] = _Stop(error, now, now + FEATURE_AGAIN)
        elif isinstance(error, ProviderUnavailableError):
            self._failures += 1
            wait = ceiling(self._failures, _BASE, _CAP) * random.uniform(0.8, 1.2)
            wait = max(wait, min(error.retry_in, _LONGEST_ASKED))
            error.retry_in = wait
            since = now if self._failing is None else self._failing.since
            self._failing = _Stop(error, since, now + wait)
        else:  # an answer about this one call; the provider may reject a call before it looks at the credentials
            self.succeeded(feature, credentials=isinstance(error, RecordNotFoundError))

    @property
    def state(self) -> State:
        """Returns the present state."""
        now = self._now()
        refused, failing = self._refused, self._failing
        return State(
            None if refused is None else now - refused.since,
            "" if refused is None else refused.error.code,
            None if failing is None else now - failing.since,
            max((stop.until - now for stop in (refused, failing) if stop is not None and stop.until > now), default=0.0),
            tuple(feature for feature, stop in self._off.items() if now < stop.until),
        )
