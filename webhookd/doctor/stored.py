"""Reads what PostgreSQL knows of the provider's accounts, for a command: refused credentials, and the webhook that is ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta

from webhookd.authorizenet.api.errors import CredentialsRefusedError
from webhookd.authorizenet.api.refusals import Refusals
from webhookd.errors import UnavailableError, WebhookdError
from webhookd.settings import Settings
from webhookd.sqs.rds import RdsTokens
from webhookd.store.provider_refusals import ProviderRefusals
from webhookd.store.provider_webhooks import Known, known_of
from webhookd.store.queries import queries
from webhookd.store.session import Server
from webhookd.store.single_session import SingleSession

_TIMEOUT = 5.0  # seconds until a command goes on without PostgreSQL


class Stored:
    """The knowledge of PostgreSQL, if it answers. Without PostgreSQL, `refusals` is None, and nothing is known of a webhook."""

    def __init__(self, session: SingleSession | None) -> None:
        self._session = session
        self.refusals: Refusals | None = None if session is None else ProviderRefusals(session)

    async def webhooks(self, accounts: Iterable[str]) -> dict[str, Known]:
        """Returns what is known of each account's webhook."""
        if self._session is None:
            return {}
        try:
            return {name: known_of(await self._session.one(queries.webhook_of_account, account=name)) for name in accounts}
        except UnavailableError:  # the doctor's check of PostgreSQL names the reason
            return {}


@contextlib.asynccontextmanager
async def stored(settings: Settings) -> AsyncIterator[Stored]:
    """Asks PostgreSQL while the block runs. A PostgreSQL that does not answer, or has no tables, is no error."""
    queries.use(settings.database_schema)
    async with contextlib.AsyncExitStack() as stack:
        session = None
        with contextlib.suppress(WebhookdError, TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                tokens = RdsTokens.password(settings.database_auth, settings.sqs_region)
                password = await stack.enter_async_context(tokens)
                opened = await SingleSession.open(Server(settings.database_url.get_secret_value(), password))
                stack.push_async_callback(opened.close)
                await ProviderRefusals(opened).read("")  # proves that the table is there
                session = opened
        yield Stored(session)


def refused_until(error: CredentialsRefusedError, account: str, seconds: float) -> str:
    """Returns the message of a command whose credentials are refused. seconds: until webhookd sends them again."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    named = "" if account == "default" else f" --account {account}"
    return (
        f"{error}. No process of webhookd sends these credentials before {at:%H:%M:%S} UTC: many refused calls may lock the "
        "account. Other credentials are tried at once. If Authorize.Net must accept these by now, run "
        f"`webhookd provider check --now{named}`, which tries them once"
    )
