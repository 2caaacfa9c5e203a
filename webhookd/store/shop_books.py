"""The shop's own books: the rows of the query that the settings name, read in a transaction that may only read.

No message holds the query or a text of PostgreSQL, which may quote the query or a customer's data.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import asyncpg

from webhookd.authorizenet.reconciliation import ShopRow
from webhookd.errors import WebhookdError
from webhookd.store.database import Database
from webhookd.store.failures import ASYNCPG_ERRORS
from webhookd.store.pools import CONNECT_TIMEOUT
from webhookd.store.session import connect

_TIMEOUT = 20.0  # seconds that the query may take for one day
_MOST = 200_000  # rows of one day
_COLUMNS = 3
_PARAMETERS = "$1::text, $2::timestamptz, $3::timestamptz and $4::text[]"


class ShopAnswer(NamedTuple):
    """The shop's rows, and what keeps a report from being sure, in plain words. Without rows, nothing is compared."""

    rows: Sequence[ShopRow] | None
    doubts: tuple[str, ...] = ()


class ShopBooks:
    """Reads the shop's books. url: the shop's database; None for webhookd's own."""

    def __init__(self, database: Database, query: str, url: str | None = None, *, timeout: float = _TIMEOUT) -> None:
        self._database = database
        self._query = query
        self._url = url
        self._timeout = timeout

    async def read(self, account: str, begins: datetime, ends: datetime, ids: Sequence[str]) -> ShopAnswer:
        """Returns the payments and refunds that the shop booked in a span of time, and those with the given ids."""
        try:
            async with self._connection() as connection:
                # No error of the query may reach the pool: a query that tries to write would look like a failover.
                return await self._ask(connection, (account, begins, ends, list(ids)))
        except (OSError, TimeoutError, WebhookdError, ValueError, *ASYNCPG_ERRORS) as error:
            return _failed(f"its database is away ({_name(error)})")

    async def _ask(self, connection: Any, values: tuple[object, ...]) -> ShopAnswer:
        try:
            async with connection.transaction(readonly=True):
                await connection.execute(f"SET LOCAL statement_timeout = {int(self._timeout * 1000)}")
                statement = await connection.prepare(self._query)
                if len(statement.get_attributes()) != _COLUMNS:
                    return _failed("it returns other columns than three: the transaction's id, the amount, the state")
                cursor = await statement.cursor(*values)
                found = await cursor.fetch(_MOST + 1, timeout=self._timeout + 1)
        except asyncpg.DataError as error:
            return _failed(f"a value does not fit ({_name(error)}): write the parameters as {_PARAMETERS}")
        except (asyncpg.QueryCanceledError, TimeoutError):
            return _failed(f"it took longer than {self._timeout:g} s: give its table an index")
        except (OSError, ValueError, *ASYNCPG_ERRORS) as error:
            return _failed(f"the database refuses it ({_name(error)}): run the query there yourself")
        if len(found) > _MOST:
            return _failed(f"it returns more than {_MOST} rows for a day: let it use $2, $3 and $4")
        return _answer(tuple(row) for row in found)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._url is None:
            async with self._database.acquire("admin", reset=True) as pooled:
                yield pooled
            return
        connection = await connect(self._url, timeout=CONNECT_TIMEOUT, statement_cache_size=0)
        try:
            yield connection
        finally:
            connection.terminate()


def _failed(why: str) -> ShopAnswer:
    return ShopAnswer(None, (f"the shop's books were not compared. WEBHOOKD_SHOP_QUERY: {why}",))


def _name(error: BaseException) -> str:
    """Returns the kind of an error, without its text."""
    state = getattr(error, "sqlstate", None)
    return f"{type(error).__name__}, SQLSTATE {state}" if state else type(error).__name__


def _answer(found: Iterable[tuple[Any, Any, Any]]) -> ShopAnswer:
    rows, odd = [], {"id": 0, "amount": 0, "state": 0}
    for name, given, state in found:
        amount = _amount(given)
        if not isinstance(name, (str, int)) or isinstance(name, bool) or not str(name).strip():
            odd["id"] += 1
            continue
        if amount is None and given is not None:
            odd["amount"] += 1
        if not (state is None or isinstance(state, str)):
            odd["state"] += 1
        rows.append(ShopRow(str(name).strip(), amount, state.strip() if isinstance(state, str) else None))
    words = {"id": "no id of a transaction", "amount": "an amount that is no number", "state": "a state that is no text"}
    doubts = [f"WEBHOOKD_SHOP_QUERY: rows with {words[kind]}: {count}" for kind, count in odd.items() if count]
    return ShopAnswer(rows, tuple(doubts))


def _amount(value: object) -> Decimal | None:
    """Returns an amount that is given as a number or a text; None if it is neither."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        return None
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return amount if math.isfinite(amount) else None
