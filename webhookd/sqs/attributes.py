"""A queue's attributes, and the problems in them: for the daemon's log and metric, and for the doctor.

Contract: the SQS API reference, GetQueueAttributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from webhookd.queue.contract import Depth
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

CHECKS = ("redrive policy", "retention", "message size", "delay")
_LEAST_RECEIVES = 10  # least maxReceiveCount of the redrive policy: a message without a fault can be put off several times
_LEAST_RETENTION = 4 * 86_400  # seconds that a queue should keep a message at least
_ROOMY = 16_384  # bytes of a message that holds a bundle of 32 events
REQUEST_BYTES = 262_144  # bytes of all messages in one call: AWS now takes four times as many, but other servers do not


_EMPTY = Depth(0, 0, 0)


@dataclass(slots=True, frozen=True)
class Attributes:
    """The attributes of a queue that webhookd needs; the defaults are SQS's own."""

    arn: str = ""
    message_bytes: int = REQUEST_BYTES  # size of the largest message
    retention: int = _LEAST_RETENTION  # seconds
    delay: int = 0  # seconds until a message that was sent is visible
    redrives_to: str | None = None
    max_receives: int = 0
    key: str | None = None  # the AWS KMS key
    depth: Depth = _EMPTY

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Attributes:
        """Returns the attributes in an answer of GetQueueAttributes. Raises ValueError if the answer is not SQS's."""
        policy = orjson.loads(attributes.get("RedrivePolicy") or "{}")
        return cls(
            arn=str(attributes.get("QueueArn", "")),
            message_bytes=min(int(attributes.get("MaximumMessageSize", REQUEST_BYTES)), REQUEST_BYTES),
            retention=int(attributes.get("MessageRetentionPeriod", _LEAST_RETENTION)),
            delay=int(attributes.get("DelaySeconds", 0)),
            redrives_to=policy.get("deadLetterTargetArn"),
            max_receives=int(policy.get("maxReceiveCount", 0)),
            key=attributes.get("KmsMasterKeyId") or None,
            depth=Depth(
                visible=int(attributes.get("ApproximateNumberOfMessages", 0)),
                in_flight=int(attributes.get("ApproximateNumberOfMessagesNotVisible", 0)),
                delayed=int(attributes.get("ApproximateNumberOfMessagesDelayed", 0)),
            ),
        )


class Unfit(NamedTuple):
    """A setting of a queue that cannot work, or not well; `check` is one of CHECKS."""

    check: str
    is_fatal: bool
    detail: str


def find_unfit(main: Attributes, dead: Attributes) -> list[Unfit]:
    """Returns the settings of these queues that cannot work, or not well, each with its remedy."""
    unfit = []
    if main.redrives_to != dead.arn:
        detail = "the queue does not redrive to {}: what is not webhookd's comes back for ever; set the queue's redrive policy"
        unfit.append(Unfit("redrive policy", True, detail.format(dead.arn.rpartition(":")[2] or "its dead-letter queue")))
    elif main.max_receives < _LEAST_RECEIVES:
        detail = (
            f"after {main.max_receives} receives: what workers put off is soon moved to the dead-letter queue, and is sent "
            f"again from there a minute later; set maxReceiveCount to {_LEAST_RECEIVES} or more"
        )
        unfit.append(Unfit("redrive policy", False, detail))
    if main.retention < _LEAST_RETENTION:
        detail = f"{main.retention} s: events are sent again from PostgreSQL, but late; set at least {_LEAST_RETENTION}"
        unfit.append(Unfit("retention", False, detail))
    elif dead.retention < _LEAST_RETENTION:
        detail = f"{dead.retention} s in the dead-letter queue: copies expire, and are made again; set 1209600"
        unfit.append(Unfit("retention", False, detail))
    if main.message_bytes < _ROOMY:
        detail = f"at most {main.message_bytes} bytes, so few events share a message: set MaximumMessageSize to 262144"
        unfit.append(Unfit("message size", False, detail))
    if main.delay:
        unfit.append(Unfit("delay", False, f"each message waits {main.delay} s before a worker sees it; set DelaySeconds to 0"))
    return unfit


class Fitness:
    """The report of whether the queues fit: the metric and the log of settings that do not fit."""

    def __init__(self, *, metrics: Metrics) -> None:
        self._unfit: list[Unfit] = []
        self._gauge = metrics.queue_unfit

    def update(self, main: Attributes, dead: Attributes) -> None:
        """Checks the queues as they are now, sets the metric, and logs each new problem."""
        unfit = find_unfit(main, dead)
        for one in unfit:
            if one not in self._unfit:
                logger.log(
                    40 if one.is_fatal else 30, "the settings of a queue do not fit", check=one.check, problem=one.detail
                )
        self._unfit = unfit
        for check in CHECKS:
            self._gauge.labels(check).set(any(one.check == check for one in unfit))
