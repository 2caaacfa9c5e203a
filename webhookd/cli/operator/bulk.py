"""Bulk work: a dry run counts the events, the operator agrees, and the daemon runs an operation that a bar follows."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from webhookd.cli.operator.api import Api, Json, with_api
from webhookd.cli.operator.failures import ApiError, Exit
from webhookd.cli.operator.screen import counts, number_of, plain, say, tell_json
from webhookd.errors import SettingsError
from webhookd.runtime.console import err

_LEFT_OUT = "left out: "  # begins a reason why a replay leaves events alone
_PAST = {"replay": "put back", "redrive": "redriven", "discard": "discarded"}


def act(
    url: str | None,
    folder: Path,
    place: str,
    kind: str,
    body: Json,
    *,
    until: str,
    dry_run: bool,
    yes: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """POSTs `body` to `place`/`kind`; `until` names the filter's upper bound. Raises SettingsError if nobody can be asked.

    With `yes` there is no dry run: nobody would read its counts.
    """
    if not (dry_run or yes) and (as_json or not sys.stdin.isatty()):
        raise SettingsError(
            f"{kind} may change many events, and there is no terminal to ask for confirmation: give --yes, or --dry-run"
        )

    def start(wanted: Json) -> Json:
        return with_api(url, folder, lambda api: api.post(place, kind, body=wanted))

    if dry_run or not yes:
        count = follow(url, folder, start(body | {"dry_run": True}), as_json=as_json)
        if as_json:
            tell_json(count)
        elif count["state"] == "done":
            _tell_count(count, dry_run=dry_run)
        if count["state"] != "done":
            _fail(count)
        if dry_run or not count["total"]:
            return
        typer.confirm(f"{kind} {number_of(count['total'], 'event')}{to(count)}?", abort=True, err=True)
        if "ids" not in body:
            # The operator did not agree to events that came after the count.
            chosen = dict(body.get("filter", {}))
            chosen[until] = min(chosen.get(until, count["created_at"]), count["created_at"], key=datetime.fromisoformat)
            body = {name: value for name, value in body.items() if name != "all"} | {"filter": chosen}
    operation = start(body | {"dry_run": False})
    if detach:
        if as_json:
            tell_json(operation)
        else:
            say(f"operation {plain(operation['id'])} runs in the daemon: `webhookd operations show {plain(operation['id'])}`")
        return
    finish(follow(url, folder, operation, as_json=as_json), as_json=as_json)


def follow(url: str | None, folder: Path, operation: Json, *, as_json: bool) -> Json:
    """Shows an operation's progress until its end, and returns its last state. Ctrl-C leaves it running: exit code 130."""
    last = operation
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal)

    async def watch(api: Api) -> None:
        nonlocal last
        task = bar.add_task("", total=None)
        async for last in api.follow(operation):
            waits = f" (waits: {plain(last['held_by'])})" if last["held_by"] else ""
            counting = last["dry_run"] or last["state"] == "counting"
            name = f"counting for {plain(last['kind'])}" if counting else plain(last["kind"])
            total, done = (None, last["total"] or 0) if counting else (last["total"], last["done"] + last["skipped"])
            bar.update(task, description=name + waits, completed=done, total=total)

    look = f"`webhookd operations show {plain(operation['id'])}` shows its progress"
    try:
        with bar:
            with_api(url, folder, watch)
    except KeyboardInterrupt:
        if as_json:
            tell_json(last)
        cancel = f"`webhookd operations cancel {plain(operation['id'])}` cancels it"
        err.print(f"the operation goes on in the daemon: {look}, {cancel}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(Exit.INTERRUPTED) from None
    except ApiError as error:
        raise ApiError(f"{error} (the operation goes on in the daemon: {look})", error.exit_code) from None
    return last


def finish(operation: Json, *, as_json: bool) -> None:
    """Prints the result of an operation that has ended. Raises ApiError if it failed or was cancelled."""
    if as_json:
        tell_json(operation)
    elif operation["dry_run"]:
        _tell_count(operation, dry_run=True)
    else:
        skipped = f", {operation['skipped']} skipped, since they had changed" if operation["skipped"] else ""
        sent = f"{'is on its' if operation['done'] == 1 else 'are on their'} way{to(operation)}"
        done = sent if to(operation) else _PAST.get(operation["kind"], "done")
        if left_out := {why: count for why, count in operation["reasons"].items() if why.startswith(_LEFT_OUT)}:
            counts("reason", left_out)
        say(f"{number_of(operation['done'], 'event')} {done}{skipped}")
    if operation["state"] != "done":
        _fail(operation)


def _fail(operation: Json) -> NoReturn:
    why = f": {plain(operation['error'])}" if operation["error"] else ""
    state = "was cancelled" if operation["state"] == "cancelled" else "failed"
    raise ApiError(f"the operation {plain(operation['id'])} {state}{why}", Exit.FAILED)


def _tell_count(operation: Json, *, dry_run: bool) -> None:
    if not operation["total"]:
        if operation["reasons"]:  # a replay leaves events out
            counts("reason", operation["reasons"])
        say("no event is chosen")
        return
    counts("type", operation["event_types"])
    counts("reason", operation["reasons"])
    if dry_run:
        change = "send" if to(operation) else "change"
        events = f"{number_of(operation['total'], 'event')}{to(operation)}"
        say(f"{plain(operation['kind'])} would {change} {events}; nothing was {'sent' if to(operation) else 'changed'}")


def to(operation: Json) -> str:
    """Returns ` to shop` for a replay to the destination shop, and an empty text for other operations."""
    destination = operation["selection"].get("destination")
    return f" to {plain(destination)}" if destination else ""
