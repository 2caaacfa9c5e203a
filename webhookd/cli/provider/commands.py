"""`webhookd provider`: what Authorize.Net knows of an account, and the set-up of its webhook."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from webhookd.cli.operator.screen import instant, number_of, say, short_type, table, tell_json
from webhookd.cli.provider import webhooks
from webhookd.cli.provider.session import Account, DryRun, Session, settings_of, with_account
from webhookd.runtime.console import FOLDER, Folder, Json, run

if TYPE_CHECKING:
    from webhookd.authorizenet.api.results import History
    from webhookd.settings import Settings

app = typer.Typer(
    name="provider",
    no_args_is_help=True,
    help="Ask Authorize.Net about an account, and set its webhook up.\n\n"
    "The commands read the settings of this machine: WEBHOOKD_API_LOGIN_ID, WEBHOOKD_TRANSACTION_KEY and WEBHOOKD_PROVIDER, or "
    "WEBHOOKD_ACCOUNTS__NAME__… of another account. They send no request that moves money. Commands that change something "
    "need PostgreSQL, too, which keeps each change with the name of the user.\n\n"
    "For example: `webhookd provider setup --url https://hooks.example.com/webhooks/authorize-net`.\n\n"
    "Exit codes: 0 success; 1 failure; 2 a wrong argument or setting.",
)
app.add_typer(webhooks.app)


@app.command()
def setup(
    url: Annotated[
        str | None, typer.Option("--url", help="The webhook's URL, as Authorize.Net reaches it. [WEBHOOKD_PUBLIC_URL]")
    ] = None,
    event_types: webhooks.EventTypes = None,
    private: webhooks.Private = False,
    account: Account = "default",
    dry_run: DryRun = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Register the webhook, prove that its notifications arrive, and activate it.

    The command registers the webhook as inactive, pings it, waits until a running webhookd has received the ping and a
    Signature Key has verified it, and only then activates the webhook. Run again, it changes nothing. If something fails, the
    message names the remedy, and the next run goes on from there.

    A webhookd with the role `receive` must run, and the URL must lead to it. Without --event-type, a new webhook gets all event
    types that Authorize.Net has.

    For example: `webhookd provider setup --url https://hooks.example.com/webhooks/authorize-net`.
    """
    settings, access = settings_of(account, folder, whole=True)
    chosen = webhooks.target_url(settings, access, url)

    async def work(session: Session) -> Any:
        await webhooks.check(session, chosen, private=private)
        types = None if event_types is None else await webhooks.types_of(session, event_types)
        return await session.registrar(dry_run=dry_run).setup(chosen, types)

    webhooks.show(with_account(account, folder, work, changes=True), dry_run=dry_run, as_json=as_json)
    if access.public_url is None and not as_json:
        prefix = "WEBHOOKD_" if account == "default" else f"WEBHOOKD_ACCOUNTS__{account.upper()}__"
        say(f"set {prefix}PUBLIC_URL to this URL: by it, webhookd knows its own webhook")


@app.command("event-types")
def event_types(account: Account = "default", folder: Folder = FOLDER, as_json: Json = False) -> None:
    """List the event types that a webhook can have."""

    async def work(session: Session) -> tuple[str, ...]:
        return await session.client.event_types()

    found = with_account(account, folder, work)
    if as_json:
        tell_json({"event_types": found})
    else:
        for one in found:
            say(one)


@app.command()
def notifications(
    days: Annotated[int, typer.Option(min=1, max=90, help="The notifications of the last days, today included.")] = 1,
    account: Account = "default",
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """List the notifications of Authorize.Net's history, the newest first.

    The history is the provider's own record: a notification that it calls Delivered may never have reached webhookd.
    """

    async def work(session: Session) -> History:
        today = datetime.now(UTC).date()
        return await session.client.history(today - timedelta(days=days - 1), today + timedelta(days=1))

    found = with_account(account, folder, work)
    oldest = datetime.min.replace(tzinfo=UTC)
    rows = sorted(found.rows, key=lambda row: (row.event_date or oldest, row.notification_id), reverse=True)
    if as_json:
        listed = [
            {
                "notification_id": row.notification_id,
                "event_type": row.event_type,
                "event_date": None if row.event_date is None else row.event_date.isoformat(),
                "delivery_status": row.delivery_status,
            }
            for row in rows
        ]
        tell_json({"notifications": listed, "whole": found.complete})
        return
    if rows:
        lines = (
            (row.notification_id, short_type(row.event_type), instant(row.event_date), row.delivery_status) for row in rows
        )
        table(("notification", "type", "date", "status"), lines, whole=True)
    say(
        number_of(len(rows), "notification")
        + ("" if found.complete else "; the list changed while it was read, and may lack some")
    )


@app.command()
def check(
    now: Annotated[
        bool, typer.Option("--now", help="Try refused credentials once now, before the time at which they may be tried again.")
    ] = False,
    account: Account = "default",
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Check an account's credentials and its webhook, as `webhookd doctor` does for all accounts.

    Credentials that Authorize.Net has refused are tried again after 15 minutes, whichever process or command tried them: many
    refused calls may lock the account. Other credentials are tried at once. --now tries the same ones at once, for example
    after the account's user was made active again.

    The exit code is 1 if a check failed. A warning, for example about an inactive webhook, does not change the exit code.
    """
    settings, _ = settings_of(account, folder, whole=False)
    raise typer.Exit(run(_check(settings, account.lower(), now=now, as_json=as_json)))


async def _check(settings: Settings, account: str, *, now: bool, as_json: bool) -> int:
    from webhookd.authorizenet.api.refusals import OneTryNow
    from webhookd.doctor.finding import Verdict
    from webhookd.doctor.provider import examine_account
    from webhookd.doctor.stored import stored
    from webhookd.settings.provider import provider_accesses

    async with stored(settings) as memory:
        refusals = OneTryNow(memory.refusals) if now and memory.refusals is not None else memory.refusals
        known = await memory.webhooks([account])
        findings = await examine_account(provider_accesses(settings)[account], known.get(account), refusals)
    failed = any(one.verdict is Verdict.FAILED for one in findings)
    if as_json:
        tell_json({"ok": not failed, "findings": [one.as_dict() for one in findings]})
    else:
        for one in findings:
            say(f"{one.verdict:<8} {one.check}: {one.detail}")
    return 1 if failed else 0
