"""The retry policy: how often a failed event is tried, and when again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webhookd.backoff import ceiling
from webhookd.errors import SettingsError

if TYPE_CHECKING:
    from webhookd.settings import Settings

LONGEST_DELAY = 43_200.0  # seconds: of whatever a handler asks for

# As of WEBHOOKD_MAX_ATTEMPTS, WEBHOOKD_RETRY_BASE and WEBHOOKD_RETRY_CAP.
_MOST_ATTEMPTS = 1000
_LEAST_SECONDS, _MOST_SECONDS = 0.01, 43_200


@dataclass(slots=True, frozen=True)
class Policy:
    """How often an event is tried, and the bounds of its delays."""

    attempts: int  # the first one counts
    base: float  # seconds: the longest delay before the second attempt; doubles with each
    cap: float  # seconds: the longest delay of all

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The settings' own: that of each handler that has no other."""
        return cls(settings.max_attempts, settings.retry_base, settings.retry_cap)


@dataclass(slots=True, frozen=True, kw_only=True)
class Retry:
    """A handler's retry policy, for `@on(pattern, retry=Retry(…))`. What is not given is as the settings say.

    `attempts`: attempts until an event that this handler fails is dead (WEBHOOKD_MAX_ATTEMPTS).
    `base`: longest delay in seconds before the second attempt; doubles with each (WEBHOOKD_RETRY_BASE).
    `cap`: longest delay in seconds between attempts (WEBHOOKD_RETRY_CAP).

    Raises SettingsError for a value that cannot work.
    """

    attempts: int | None = None
    base: float | None = None
    cap: float | None = None

    def __post_init__(self) -> None:
        attempts = self.attempts
        if attempts is not None and not (type(attempts) is int and 1 <= attempts <= _MOST_ATTEMPTS):
            raise SettingsError(f"Retry(attempts={attempts!r}): give a whole number from 1 to {_MOST_ATTEMPTS}")
        for name, seconds in (("base", self.base), ("cap", self.cap)):
            if seconds is not None and not (type(seconds) in (int, float) and _LEAST_SECONDS <= seconds <= _MOST_SECONDS):
                raise SettingsError(f"Retry({name}={seconds!r}): give seconds from {_LEAST_SECONDS} to {_MOST_SECONDS}")

    def over(self, usual: Policy) -> Policy:
        """The `usual` policy with what this one gives in its place."""
        return Policy(
            usual.attempts if self.attempts is None else self.attempts,
            usual.base if self.base is None else self.base,
            usual.cap if self.cap is None else self.cap,
        )

    def check(self, usual: Policy) -> None:
        """Raises SettingsError if this cannot work together with what the settings say."""
        policy = self.over(usual)
        if policy.base > policy.cap:
            cap = f"its cap of {policy.cap:g} s" if self.cap is not None else f"WEBHOOKD_RETRY_CAP ({policy.cap:g} s)"
            base = f"base of {policy.base:g} s" if self.base is not None else f"base, WEBHOOKD_RETRY_BASE ({policy.base:g} s),"
            raise SettingsError(f"{self!r}: the {base} is above {cap}; give a lower base or a higher cap")


USUAL = Retry()


def retry_delay(attempt: int, base: float, cap: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (1 at the first).

    Exponential with jitter over the whole step: drawn between the ceiling of the attempt before and this one's
    (base * 2^(attempt - 1)), so that the delays of one event grow, and events that failed together spread out. At the
    cap the draw is from its upper half.
    """
    high = ceiling(attempt, base, cap)
    low = 0.0 if attempt == 1 else high / 2
    return random.uniform(low, high)


def asked_delay(after: float) -> float:
    """The delay that a handler asked for, as far as it may be."""
    return min(after, LONGEST_DELAY) if after > 0 else 0.0  # not a number is no delay
