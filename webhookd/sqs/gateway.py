"""webhookd's two queues in SQS."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from webhookd.errors import UnavailableError
from webhookd.runtime.loops import Loop, Watch
from webhookd.settings import Settings
from webhookd.sqs.attributes import Fitness
from webhookd.sqs.clients import Clients
from webhookd.sqs.errors import ERRORS
from webhookd.sqs.problem import problem_of
from webhookd.sqs.queue import SqsQueue
from webhookd.telemetry.metrics import Metrics

_CREATE_TIMEOUT = 10.0  # seconds
_LONGEST_RETENTION = "1209600"  # seconds


class Sqs:
    """The queue and its dead-letter queue, with the clients that both share."""

    def __init__(self, settings: Settings, *, metrics: Metrics, watch: Watch) -> None:
        self._clients = Clients(
            endpoint_url=settings.sqs_endpoint_url,
            region=settings.sqs_region,
            wait=settings.sqs_wait,
            polls=settings.pollers + 1,  # the reader of the dead-letter queue needs one poll more
        )
        self.queue = SqsQueue(settings.sqs_queue, self._clients, metrics.dependency_up.labels("sqs"))
        self.dead_letter_queue = SqsQueue(
            settings.sqs_dead_letter_queue, self._clients, setting="WEBHOOKD_SQS_DEAD_LETTER_QUEUE"
        )
        self._visibility_timeout = settings.visibility_timeout
        self._fitness = Fitness(metrics=metrics)
        self._depth = metrics.queue_depth
        self._prober = Loop("sqs prober", self._probe, watch, every=15.0)

    async def start(self) -> None:
        """Makes the clients, and starts to probe the queues. Raises SettingsError."""
        await self._clients.start()
        await self._prober.start()

    async def stop(self) -> None:
        """Stops the probes, and closes the clients."""
        await self._prober.stop()
        await self._clients.stop()

    async def create_queues(self, *, max_receive_count: int = 20) -> None:
        """Creates the queue and its dead-letter queue with a redrive policy; it is fine if they exist already."""
        client = self._clients.calls
        try:
            async with asyncio.timeout(_CREATE_TIMEOUT):
                dead = await client.create_queue(
                    QueueName=self.dead_letter_queue.name, Attributes={"MessageRetentionPeriod": _LONGEST_RETENTION}
                )
                target = await client.get_queue_attributes(QueueUrl=dead["QueueUrl"], AttributeNames=["QueueArn"])
                policy = {"deadLetterTargetArn": target["Attributes"]["QueueArn"], "maxReceiveCount": max_receive_count}
                attributes: Any = {
                    "RedrivePolicy": orjson.dumps(policy).decode(),
                    "VisibilityTimeout": str(self._visibility_timeout),
                    "MessageRetentionPeriod": _LONGEST_RETENTION,
                }
                await client.create_queue(QueueName=self.queue.name, Attributes=attributes)
        except ERRORS as error:
            reason = problem_of(error, self.queue.name, "WEBHOOKD_SQS_QUEUE", self._clients.place)
            raise UnavailableError("sqs", reason) from error

    async def _probe(self) -> None:
        main, dead = await self.queue.inspect(), await self.dead_letter_queue.inspect()
        self.queue.note(main)
        self.dead_letter_queue.note(dead)
        for label, attributes in (("main", main), ("dead_letter", dead)):
            for state, count in attributes.depth._asdict().items():
                self._depth.labels(label, state).set(count)
        self._fitness.update(main, dead)
