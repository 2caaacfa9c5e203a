"""`webhookd operations`: bulk work that the daemon does in the background."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from webhookd.cli.operator import bulk, options
from webhookd.cli.operator.api import with_api
from webhookd.cli.operator.failures import EXIT_CODES
from webhookd.cli.operator.rows import collect, tell_list, tell_more
from webhookd.cli.operator.screen import counts, fields, instant, number_of, plain, say, table, tell_json
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

app = typer.Typer(
    name="operations",
    no_args_is_help=True,
    help="Show or cancel the daemon's operations: bulk replays, redrives and discards.\n\n"
    "An operation continues after the command that ordered it has ended, and after a restart of the daemon.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n"
    "For example: `webhookd operations list --limit 5`.\n\n" + EXIT_CODES,
)

OperationId = Annotated[UUID, options.id_("The operation's id.")]


@app.command("list")
def list_(limit: options.Limit = 20, url: options.Url = None, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """List operations, the newest first. For example: `webhookd operations list --limit 5`."""
    rows, more = with_api(url, folder, lambda api: collect(api, "operations", key="operations", limit=limit))
    if tell_list(rows, key="operations", more=more, as_json=as_json, none="no operation"):
        lines = (
            (
                row["id"],
                f"{row['kind']}{bulk.to(row)}{' (dry run)' if row['dry_run'] else ''}",
                row["state"],
                f"{row['done'] + row['skipped']} of {'?' if row['total'] is None else row['total']}",
                instant(row["created_at"]),
                row["actor"],
                row["reason"],
            )
            for row in rows
        )
        table(("operation", "kind", "state", "done", "began", "by", "note"), lines, whole=True)
        if more:
            tell_more(limit)


@app.command()
def show(
    operation_id: OperationId,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the progress until the end; exit with 1 if it failed or was cancelled.")
    ] = False,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show an operation: its progress, the reason why it waits, and its order.

    For example: `webhookd operations show 01890a5d-ac96-774b-bcce-b302099a8057 --follow`.
    """
    operation = with_api(url, folder, lambda api: api.get("operations", str(operation_id)))
    if follow:
        bulk.finish(bulk.follow(url, folder, operation, as_json=as_json), as_json=as_json)
    elif as_json:
        tell_json(operation)
    else:
        fields({name: value for name, value in operation.items() if name not in ("event_types", "reasons")})
        for heading, counted in (("type", operation["event_types"]), ("reason", operation["reasons"])):
            if counted:
                counts(heading, counted)


@app.command()
def cancel(operation_id: OperationId, url: options.Url = None, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Cancel an operation; finished work stays done.

    For example: `webhookd operations cancel 01890a5d-ac96-774b-bcce-b302099a8057`.
    """
    operation = with_api(url, folder, lambda api: api.post("operations", str(operation_id), "cancel", body={}))
    if as_json:
        tell_json(operation)
    else:
        say(f"operation {plain(operation['id'])} is {plain(operation['state'])}: {number_of(operation['done'], 'event')} done")
