"""An operator's order to take from the provider's history what is missing since a day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import asyncpg

from webhookd.errors import ConflictError, NotFoundError
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.store.event_store import storable
from webhookd.store.keys import new_id
from webhookd.store.queries import queries

LONGEST = 400  # days that an order looks back; what is known of the notifications is kept for as long


class GapOrders:
    """Takes orders. The replica that asks the provider for the account begins within seconds."""

    def __init__(self, statements: OperatorQueries) -> None:
        self._statements = statements

    async def order(self, account: str, since: date, *, actor: str, reason: str) -> asyncpg.Record:
        """Stores an order, and returns the operation's row. Raises NotFoundError, and ConflictError with the reason."""
        today = datetime.now(UTC).date()
        first = today - timedelta(days=LONGEST)
        if since > today:
            raise ConflictError(f"{since} lies in the future: give a day that has begun, in UTC")
        if since < first:
            raise ConflictError(f"{since}: an order looks back {LONGEST} days at most: give {first} or a later day")
        async with self._statements.connection() as connection, connection.transaction():
            held = await queries.lock_provider_account(connection, account=account)
            if held is None:
                raise NotFoundError(
                    f"the account {account} has no API credentials: set WEBHOOKD_API_LOGIN_ID and WEBHOOKD_TRANSACTION_KEY, or "
                    "give another account"
                )
            if (other := await queries.ordered_gaps(connection, account=account)) is not None:
                raise ConflictError(
                    f"the operation {other['id']} closes gaps of the account {account} already: wait for its end, or cancel it"
                )
            order = {"account": account, "since": since, "actor": actor, "reason": storable(reason)}
            row: asyncpg.Record = await queries.order_gaps(connection, id=new_id(), **order)
        return row
