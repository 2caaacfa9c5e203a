"""`webhookd stats`: recent counts and latencies, and the present state."""

from __future__ import annotations

from typing import Annotated

import typer

from webhookd.cli.operator import options
from webhookd.cli.operator.api import Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES
from webhookd.cli.operator.screen import fields, instant, say, short_type, table, tell_json
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

HELP = (
    "Show recent counts and latencies, and the present backlog.\n\n"
    "For example: `webhookd stats --window 1d`, or `webhookd stats --json | jq .now.oldest_unfinished_seconds`.\n\n"
    + EXIT_CODES
)


def stats(
    window: Annotated[str, typer.Option(help="How far to look back: from 60s to 90d.")] = "1h",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Runs the command. Its help is HELP, since a docstring cannot be put together."""
    length = options.seconds("--window", window)
    found = with_api(url, folder, lambda api: api.get("stats", window=length))
    if as_json:
        tell_json(found)
        return
    say(f"{instant(found['from'])} to {instant(found['to'])} UTC")
    rates = found["rates"]
    table(
        ("", "events", "per second"),
        ((name, f"{count:,}", f"{rates[name]:,.2f}") for name, count in found["totals"].items()),
        right=(1, 2),
    )
    latencies = found["latency"].items()
    rows = ((name.replace("_", " "), *(_seconds(spread[part]) for part in ("p50", "p95", "p99"))) for name, spread in latencies)
    table(("time from receipt", "p50", "p95", "p99"), rows, right=(1, 2, 3))
    columns = ("received", "processed", "retried", "dead")
    types = ((short_type(row["event_type"]), *(f"{row[name]:,}" for name in columns)) for row in found["event_types"])
    if found["event_types"]:
        table(("type", *columns), types, right=(1, 2, 3, 4))
    _tell_now(found["now"])


def _tell_now(now: Json) -> None:
    def number(count: int) -> str:
        return f"{count:,}" + (" or more" if count >= now["capped_at"] else "")

    say("now:")
    fields({name: number(count) for name, count in now["statuses"].items()} | {"in quarantine": f"{now['quarantine']:,}"})
    fields({"oldest unfinished": _seconds(now["oldest_unfinished_seconds"])})
    for name in ("queue", "dead_letter_queue"):
        depth = now[name] and ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in now[name].items())
        fields({name.replace("_", " "): depth or "not known: SQS is away"})


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.1f} s"
