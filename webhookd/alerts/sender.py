"""The sender: takes messages that wait, one for each channel at a time, and sends each until its channel takes it.

A message is taken for a time (a lease), sent, and then removed. So two replicas never send it side by side. If a replica is
killed between the sending and the removal, another sends the message again under the same id: at least once, with the same
webhook-id or Message-ID, by which a receiver can drop the second one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from webhookd.alerts.catalogue import CONDITIONS
from webhookd.alerts.channel import Channel, NotSentError
from webhookd.alerts.message import TEST, Message
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.store.database import Database
from webhookd.store.keys import new_id
from webhookd.store.queries import queries
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

EVERY = 5.0  # seconds between two looks at the messages
_LEASE = 120.0  # seconds; SMTP takes 60 s at most


class Sender:
    """The sender of this replica. `now`: the time, for the quiet hours."""

    def __init__(
        self,
        database: Database,
        *,
        dashboard: str,
        metrics: Metrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self.dashboard = dashboard
        self._sent = metrics.alert_messages
        self._now = now
        self._failing: dict[str, str] = {}  # channel → why its last message was not sent
        self._sending: dict[str, asyncio.Task[bool]] = {}  # by channel
        self.channels: Mapping[str, Channel] = {}

    async def send_waiting(self) -> bool:
        """Sends the oldest due message of each channel. Returns whether more may wait. Raises UnavailableError.

        Waits for a few seconds only. A channel that has not answered by then goes on by itself, and the others do not wait.
        """
        channels, now = self.channels, self._now()
        if self._database.up and (free := [name for name in channels if name not in self._sending]):
            rows = await self._database.all(
                queries.lease_alert_messages,
                channels=free,
                conditions=list(CONDITIONS),
                quiet=[name for name in free if channels[name].is_quiet(now)],
                lease=_LEASE,
            )
            for row in rows:
                task = asyncio.create_task(self._send(channels[row["channel"]], row), name=f"alert to {row['channel']}")
                self._sending[row["channel"]] = task
        if self._sending:
            await asyncio.wait(self._sending.values(), timeout=EVERY)
        ended = [self._sending.pop(name) for name, task in list(self._sending.items()) if task.done()]
        return any(await asyncio.gather(*ended))

    async def stop(self) -> None:
        """Cancels what is being sent. When the lease ends, another replica sends it again."""
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, channel: Channel, row: Any) -> bool:
        message = Message(
            UUID(bytes=row["id"].bytes),
            row["change"],
            row["condition"],
            row["subject"],
            row["detail"],
            row["changed_at"],
            self.dashboard,
        )
        problem = await self.deliver(channel, message)
        if problem is None or problem.taken:
            reach(Failpoint.ALERTS_AFTER_SEND)
            await self._database.one(queries.alert_message_sent, id=row["id"])
            return True
        delay = max(problem.delay, backoff(row["attempts"]) * random.uniform(0.75, 1.25))
        await self._database.one(queries.delay_alert_message, id=row["id"], delay=delay)
        return False

    async def deliver(self, channel: Channel, message: Message) -> NotSentError | None:
        """Sends a message to a channel, and counts it. Returns why the channel, or a recipient, did not take it; else None."""
        try:
            refused = await channel.send(message)
        except NotSentError as error:
            self._sent.labels("failed").inc()
            if self._failing.get(channel.name) != str(error):
                logger.warning("a channel for alerts takes no message", channel=channel.name, problem=str(error))
            self._failing[channel.name] = str(error)
            return error
        self._sent.labels("sent").inc()
        if self._failing.pop(channel.name, None):
            logger.info("a channel for alerts takes messages again", channel=channel.name)
        if refused:  # not sent again: those who have the message would get it each time
            problem = f"the mail server refused {refused} of {len(channel.recipients)} recipients"
            logger.warning("some recipients get no alerts", channel=channel.name, problem=problem)
            return NotSentError(problem, taken=True)
        return None

    async def test(self, channel: Channel) -> NotSentError | None:
        """Sends a test to a channel. Returns why the channel did not take it, None if it did."""
        detail = "If you can read this line, the channel works. No condition has changed."
        return await self.deliver(channel, Message(new_id(), TEST, "", "", detail, self._now(), self.dashboard))


def backoff(attempts: int) -> float:
    """Returns the seconds until the next try after `attempts` tries: from 10 s to five minutes."""
    return float(min(300.0, 5.0 * 2.0 ** min(attempts, 10)))
