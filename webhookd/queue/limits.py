"""What a queue's attributes allow, and what cannot work with them: for the daemon's log and metric, and for the doctor.

Contract: the SQS API reference, GetQueueAttributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from webhookd.logs import logger
from webhookd.metrics import Metrics

CHECKS = ("redrive policy", "retention", "message size", "delay")
_LEAST_RETENTION = 4 * 86_400  # seconds
_ROOMY = 16_384  # bytes, for a bundle of 32 events
_OF_A_CALL = 262_144  # bytes of all messages in a call: AWS takes four times as many now, other servers do not


@dataclass(slots=True, frozen=True)
class QueueLimits:
    """What webhookd has to know of a queue; the defaults are SQS's own."""

    arn: str = ""
    message_bytes: int = _OF_A_CALL  # of the largest message
    retention: int = _LEAST_RETENTION  # seconds
    delay: int = 0  # seconds until a message that was sent is seen
    redrives_to: str | None = None
    max_receives: int = 0
    key: str | None = None  # of AWS KMS

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> QueueLimits:
        """From the answer of GetQueueAttributes. Raises ValueError for one that is not SQS's."""
        policy = orjson.loads(attributes.get("RedrivePolicy") or "{}")
        return cls(
            arn=str(attributes.get("QueueArn", "")),
            message_bytes=min(int(attributes.get("MaximumMessageSize", _OF_A_CALL)), _OF_A_CALL),
            retention=int(attributes.get("MessageRetentionPeriod", _LEAST_RETENTION)),
            delay=int(attributes.get("DelaySeconds", 0)),
            redrives_to=policy.get("deadLetterTargetArn"),
            max_receives=int(policy.get("maxReceiveCount", 0)),
            key=attributes.get("KmsMasterKeyId") or None,
        )


class Unfit(NamedTuple):
    """One thing that cannot work, or not well; `check` is one of CHECKS."""

    check: str
    is_fatal: bool
    detail: str


def find_unfit(main: QueueLimits, dead: QueueLimits, *, max_attempts: int) -> list[Unfit]:
    """What cannot work with these queues, each with its remedy."""
    found = []
    if main.redrives_to != dead.arn:
        detail = "the queue does not redrive to {}: a message that kills its worker never ends; set the queue's redrive policy"
        found.append(Unfit("redrive policy", True, detail.format(dead.arn.rpartition(":")[2] or "its dead-letter queue")))
    elif main.max_receives <= max_attempts:
        detail = f"after {main.max_receives} receives: set more than WEBHOOKD_MAX_ATTEMPTS ({max_attempts})"
        found.append(Unfit("redrive policy", False, detail))
    if main.retention < _LEAST_RETENTION:
        detail = f"{main.retention} s: events are sent again from PostgreSQL, but late; set at least {_LEAST_RETENTION}"
        found.append(Unfit("retention", False, detail))
    elif dead.retention < _LEAST_RETENTION:
        detail = f"{dead.retention} s in the dead-letter queue: copies expire, and are made again; set 1209600"
        found.append(Unfit("retention", False, detail))
    if main.message_bytes < _ROOMY:
        detail = f"at most {main.message_bytes} bytes, so few events share a message: set MaximumMessageSize to 262144"
        found.append(Unfit("message size", False, detail))
    if main.delay:
        found.append(Unfit("delay", False, f"each message waits {main.delay} s before a worker sees it; set DelaySeconds to 0"))
    return found


class Limits:
    """The limits of both queues as the last probe found them, with the metric and the log of what does not fit."""

    def __init__(self, *, max_attempts: int, metrics: Metrics) -> None:
        self.main = QueueLimits()
        self.dead = QueueLimits()
        self._max_attempts = max_attempts
        self._unfit: list[Unfit] = []
        self._gauge = metrics.queue_unfit

    def update(self, main: QueueLimits, dead: QueueLimits) -> None:
        """Replaces the limits, and logs each problem that is new."""
        self.main, self.dead = main, dead
        unfit = find_unfit(main, dead, max_attempts=self._max_attempts)
        for one in unfit:
            if one not in self._unfit:
                logger.log(
                    40 if one.is_fatal else 30, "the settings of a queue do not fit", check=one.check, problem=one.detail
                )
        self._unfit = unfit
        for check in CHECKS:
            self._gauge.labels(check).set(any(one.check == check for one in unfit))
