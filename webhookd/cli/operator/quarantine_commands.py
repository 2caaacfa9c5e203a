"""`webhookd quarantine`: authentic bodies that could not become events."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from webhookd.cli.operator import options
from webhookd.cli.operator.api import Api, Json, with_api
from webhookd.cli.operator.event_commands import tell_failures
from webhookd.cli.operator.failures import EXIT_CODES, ApiError, Exit
from webhookd.cli.operator.rows import collect, tell_body, tell_list, tell_more
from webhookd.cli.operator.screen import fields, instant, number_of, plain, say, table, tell_json
from webhookd.errors import SettingsError, Unusable
from webhookd.operate.filter import QuarantineFilter
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

app = typer.Typer(
    name="quarantine",
    no_args_is_help=True,
    help="Look at authentic bodies that could not become events, release or discard them.\n\n"
    "A body is here if it is not a JSON object, if it lacks an id or a type, if PostgreSQL cannot store it, or if its date is "
    "out of bounds. Release a body that is late, but good: a release checks no date, and the body becomes an event like any "
    "other. A body that is not quite JSON can be released, too: Latin-1 and UTF-16 are read as such, and half a surrogate "
    "pair becomes U+FFFD. The audit trail records each such change.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n"
    "For example: `webhookd quarantine list --reason too_old`.\n\n" + EXIT_CODES,
)

Ids = Annotated[list[UUID], options.id_("Ids of bodies.")]


@app.command("list")
@options.filtered(QuarantineFilter)
def list_(
    reason: Annotated[Unusable | None, options.one_of(Unusable, "The reason why they could not become events")] = None,
    state: Annotated[str, typer.Option(help="waiting, released or discarded.")] = "waiting",
    *,
    chosen: Json,
    limit: options.Limit = 50,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """List the bodies in quarantine, the newest first.

    For example: `webhookd quarantine list --reason too_old --since 7d`.
    """
    query = {"reason": reason, "state": state, **chosen}
    rows, more = with_api(url, folder, lambda api: collect(api, "quarantine", key="bodies", limit=limit, **query))
    if tell_list(rows, key="bodies", more=more, as_json=as_json, none="no body matches"):
        lines = (
            (row["id"], row["account"], row["reason"], instant(row["received_at"]), row["times_received"], row["detail"])
            for row in rows
        )
        table(("body", "account", "reason", "received", "times", "detail"), lines, whole=True)
        if more:
            tell_more(limit)


@app.command()
def show(
    body_id: Annotated[UUID, options.id_("The body's id.")],
    body: options.Body = False,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show why a body is in quarantine, and whether it can be released.

    For example: `webhookd quarantine show 01890a5d-ac96-774b-bcce-b302099a8057 --body`.
    """
    found = with_api(url, folder, lambda api: api.get("quarantine", str(body_id)))
    shown = {name: value for name, value in found.items() if name != "body"}
    if as_json:
        tell_json(found if body else shown)
        return
    fields(shown | {"release": found["release"]["reason"]})
    if body:
        tell_body(found["body"])


@app.command()
def release(
    ids: Ids,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Make events of bodies. A body whose event exists already is a duplicate, and is not processed twice.

    For example: `webhookd quarantine release 01890a5d-ac96-774b-bcce-b302099a8057 --note 'late, but good'`.
    """
    _handle("release", "released", ids, note, url, folder, as_json=as_json)


@app.command()
def discard(
    ids: Ids,
    yes: options.Yes = False,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Discard bodies: they cannot be released any more.

    For example: `webhookd quarantine discard 01890a5d-ac96-774b-bcce-b302099a8057 --yes --note 'a test of ours'`.
    """
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise SettingsError(
                f"{number_of(len(ids), 'body', 'bodies')} would be discarded, and there is no terminal to ask for "
                "confirmation: give --yes"
            )
        typer.confirm(f"discard {number_of(len(ids), 'body', 'bodies')}?", abort=True, err=True)
    _handle("discard", "discarded", ids, note, url, folder, as_json=as_json)


def _handle(action: str, done: str, ids: list[UUID], note: str, url: str | None, folder: Path, *, as_json: bool) -> None:
    handled: list[Json] = []
    failed: list[tuple[str, ApiError]] = []

    async def work(api: Api) -> None:
        for body_id in map(str, ids):
            try:
                answer = await api.post("quarantine", body_id, action, body={"reason": note} if note else {})
            except ApiError as error:
                if error.exit_code in (Exit.UNAVAILABLE, Exit.NOT_ALLOWED):  # the next body would fail in the same way
                    raise
                failed.append((body_id, error))
            else:
                handled.append({"id": body_id, **answer})
                if not as_json:
                    event = f", event {plain(answer['event_id'])}" if answer.get("event_id") else ""
                    mended = "".join(f"; {plain(what)}" for what in answer.get("mended", ()))
                    say(f"{body_id}: {plain(answer['outcome'])}{event}{mended}")

    with_api(url, folder, work)
    tell_failures(done, handled, failed, as_json=as_json)
