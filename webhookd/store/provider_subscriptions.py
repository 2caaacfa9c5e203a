"""Stores the subscriptions of each account, and their payments. The SQL is in `provider_subscriptions.sql`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import orjson

from webhookd.authorizenet.api.results import PaymentAttempt, Schedule
from webhookd.authorizenet.subscriptions import Attempt, Known
from webhookd.store.database import Database
from webhookd.store.queries import queries

_SAME = (  # the fields that have the same name in `Known` and in the table
    "status",
    "status_since",
    "seen_at",
    "created_at",
    "amount",
    "past_occurrences",
    "total_occurrences",
    "invoice_number",
    "card_expires",
    "judged_to",
    "detailed_at",
    "next_look_at",
)


class SubscriptionStore:
    """The subscriptions of one account. All methods raise UnavailableError while PostgreSQL is away."""

    def __init__(self, database: Database, account: str) -> None:
        self._database = database
        self._account = account

    async def lists(self) -> tuple[datetime | None, int]:
        """Returns when the subscriptions were last listed to the end, and how many lists were read since then."""
        at, read = await self._database.one(queries.subscription_lists, account=self._account)
        return at, read

    async def note_list(self, lists: int, ended_at: datetime | None) -> None:
        """Records how many lists were read. `ended_at`: the time, if these were all; then the next ones begin anew."""
        await self._database.one(queries.note_subscription_list, account=self._account, lists=lists, ended_at=ended_at)

    async def read(self, subscription_ids: Collection[str]) -> dict[str, Known]:
        """Returns what is known of subscriptions, by their ids. An id of which nothing is known is left out."""
        rows = await self._database.all(
            queries.known_subscriptions, account=self._account, subscription_ids=sorted(set(subscription_ids))
        )
        return {row["subscription_id"]: _known(row) for row in rows}

    async def to_look_at(self, at: datetime, limit: int) -> list[Known]:
        """Returns subscriptions whose next look is due, the longest overdue first."""
        rows = await self._database.all(queries.subscriptions_to_look_at, account=self._account, at=at, limit=limit)
        return [_known(row) for row in rows]

    async def write(self, subscriptions: Iterable[Known]) -> None:
        """Writes what is known of subscriptions."""
        rows = [_row(one) for one in subscriptions]
        if rows:
            await self._database.one(queries.write_subscriptions, account=self._account, rows=_json(rows))

    async def attempts(self, subscription_id: str) -> dict[str, Attempt]:
        """Returns the known attempts at payments of a subscription, by their keys."""
        rows = await self._database.all(
            queries.attempts_of_subscription, account=self._account, subscription_id=subscription_id
        )
        return {row["key"]: _attempt(row) for row in rows}

    async def write_attempts(self, subscription_id: str, attempts: Iterable[Attempt]) -> None:
        """Writes attempts at payments of a subscription."""
        rows = [one.made._asdict() | {"key": one.key, "judged": one.judged} for one in attempts]
        if rows:
            await self._database.one(
                queries.write_attempts, account=self._account, subscription_id=subscription_id, rows=_json(rows)
            )

    async def payments(self, subscription_id: str) -> list[datetime]:
        """Returns the times of a subscription's transactions."""
        rows = await self._database.all(
            queries.payments_of_subscription, account=self._account, subscription_id=subscription_id
        )
        return [row["submitted_at"] for row in rows]

    async def reported_failures(self, subscription_id: str) -> list[datetime]:
        """Returns the times of a subscription's failed payments that webhooks have reported."""
        rows = await self._database.all(queries.reported_failures, account=self._account, subscription_id=subscription_id)
        return [row["at"] for row in rows]

    async def note_missed(self, subscription_id: str, days: Sequence[date], amount: Decimal | None) -> None:
        """Records renewals that were due on days and did not come."""
        if days:
            await self._database.one(
                queries.note_missed_renewals,
                account=self._account,
                subscription_id=subscription_id,
                days=list(days),
                amount=amount,
            )

    async def missed(self, subscription_id: str) -> list[date]:
        """Returns the days of a subscription's renewals that were missed and did not come since."""
        rows = await self._database.all(queries.missed_renewals_of, account=self._account, subscription_id=subscription_id)
        return [row["expected_on"] for row in rows]

    async def note_late(self, subscription_id: str, day: date, at: datetime) -> None:
        """Records that a missed renewal came after all."""
        await self._database.one(
            queries.note_late_renewal, account=self._account, subscription_id=subscription_id, day=day, at=at
        )


def _known(row: asyncpg.Record) -> Known:
    schedule = None
    if row["interval_length"] is not None or row["starts_on"] is not None:
        names = ("interval_length", "interval_unit", "starts_on", "total_occurrences", "trial_occurrences", "trial_amount")
        schedule = Schedule(*(row[name] for name in names))
    return Known(row["subscription_id"], **{name: row[name] for name in _SAME}, schedule=schedule)


def _attempt(row: asyncpg.Record) -> Attempt:
    names = PaymentAttempt._fields
    return Attempt(row["key"], PaymentAttempt(**{name: row[name] for name in names}), row["judged"])


def _row(one: Known) -> dict[str, Any]:
    fields = {} if one.schedule is None else one.schedule._asdict()
    return fields | {"subscription_id": one.id} | {name: getattr(one, name) for name in _SAME}


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return orjson.dumps(rows, default=str).decode()
