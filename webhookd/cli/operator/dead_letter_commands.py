"""`webhookd dead-letters`: look at dead events, redrive or discard them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from webhookd.cli.operator import bulk, options
from webhookd.cli.operator.api import Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES
from webhookd.cli.operator.rows import collect, dead_table, tell_event, tell_list, tell_more
from webhookd.errors import SettingsError
from webhookd.operate.filter import DeadEventFilter
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

app = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    help="Look at dead events, redrive or discard them.\n\n"
    "An event is dead if its handlers gave up (`Permanent`), or failed at every attempt. PostgreSQL keeps the event, its "
    "body and its audit trail, and the dead-letter queue has a copy.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n"
    "For example: `webhookd dead-letters redrive --reason timeout --since 2h --dry-run`.\n\n" + EXIT_CODES,
)

Ids = Annotated[
    list[UUID] | None,
    options.id_("Ids of events, at most 1000. [the events that the filters choose]"),
]
All = Annotated[bool, typer.Option("--all", help="Choose every dead event, instead of ids or filters.")]


@app.command("list")
@options.filtered(DeadEventFilter)
def list_(
    *,
    chosen: Json,
    discarded: Annotated[bool, typer.Option("--discarded", help="Show discarded events instead.")] = False,
    limit: options.Limit = 50,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """List dead events, the newest death first.

    For example: `webhookd dead-letters list --event-type 'payment.*' --reason timeout --since 2h`.
    """
    query = {**chosen, "discarded": discarded}
    rows, more = with_api(url, folder, lambda api: collect(api, "dead-letters", key="events", limit=limit, **query))
    none = "no dead event" + (" matches these filters" if chosen else "")
    if tell_list(rows, key="events", more=more, as_json=as_json, none=none):
        dead_table(rows)
        if more:
            tell_more(limit)


@app.command()
def show(
    event_id: Annotated[UUID, options.id_("The event's id.")],
    body: options.Body = False,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show a dead event: its last error, its copy, its audit trail. `webhookd events show` shows an event of any status.

    The last error may quote what a handler saw.
    For example: `webhookd dead-letters show 01890a5d-ac96-774b-bcce-b302099a8057`.
    """
    tell_event(with_api(url, folder, lambda api: api.get("dead-letters", str(event_id))), body=body, as_json=as_json)


@app.command()
@options.filtered(DeadEventFilter)
def redrive(
    ids: Ids = None,
    *,
    chosen: Json,
    all_: All = False,
    limit: options.BulkLimit = None,
    rate: options.Rate = 20.0,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    detach: options.Detach = False,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Try dead events again, with all their attempts, the oldest death first, as an operation of the daemon.

    The command counts first and asks. Each event keeps its id, its body and its audit trail, and is processed like a new
    event. Fresh events go first: the operation pauses while they wait, or while events that were put back earlier still
    wait for an attempt. Ctrl-C leaves the operation to the daemon; `webhookd operations` shows and cancels it. An event that
    dies again is not tried twice.

    A discarded event is redriven by its id only.

    For example: `webhookd dead-letters redrive --reason timeout --since 2h --dry-run`.
    """
    body = _selection(ids, chosen, everything=all_)
    body |= {"reason": note, "rate": rate, "limit": limit}
    _act("redrive", body, url, folder, dry_run=dry_run, yes=yes, detach=detach, as_json=as_json)


@app.command()
@options.filtered(DeadEventFilter)
def discard(
    ids: Ids = None,
    *,
    chosen: Json,
    all_: All = False,
    limit: options.BulkLimit = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    detach: options.Detach = False,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Discard dead events: they stay dead, lose their copy in the dead-letter queue, and retention may remove them.

    The command counts first and asks. `webhookd dead-letters list --discarded` shows discarded events. Until retention removes
    a discarded event, it can still be redriven by its id.

    For example: `webhookd dead-letters discard --event-type customer.deleted --until 30d --note 'told the merchant'`.
    """
    body = _selection(ids, chosen, everything=all_)
    body |= {"reason": note, "limit": limit}
    _act("discard", body, url, folder, dry_run=dry_run, yes=yes, detach=detach, as_json=as_json)


def _act(kind: str, body: Json, url: str | None, folder: Path, **flags: bool) -> None:
    bulk.act(url, folder, "dead-letters", kind, body, until="died_to", **flags)


def _selection(ids: list[UUID] | None, chosen: Json, *, everything: bool) -> Json:
    ways: Json = {"ids": [str(id_) for id_ in ids or ()], "filter": chosen, "all": everything}
    ways = {name: value for name, value in ways.items() if value}
    if len(ways) != 1:
        raise SettingsError("choose the events in exactly one way: by ids, by filters, or all with --all")
    return ways
