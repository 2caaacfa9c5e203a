"""The retry policy: how often a failed event is tried, and after which delays."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webhookd.errors import SettingsError
from webhookd.runtime.backoff import ceiling

if TYPE_CHECKING:
    from webhookd.settings import Settings

LONGEST_DELAY = 43_200.0  # seconds: the longest delay that a handler can ask for

# The bounds of WEBHOOKD_MAX_ATTEMPTS, WEBHOOKD_RETRY_BASE and WEBHOOKD_RETRY_CAP.
_MOST_ATTEMPTS = 1000
_LEAST_SECONDS, _MOST_SECONDS = 0.01, 43_200


@dataclass(slots=True, frozen=True)
class Policy:
    """A retry policy: how often an event is tried, and the bounds of its delays."""

    attempts: int  # number of attempts, with the first one
    base: float  # seconds: the longest delay before the second attempt; doubles with each attempt
    cap: float  # seconds: the longest delay of all

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """Returns the policy of the settings, for each handler that has no other policy."""
        return cls(settings.max_attempts, settings.retry_base, settings.retry_cap)


@dataclass(slots=True, frozen=True, kw_only=True)
class Retry:
    """A handler's retry policy, for `@on(pattern, retry=Retry(…))`. The settings give the values that are left out.

    `attempts`: attempts after which an event that this handler fails is dead (WEBHOOKD_MAX_ATTEMPTS).
    `base`: longest delay in seconds before the second attempt; doubles with each attempt (WEBHOOKD_RETRY_BASE).
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
        """Returns the `usual` policy, with the values that this policy sets in their place."""
        return Policy(
            usual.attempts if self.attempts is None else self.attempts,
            usual.base if self.base is None else self.base,
            usual.cap if self.cap is None else self.cap,
        )

    def check(self, usual: Policy) -> None:
        """Raises SettingsError if this policy cannot work together with the `usual` policy of the settings."""
        policy = self.over(usual)
        if policy.base > policy.cap:
            cap = f"its cap of {policy.cap:g} s" if self.cap is not None else f"WEBHOOKD_RETRY_CAP ({policy.cap:g} s)"
            base = f"base of {policy.base:g} s" if self.base is not None else f"base, WEBHOOKD_RETRY_BASE ({policy.base:g} s),"
            raise SettingsError(f"{self!r}: the {base} is above {cap}; give a lower base or a higher cap")


USUAL = Retry()


def retry_delay(attempt: int, base: float, cap: float) -> float:
    """Returns the seconds to wait after failed attempt number `attempt` (1 for the first).

    The delay is exponential with jitter. The ceiling is base * 2^(attempt - 1), at most `cap`. The first delay is random
    between 0 and the ceiling, and each further delay between half of the ceiling and the ceiling. So the delays of one event
    grow until the cap, and events that failed together spread out.
    """
    high = ceiling(attempt, base, cap)
    low = 0.0 if attempt == 1 else high / 2
    return random.uniform(low, high)


def asked_delay(after: float) -> float:
    """Returns the delay in seconds that a handler asked for, at most LONGEST_DELAY."""
    return min(after, LONGEST_DELAY) if after > 0 else 0.0  # NaN means no delay
