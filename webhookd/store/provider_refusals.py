"""The refused credentials of the provider's API in PostgreSQL: they last over restarts, and all replicas know them."""

from __future__ import annotations

from typing import Any, Protocol

from webhookd.authorizenet.api.refusals import CREDENTIALS_AGAIN, Refused
from webhookd.store.queries import queries


class _Asked(Protocol):
    """PostgreSQL: the daemon's Database, or the SingleSession of a command."""

    async def one(self, query: Any, **parameters: Any) -> Any: ...


class ProviderRefusals:
    """As `Refusals`, by PostgreSQL's clock. Each method raises UnavailableError if PostgreSQL is away."""

    def __init__(self, database: _Asked) -> None:
        self._database = database

    async def read(self, fingerprint: str) -> Refused | None:
        """Returns the refusal of these credentials; None if they are not refused."""
        row = await self._database.one(queries.provider_refusal, fingerprint=fingerprint)
        return None if row is None else Refused(row["code"], row["refused_for"], row["next_try_in"])

    async def take_try(self, fingerprint: str) -> bool:
        """Takes the try that is due. Returns False if none is due, or another process took the try."""
        taken = await self._database.one(queries.take_provider_try, fingerprint=fingerprint, seconds=CREDENTIALS_AGAIN)
        return taken is not None

    async def refused(self, fingerprint: str, account: str, code: str) -> None:
        """Notes that the provider refuses these credentials."""
        await self._database.one(
            queries.note_provider_refusal,
            fingerprint=fingerprint,
            account=account,
            code=code,
            seconds=CREDENTIALS_AGAIN,
        )

    async def accepted(self, fingerprint: str) -> None:
        """Notes that the provider accepts these credentials."""
        await self._database.one(queries.drop_provider_refusal, fingerprint=fingerprint)
