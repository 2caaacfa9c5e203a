"""What the doctor finds in SQS."""

from __future__ import annotations

from typing import Any

from webhookd.daemon import make_sqs
from webhookd.doctor.finding import Finding, Verdict
from webhookd.lifecycle import Watch
from webhookd.metrics import Metrics
from webhookd.settings import Settings


async def examine_sqs(settings: Settings) -> list[Finding]:
    """Findings about the queue and its dead-letter queue."""
    sqs = make_sqs(settings, Metrics(), Watch())
    await sqs.start()
    try:
        main = await sqs.attributes(sqs.queue)
        dead = await sqs.attributes(sqs.dead_letter_queue)
    finally:
        await sqs.stop()
    return [Finding("sqs queue", Verdict.OK, "answers"), *_queue_findings(main, dead, settings)]


def _queue_findings(main: dict[str, Any], dead: dict[str, Any], settings: Settings) -> list[Finding]:
    findings = []
    policy = main.get("RedrivePolicy", {})
    if policy.get("deadLetterTargetArn") != dead.get("QueueArn"):
        findings.append(
            Finding(
                "sqs redrive policy",
                Verdict.FAILED,
                f"the queue does not redrive to {settings.sqs_dead_letter_queue}: a message that kills its worker never ends",
            )
        )
    else:
        receives = int(policy.get("maxReceiveCount", 0))
        enough = receives > settings.max_attempts
        findings.append(
            Finding(
                "sqs redrive policy",
                Verdict.OK if enough else Verdict.WARNING,
                f"after {receives} receives"
                + (
                    ""
                    if enough
                    else f": set more than WEBHOOKD_MAX_ATTEMPTS ({settings.max_attempts}), or SQS gives up before webhookd"
                ),
            )
        )
    retention = int(main.get("MessageRetentionPeriod", 0))
    if retention < 4 * 86400:
        findings.append(
            Finding("sqs retention", Verdict.WARNING, f"{retention} s: events are sent again from PostgreSQL, but late")
        )
    return findings
