"""`webhookd provider webhooks`: the webhooks of an account at Authorize.Net."""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from webhookd.authorizenet.notification import EVENT_TYPES, PREFIX, nearest_type, whole_pattern
from webhookd.cli.operator import options
from webhookd.cli.operator.screen import number_of, say, table, tell_json
from webhookd.cli.provider.session import Account, DryRun, Session, settings_of, with_account
from webhookd.errors import SettingsError
from webhookd.runtime.console import FOLDER, Folder, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from webhookd.authorizenet.api.results import Webhook
    from webhookd.settings import Settings
    from webhookd.settings.provider import ProviderAccess
    from webhookd.sync.registration import Outcome, Registrar

app = typer.Typer(
    name="webhooks",
    no_args_is_help=True,
    help="List, register, change, remove, ping, activate and deactivate webhooks.\n\n"
    "ID is the webhook's id, or its beginning. Commands that change something show each change, and with --dry-run they only "
    "show it. To register a webhook and take it into service, use `webhookd provider setup`.",
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id, or its beginning.", show_default=False)]
EventTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--event-type",
        metavar="TYPE",
        help=f"An event type, or a pattern such as payment.*; `{PREFIX}` may be left out. Repeatable.",
    ),
]
Private = Annotated[
    bool,
    typer.Option("--allow-private", help="The URL's name leads to private addresses here, and to public ones on the internet."),
]
Name = Annotated[str | None, typer.Option(help="The webhook's name.")]


@app.command("list")
def list_(account: Account = "default", folder: Folder = FOLDER, as_json: Json = False) -> None:
    """List the account's webhooks, and mark the one of WEBHOOKD_PUBLIC_URL."""

    async def work(session: Session) -> tuple[str | None, tuple[Webhook, ...]]:
        return session.access.public_url, await session.client.webhooks()

    from webhookd.sync.finding import unreadable
    from webhookd.sync.webhook_url import same_url

    url, found = with_account(account, folder, work)
    ours = [one for one in found if url is not None and same_url(one.url, url)]
    if as_json:
        tell_json({"webhooks": [as_fields(one) | {"ours": one in ours} for one in found]})
        return
    if found:
        lines = (
            (one.id, one.status, one.url, len(one.event_types), "yes" if one in ours else "", one.name or "") for one in found
        )
        table(("webhook", "status", "URL", "event types", "ours", "name"), lines, right=(3,), whole=True)
    say(number_of(len(found), "webhook"))
    if odd := unreadable([one for one in found if one.problem]):
        say(odd)


