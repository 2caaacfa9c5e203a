"""The alerts without Prometheus: four loops that report, evaluate, send, and watch for PostgreSQL's outage.

None of them stands in an event's way: they have connections of their own for a moment only, and wait for no channel elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import NamedTuple

from webhookd.alerts import evaluation, outage, report, sender
from webhookd.alerts.channel import Channel
from webhookd.alerts.evaluation import Evaluation, Firing
from webhookd.alerts.outage import Outage
from webhookd.alerts.report import Reports
from webhookd.alerts.sender import Sender
from webhookd.errors import UnavailableError
from webhookd.runtime.loops import Loop, Watch
from webhookd.settings import Settings
from webhookd.settings.alerts import AlertSettings
from webhookd.store import redis_keys
from webhookd.store.database import Database
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.telemetry.metrics import Metrics

_STOPPING = 2.0  # seconds
STALE = 120.0  # seconds without an evaluation after which the states say nothing


class State(NamedTuple):
    """The conditions that fire. `age`: the seconds since the last evaluation, None if there is none."""

    firing: list[Firing]
    age: float | None
    waiting: dict[str, int]  # messages by channel
    outage: bool  # PostgreSQL has been away for too long, so that nothing else is known

    @property
    def stale(self) -> bool:
        """Returns whether no replica has evaluated the conditions lately."""
        return self.age is None or self.age > STALE


class Alerts:
    """The alerts of this replica."""

    def __init__(
        self, settings: Settings, database: Database, idempotency: IdempotencyKeys, *, metrics: Metrics, watch: Watch
    ) -> None:
        self._evaluation = Evaluation(database, largest=settings.alert_database_bytes, metrics=metrics)
        self._reports = Reports(database, self._evaluation.id, metrics)
        self._sender = Sender(database, dashboard=settings.dashboard_url or "", metrics=metrics)
        place = redis_keys.place(settings.database_url.get_secret_value(), settings.database_schema)
        self._outage = Outage(database, idempotency, place, self._evaluation, self._sender)
        self._database = database
        self.channels: Mapping[str, Channel] = {}
        self.renew(settings.alerts)
        self._loops = (
            Loop("alert reports", self._reports.report, watch, every=report.EVERY),
            Loop("alert conditions", self._evaluate, watch, every=evaluation.EVERY),
            Loop("alert messages", self._sender.send_waiting, watch, every=sender.EVERY),
            Loop("alert of an outage", self._outage.look, watch, every=outage.EVERY),
        )

    def renew(self, settings: Mapping[str, AlertSettings]) -> None:
        """Uses these channels from now on."""
        self.channels = {name: Channel.of(name, one) for name, one in sorted(settings.items())}
        self._sender.channels = self._outage.channels = self.channels
        self._reports.channels = tuple(self.channels)

    async def start(self) -> None:
        """Starts the loops."""
        for loop in self._loops:
            await loop.start()

    async def stop(self) -> None:
        """Stops the loops, within 2 s. If a channel has not answered by then, another replica sends its message again."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOPPING):
                    await asyncio.gather(*(loop.stop() for loop in self._loops))
        finally:
            await self._sender.stop()

    async def _evaluate(self) -> None:
        if self._database.up:
            await self._evaluation.run()

    async def state(self) -> State:
        """Returns what fires. Raises UnavailableError if PostgreSQL is away, and has not been so for long."""
        finding = self._outage.finding
        try:
            return State(
                await self._evaluation.firing(), await self._evaluation.age(), await self._evaluation.waiting(), outage=False
            )
        except UnavailableError:
            if finding is None:
                raise
            return State([Firing(finding, self._outage.since)], None, {}, outage=True)

    async def test(self, channel: Channel) -> str | None:
        """Sends a test to a channel. Returns why the channel did not take it, None if it did."""
        problem = await self._sender.test(channel)
        return None if problem is None else str(problem)
