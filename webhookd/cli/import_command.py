"""The command `import`: old webhooks from a file become events."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from webhookd.cli.operator.screen import number_of, plain, say, table, tell_json
from webhookd.errors import SettingsError, WebhookdError
from webhookd.operate.import_lines import As, Format, Lines, format_of
from webhookd.runtime.console import FOLDER, Folder, Json, err, run

if TYPE_CHECKING:
    from webhookd.operate.import_lines import Line
    from webhookd.operate.imports import Report
    from webhookd.settings import Settings

_REPORT_SECONDS = 10.0  # between two reports of the progress, if standard error is no terminal


def import_(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, allow_dash=True, help="The file; - reads standard input.")
    ],
    way: Annotated[
        As,
        typer.Option("--as", help="history: another program has processed the webhooks. work: webhookd is to process them."),
    ] = As.HISTORY,
    account: Annotated[str, typer.Option(help="The account of lines that name none.")] = "default",
    kind: Annotated[
        Format | None, typer.Option("--format", help="The file's format. [from its ending: .jsonl, .ndjson or .csv]")
    ] = None,
    end_waiting: Annotated[
        bool,
        typer.Option(
            "--end-waiting",
            help="Also end the work of events of the file that webhookd has, and has not begun to process.",
        ),
    ] = False,
    unsigned: Annotated[
        bool,
        typer.Option("--unsigned", help="Also take lines without a signature as work, and let them end work."),
    ] = False,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="With --as work: the new events a second, at most.")] = 20.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the lines, and count those that webhookd has and those that it lacks.")
    ] = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Take old webhooks from a file of JSON lines or CSV into webhookd, for example those of a receiver that webhookd replaces.

    Each line is one webhook: `body`, the exact text that was received, or `body_base64`; `received_at`, the time of the receipt
    (ISO 8601, UTC if it names no zone; in JSON also seconds since 1970); if there is one, `signature`, the header
    X-ANET-Signature; and `account`, if it is another than --account. The first line of a CSV file names the columns. Other
    fields are ignored.

    As history, the events count as processed when they were received: no handler runs, no destination gets them, and no alert
    counts them. The timeline takes what they report. As work, webhookd processes them, after fresh events, and sends them to
    the destinations that are set here. It takes no more than --rate a second, so that retries of live events and the alerts do
    not suffer.

    A line without a signature can be history. It can be work, or end work, only with --unsigned: whoever wrote it decides what
    the handlers do.

    An event that webhookd has, by its notification id or by its content, is a duplicate, and stays as it is, except with
    --end-waiting. So the command may run twice, and after an interruption it goes on. A dry run counts a webhook that stands
    twice in the file as two new ones.

    A bad line does not stop the others: the command prints its number and the reason on standard error. Only a place that is
    no CSV ends the reading of a CSV file, because the text behind it could be the inside of a body. A line is bad if its
    signature is wrong, or if it is older than WEBHOOKD_EVENT_RETENTION. Exit codes: 0 all lines are good; 1 some lines are bad,
    or PostgreSQL is away; 2 a wrong argument or setting.

    For example: `webhookd import old.jsonl --dry-run`, or `webhookd import missed.csv --as work`.
    """
    from webhookd.dev import known
    from webhookd.telemetry import logs

    name = "standard input" if str(file) == "-" else file.name
    if (kind := kind or format_of(file.name)) is None:
        raise SettingsError(f"--format: the ending of {name} names no format; give jsonl or csv")
    if end_waiting and way is As.WORK:
        raise SettingsError("--end-waiting is for events that another program has processed: it does not go with --as work")
    settings, _ = known.known(folder)
    account = account.lower()
    if account not in settings.keys_by_account:
        raise SettingsError(
            f"--account: no setting has keys of the account {account!r}; set "
            + ("WEBHOOKD_SIGNATURE_KEYS" if account == "default" else f"WEBHOOKD_ACCOUNTS__{account.upper()}__SIGNATURE_KEYS")
        )
    logs.configure("critical")  # the command reports the problems
    with ExitStack() as stack:
        opened = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        lines = Lines(opened, kind, settings.max_body_bytes)
        size = None if str(file) == "-" else file.stat().st_size
        options = {"account": account, "way": way, "source": name, "end_waiting": end_waiting, "dry_run": dry_run}
        options |= {"unsigned": unsigned, "rate": rate}
        report = run(_import(settings, lines, size, options))
    if as_json:
        tell_json({"file": name, "as": way, "account": account, "dry_run": dry_run, **report.as_dict()})
    else:
        _show(report, dry_run=dry_run)
    raise typer.Exit(1 if report.bad else 0)


async def _import(settings: Settings, lines: Lines, size: int | None, options: dict[str, Any]) -> Report:
    from webhookd.daemon import pool_settings
    from webhookd.deliver.destination import Routes, destinations_of
    from webhookd.operate.imports import Importer, Limits
    from webhookd.runtime.loops import Watch
    from webhookd.sqs.rds import RdsTokens
    from webhookd.store.database import Database
    from webhookd.store.failures import STATEMENT_ERRORS
    from webhookd.store.postgresql_problem import problem_of
    from webhookd.telemetry.metrics import Metrics

    async with RdsTokens.password(settings.database_auth, settings.sqs_region) as password:
        pools = pool_settings(settings, password)
        database = Database(pools, schema=settings.database_schema, metrics=Metrics(), watch=Watch())
        await database.start()
        limits = Limits(settings.event_retention, settings.body_retention, settings.max_clock_skew)
        router = Routes(destinations_of(settings.destinations, sends=False))
        importer = Importer(database, limits, settings.keys_by_account, router=router, tell=_tell, **options)
        try:
            return await importer.run(_watched(lines, size, importer.report))
        except SettingsError:  # the file's first line is wrong
            raise
        except STATEMENT_ERRORS as error:
            stopped = f"the import stopped near line {importer.report.lines}, and goes on if you run the command again"
            raise WebhookdError(f"{problem_of(error)}; {stopped}") from error
        finally:
            await database.stop()


def _watched(lines: Lines, size: int | None, report: Report) -> Iterator[Line | tuple[int, str]]:
    """Yields the lines, and shows the progress on standard error: as a bar on a terminal, else as a line every ten seconds."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("importing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("importing", total=size)
        due = time.monotonic() + _REPORT_SECONDS
        for line in lines:
            yield line
            bar.update(task, completed=lines.read)
            if bar.disable and time.monotonic() >= due:
                due = time.monotonic() + _REPORT_SECONDS
                share = f" ({lines.read / size:.0%} of the file)" if size else ""
                _note(f"{number_of(report.lines, 'line')}{share}: {report.imported} imported, {report.duplicates} known")


def _tell(number: int, reason: str) -> None:
    _note(f"line {number}: {plain(reason)}")


def _note(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def _show(report: Report, *, dry_run: bool) -> None:
    rows = [
        ("new, would be imported" if dry_run else "imported", report.imported),
        ("  without the body, which is older than WEBHOOKD_BODY_RETENTION", report.without_body),
        ("known to webhookd", report.duplicates),
        ("  with a body of other bytes", report.other_body),
        ("  whose work would end" if dry_run else "  whose work ended", report.ended),
        ("bad lines", report.bad),
        ("signature verified", report.signatures["verified"]),
        ("signature wrong", report.signatures["wrong"]),
        ("no signature", report.signatures["none"]),
    ]
    table(
        (number_of(report.lines, "line"), "webhooks"), [row for row in rows if row[1] or not row[0].startswith(" ")], right=(1,)
    )
    if report.bad:
        say("the lines on standard error name each bad line")
