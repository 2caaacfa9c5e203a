"""The batches of an account, and how far its sweep has come. The SQL is in `settlement.sql`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg
import orjson

from webhookd.authorizenet.api.results import Batch, BatchStatistic
from webhookd.authorizenet.batches import FINAL, Check
from webhookd.authorizenet.body import load
from webhookd.store.database import Database
from webhookd.store.provider_facts import StoredFacts, stored_facts
from webhookd.store.queries import queries

_AMOUNTS = ("charge_amount", "refund_amount")


class Sweep(NamedTuple):
    """How far the sweep of an account has come; the table provider_sweeps explains the fields. `is_new`: it begins now."""

    swept_from: datetime
    batches_listed_at: datetime | None
    unsettled_at: datetime | None
    asked: int
    asked_at: datetime | None
    swept_at: datetime | None
    begun_at: datetime
    is_new: bool


class Unread(NamedTuple):
    """A batch whose transactions are to be read. `again`: they were read before."""

    batch: Batch
    again: bool


class SettlementStore:
    """The batches and the sweep of one account. All methods raise UnavailableError while PostgreSQL is away."""

    def __init__(self, database: Database, account: str) -> None:
        self._database = database
        self._account = account

    async def begin(self, oldest: datetime, at: datetime) -> Sweep:
        """Returns how far the sweep has come. `oldest`: the first sweep begins not earlier. `at`: the time now."""
        return Sweep(**await self._database.one(queries.begin_sweep, account=self._account, oldest=oldest, at=at))

    async def note_batches(self, batches: Iterable[Batch], at: datetime, *, listed: bool = True) -> None:
        """Records batches before their transactions are read. `listed`: all batches up to `at` are among these."""
        rows = _json([_fields(one) | {"reason": f"batch {one.id}: its list was not read yet"} for one in batches])
        await self._database.one(queries.note_batches, account=self._account, batches=rows, at=at, listed=listed)

    async def to_read(self, at: datetime, shortest: timedelta, pending: timedelta, limit: int) -> list[Unread]:
        """Returns batches whose transactions are to be read, the oldest settlement first.

        shortest: the shortest pause between two looks at an open batch, which grows with the batch's age.
        pending: as `shortest`, for a batch that is not final.
        """
        rows = await self._database.all(
            queries.batches_to_read,
            account=self._account,
            at=at,
            shortest=shortest.total_seconds(),
            pending=pending.total_seconds(),
            final=sorted(FINAL),
            limit=limit,
        )
        return [Unread(_batch(row), row["again"]) for row in rows]

    async def write_batch(self, check: Check, transactions: int, at: datetime) -> None:
        """Records what a look at a batch found."""
        more = {"totals": check.totals, "reasons": list(check.reasons), "transactions": transactions}
        await self._database.one(queries.write_batch, account=self._account, batch=_json(_fields(check.batch) | more), at=at)

    async def count_open(self) -> int:
        """Returns the number of batches that are open, or not read yet."""
        return int(await self._database.one(queries.count_open_batches, account=self._account))

    async def note_question(self, at: datetime) -> None:
        """Records that a question of the day is asked now."""
        await self._database.one(queries.note_question, account=self._account, at=at)

    async def note_answer(self, asked: int, *, unsettled_at: datetime | None = None, time_zone: str | None = None) -> None:
        """Records that a question of the day was answered.

        asked: how many questions of the day were answered; 0: all of them.
        unsettled_at: when the unsettled transactions were listed to the end, if this was the question.
        time_zone: the account's time zone as the provider names it, if this was the question.
        """
        more = {"asked": asked, "unsettled_at": unsettled_at, "time_zone": time_zone}
        await self._database.one(queries.note_answer, account=self._account, **more)

    async def note_swept(self, at: datetime) -> None:
        """Records that a sweep has ended."""
        await self._database.one(queries.note_swept, account=self._account, at=at)

    async def to_look_at(self, at: datetime, limit: int) -> list[StoredFacts]:
        """Returns the transactions that are to be asked for by their ids."""
        rows = await self._database.all(queries.transactions_to_look_at, account=self._account, at=at, limit=limit)
        return [stored_facts(row) for row in rows]


def _fields(batch: Batch) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "settlement_state": batch.settlement_state,
        "settled_at": batch.settled_at,
        "payment_method": batch.payment_method,
        # In one order: a list in another order is no change.
        "statistics": sorted((one._asdict() for one in batch.statistics), key=lambda one: one["account_type"] or ""),
    }


def _batch(row: asyncpg.Record) -> Batch:
    return Batch(
        row["batch_id"],
        row["settlement_state"],
        row["settled_at"],
        row["payment_method"],
        tuple(_statistic(one) for one in load(row["statistics"])),
    )


def _statistic(fields: dict[str, Any]) -> BatchStatistic:
    return BatchStatistic(**fields | {name: Decimal(fields[name]) for name in _AMOUNTS})


def _json(value: Sequence[Any] | dict[str, Any]) -> str:
    """Returns JSON text, with amounts as numbers that have all their digits."""
    return orjson.dumps(value, default=_exact, option=orjson.OPT_NON_STR_KEYS).decode()


def _exact(value: Decimal) -> orjson.Fragment:
    return orjson.Fragment(f"{value:f}")
