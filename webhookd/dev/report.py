"""The output of `webhookd trigger`: the answers and times, and what to do about refusals."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from webhookd.dev.traffic import Summary
from webhookd.runtime.console import err, out

_REMEDIES = {
    0: "got no answer: check that webhookd runs there. `webhookd dev` starts it, and --url names another address (with "
    "TLS, an address whose name is in the certificate)",
    401: "were refused: the receiver has another key; set WEBHOOKD_SIGNATURE_KEYS (or the account's) to the receiver's key",
    404: "went to a path that the receiver does not serve: check --account, and the path of --url",
    503: "were refused for now: the receiver is overloaded, or its PostgreSQL is unavailable (run `webhookd doctor`)",
}


def print_summary(summary: Summary, url: str) -> None:
    """Prints how many requests went to `url`, shown without its password, and how they were answered."""
    counted = summary.as_dict()
    place = url.partition("?")[0].rpartition("@")[2].removeprefix("https://").removeprefix("http://")
    scheme = url.partition("://")[0]
    out.print(f"{counted['sent']} requests to {scheme}://{place}", highlight=False, soft_wrap=True, markup=False)
    table = Table("answer", "count")
    table.columns[1].justify = "right"
    for outcome, count in sorted(counted["outcomes"].items()):
        table.add_row(Text(outcome), str(count))
    out.print(table)
    out.print(f"{counted['seconds']:g} s, {counted['per_second']:g} per second", highlight=False)
    if times := ", ".join(f"{name} {value:g} ms" for name, value in counted["latency_ms"].items()):
        out.print(f"answered within: {times}", highlight=False, soft_wrap=True)


def print_refusals(summary: Summary) -> None:
    """Prints, on standard error, what to do about each kind of refusal."""
    total = summary.statuses.total()
    for status, remedy in _REMEDIES.items():
        if count := summary.statuses[status]:
            err.print(f"[bold red]webhookd:[/] {count} of {total} requests {remedy}", highlight=False, soft_wrap=True)
