"""The registration of one account's webhook, as PostgreSQL keeps it: the state that was found, pings, and changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg

from webhookd.errors import ConflictError
from webhookd.store.database import Database
from webhookd.store.keys import new_id
from webhookd.store.queries import queries

_ALONE = 420.0  # seconds for which a change keeps others from changing
_LONGEST = 360.0  # seconds that a change may take
_HEALINGS_AN_HOUR, _ACTIVATIONS_A_DAY = 1, 3


class Known(NamedTuple):
    """The known facts of an account's webhook.

    event_types: those that it is to have; None if nobody has said so. state, detail: as the last look found.
    seen_at: when a look or a change was last noted.
    """

    webhook_id: str | None
    event_types: frozenset[str] | None
    state: str | None = None
    detail: str | None = None
    seen_at: datetime | None = None


def known_of(row: asyncpg.Record | None) -> Known:
    """Returns the known facts that a row of an account has."""
    if row is None:
        return Known(None, None)
    types = row["webhook_event_types"]
    types = None if types is None else frozenset(types)
    return Known(row["webhook_id"], types, row["webhook_state"], row["webhook_detail"], row["webhook_seen_at"])


class Sample(NamedTuple):
    """The sample that a ping brought."""

    notification_id: str
    event_type: str
    webhook_id: str | None
    key_fingerprint: str


class Held(NamedTuple):
    """A held notification: authentic, and answered 200."""

    id: UUID
    received_at: datetime
    key_fingerprint: str
    body: bytes


class WebhookRecords:
    """The records of one account. All calls raise UnavailableError while PostgreSQL is away.

    actor: who changes something, for the records.
    """

    def __init__(self, database: Database, account: str, actor: str) -> None:
        self._database = database
        self.account = account
        self.actor = actor
        self._me = uuid4()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keeps every other process from changing the account's webhooks. Raises ConflictError if one does so now."""
        name = f"provider webhooks of {self.account}"
        if not await self._database.one(queries.take_duty, name=name, holder=self._me, seconds=_ALONE):
            raise ConflictError(
                f"another process is changing the webhooks of the account {self.account} now: try again in a minute, "
                "or in seven minutes if that process was killed"
            )
        try:
            async with asyncio.timeout(_LONGEST):
                yield
        except TimeoutError:
            raise ConflictError(
                f"the change took longer than {_LONGEST:g} s: `webhookd provider webhooks list` shows how far it came"
            ) from None
        finally:
            await self._database.one(queries.end_duty, name=name, holder=self._me)

    async def known(self) -> Known:
        """Returns what is known of the account's webhook."""
        return known_of(await self._database.one(queries.webhook_of_account, account=self.account))

    async def note(
        self,
        state: str,
        webhook_id: str | None,
        detail: str | None,
        event_types: Iterable[str] | None = None,
        *,
        known: Known | None = None,
    ) -> str | None:
        """Notes the webhook's state. Returns the state before, None if there was none.

        event_types: the types that the webhook is to have; None leaves them as they are.
        known: the facts from before a look at the provider. If they changed since, raises ConflictError and notes nothing.
        """
        types = None if event_types is None else sorted(event_types)
        row = await self._database.one(
            queries.note_webhook,
            account=self.account,
            state=state,
            webhook_id=webhook_id,
            detail=detail,
            event_types=types,
            looked=known is not None,
            seen_at=None if known is None else known.seen_at,
        )
        if not row["noted"]:
            raise ConflictError(f"another process changed the webhook of the account {self.account} during the look")
        before: str | None = row["before"]
        return before

    async def note_change(self, change: str, webhook_id: str | None, detail: str | None = None) -> None:
        """Keeps a change at the provider."""
        await self._database.one(
            queries.note_change,
            id=new_id(),
            account=self.account,
            actor=self.actor,
            change=change,
            webhook_id=webhook_id,
            detail=detail,
        )

    async def begin_healing(self, webhook_id: str) -> bool:
        """Keeps that the webhook is to be healed. Returns False if any replica tried so, or activated it, too often."""
        return bool(
            await self._database.one(
                queries.begin_healing,
                id=new_id(),
                account=self.account,
                actor=self.actor,
                webhook_id=webhook_id,
                an_hour=_HEALINGS_AN_HOUR,
                a_day=_ACTIVATIONS_A_DAY,
            )
        )

    async def may_heal(self, webhook_id: str) -> bool:
        """Returns whether the webhook should be active: nobody deactivated it here, or registered it and left it inactive."""
        last = await self._database.one(queries.last_switch_of_webhook, account=self.account, webhook_id=webhook_id)
        return last in (None, "activate")

    # Pings

    async def open_ping(self, webhook_id: str, others: Sequence[str], seconds: float) -> UUID:
        """Opens a ping for `seconds`, and returns its id. Raises ConflictError if one is open."""
        ping = new_id()
        opened = await self._database.one(
            queries.open_ping,
            id=ping,
            account=self.account,
            webhook_id=webhook_id,
            others=list(others),
            seconds=seconds,
            actor=self.actor,
        )
        if not opened:
            raise ConflictError(f"a ping of the webhook {webhook_id} is under way: try again in two minutes")
        return ping

    async def open_for(self, webhook_id: str) -> float:
        """Returns the seconds for which a ping of the webhook is still open; 0 if none is."""
        left = await self._database.one(queries.open_ping_of, account=self.account, webhook_id=webhook_id)
        return float(left or 0)

    async def close_ping(self, ping: UUID, after: float = 0.0, *, unsent: bool = False) -> None:
        """Closes a ping after some seconds. Then no notification is held for the ping any more.

        unsent: the provider sent no sample, so that all that is held is real.
        """
        await self._database.one(queries.close_ping, id=ping, seconds=after, sent=False if unsent else None)

    async def pings_to_decide(self) -> list[UUID]:
        """Returns the pings that are over, and that are not decided or have held notifications."""
        return [row["id"] for row in await self._database.all(queries.pings_to_decide, account=self.account)]

    async def decide_ping(self, ping: UUID) -> None:
        """Decides which of the held notifications is the sample of a ping that is over. Done again, changes nothing."""
        await self.close_ping(ping)
        await self._database.one(queries.decide_ping, id=ping)

    async def undecided(self, ping: UUID, limit: int) -> list[Held]:
        """Returns held notifications of a ping that is not decided, those first that are most likely its sample."""
        return [Held(*row) for row in await self._database.all(queries.undecided_of_ping, ping=ping, limit=limit)]

    async def held(self, ping: UUID, limit: int) -> list[Held]:
        """Returns held notifications of a ping that is decided: they are real ones."""
        return [Held(*row) for row in await self._database.all(queries.held_for_ping, ping=ping, limit=limit)]

    async def forget_held(self, ids: Sequence[UUID]) -> None:
        """Removes held notifications that are events, or in quarantine, now."""
        await self._database.one(queries.forget_held, ids=list(ids))

    async def sample(self, ping: UUID) -> Sample | None:
        """Returns the sample that a ping brought, or likely brought if it is not decided; None if nothing came yet."""
        row = await self._database.one(queries.sample_of_ping, ping=ping)
        return None if row is None else Sample(*row)

    async def refused_since(self, ping: UUID) -> str | None:
        """Returns what is likely wrong with the newest webhook that was refused since the ping was opened; None if none was."""
        row = await self._database.one(queries.refused_since_ping, ping=ping)
        return None if row is None else str(row["likely"])
