"""The session of a command of `webhookd provider`: one account's client, and the database that keeps changes."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from webhookd.errors import SettingsError
from webhookd.runtime.console import err, run

if TYPE_CHECKING:
    from webhookd.authorizenet.api.client import ProviderClient
    from webhookd.authorizenet.api.refusals import Refusals
    from webhookd.settings import Settings
    from webhookd.settings.provider import ProviderAccess
    from webhookd.store.database import Database
    from webhookd.sync.registration import Registrar

T = TypeVar("T")

Account = Annotated[str, typer.Option(help="The account, by its name in the settings.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]
_PATIENCE = 30.0  # seconds that a command waits, in all, while the provider is away for a short time


@dataclass(slots=True, frozen=True)
class Session:
    """One account at the provider. `database` is None for commands that change nothing."""

    settings: Settings
    access: ProviderAccess
    client: ProviderClient
    database: Database | None

    def registrar(self, *, dry_run: bool = False) -> Registrar:
        """Returns what changes the account's webhooks, in the name of the user who runs the command."""
        from webhookd.deliver.destination import Routes, destinations_of
        from webhookd.store.provider_webhooks import WebhookRecords
        from webhookd.store.receipts import Receipts
        from webhookd.sync.pings import HeldNotifications
        from webhookd.sync.registration import Registrar

        assert self.database is not None, "a command that changes something has the database"  # noqa: S101
        records = WebhookRecords(self.database, self.access.account, _user())
        settings = self.settings
        receipts = Receipts(self.database, Routes(destinations_of(settings.destinations, sends=False)))
        held = HeldNotifications(records, receipts, settings.max_event_age, settings.max_clock_skew, self.client)
        return Registrar(self.client, records, held, step, dry_run=dry_run)


def step(text: str) -> None:
    """Prints a step of a command on standard error, so that standard output has the result alone."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def with_account(account: str, folder: Path, work: Callable[[Session], Coroutine[Any, Any, T]], *, changes: bool = False) -> T:
    """Runs `work` on an account. `changes`: the command changes something, so that it needs the database."""
    settings, access = settings_of(account, folder, whole=changes)
    return run(_with(settings, access, work, changes=changes))


def settings_of(account: str, folder: Path, *, whole: bool) -> tuple[Settings, ProviderAccess]:
    """Returns the settings, and the access of an account. `whole`: all settings are needed, also those of PostgreSQL."""
    from webhookd.dev import known
    from webhookd.settings.provider import provider_accesses
    from webhookd.telemetry import logs

    settings, _ = known.known(folder, whole=whole)
    logs.configure("critical")  # the command reports the problems
    account = account.lower()
    access = provider_accesses(settings).get(account)
    if access is None:
        prefix = "WEBHOOKD_" if account == "default" else f"WEBHOOKD_ACCOUNTS__{account.upper()}__"
        raise SettingsError(
            f"{prefix}API_LOGIN_ID and {prefix}TRANSACTION_KEY are not set, so webhookd cannot ask Authorize.Net about the "
            f"account {account}: set both (Merchant Interface: Account, Settings, API Credentials & Keys)"
        )
    return settings, access


async def _with(
    settings: Settings, access: ProviderAccess, work: Callable[[Session], Coroutine[Any, Any, T]], *, changes: bool
) -> T:
    from webhookd.authorizenet.api.client import ProviderClient
    from webhookd.authorizenet.api.errors import CredentialsRefusedError
    from webhookd.doctor.stored import refused_until, stored
    from webhookd.store.provider_refusals import ProviderRefusals

    database = None
    async with contextlib.AsyncExitStack() as stack:
        if changes:
            database = await stack.enter_async_context(_opened(settings))
            refusals: Refusals | None = ProviderRefusals(database)
        else:
            refusals = (await stack.enter_async_context(stored(settings))).refusals
        client = await stack.enter_async_context(ProviderClient(access, refusals=refusals, patience=_PATIENCE))
        try:
            return await work(Session(settings, access, client, database))
        except CredentialsRefusedError as error:
            if refusals is None:
                raise
            said = refused_until(error, access.account, client.state.next_call_in)
            raise CredentialsRefusedError(said, error.code) from error


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Database]:
    from webhookd.daemon import pool_settings
    from webhookd.runtime.loops import Watch
    from webhookd.sqs.rds import RdsTokens
    from webhookd.store.database import Database
    from webhookd.telemetry.metrics import Metrics

    async with RdsTokens.password(settings.database_auth, settings.sqs_region) as password:
        pools = pool_settings(settings, password)
        database = Database(pools, schema=settings.database_schema, metrics=Metrics(), watch=Watch())
        await database.start()
        try:
            yield database
        finally:
            await database.stop()


def _user() -> str:
    """Returns the name of the user who runs the command, for the records."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):  # the user has no name
        return f"user {os.getuid()} (command line)"
