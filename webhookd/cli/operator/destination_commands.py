"""`webhookd destinations`: the HTTP endpoints that get events."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from webhookd.cli.operator import bulk, options
from webhookd.cli.operator.api import Api, Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES, Exit
from webhookd.cli.operator.rows import tell_list
from webhookd.cli.operator.screen import fields, instant, number_of, plain, say, short_type, table, tell_json
from webhookd.errors import SettingsError
from webhookd.event import Status as EventStatus
from webhookd.operate.filter import Filter
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

app = typer.Typer(
    name="destinations",
    no_args_is_help=True,
    help="Look at destinations, test them, pause and resume them, redrive and drop deliveries, and replay events.\n\n"
    "A destination is an HTTP endpoint that gets events. Settings name it: WEBHOOKD_DESTINATIONS__NAME__URL and others. A "
    "destination that the settings no longer name keeps its deliveries, and is listed as removed.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n"
    "For example: `webhookd destinations list`.\n\n" + EXIT_CODES,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The destination's name.", show_default=False)]
Ids = Annotated[list[UUID] | None, options.id_("Ids of events.")]
_TIMES = ("paused_at", "paused_by", "opened_at", "probe_at")
All = Annotated[bool, typer.Option("--all", help="All, instead of the given events.")]


@app.command("list")
def list_(url: options.Url = None, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """List the destinations with their states and their deliveries.

    For example: `webhookd destinations list`.
    """
    rows = with_api(url, folder, lambda api: api.get("destinations"))["destinations"]
    if tell_list(rows, key="destinations", more=False, as_json=as_json, none="no destination is set"):
        lines = (
            (row["name"], row["state"], row["place"], row["waiting"], row["retrying"], row["dead"], _since(row)) for row in rows
        )
        table(("destination", "state", "address", "waiting", "retrying", "dead", "since"), lines, right=(3, 4, 5), whole=True)


@app.command()
def show(name: Name, url: options.Url = None, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Show a destination: its settings without secrets, its counts, and its dead, failed and next deliveries.

    For example: `webhookd destinations show shop`.
    """
    found = with_api(url, folder, lambda api: api.get("destinations", name))
    if as_json:
        tell_json(found)
        return
    shown = {key: value for key, value in found.items() if key not in ("settings", "deliveries", *_TIMES)}
    fields(shown | {"since": _since(found) or None})
    for key, value in (found["settings"] or {}).items():
        if value not in (None, [], "") and key != "url":
            fields({f"  {plain(key)}": ", ".join(map(plain, value)) if isinstance(value, list) else plain(value)})
    if found["deliveries"]:
        lines = (
            (
                row["event_id"],
                short_type(row["event_type"]),
                row["status"],
                row["attempts"],
                instant(row["due"]),
                row["last_error"],
            )
            for row in found["deliveries"]
        )
        table(("event", "type", "status", "attempts", "due or died", "last error"), lines, whole=True)


