"""The command line. Exit codes: 0 success, 1 failure, 2 a wrong argument or setting."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from webhookd.errors import SettingsError, UnavailableError, WebhookdError

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Receives Authorize.Net webhooks: durable before the 200, each one's effects exactly once.\n\n"
    "Settings are environment variables that begin with WEBHOOKD_, also from `.env` and a TOML file (WEBHOOKD_CONFIG); "
    "`webhookd settings` lists them.",
)
out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script, and nothing else, on standard output.")]


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` on uvloop where it is installed."""
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


@app.command()
def serve() -> None:
    """Run the daemon, until SIGTERM or SIGINT.

    Logs go to standard error, a JSON object a line. It starts with PostgreSQL, Redis or SQS away, and waits for them.
    """
    from webhookd import daemon, logs, settings

    loaded = settings.load()
    logs.configure(loaded.log_level, loaded.log_format)
    raise typer.Exit(_run(daemon.serve(loaded)))


@app.command()
def dev(
    folder: Annotated[Path, typer.Option(help="Where the embedded servers keep their data.")] = Path(".webhookd"),
    samples: Annotated[bool, typer.Option(help="Send one sample of every event type at the start.")] = True,
) -> None:
    """Run everything on this machine: embedded PostgreSQL, Valkey and SQS, the daemon, and sample events.

    Where WEBHOOKD_DATABASE_URL, WEBHOOKD_REDIS_URL or WEBHOOKD_SQS_ENDPOINT_URL is set, that server is used instead.
    Ctrl-C stops it all; the next run finds its data again.
    """
    from webhookd.dev import session

    raise typer.Exit(session.run(folder, samples=samples, console=out, loop=_run))


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the database's schema up to date; safe on several replicas at once."""
    from webhookd import settings
    from webhookd.store.database import migrate as bring_up

    loaded = settings.load()
    applied = _run(bring_up(loaded.database_url.get_secret_value()))
    if as_json:
        print(json.dumps({"applied": applied}))  # noqa: T201
    else:
        out.print(f"applied {', '.join(applied)}" if applied else "the schema is up to date", highlight=False)