@app.command()
def create(
    url: Annotated[
        str | None, typer.Option("--url", help="The webhook's URL, as Authorize.Net reaches it. [WEBHOOKD_PUBLIC_URL]")
    ] = None,
    event_types: EventTypes = None,
    name: Name = None,
    private: Private = False,
    account: Account = "default",
    dry_run: DryRun = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Register an inactive webhook. Authorize.Net sends nothing before the webhook is activated.

    A second webhook for one URL is refused: each event would come twice.
    """
    settings, access = settings_of(account, folder, whole=True)
    chosen = target_url(settings, access, url)

    async def work(session: Session) -> Any:
        await check(session, chosen, private=private)
        types = None if event_types is None else await types_of(session, event_types)
        return await session.registrar(dry_run=dry_run).create(chosen, types, name=name)

    show(with_account(account, folder, work, changes=True), dry_run=dry_run, as_json=as_json)


@app.command()
def update(
    webhook: Id,
    url: Annotated[str | None, typer.Option("--url", help="The webhook's new URL.")] = None,
    event_types: EventTypes = None,
    name: Name = None,
    private: Private = False,
    account: Account = "default",
    dry_run: DryRun = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Change a webhook's URL, name or event types; --event-type gives all its types from now on.

    Without any of these, the command puts back the event types that the webhook had and lost.
    """

    async def work(session: Session) -> Any:
        if url is not None:
            await check(session, url, private=private)
        types = None if event_types is None else await types_of(session, event_types)
        return await session.registrar(dry_run=dry_run).update(webhook, url=url, event_types=types, name=name)

    show(with_account(account, folder, work, changes=True), dry_run=dry_run, as_json=as_json)


@app.command()
def delete(
    webhook: Id,
    yes: options.Yes = False,
    account: Account = "default",
    dry_run: DryRun = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Remove a webhook: Authorize.Net sends nothing more to its URL."""
    if not yes and not dry_run:
        if as_json or not sys.stdin.isatty():
            raise SettingsError(f"the webhook {webhook} would be removed, and there is no terminal to ask: give --yes")
        typer.confirm(f"remove the webhook {webhook} of the account {account}?", abort=True, err=True)
    _change(account, folder, lambda registrar: registrar.delete(webhook), dry_run=dry_run, as_json=as_json)


@app.command()
def ping(
    webhook: Id, account: Account = "default", dry_run: DryRun = False, folder: Folder = FOLDER, as_json: Json = False
) -> None:
    """Have Authorize.Net send a sample to an inactive webhook, and wait until a running webhookd has verified it.

    The sample is kept as a test: no handler and no destination gets it. The command takes some seconds.
    """
    _change(account, folder, lambda registrar: registrar.ping(webhook), dry_run=dry_run, as_json=as_json)


@app.command()
def activate(
    webhook: Id, account: Account = "default", dry_run: DryRun = False, folder: Folder = FOLDER, as_json: Json = False
) -> None:
    """Activate a webhook without a ping. `webhookd provider setup` pings first."""
    _change(account, folder, lambda registrar: registrar.switch(webhook, active=True), dry_run=dry_run, as_json=as_json)


@app.command()
def deactivate(
    webhook: Id, account: Account = "default", dry_run: DryRun = False, folder: Folder = FOLDER, as_json: Json = False
) -> None:
    """Deactivate a webhook: Authorize.Net sends nothing while it is inactive. The guardian does not heal it."""
    _change(account, folder, lambda registrar: registrar.switch(webhook, active=False), dry_run=dry_run, as_json=as_json)


def _change(
    account: str,
    folder: Path,
    change: Callable[[Registrar], Coroutine[Any, Any, Outcome]],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    async def work(session: Session) -> Outcome:
        return await change(session.registrar(dry_run=dry_run))

    show(with_account(account, folder, work, changes=True), dry_run=dry_run, as_json=as_json)


def target_url(settings: Settings, access: ProviderAccess, given: str | None) -> str:
    """Returns the webhook's URL: the given one, else that of the settings. A URL without a path gets the account's path."""
    from webhookd.settings.provider import public_url

    if given is not None:
        settings = settings.model_copy(update={"public_url": given, "accounts": {}})
        whole = public_url(settings, access.account)
        return whole or given
    if access.public_url is None:
        raise SettingsError(
            "--url: no setting names the webhook's URL; give it, or set WEBHOOKD_PUBLIC_URL, which the guardian needs, too"
        )
    return access.public_url


async def check(session: Session, url: str, *, private: bool) -> None:
    """Raises SettingsError if the provider cannot deliver to a URL. A simulator on this machine reaches every address.

    No URL may have a user and a password: the commands print the URL.
    """
    from webhookd.settings.sources import is_loopback
    from webhookd.sync.webhook_url import check_url, parts_of

    parts_of(url)
    if not is_loopback(session.access.url):
        await check_url(url, private=private)


async def types_of(session: Session, patterns: list[str]) -> tuple[str, ...]:
    """Returns the event types that match some of the patterns. Raises SettingsError for a pattern that matches none."""
    offered = await session.client.event_types()
    found: dict[str, None] = {}
    for pattern in patterns:
        whole = whole_pattern(pattern.strip())
        matching = [one for one in offered if fnmatch.fnmatchcase(one.lower(), whole.lower())]
        if not matching:
            near = f"; did you mean {nearest_type(pattern)}?" if set(offered) & set(EVENT_TYPES) else ""
            raise SettingsError(f"--event-type: Authorize.Net has no event type {pattern}{near}")
        found |= dict.fromkeys(matching)
    return tuple(found)


def as_fields(webhook: Webhook) -> dict[str, Any]:
    """Returns a webhook for `--json`."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "status": webhook.status,
        "name": webhook.name,
        "event_types": list(webhook.event_types),
        "problem": webhook.problem,
    }


def show(outcome: Outcome, *, dry_run: bool, as_json: bool) -> None:
    """Prints what a command changed, or would change."""
    if as_json:
        sample = outcome.sample
        tell_json(
            {
                "dry_run": dry_run,
                "changes": [one._asdict() for one in outcome.changes],
                "webhook": None if outcome.webhook is None else as_fields(outcome.webhook),
                "ping": None if sample is None else sample._asdict(),
            }
        )
        return
    if dry_run and outcome.changes:
        say("would change:")
        for one in outcome.changes:
            say(f"  {one}")
    if outcome.webhook is not None:
        webhook = outcome.webhook
        say(f"webhook {webhook.id}: {webhook.status}, {number_of(len(webhook.event_types), 'event type')}, {webhook.url}")
