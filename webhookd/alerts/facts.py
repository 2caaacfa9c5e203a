"""The facts that the conditions look at, read from PostgreSQL in the transaction of an evaluation."""

from __future__ import annotations

from webhookd.alerts.conditions import Counts, Deaths, Facts, Key, Provider, Replica, Rhythm
from webhookd.store.pools import Connection
from webhookd.store.queries import queries

_DEATHS = 10_000  # the last deaths that are counted


async def read_facts(connection: Connection, *, largest: int | None) -> Facts:
    """Returns the facts. `largest`: the bytes that the database may take."""
    state = await queries.alert_state_of_database(connection)
    backlog = await queries.backlog(connection)
    partitions = await queries.retention_state(connection)
    return Facts(
        now=state["now"],
        bytes=state["bytes"],
        counted=state["counted"],
        largest=largest,
        overdue=backlog["overdue"] or 0.0,
        partitions_ahead=partitions["ahead"],
        counts={(row["measure"], row["account"]): Counts(*list(row)[2:]) async for row in queries.alert_counts(connection)},
        deaths={row["account"]: Deaths(*list(row)[1:]) async for row in queries.alert_deaths(connection, limit=_DEATHS)},
        rhythms={row["account"]: Rhythm(row["silence"], row["bound"]) async for row in queries.alert_rhythms(connection)},
        keys=[Key(*row) async for row in queries.alert_keys(connection)],
        providers=[Provider(*row) async for row in queries.alert_providers(connection)],
        failing={row["destination"]: row["lasted"] async for row in queries.alert_circuits(connection)},
        replicas=[
            Replica(tuple(row["away"]), row["certificate"], row["stuck"]) async for row in queries.alert_replicas(connection)
        ],
    )
