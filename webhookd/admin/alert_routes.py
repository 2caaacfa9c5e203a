"""Routes of the alerts: the conditions that fire, and a test of the channels."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field

from webhookd.admin.access import AccessLevel
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import Text, Time
from webhookd.alerts.alerts import Alerts
from webhookd.errors import NotFoundError


class FiringCondition(Shape):
    """A condition that fires."""

    condition: str
    subject: Annotated[
        str, Field(description="What the condition is about, for example an account; empty for the installation.")
    ]
    severity: str
    summary: str
    detail: str
    since: Time
    guide: Annotated[str, Field(description="The path of the section of the guide that says what to do.")]


class ChannelState(Shape):
    """A channel of the settings of the process that answers."""

    name: str
    format: str
    waiting: Annotated[int, Field(description="Messages that wait for this channel.")]


class AlertReport(Shape):
    """The conditions that fire, for all replicas, and the channels."""

    firing: list[FiringCondition]
    evaluated_seconds_ago: Annotated[
        float | None, Field(description="Null if no replica has evaluated the conditions, or PostgreSQL is away.")
    ]
    believable: Annotated[
        bool, Field(description="False if no replica has evaluated the conditions for two minutes: more may be wrong.")
    ]
    channels: list[ChannelState]


class WhichChannels(Shape):
    """The channels to test."""

    channel: Annotated[Text | None, Field(description="The name of a channel; all channels if it is not given.")] = None


class ChannelTest(Shape):
    """The result of a test of a channel."""

    channel: str
    sent: bool
    problem: str | None


class AlertTest(Shape):
    """The results of the tests."""

    channels: list[ChannelTest]


class AlertRoutes:
    """Routes of the alerts."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        path = "/webhooks/alerts"
        return [
            Route("GET", path, AccessLevel.READ, self.list_alerts, AlertReport),
            Route(
                "POST",
                f"{path}/test",
                AccessLevel.OPERATE,
                self.test_channels,
                AlertTest,
                body=WhichChannels,
                body_required=False,
                problems=(404,),
            ),
        ]

    async def list_alerts(self, _: Call) -> AlertReport:
        """Show the conditions that fire, and the channels for alerts."""
        state = await self._alerts.state()
        firing = [
            FiringCondition(
                condition=one.finding.name,
                subject=one.finding.subject,
                severity=one.finding.condition.severity,
                summary=one.finding.condition.summary,
                detail=one.finding.detail,
                since=one.since,
                guide=one.finding.condition.guide,
            )
            for one in state.firing
        ]
        channels = [
            ChannelState(name=name, format=channel.format, waiting=state.waiting.get(name, 0))
            for name, channel in self._alerts.channels.items()
        ]
        return AlertReport(
            firing=firing, evaluated_seconds_ago=state.age, believable=state.outage or not state.stale, channels=channels
        )

    async def test_channels(self, call: Call) -> AlertTest:
        """Send a test to every channel for alerts, or to one."""
        wanted = call.body.channel
        channels = {name: one for name, one in self._alerts.channels.items() if wanted in (None, name)}
        if not channels:
            what = "no channel is set" if wanted is None else "the settings of this process have no such channel"
            raise NotFoundError(f"{what}: set WEBHOOKD_ALERTS__<NAME>__URL, and restart or reload webhookd")
        problems = await asyncio.gather(*map(self._alerts.test, channels.values()))
        tests = [
            ChannelTest(channel=name, sent=problem is None, problem=problem)
            for name, problem in zip(channels, problems, strict=True)
        ]
        return AlertTest(channels=tests)