@app.command()
def trigger(
    event_type: Annotated[
        str, typer.Argument(help="An event type, with or without `net.authorize.`; `payment.*`; or `all`.")
    ] = "all",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="How many requests. [one of each type]")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests a second. [as fast as it goes]")] = None,
    duplicates: Annotated[
        float, typer.Option(min=0, max=100, help="Per cent of the requests that repeat an earlier one's bytes.")
    ] = 0.0,
    out_of_order: Annotated[bool, typer.Option("--out-of-order", help="Send in another order than the events' dates.")] = False,
    url: Annotated[str | None, typer.Option(help="The webhook's address. [from WEBHOOKD_LISTEN]")] = None,
    account: Annotated[str, typer.Option(help="The account whose path and key are used.")] = "default",
    connections: Annotated[int, typer.Option(min=1, max=1024, help="Connections side by side.")] = 16,
    folder: Annotated[Path, typer.Option(help="Where `webhookd dev` keeps its key.")] = Path(".webhookd"),
    as_json: Json = False,
) -> None:
    """Sign sample notifications and send them to a receiver, as Authorize.Net does.

    The signature key comes from the settings, or from a `webhookd dev` that ran in this folder.

    For example: `webhookd trigger payment.refund.created`, or
    `webhookd trigger all --count 1000 --rate 100 --duplicates 20 --out-of-order`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from webhookd.dev import session, traffic

    types = traffic.matching_types(event_type)
    target = session.target(folder, account=account, url=url)
    first = session.fresh_number()
    samples = traffic.stream(types, count or len(types), duplicates=duplicates / 100, out_of_order=out_of_order, first=first)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as progress:
        task = progress.add_task("sending", total=len(samples))
        summary = _run(
            traffic.send(
                samples,
                target.url,
                target.key,
                rate=rate,
                connections=connections,
                answered=lambda _: progress.advance(task),
            )
        )
    if as_json:
        print(json.dumps(summary.as_dict()))  # noqa: T201
    else:
        _print_summary(summary.as_dict(), target.url)
    if summary.failed:
        raise typer.Exit(1)


def _print_summary(summary: dict[str, Any], url: str) -> None:
    table = Table("answer", "count", title=f"{summary['sent']} requests to {url}", title_justify="left")
    table.columns[1].justify = "right"
    for outcome, count in sorted(summary["outcomes"].items()):
        table.add_row(outcome, str(count))
    out.print(table)
    times = ", ".join(f"{name} {value:g} ms" for name, value in summary["latency_ms"].items())
    out.print(f"{summary['seconds']:g} s, {summary['per_second']:g} a second; {times}", highlight=False)


@app.command()
def doctor(
    body: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A captured request body, its exact bytes.")
    ] = None,
    signature: Annotated[str | None, typer.Option(help="The X-ANET-Signature header that came with --body.")] = None,
    as_json: Json = False,
) -> None:
    """Check every setting and dependency, and say what to do about each one that is not well.

    With `--body` and `--signature` of a captured request: which key matches, and in which reading of the key.
    """
    from webhookd import settings

    if (body is None) != (signature is None):
        raise SettingsError("--body and --signature go together: both from one captured request")
    loaded = settings.load()
    if body is not None and signature is not None:
        raise typer.Exit(_explain(loaded.keys_by_account, body.read_bytes(), signature, as_json=as_json))
    raise typer.Exit(_run(_doctor(loaded, as_json=as_json)))


async def _doctor(loaded: Any, *, as_json: bool) -> int:
    from webhookd.doctor import Verdict, examine

    marks = {Verdict.OK: "[green]ok[/]", Verdict.WARNING: "[yellow]warning[/]", Verdict.FAILED: "[bold red]failed[/]"}
    findings = []
    async for finding in examine(loaded):
        findings.append(finding)
        if not as_json:
            out.print(f"{marks[finding.verdict]:<22} {finding.check}: {finding.detail}", highlight=False, soft_wrap=True)
    failed = any(finding.verdict is Verdict.FAILED for finding in findings)
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [finding.as_dict() for finding in findings]}))  # noqa: T201
    return 1 if failed else 0


def _explain(keys_by_account: dict[str, tuple[str, ...]], body: bytes, signature: str, *, as_json: bool) -> int:
    from webhookd.authorizenet.signature import explain

    readings = [(account, r) for account, keys in keys_by_account.items() for r in explain(body, signature, list(keys))]
    good = any(r.matches and r.reading == "as text" and r.body_variant == "as it is" for _, r in readings)
    if as_json:
        rows = [{"account": account, **asdict(r)} for account, r in readings]
        print(json.dumps({"ok": good, "readings": rows}))  # noqa: T201
        return 0 if good else 1
    table = Table("account", "key", "reading of the key", "body", "matches")
    for account, r in readings:
        table.add_row(account, r.fingerprint, r.reading, r.body_variant, "[bold green]yes[/]" if r.matches else "no")
    out.print(table)
    if good:
        out.print("The signature verifies: webhookd accepts this request.")
    elif any(r.matches for _, r in readings):
        out.print("It matches only in another reading: see the row above, and mend what signed or changed it on the way.")
    else:
        out.print(
            "No key matches: compare the fingerprint with the key in the Merchant Interface (Account, API Credentials & Keys), "
            "and see that nothing between the provider and this file changed the body's bytes."
        )
    return 0 if good else 1


@app.command("settings")
def list_settings(as_json: Json = False) -> None:
    """List every setting: its environment variable, its default, its meaning."""
    from webhookd import settings

    rows = settings.describe()
    if as_json:
        fields = ("name", "default", "meaning")
        print(json.dumps([dict(zip(fields, row, strict=True)) for row in rows]))  # noqa: T201
        return
    table = Table("setting", "default", "meaning")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def main() -> None:
    """The entry point: errors of ours become one line and an exit code."""
    try:
        app()
    except SettingsError as error:
        err.print(f"[bold red]webhookd:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except WebhookdError as error:
        hint = " (`webhookd doctor` tells more)" if isinstance(error, UnavailableError) else ""
        err.print(f"[bold red]webhookd:[/] {error}{hint}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
