"""The evaluation: one replica at a time compares the conditions with their stored states, and writes a message for each change.

A change of state and its messages are one transaction, which also holds the row of the duty. So two replicas never write the
same change, and a crash loses neither the change nor its messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from webhookd.alerts.catalogue import CONDITIONS, Severity
from webhookd.alerts.conditions import Finding, evaluate
from webhookd.alerts.facts import read_facts
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
        self.id = uuid4()  # this replica's id in the tables

    async def run(self) -> bool:
        """Evaluates, unless another replica does. Returns whether this replica has. Raises UnavailableError."""
        with gateway():
            async with self._database.acquire("admin") as connection, connection.transaction(isolation="read_committed"):
                # The row of the duty is locked until the commit, so a replica that was slow cannot write beside another.
                if not await queries.take_duty(connection, name=_DUTY, holder=self.id, seconds=_HOLD):
                    return False
                facts = await read_facts(connection, largest=self._largest)
                await self._compare(connection, evaluate(facts))
                await queries.note_alert_evaluation(connection, id=self.id)
                await queries.remove_alert_reports(connection)
                expired = [row["channel"] async for row in queries.expire_alert_messages(connection, age=_OLDEST)]
        self._sent.labels("dropped").inc(len(expired))
        return True

    async def _compare(self, connection: Connection, findings: Sequence[Finding]) -> None:
        states = {(row["condition"], row["subject"]): row async for row in queries.alert_states(connection)}
        channels = await queries.alert_channels(connection)
        for finding in findings:
            state = states.pop((finding.name, finding.subject), None)
            anew = state is None or (state["fires_since"] is None and state["ended"] > _GAP)
            fires = (0.0 if anew or state is None else state["lasted"]) >= finding.condition.lasts
            await queries.keep_alert_state(
                connection, condition=finding.name, subject=finding.subject, detail=finding.detail, fires=fires, anew=anew
            )
            if fires and (state is None or state["fires_since"] is None):
                await self._add(connection, channels, finding, "fires")
        for (name, subject), state in states.items():
            if state["fires_since"] is not None and state["ended"] < QUIET_AFTER and name in CONDITIONS:
                continue
            await queries.end_alert_state(connection, condition=name, subject=subject)
            if state["fires_since"] is not None and name in CONDITIONS:
                untold = [
                    row["channel"] async for row in queries.withdraw_alert_messages(connection, condition=name, subject=subject)
                ]
                told = [channel for channel in channels if channel not in untold]
                await self._add(connection, told, Finding(name, subject, state["detail"]), "resolved")

    async def _add(self, connection: Connection, channels: Sequence[str], finding: Finding, change: str) -> None:
        await queries.add_alert_messages(
            connection,
            ids=[new_id() for _ in channels],
            channels=list(channels),
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

    async def adopt(self, finding: Finding) -> None:
        """Notes that a message about the finding was sent while PostgreSQL was away: it fires. Raises UnavailableError."""
        await self._database.one(queries.adopt_alert, condition=finding.name, subject=finding.subject, detail=finding.detail)
