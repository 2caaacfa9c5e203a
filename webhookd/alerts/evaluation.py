"""The evaluation: one replica at a time compares the conditions with their stored states, and writes a message for each change.

A change of state and its messages are one transaction, which also holds the row of the duty. So two replicas never write the
same change, and a crash loses neither the change nor its messages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from uuid import UUID, uuid4

from webhookd.alerts.catalogue import CONDITIONS, Severity
from webhookd.alerts.conditions import Finding, evaluate
from webhookd.alerts.facts import read_facts
from webhookd.alerts.message import FIRES, RESOLVED
from webhookd.store.database import Database
from webhookd.store.failures import gateway
from webhookd.store.keys import new_id
from webhookd.store.pools import Connection
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

EVERY = 15.0  # seconds between two evaluations
QUIET_AFTER = 300.0  # seconds for which a condition must not hold before its alert ends
_DUTY = "alerts"
_HOLD = 60.0  # seconds until another replica evaluates, if the present one is killed
_GAP = 120.0  # seconds without an evaluation after which a condition that does not fire yet counts as new
_OLDEST = 2 * 86_400.0  # seconds for which a message is tried
_CLEANING = 3_600.0  # seconds between two removals of old counts, which read the whole table


@dataclass(slots=True, frozen=True)
class Firing:
    """A condition that fires, and since when."""

    finding: Finding
    since: datetime


class Evaluation:
    """The evaluation of all conditions, and the states that the last one left."""

    def __init__(self, database: Database, *, largest: int | None, metrics: Metrics) -> None:
        self._database = database
        self._largest = largest
        self._sent = metrics.alert_messages
        self._cleaned = 0.0  # by the monotonic clock
        self.id = uuid4()  # this replica's id in the tables

    async def run(self) -> bool:
        """Evaluates, unless another replica does. Returns whether this replica has. Raises UnavailableError."""
        with gateway():
            async with self._database.acquire("admin") as connection, connection.transaction(isolation="read_committed"):
                # The row of the duty is locked until the commit, so a replica that was slow cannot write beside another.
                if not await queries.take_duty(connection, name=_DUTY, holder=self.id, seconds=_HOLD):
                    return False
                await queries.renew_alert_states(connection, gap=_GAP)
                facts = await read_facts(connection, largest=self._largest)
                await self._compare(connection, evaluate(facts))
                await queries.note_alert_evaluation(connection, id=self.id)
                expired = [row async for row in queries.expire_alert_messages(connection, age=_OLDEST)]
                for row in expired:
                    if row["change"] == FIRES:
                        await queries.forget_alert_channel(
                            connection, condition=row["condition"], subject=row["subject"], channel=row["channel"]
                        )
                await self._clean(connection)
        self._sent.labels("dropped").inc(len(expired))
        return True

    async def _clean(self, connection: Connection) -> None:
        await queries.remove_alert_reports(connection)
        if not self._cleaned or monotonic() - self._cleaned > _CLEANING:
            await queries.remove_alert_counts(connection)
            self._cleaned = monotonic()

    async def _compare(self, connection: Connection, findings: Sequence[Finding]) -> None:
        states = {(row["condition"], row["subject"]): row async for row in queries.alert_states(connection)}
        channels = await queries.alert_channels(connection)
        for finding in findings:
            state = states.pop((finding.name, finding.subject), None)
            anew = state is None or (state["fires_since"] is None and state["ended"] > _GAP)
            fires = (0.0 if anew or state is None else state["lasted"]) >= finding.condition.lasts
            await self._keep(connection, finding, channels, _new_ids(channels), fires=fires, anew=anew)
        for (name, subject), state in states.items():
            if name not in CONDITIONS or (state["fires_since"] is not None and state["ended"] < QUIET_AFTER):
                continue  # a newer release may know the condition
            await queries.end_alert_state(connection, condition=name, subject=subject)
            if state["fires_since"] is not None:
                withdrawn = [
                    row["channel"] async for row in queries.withdraw_alert_messages(connection, condition=name, subject=subject)
                ]
                informed = [channel for channel in state["channels"] if channel in channels and channel not in withdrawn]
                await self._add(connection, _new_ids(informed), Finding(name, subject, state["detail"]), RESOLVED)

    async def _keep(
        self,
        connection: Connection,
        finding: Finding,
        channels: Collection[str],
        ids: Mapping[str, UUID],
        *,
        fires: bool,
        anew: bool = False,
    ) -> None:
        """Stores that the condition holds. If the condition begins to fire by this, adds messages for `ids`, by channel."""
        if await queries.keep_alert_state(
            connection,
            condition=finding.name,
            subject=finding.subject,
            detail=finding.detail,
            fires=fires,
            anew=anew,
            channels=list(channels),
        ):
            await self._add(connection, ids, finding, FIRES)

    async def _add(self, connection: Connection, ids: Mapping[str, UUID], finding: Finding, change: str) -> None:
        await queries.add_alert_messages(
            connection,
            ids=list(ids.values()),
            channels=list(ids),
            condition=finding.name,
            subject=finding.subject,
            change=change,
            page=finding.condition.severity is Severity.PAGE,
            detail=finding.detail,
        )

    async def firing(self) -> list[Firing]:
        """Returns the conditions that fire, as the last evaluation left them. Raises UnavailableError."""
        rows = await self._database.all(queries.alert_states)
        return [
            Firing(Finding(row["condition"], row["subject"], row["detail"]), row["fires_since"])
            for row in rows
            if row["fires_since"] is not None and row["condition"] in CONDITIONS
        ]

    async def age(self) -> float | None:
        """Returns the seconds since the last evaluation by any replica; None if there was none. Raises UnavailableError."""
        age: float | None = await self._database.one(queries.last_alert_evaluation)
        return age

    async def waiting(self) -> dict[str, int]:
        """Returns the number of messages that wait, by channel. Raises UnavailableError."""
        return {row["channel"]: row["waiting"] for row in await self._database.all(queries.waiting_alert_messages)}

    async def adopt(self, finding: Finding, channels: Collection[str], ids: Mapping[str, UUID]) -> None:
        """Stores that a condition fires that began while PostgreSQL was away. Raises UnavailableError.

        `channels`: all that get a message. `ids`: the messages that are still due, by channel.
        """
        with gateway():
            async with self._database.acquire("admin") as connection, connection.transaction(isolation="read_committed"):
                await self._keep(connection, finding, channels, ids, fires=True)


def _new_ids(channels: Collection[str]) -> dict[str, UUID]:
    return {channel: new_id() for channel in channels}
