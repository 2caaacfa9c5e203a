"""`webhookd quarantine`: authentic bodies that could not become events."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from webhookd.cli.operator import options
from webhookd.cli.operator.api import Api, Json, with_api
from webhookd.cli.operator.event_commands import tell_failures
from webhookd.cli.operator.failures import EXIT_CODES, ApiError, Exit
from webhookd.cli.operator.rows import collect, tell_body, tell_list, tell_more
from webhookd.cli.operator.screen import counts, fields, instant, number_of, plain, say, table, tell_json
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

Ids = Annotated[list[UUID] | None, options.id_("Ids of bodies. [the bodies that the filters choose]")]
Reason = Annotated[Unusable | None, options.one_of(Unusable, "The reason why they could not become events")]
All = Annotated[bool, typer.Option("--all", help="Choose every body that waits, instead of ids or filters.")]
Most = Annotated[int | None, typer.Option("--limit", min=1, help="At most this many, the oldest first. [all]")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the bodies, by reason.")]


@app.command("list")
@options.filtered(QuarantineFilter)
def list_(
    reason: Reason = None,
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
@options.filtered(QuarantineFilter)
def release(
    ids: Ids = None,
    reason: Reason = None,
    *,
    chosen: Json,
    all_: All = False,
    limit: Most = None,
    dry_run: DryRun = False,
    yes: options.Yes = False,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Make events of bodies. A body whose event exists already is a duplicate, and is not processed twice.

    With filters or `--all`, the command counts the bodies that wait, asks, and releases them one after the other, the oldest
    first. A body that cannot become an event stays, and the exit code is 1. After an interruption, the same command goes on.

    For example: `webhookd quarantine release 01890a5d-ac96-774b-bcce-b302099a8057 --note 'late, but good'`, or
    `webhookd quarantine release --reason too_old --since 2h --dry-run`.
    """
    selection = _Selection(ids, reason, chosen, everything=all_, limit=limit, asks=False)
    _act("release", "released", selection, note, url, folder, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
@options.filtered(QuarantineFilter)
def discard(
    ids: Ids = None,
    reason: Reason = None,
    *,
    chosen: Json,
    all_: All = False,
    limit: Most = None,
    dry_run: DryRun = False,
    yes: options.Yes = False,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Discard bodies: they cannot be released any more. Filters and `--all` choose the bodies that wait.

    For example: `webhookd quarantine discard 01890a5d-ac96-774b-bcce-b302099a8057 --yes --note 'a test of ours'`, or
    `webhookd quarantine discard --reason not_json --until 30d`.
    """
    selection = _Selection(ids, reason, chosen, everything=all_, limit=limit, asks=True)
    _act("discard", "discarded", selection, note, url, folder, dry_run=dry_run, yes=yes, as_json=as_json)


class _Selection:
    """The bodies that an operator chooses: by their ids, by filters, or all. Raises SettingsError if the ways are mixed.

    asks: the operator confirms a choice by ids, too.
    """

    def __init__(
        self,
        ids: list[UUID] | None,
        reason: Unusable | None,
        chosen: Json,
        *,
        everything: bool,
        limit: int | None,
        asks: bool,
    ) -> None:
        self.query: Json = chosen | ({"reason": reason} if reason is not None else {})
        if [bool(ids), bool(self.query), everything].count(True) != 1:
            raise SettingsError("choose the bodies in exactly one way: by ids, by filters, or all with --all")
        self.ids = list(map(str, ids or ()))
        self.limit = limit
        self.asks = asks or not ids

    async def read(self, api: Api) -> tuple[list[str], Counter[str]]:
        """Returns the ids of the bodies, the oldest first, and their number by reason; without reasons for a choice by ids."""
        if self.ids:
            return self.ids[: self.limit], Counter()
        found: list[tuple[str, str]] = []
        async for rows, _ in api.pages("quarantine", key="bodies", state="waiting", **self.query):
            found += [(row["id"], row["reason"]) for row in rows]
        found = found[::-1][: self.limit]
        return [id_ for id_, _ in found], Counter(reason for _, reason in found)


def _act(
    action: str,
    done: str,
    selection: _Selection,
    note: str,
    url: str | None,
    folder: Path,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Counts the bodies, asks, and does `action` with each. Raises SettingsError if nobody can be asked."""
    asks = selection.asks and not yes and not dry_run
    if asks and (as_json or not sys.stdin.isatty()):
        number = number_of(len(selection.ids), "body", "bodies") if selection.ids else "many bodies"
        raise SettingsError(
            f"{number} would be {done}, and there is no terminal to ask for confirmation: give --yes, or --dry-run"
        )
    ids, reasons = with_api(url, folder, selection.read)
    if not as_json and reasons:
        counts("reason", reasons, noun="bodies")
    if dry_run and as_json:
        tell_json({"total": len(ids), "reasons": dict(reasons)})
    elif dry_run or (not ids and not as_json):
        many = number_of(len(ids), "body", "bodies")
        say(f"{action} would change {many}; nothing was changed" if ids else "no body is chosen")
    if dry_run or (not ids and not as_json):
        return
    if asks:
        typer.confirm(f"{action} {number_of(len(ids), 'body', 'bodies')}?", abort=True, err=True)
    _handle(action, done, ids, note, url, folder, as_json=as_json)


def _handle(action: str, done: str, ids: list[str], note: str, url: str | None, folder: Path, *, as_json: bool) -> None:
    handled: list[Json] = []
    failed: list[tuple[str, ApiError]] = []

    async def work(api: Api) -> None:
        for body_id in ids:
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
