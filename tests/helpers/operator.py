"""An operator of the daemons under test: the admin API over HTTP, the command line for it, and events that have ended."""

from __future__ import annotations

import uuid
from typing import Any, TypeAlias

import aiohttp
import asyncpg

from tests.conftest import Servers
from tests.helpers.command import webhookd
from tests.helpers.stored import KEY, store_kind
from tests.helpers.wait import until

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Json: TypeAlias = dict[str, Any]

AUTHCAPTURE = "net.authorize.payment.authcapture.created"
REFUND = "net.authorize.payment.refund.created"
ANN = {"ann": "ann-operates-these-daemons"}  # for `start(admin_tokens=ANN)`
LEO = {"leo": "leo-only-looks-at-daemons"}  # for `start(read_tokens=LEO)`
ENDED = ("done", "cancelled", "failed")


class Operator:
    """A client of the API at `admin_url` that holds `token`."""

    def __init__(self, admin_url: str, token: str = ANN["ann"]) -> None:
        self._url = admin_url
        self._token = token

    async def get(self, path: str, **query: Any) -> tuple[int, Json]:
        """Sends a GET of `/webhooks/…`; returns the status and the answer's JSON. A list repeats the parameter."""
        return await self._call("GET", path, None, query)

    async def post(self, path: str, body: Json | None = None, **query: Any) -> tuple[int, Json]:
        """Sends a POST with `body` as JSON, or without a body; otherwise works as `get`."""
        return await self._call("POST", path, body, query)

    async def _call(self, method: str, path: str, body: Json | None, query: Json) -> tuple[int, Json]:
        listed = {name: value if isinstance(value, list) else [value] for name, value in query.items()}
        parameters = [(name, str(one)) for name, values in listed.items() for one in values]
        headers = {"Authorization": f"Bearer {self._token}"}
        async with (
            aiohttp.ClientSession(self._url, headers=headers) as session,
            session.request(method, f"/webhooks/{path}", params=parameters, json=body) as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    async def order(self, path: str, **body: Any) -> Json:
        """Orders an operation, which the API must accept, and returns it."""
        status, operation = await self.post(path, body)
        assert status == 202, operation
        return operation

    async def operation(self, operation: Json) -> Json:
        """Returns the present state of the operation."""
        status, now = await self.get(f"operations/{operation['id']}")
        assert status == 200, now
        return now

    async def ended(self, operation: Json, *, deadline: float = 30.0) -> Json:
        """Waits until the operation has ended, and returns its final state."""

        async def look() -> Json | None:
            now = await self.operation(operation)
            return now if now["state"] in ENDED else None

        found: Json = await until(look, "the operation has ended", deadline=deadline)
        return found

    async def done(self, path: str, **body: Any) -> Json:
        """Orders an operation, not as a dry run, and returns it when it is done."""
        operation = await self.ended(await self.order(path, **{"dry_run": False, **body}))
        assert operation["state"] == "done", operation
        return operation

    async def held(self, operation: Json, by: str) -> Json:
        """Waits until the operation is held back for the reason `by`, and returns its state."""

        async def look() -> Json | None:
            now = await self.operation(operation)
            assert now["state"] not in ENDED, now
            return now if now["held_by"] == by else None

        found: Json = await until(look, f"the operation waits: {by}")
        return found

    async def command(self, servers: Servers, *arguments: str) -> tuple[int, str, str]:
        """Runs a command as on another machine: it knows only the API's address and the token."""
        return await webhookd(*arguments, folder=servers.folder, **self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """Returns the environment of such a command."""
        return {"WEBHOOKD_API_URL": self._url, "WEBHOOKD_API_TOKEN": self._token}


async def bury(
    connection: Connection,
    count: int,
    event_type: str = AUTHCAPTURE,
    *,
    status: str = "dead",
    error: str | None = None,
    body: bool = True,
) -> list[uuid.UUID]:
    """Makes `count` events of `status` without a daemon, received three days ago, oldest first.

    Events that have ended did so one second apart, the last event just now.
    """
    key = KEY.format(account="'default'", notification_id="id::text")
    rows = await connection.fetch(
        f"""
        WITH numbers AS MATERIALIZED (
            SELECT n, now() - interval '3 days' + n * interval '1 second' AS at, gen_random_uuid()::text AS chance
            FROM generate_series(1, $1) AS n
        ), named AS MATERIALIZED (
            SELECT n, at, (left(webhookd.first_id(at)::text, 15) || substr(chance, 16))::uuid AS id FROM numbers
        ), made AS (
            INSERT INTO ledger (id, notification_key, body_hash, received_at, kind, notification_id)
            SELECT id, {key}, '{uuid.UUID(int=0)}', at, $2, id::text FROM named
        ), left_over AS (
            INSERT INTO work (event_id, consumer, status, attempts, since, due, fresh, dead_reason, last_error)
            SELECT id, 'handlers', $3, 12, at,
                CASE WHEN $3 = 'dead' THEN now() - ($1 - n) * interval '1 second' ELSE now() + interval '1 hour' END,
                $3 <> 'retrying',
                CASE WHEN $3 = 'dead' THEN 'the handlers gave up' END, $4
            FROM named
            WHERE $3 <> 'processed'
        ), ended AS (
            INSERT INTO audit (event_id, at, from_status, to_status, actor, attempt)
            SELECT id, now() - ($1 - n) * interval '1 second', 'queued', 'processed', 'worker', 12 FROM named
            WHERE $3 = 'processed'
        ), bodies AS (
            INSERT INTO bodies SELECT id, '{{"payload": {{}}}}' FROM named WHERE $5
        )
        SELECT id FROM named ORDER BY n
        """,
        count,
        await store_kind(connection, event_type=event_type),
        status,
        error,
        body,
    )
    return [row["id"] for row in rows]


async def statuses(connection: Connection) -> dict[str, int]:
    """Returns the number of events for each status."""
    rows = await connection.fetch("SELECT status, count(*) FROM events GROUP BY status")
    return {row["status"]: row["count"] for row in rows}


async def come_to(connection: Connection, expected: dict[str, int], *, deadline: float = 30.0) -> None:
    """Waits until the numbers of events for each status are exactly `expected`."""

    async def look() -> bool:
        return await statuses(connection) == expected

    await until(look, f"the events are {expected}", deadline=deadline)


async def times_put_back(connection: Connection) -> dict[uuid.UUID, int]:
    """Returns how often operators have put each event back, according to the audit trail."""
    rows = await connection.fetch(
        "SELECT event_id, count(*) FROM audit WHERE actor LIKE 'operator%' AND to_status = 'received' GROUP BY event_id"
    )
    return {row["event_id"]: row["count"] for row in rows}