@app.command("test")
def send_test(name: Name, url: options.Url = None, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Send a test event of the type webhookd.test, and show the answer. The exit code is 1 if it is not accepted.

    For example: `webhookd destinations test shop`.
    """
    found = with_api(url, folder, lambda api: api.post("destinations", name, "test", body={}))
    if as_json:
        tell_json(found)
    else:
        answer = found["error"] or f"HTTP status {found['status']}"
        said = f"{name}: {'accepted' if found['accepted'] else 'not accepted'}: {plain(answer)}, after {found['seconds']:g} s"
        say(f"{said} (event {plain(found['event_id'])})")
        if found["answer"]:
            fields({"answer": found["answer"]})
    if not found["accepted"]:
        raise typer.Exit(Exit.FAILED)


@app.command()
def redrive(
    name: Name,
    ids: Ids = None,
    every: All = False,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Have dead deliveries tried again, with all their attempts.

    For example: `webhookd destinations redrive shop --all --note 'the shop is back'`.
    """
    _change(name, "redrive", "redriven", _chosen(ids, every=every, note=note), url, folder, as_json=as_json)


@app.command()
def drop(
    name: Name,
    ids: Ids = None,
    every: All = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Also deliveries that wait or are tried again.")] = False,
    yes: options.Yes = False,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Drop dead deliveries: the destination never gets these events.

    `--all --unfinished` also cancels a replay to the destination, which would make more deliveries.

    For example: `webhookd destinations drop shop --all --unfinished --yes --note 'the shop is closed'`.
    """
    chosen = _chosen(ids, every=every, note=note) | ({"unfinished": True} if unfinished else {})
    if not yes:
        what = f"{number_of(len(ids or ()), 'delivery', 'deliveries')}" if ids else "all dead deliveries"
        what += " and all that wait" if unfinished and not ids else ""
        if as_json or not sys.stdin.isatty():
            raise SettingsError(f"{what} would be dropped, and there is no terminal to ask for confirmation: give --yes")
        typer.confirm(f"drop {what} of {name}?", abort=True, err=True)
    _change(name, "drop", "dropped", chosen, url, folder, as_json=as_json)


@app.command()
@options.filtered(Filter)
def replay(
    name: Name,
    *,
    chosen: Json,
    imported: Annotated[
        bool,
        typer.Option("--imported", help="Also choose history that `webhookd import` took, and that the destination never had."),
    ] = False,
    limit: options.BulkLimit = None,
    rate: options.Rate = 20.0,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    detach: options.Detach = False,
    note: Annotated[str, typer.Option(help="The reason, for the audit trail; required without --dry-run.")] = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Send stored events to a destination again, as an operation of the daemon. No handler runs.

    The command counts first and asks. The destination's settings still choose: an event that they do not ask for is left out.
    So is an event whose body is no longer kept, whose delivery is under way, or that came as history by an import. Each request
    has the event's own `webhook-id`, so a receiver that takes each id once ignores an event that it has. A destination has one
    replay at a time. Ctrl-C leaves the operation to the daemon; `webhookd operations` shows and cancels it. The other replay,
    `webhookd events replay`, runs handlers again.

    For example: `webhookd destinations replay shop --since 2h --event-type 'payment.*' --note 'the shop lost its database'`.
    """
    options.statuses(chosen.get("status"), tuple(EventStatus))
    if not chosen.keys() - {"status"}:
        raise SettingsError(
            "choose the events by a filter besides --status, for example --since 2h; --since 2000-01-01 chooses all events"
        )
    if not note and not dry_run:
        raise SettingsError("--note: give the reason, for the audit trail, or give --dry-run")
    chosen |= {"imported": True} if imported else {}
    body: Json = {"filter": chosen, "reason": note or "dry run", "rate": rate, "limit": limit}
    flags = {"dry_run": dry_run, "yes": yes, "detach": detach, "as_json": as_json}
    bulk.act(url, folder, f"destinations/{name}", "replay", body, until="received_to", **flags)


@app.command()
def pause(name: Name, url: options.Url = None, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Pause a destination on every replica: its deliveries wait, and no attempt is counted.

    For example: `webhookd destinations pause shop`.
    """
    row = with_api(url, folder, lambda api: api.post("destinations", name, "pause", body={}))
    if as_json:
        tell_json(row)
    else:
        say(f"{name}: {plain(row['state'])}")


@app.command()
def resume(name: Name, url: options.Url = None, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Resume a destination that was paused, or that was repaired: its retries are due now, not hours later.

    If its circuit is open, the next probe is sent at once, and the retries follow when the destination accepts the probe.

    For example: `webhookd destinations resume shop`.
    """
    row = with_api(url, folder, lambda api: api.post("destinations", name, "resume", body={}))
    if as_json:
        tell_json(row)
    else:
        more = "; more are due later: run the command again when these are over" if row["more"] else ""
        say(f"{name}: {plain(row['state'])}; {number_of(row['hastened'], 'retry is', 'retries are')} due now{more}")


def _since(row: Json) -> str:
    """Returns since when a destination is paused and by whom, and since when its circuit is open and when a probe follows."""
    pause = "" if row["paused_at"] is None else f"paused {instant(row['paused_at'])} by {plain(row['paused_by'])}"
    probe = f"fails since {instant(row['opened_at'])}, next probe {instant(row['probe_at'])}" if row["opened_at"] else ""
    return "; ".join(filter(None, (pause, probe)))


def _chosen(ids: list[UUID] | None, *, every: bool, note: str) -> dict[str, Any]:
    if bool(ids) == every:
        raise SettingsError("give ids of events, or --all")
    return ({"all": True} if every else {"ids": list(map(str, ids or ()))}) | ({"reason": note} if note else {})


def _change(name: str, action: str, done: str, body: Json, url: str | None, folder: Path, *, as_json: bool) -> None:
    async def work(api: Api) -> int:
        count, more = 0, True
        while more:  # one call changes up to a thousand
            answer = await api.post("destinations", name, action, body=body)
            count += answer["count"]
            more = answer["more"]
        return count

    count = with_api(url, folder, work)
    if as_json:
        tell_json({"count": count})
    else:
        say(f"{done}: {number_of(count, 'delivery', 'deliveries')} of {name}")
