"""The decision after a failed attempt: another attempt after a delay, or death."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from webhookd.process.failure import Failure
from webhookd.process.retry import Policy, asked_delay, retry_delay


@dataclass(slots=True, frozen=True)
class TryAgain:
    """The decision to try the event again."""

    delay: float  # seconds until the next attempt


@dataclass(slots=True, frozen=True)
class GiveUp:
    """The decision to try the event no more: the event is dead."""

    code: str  # the reason as one word, for metrics and logs
    reason: str  # the reason in words; the dead-letter copy holds it too


Decision: TypeAlias = TryAgain | GiveUp


def decide(failure: Failure, attempt: int, usual: Policy) -> Decision:
    """Decides what follows a failure of attempt number `attempt`, by the policy of the handler that failed.

    `usual`: the policy for the values that the handler's policy does not set.
    """
    if failure.final is not None:
        return GiveUp(failure.final.code, failure.final.reason)
    policy = failure.retry.over(usual)
    if attempt >= policy.attempts:
        handler = f" (handler {failure.handler})" if failure.handler else ""
        return GiveUp("attempts_spent", f"all {attempt} attempts are spent; the last one raised {failure.error}{handler}")
    if failure.after is not None:
        return TryAgain(asked_delay(failure.after))
    return TryAgain(retry_delay(attempt, policy.base, policy.cap))
