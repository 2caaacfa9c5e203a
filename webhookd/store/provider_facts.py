"""The facts of transactions, as PostgreSQL keeps them. The SQL is in `provider_facts.sql`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from webhookd.authorizenet.api.results import ReturnedItem
from webhookd.authorizenet.settlement import Facts, State
from webhookd.errors import UnavailableError
from webhookd.store.database import Database
from webhookd.store.queries import queries

_TRIES = 5  # writers of one transaction that may come between a reading and its writing
_SAME = (  # the fields that have the same name in `Facts` and in the table
    "status",
    "seen_at",
    "amount",
    "batch_id",
    "settled_at",
    "submitted_at",
    "type",
    "ref_transaction_id",
    "account_type",
    "invoice_number",
    "subscription_id",
    "payment_number",
    "echeck",
    "detailed",
    "lists_returns",
)


@dataclass(slots=True, frozen=True)
class StoredFacts:
    """The facts of a transaction with what webhookd keeps beside them.

    listed_in: the batches whose lists had the transaction, without those that failed.
    next_look_at: when webhookd asks for the transaction again; None if no look is planned.
    """

    facts: Facts
    version: int = 0
    listed_in: frozenset[str] = frozenset()
    next_look_at: datetime | None = None


class FactStore:
    """The facts of one account's transactions. All methods raise UnavailableError while PostgreSQL is away."""

    def __init__(self, database: Database, account: str) -> None:
        self._database = database
        self._account = account

    async def read(self, transaction_ids: Collection[str]) -> dict[str, StoredFacts]:
        """Returns what is known of transactions, by their ids. An id of which nothing is known is left out."""
        rows = await self._database.all(
            queries.provider_facts, account=self._account, transaction_ids=sorted(set(transaction_ids))
        )
        return {row["transaction_id"]: stored_facts(row) for row in rows}

    async def change(
        self,
        transaction_ids: Collection[str],
        decide: Callable[[Mapping[str, StoredFacts]], Awaitable[Iterable[StoredFacts]]],
    ) -> None:
        """Changes the facts of transactions.

        decide: gets what is known, and returns the rows to write. It is called again for the transactions that another
            replica wrote meanwhile, so it must bear repetition. Rows that are as before are not written.
        """
        waiting = set(transaction_ids)
        for _ in range(_TRIES):
            known = await self.read(waiting)
            changed = {one.facts.id: one for one in await decide(known) if one != known.get(one.facts.id)}
            written = await self._write(changed.values())
            waiting = changed.keys() - written
            if not waiting:
                return
        raise UnavailableError("postgresql", "another replica wrote the facts of the same transactions again and again")

    async def _write(self, rows: Collection[StoredFacts]) -> set[str]:
        if not rows:
            return set()
        facts = orjson.dumps([_row(one) for one in rows], default=str).decode()
        found = await self._database.all(queries.write_provider_facts, account=self._account, facts=facts)
        return {row["transaction_id"] for row in found}


def stored_facts(row: asyncpg.Record) -> StoredFacts:
    """Returns a row of the table provider_transactions as facts."""
    items = orjson.loads(row["returned_items"] or "[]")
    facts = Facts(
        row["transaction_id"],
        **{name: row[name] for name in _SAME},
        returned_items=tuple(ReturnedItem(name, at and datetime.fromisoformat(at), code) for name, at, code in items),
        failed_batches=frozenset(row["failed_batches"] or ()),
    )
    return StoredFacts(facts, row["version"], frozenset(row["listed_in"] or ()), row["next_look_at"])


def with_look(stored: StoredFacts | None, merged: Facts, seen: Facts, *, in_list: bool = False) -> StoredFacts:
    """Returns `stored` with the facts after a look.

    merged: the facts with the look. seen: the look itself. in_list: whether the look is a row of the list of a batch.
    """
    base = stored or StoredFacts(merged)
    listed = base.listed_in
    if in_list and seen.batch_id is not None:  # a batch may fail after its list was first read
        own = {seen.batch_id}
        listed = listed - own if seen.settlement is State.SETTLEMENT_FAILED else listed | own
    return replace(base, facts=merged, listed_in=listed)


def _row(one: StoredFacts) -> dict[str, Any]:
    facts = one.facts
    return {
        "transaction_id": facts.id,
        "version": one.version + 1,
        "state": facts.state.value,
        "next_look_at": one.next_look_at,
        **{name: getattr(facts, name) for name in _SAME},
        "returned_items": [list(item) for item in facts.returned_items] or None,
        "failed_batches": sorted(facts.failed_batches) or None,
        "listed_in": sorted(one.listed_in) or None,
    }
