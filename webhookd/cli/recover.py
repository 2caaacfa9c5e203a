"""The command `recover`: looks at the state after a recovery of PostgreSQL, SQS or Redis, and shows what is left to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from webhookd.cli.operator import options
from webhookd.cli.operator.screen import instant, plain, say, table
from webhookd.runtime.console import FOLDER, Folder, Json, out, run

_SHOWN = 20  # missing events that are shown to people; --json has all


def recover(
    apply: Annotated[
        bool,
        typer.Option(
            "--apply", help="Remove what Redis wrongly believes, and the messages of missing events in SQS. Save --json first."
        ),
    ] = False,
    before: Annotated[
        str | None,
        typer.Option(help="Look for the last event before this time or age, such as 2026-01-31T12:00 or 2h. [now]"),
    ] = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Show what a recovery of PostgreSQL, SQS or Redis left to do: what was found, what this means, the next command.

    Run the command with the daemon's settings, after the recovery and before the replicas start: it reads the queues only
    while no replica works. Without `--apply`, it changes nothing. It reads each message once, so a message's number of receives
    grows by one.

    Redis and SQS may remember events that were answered 200, and that PostgreSQL has lost. The command lists these events. The
    guide's page Recovery shows how to fetch them from the provider's history.

    The exit code is 1 while something is left to do, 2 if a setting is wrong.
    """
    from webhookd.dev import known
    from webhookd.telemetry import logs

    until = options.moment("--before", before)
    loaded, _ = known.known(folder)
    logs.configure("critical")  # the steps report the problems
    at = None if until is None else datetime.fromisoformat(until)
    raise typer.Exit(run(_recover(loaded, apply=apply, before=at, as_json=as_json)))


async def _recover(loaded: Any, *, apply: bool, before: datetime | None, as_json: bool) -> int:
    from webhookd.doctor.recovery import Evidence, State, examine

    colours = {State.FINE: "green", State.LOOK: "yellow", State.LEFT: "bold red"}
    evidence = Evidence()
    steps = []
    async for step in examine(loaded, apply=apply, before=before, evidence=evidence):
        steps.append(step)
        if not as_json:
            out.print(Text(f"{step.state:<5}", style=colours[step.state]), f"{step.check}: ", end="")
            say(f"{plain(step.found)}. {plain(step.meaning)}.")
            if step.command is not None:
                say(f"      {plain(step.command)}")
    missing = sorted(evidence.missing.values(), key=lambda event: event.received_at)
    left = sum(step.state is State.LEFT for step in steps)
    if as_json:
        rows = [event._asdict() for event in missing]
        report = {"ok": not left, "steps": [asdict(step) for step in steps], "missing": rows, "missing_count": evidence.count}
        print(json.dumps(report, default=str))  # noqa: T201
        return 1 if left else 0
    if missing:
        cells = [
            (instant(one.received_at.isoformat()), one.account, one.notification_id, one.event_type, one.event_id)
            for one in missing[:_SHOWN]
        ]
        table(("received (UTC)", "account", "notification", "type", "event"), cells)
        if evidence.count > _SHOWN:
            say(f"and {evidence.count - len(cells)} more; --json lists up to 10,000")
    say(f"{len(steps)} checks: {left} left to do")
    return 1 if left else 0
