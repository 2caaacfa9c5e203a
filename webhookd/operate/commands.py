"""`webhookd dead-letters`: what an operator does with dead events, on the command line."""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from webhookd.console import FOLDER, Folder, Json, err, out, run
from webhookd.errors import SettingsError, WebhookdError
from webhookd.operate.dead_letters import Action, Count, DeadLetters, Progress, Selection

app = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    help="Look at dead events, redrive them, or let them go.\n\n"
    "A dead event is one whose handlers gave up (`Permanent`), or failed at every attempt. It keeps its place in "
    "PostgreSQL, its body and its audit trail, and has a copy in the dead-letter queue.\n\n"
    "The database is that of WEBHOOKD_DATABASE_URL, else that of the `webhookd dev` in this folder.",
)

Ids = Annotated[list[UUID] | None, typer.Argument(help="Events by id. [those that the filters choose]", show_default=False)]
EventType = Annotated[
    list[str] | None,
    typer.Option("--event-type", help="With or without `net.authorize.`; `payment.*` for several. May be repeated."),
]
Account = Annotated[str | None, typer.Option(help="The account.")]
Reason = Annotated[str | None, typer.Option(help="A part of the reason, or of the last error.")]
Since = Annotated[str | None, typer.Option(help="Died since: an age (`90s`, `2h`, `3d`), or an ISO 8601 time (UTC).")]
Until = Annotated[str | None, typer.Option(help="Died until: the same.")]
Limit = Annotated[int | None, typer.Option(min=1, help="No more than so many, those that died first. [all]")]
All = Annotated[bool, typer.Option("--all", help="Every dead event, where nothing else chooses.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what would be done, by type and reason.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Note = Annotated[str, typer.Option(help="Why, for the audit trail.")]
As = Annotated[str | None, typer.Option("--as", help="Who, for the audit trail. [this system's user]")]

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@app.command("list")
def list_(
    ids: Ids = None,
    event_type: EventType = None,
    account: Account = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    discarded: Annotated[bool, typer.Option("--discarded", help="Those that were let go, instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="No more than so many, those that died last.")] = 50,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """List dead events, the newest death first.

    For example: `webhookd dead-letters list --event-type 'payment.*' --reason timeout --since 2h`.
    """
    selection = replace(_selection(ids, event_type, account, reason, since, until), discarded=discarded)

    async def work(dead_letters: DeadLetters) -> list[Any]:
        return await dead_letters.newest(selection, limit + 1)

    rows = _with(folder, work)
    more = len(rows) > limit
    rows = rows[:limit]
    if as_json:
        print(json.dumps({"events": [_plain(row) for row in rows], "more": more}))  # noqa: T201
        return
    if not rows:
        out.print("no dead event" + ("" if selection.is_everything else " that these filters choose"), highlight=False)
        return
    table = Table("event", "type", "account", "attempts", "died", "reason")
    for row in rows:
        short = row["event_type"].removeprefix("net.authorize.")
        died = f"{row['finished_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        table.add_row(str(row["id"]), short, row["account"], str(row["attempts"]), died, Text(row["dead_reason"] or ""))
    table.columns[0].no_wrap = True
    out.print(table)
    if more:
        out.print(f"There are more than {limit}: see --limit, or choose fewer.", highlight=False)


@app.command()
def show(
    event_id: Annotated[UUID, typer.Argument(help="The event's id.")],
    body: Annotated[bool, typer.Option("--body", help="Its body as well: customer data.")] = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Show an event, whatever its status: where it stands, its last error, its copy, its audit trail.

    The last error may quote what a handler saw.
    """

    async def work(dead_letters: DeadLetters) -> tuple[Any, list[Any]] | None:
        return await dead_letters.event(event_id)

    found = _with(folder, work)
    if found is None:
        raise WebhookdError(f"there is no event {event_id}: is this the right database, and webhookd's id, not the provider's?")
    row, trail = found
    fields = {name: value for name, value in _plain(row).items() if name not in ("content_hash", "body_hash", "body")}
    fields["dead_letter_copy"] = _copy_of(row)
    if body:
        fields["body"] = None if row["body"] is None else bytes(row["body"]).decode("utf-8", "replace")
    if as_json:
        print(json.dumps(fields | {"audit": [_plain(change) for change in trail]}))  # noqa: T201
        return
    for name, value in fields.items():
        if value is not None:
            out.print(Text.assemble((f"{name}: ", "bold"), str(value)), soft_wrap=True)
    table = Table("at", "from", "to", "by", "attempt", "reason")
    for change in trail:
        values = (change[name] for name in ("from_status", "to_status", "actor", "attempt", "reason"))
        table.add_row(_plain(change)["at"], *(Text("" if value is None else str(value)) for value in values))
    out.print(table)


def _copy_of(row: Any) -> str | None:
    if row["status"] != "dead":
        return None
    if row["discarded_at"] is not None:
        return "none: the event was discarded"
    sent = row["dead_letter_sent_at"]
    return (
        "owed: the daemon sends it" if sent is None else f"in the dead-letter queue since {_plain(row)['dead_letter_sent_at']}"
    )


@app.command()
def redrive(
    ids: Ids = None,
    event_type: EventType = None,
    account: Account = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    limit: Limit = None,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Events a second, at most.")] = 20.0,
    dry_run: DryRun = False,
    yes: Yes = False,
    note: Note = "",
    who: As = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Try dead events again, with all their attempts, the oldest death first.

    Each keeps its id, its body and its audit trail, and goes the way of a new one. Fresh events go first: the command holds
    back while they wait, or while what it put back before is still to be tried. Ctrl-C stops it between two events; run it
    again to go on. An event that dies again is not tried twice.

    What was discarded is redriven by its id only.

    For example: `webhookd dead-letters redrive --reason timeout --since 2h --dry-run`.
    """
    selection = _narrowed(_selection(ids, event_type, account, reason, since, until), everything=all_)
    if ids:
        selection = replace(selection, discarded=None)

    def action(dead_letters: DeadLetters, bounded: Selection, progress: Progress, told: Callable[[Progress], object]) -> Any:
        return dead_letters.redrive(bounded, progress, actor=_actor(who), note=note, rate=rate, limit=limit, told=told)

    _act(Action.REDRIVE, "redriven", action, selection, limit, folder, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def discard(
    ids: Ids = None,
    event_type: EventType = None,
    account: Account = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    note: Note = "",
    who: As = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Let dead events go: they stay dead, lose their copy in the dead-letter queue, and retention may remove them.

    `webhookd dead-letters list --discarded` shows them; until retention has removed one, its id can still be redriven.

    For example: `webhookd dead-letters discard --event-type customer.deleted --until 30d --note 'told the merchant'`.
    """
    selection = _narrowed(_selection(ids, event_type, account, reason, since, until), everything=all_)

    def action(dead_letters: DeadLetters, bounded: Selection, progress: Progress, told: Callable[[Progress], object]) -> Any:
        return dead_letters.discard(bounded, progress, actor=_actor(who), note=note, limit=limit, told=told)

    _act(Action.DISCARD, "discarded", action, selection, limit, folder, dry_run=dry_run, yes=yes, as_json=as_json)


_Act = Callable[[DeadLetters, Selection, Progress, Callable[[Progress], object]], Coroutine[Any, Any, None]]


def _act(
    action: Action,
    done: str,
    act: _Act,
    selection: Selection,
    limit: int | None,
    folder: Path,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Counts the selection, asks, acts, and tells how far it came."""

    async def look(dead_letters: DeadLetters) -> tuple[Count, Selection]:
        now = await dead_letters.now()
        bounded = replace(selection, until=min(selection.until or now, now))
        return await dead_letters.count(bounded, limit), bounded

    count, bounded = _with(folder, look)
    if dry_run or not count.total:
        _tell_count(count, action, as_json=as_json)
        return
    if not yes:
        if not sys.stdin.isatty() or as_json:
            raise SettingsError(f"{count.total} events would be {done}: give --yes (or --dry-run) where nobody can be asked")
        typer.confirm(f"{action.value} {count.total} events?", abort=True, err=True)
    progress = Progress()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stopped = False
    with Bar(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        task = bar.add_task(action.value, total=count.total)

        def told(now: Progress) -> None:
            description = f"{action.value} (waits: {now.held_by})" if now.held_by else action.value
            bar.update(task, completed=now.done + now.skipped, description=description)

        try:
            _with(folder, lambda dead_letters: act(dead_letters, bounded, progress, told))
        except KeyboardInterrupt:
            stopped = True
    left = max(count.total - progress.done - progress.skipped, 0)
    if as_json:
        summary = {done: progress.done, "skipped": progress.skipped, "left": left, "stopped": stopped}
        print(json.dumps(summary | {"held_seconds": round(progress.held_seconds, 1)}))  # noqa: T201
    else:
        skipped = f", {progress.skipped} had moved on" if progress.skipped else ""
        out.print(f"{progress.done} events {done}{skipped}", highlight=False)
        if stopped:
            err.print(f"stopped: {left} are left; run it again to go on", highlight=False)
    if stopped:
        raise typer.Exit(130)


def _tell_count(count: Count, action: Action, *, as_json: bool) -> None:
    if as_json:
        fields = {"total": count.total, "event_types": dict(count.event_types), "reasons": dict(count.reasons)}
        print(json.dumps({"dry_run": fields}))  # noqa: T201
        return
    if not count.total:
        out.print("no dead event is chosen")
        return
    for heading, counter in (("type", count.event_types), ("reason", count.reasons)):
        table = Table(heading, "events")
        table.columns[1].justify = "right"
        for name, number in counter.most_common(20):
            table.add_row(Text(name), str(number))
        out.print(table)
    out.print(f"{action.value} would take {count.total} events; nothing was changed", highlight=False)


def _selection(
    ids: list[UUID] | None,
    event_types: list[str] | None,
    account: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    return Selection(
        ids=tuple(ids) if ids else None,
        event_types=tuple(event_types) if event_types else None,
        account=account.lower() if account else None,
        reason=reason,
        since=_instant("--since", since),
        until=_instant("--until", until),
    )


def _narrowed(selection: Selection, *, everything: bool) -> Selection:
    if selection.is_everything != everything:
        raise SettingsError("choose events by id, by a filter, or all of them with --all; not both")
    return selection


def _instant(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        if match := _AGE.fullmatch(text.strip()):
            return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: float(match[1])})
        at = datetime.fromisoformat(text.strip())
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"{option}: {text!r} is neither an age, as 90s, 2h or 3d, nor a time, as 2026-01-31T12:00"
        ) from error


def _actor(who: str | None) -> str:
    try:
        name = who or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        name = "unknown"
    return f"operator ({name})"


def _with(folder: Path, work: Callable[[DeadLetters], Coroutine[Any, Any, Any]]) -> Any:
    """Runs `work` on the settings' database."""
    from webhookd import logs
    from webhookd.dev import known

    loaded, _ = known.known(folder)
    logs.configure("critical")  # errors are told as this command's own

    async def connected() -> Any:
        async with _database(loaded.database_url.get_secret_value()) as dead_letters:
            return await work(dead_letters)

    return run(connected())


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[DeadLetters]:
    from webhookd.lifecycle import Watch
    from webhookd.metrics import Metrics
    from webhookd.store.database import Database

    database = Database(url, short=2, work=1, handler_timeout=0, metrics=Metrics(), watch=Watch())
    await database.start()
    try:
        yield DeadLetters(database)
    finally:
        await database.stop()


def _plain(row: Any) -> dict[str, Any]:
    """A row as JSON has it: times in ISO 8601, UTC."""
    plain: dict[str, Any] = {}
    for name, value in dict(row).items():
        if isinstance(value, datetime):
            plain[name] = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        else:
            plain[name] = value if value is None or isinstance(value, int | float) else str(value)
    return plain
