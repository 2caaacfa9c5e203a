"""The statements about the provider's side of each account. The SQL is in `provider.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from webhookd.errors import LeaseEndedError
from webhookd.store.database import Database
from webhookd.store.keys import new_id
from webhookd.store.queries import queries


class Call(NamedTuple):
    """A call of the provider's API. `error`: why it failed; it holds no secret."""

    account: str
    at: datetime
    name: str
    seconds: float
    error: str | None


class ProviderState:
    """The statements about the provider's side. All raise UnavailableError while PostgreSQL is away.

    holder: this replica. Those that need the right to ask for the account raise LeaseEndedError if another replica has it.
    """

    def __init__(self, database: Database, holder: UUID) -> None:
        self._database = database
        self._holder = holder

    async def hold(self, account: str, seconds: float, provider: str) -> bool:
        """Takes or keeps the right to ask the provider for an account. Returns whether this replica has it now."""
        query = queries.hold_provider_account
        parameters = {"account": account, "holder": self._holder, "seconds": seconds, "provider": provider}
        return bool(await self._database.one(query, **parameters))

    async def release(self, account: str) -> None:
        """Ends this replica's right."""
        await self._database.one(queries.release_provider_account, account=account, holder=self._holder)

    async def set_credentials(self, account: str, state: str) -> None:
        """Records whether the provider takes the credentials: `good` or `refused`. Raises LeaseEndedError."""
        query = queries.set_provider_credentials
        if not await self._database.one(query, account=account, holder=self._holder, state=state):
            raise LeaseEndedError

    async def set_merchant(
        self, account: str, gateway_id: str | None, name: str | None, features_off: Sequence[str], *, test_mode: bool
    ) -> bool:
        """Records whose account the credentials are for. Returns whether it is another one than before.

        Raises LeaseEndedError.
        """
        moved: bool | None = await self._database.one(
            queries.set_provider_merchant,
            account=account,
            holder=self._holder,
            gateway_id=gateway_id,
            merchant_name=name,
            test_mode=test_mode,
            features_off=list(features_off),
        )
        if moved is None:
            raise LeaseEndedError
        return moved

    async def remove_old(self, account: str) -> None:
        """Removes what is old of an account."""
        await self._database.one(queries.remove_provider_rows, account=account)

    async def add_calls(self, calls: Sequence[Call]) -> None:
        """Keeps calls for people to look at."""
        await self._database.one(
            queries.add_provider_calls,
            ids=[new_id() for _ in calls],
            accounts=[call.account for call in calls],
            ats=[call.at for call in calls],
            names=[call.name for call in calls],
            seconds=[call.seconds for call in calls],
            errors=[call.error for call in calls],
        )
