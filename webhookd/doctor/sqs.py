"""The doctor's findings about SQS."""

from __future__ import annotations

from webhookd.doctor.finding import Finding, Verdict
from webhookd.runtime.loops import Watch
from webhookd.settings import Settings
from webhookd.sqs.attributes import Attributes, find_unfit
from webhookd.sqs.gateway import Sqs
from webhookd.telemetry.metrics import Metrics


async def examine_sqs(settings: Settings) -> list[Finding]:
    """Returns the findings about the queue and its dead-letter queue."""
    sqs = Sqs(settings, metrics=Metrics(), watch=Watch())
    await sqs.start()
    try:
        main = await sqs.queue.inspect()
        dead = await sqs.dead_letter_queue.inspect()
    finally:
        await sqs.stop()
    return [Finding("sqs queue", Verdict.OK, "answers"), *_judge(main, dead, settings)]


def _judge(main: Attributes, dead: Attributes, settings: Settings) -> list[Finding]:
    unfit = find_unfit(main, dead)
    findings = [Finding(_name(one.check), Verdict.FAILED if one.is_fatal else Verdict.WARNING, one.detail) for one in unfit]
    if not any(one.check == "redrive policy" for one in unfit):
        findings.append(
            Finding(
                _name("redrive policy"),
                Verdict.OK,
                f"SQS moves a message to the dead-letter queue after {main.max_receives} receives",
            )
        )
    for check, limits in (("encryption", main), ("dead-letter encryption", dead)):
        if limits.key is not None:
            detail = (
                f"with the key {limits.key}: webhookd's role needs kms:GenerateDataKey and kms:Decrypt; "
                "only a send shows whether it has them"
            )
            findings.append(Finding(_name(check), Verdict.OK, detail))
    return findings


def _name(check: str) -> str:
    return f"sqs {check}"
