"""The pings that webhookd ordered: what may be their samples is held, with its body, until the ping is over and decided.

Who orders a ping commits a row first, and waits for longer than a receiver's knowledge of these rows may be old. So whichever
receiver gets the sample knows of the ping. Whether the ping is still open is decided by PostgreSQL, in the statement that keeps
the body: whoever closes a ping can be certain that no notification is held from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from webhookd.authorizenet.notification import Notification, webhook_of
from webhookd.errors import RefusedError
from webhookd.store.database import Database
from webhookd.store.keys import new_id
from webhookd.store.postgresql_problem import problem_of
from webhookd.store.queries import queries
from webhookd.telemetry.logs import logger

AGE = 3.0  # seconds; a receiver's knowledge of the pings is never older when it decides
LEAD = 4.0  # seconds from the commit of a ping to the call that makes the provider send; longer than AGE
_AHEAD = 1.5  # seconds; the age from which the pings are read anew while webhooks go on
_REMEMBERED = 900.0  # seconds after a ping's end, for which a copy of its sample counts as one
_CLOCKS = timedelta(minutes=5)  # a sample's eventDate may be so much before its ping, because the provider has another clock
_GIVEN_UP = timedelta(days=14)  # the provider sends no notification again that is so old: its last try comes after ten days
NO_ENTITY = "0"  # the id of the entity in a sample that is about nothing


class Ping(NamedTuple):
    """A ping that is open, or was a short time ago.

    others: the ids of the account's other webhooks. samples: the ids of the notifications that are held, and of the sample.
    """

    id: UUID
    webhook_id: str
    others: frozenset[str]
    opened_at: datetime
    open: bool
    samples: frozenset[str]


class Pings:
    """The pings as a receiver knows them. `old` is whether they must be read anew (`renew`) before a webhook is judged.

    patience: the seconds that reading the pings may take.
    """

    def __init__(self, database: Database, *, patience: float) -> None:
        self._database = database
        self._patience = patience
        self._recent: Mapping[str, tuple[Ping, ...]] = {}
        self._ends = self._soon = float("-inf")  # time.monotonic() when the knowledge is too old, and when to read ahead
        self._reading: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Ends a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._reading

    @property
    def old(self) -> bool:
        """Returns whether the pings must be read anew. If they soon will be too old, begins to read them."""
        now = time.monotonic()
        if now < self._soon:
            return False
        self._read_soon()
        return now >= self._ends

    async def renew(self) -> None:
        """Returns when the pings are known again. Raises UnavailableError or TimeoutError."""
        async with asyncio.timeout(self._patience):
            # While PostgreSQL is slow, a reading that another webhook began may be too old when it ends.
            while time.monotonic() >= self._ends:
                await asyncio.shield(self._read_soon())

    def concern(self, account: str, notification: Notification) -> bool:
        """Returns whether a notification may be a sample. For most webhooks, no ping was ordered a short time ago."""
        return account in self._recent or notification.entity_id == NO_ENTITY

    async def keep(self, account: str, notification: Notification, body: bytes, key: str) -> UUID | None:
        """Holds what may be a sample. Returns the id of its row; None if the notification is to become an event now.

        body: the authentic body. key: the fingerprint of the key that verified the body. Raises UnavailableError.
        """
        webhook_id = webhook_of(orjson.loads(body.removeprefix(b"\xef\xbb\xbf")))
        ping, sure = self._ping_of(account, notification, webhook_id), notification.entity_id == NO_ENTITY
        if ping is None and not sure:
            return None
        kept: UUID | None = await self._ask(
            self._database.one(
                queries.keep_sample,
                id=new_id(),
                account=account,
                notification_id=notification.notification_id,
                event_type=notification.event_type,
                webhook_id=webhook_id,
                key_fingerprint=key,
                event_date=notification.event_date,
                body=body,
                ping=None if ping is None else ping.id,
                sure=sure,
            )
        )
        if kept is not None:
            logger.info("what may be a ping's sample came", account=account, test=str(kept))
        return kept

    def _ping_of(self, account: str, notification: Notification, webhook_id: str | None) -> Ping | None:
        """Returns the ping of which a notification may be the sample."""
        for ping in self._recent.get(account, ()):
            if notification.notification_id in ping.samples:
                return ping
            if not ping.open or webhook_id in ping.others:
                continue
            # The provider may still retry a notification from before the webhook became inactive. What has no date, or one from
            # before all retries, is none: it is likely the sample if it names the pinged webhook.
            date = notification.event_date
            if date is None or date < ping.opened_at - _GIVEN_UP:
                if webhook_id == ping.webhook_id:
                    return ping
            elif date >= ping.opened_at - _CLOCKS:
                return ping
        return None

    def _read_soon(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="pings")
            self._reading.add_done_callback(self._ended)
        return self._reading

    def _ended(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # whoever waits has it; if nobody does, the next webhook begins another reading

    async def _read(self) -> None:
        began = time.monotonic()
        rows = await self._ask(self._database.all(queries.recent_pings, seconds=_REMEMBERED))
        recent: dict[str, list[Ping]] = {}
        for row in rows:
            ping = Ping(
                row["id"],
                row["webhook_id"],
                frozenset(row["others"]),
                row["opened_at"],
                row["open"],
                frozenset(row["samples"]),
            )
            recent.setdefault(row["account"], []).append(ping)
        self._recent = {account: tuple(pings) for account, pings in recent.items()}
        self._ends, self._soon = began + AGE, began + _AHEAD

    async def _ask(self, statement: Any) -> Any:
        try:
            return await statement
        except asyncpg.PostgresError as error:  # such as a missing right; the provider sends the webhook again
            raise RefusedError("postgresql", problem_of(error)) from error
