"""The command line. Exit codes: 0 success, 1 failure, 2 a wrong argument or setting, 141 nobody reads the output any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from webhookd.cli.doctor import doctor
from webhookd.cli.import_command import import_
from webhookd.cli.operator import (
    alert_commands,
    dead_letter_commands,
    destination_commands,
    event_commands,
    gap_commands,
    health_command,
    listen_command,
    operation_commands,
    quarantine_commands,
    reconcile_command,
    refused_commands,
    stats_commands,
    timeline_commands,
)
from webhookd.cli.operator.failures import ApiError
from webhookd.cli.provider import commands as provider_commands
from webhookd.cli.recover import recover
from webhookd.cli.simulate import simulate
from webhookd.cli.trigger import trigger
from webhookd.errors import SettingsError, UnavailableError, WebhookdError
from webhookd.runtime.console import FOLDER, Folder, Json, err, out, run, write_whole

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Receives Authorize.Net webhooks: each event is durable before the 200, and its effects happen exactly once.\n\n"
    "Settings are environment variables that begin with WEBHOOKD_. They can also stand in `.env` and in a TOML file "
    "(WEBHOOKD_CONFIG). `webhookd settings` lists them.",
)
for group in (
    event_commands,
    timeline_commands,
    dead_letter_commands,
    quarantine_commands,
    refused_commands,
    operation_commands,
    destination_commands,
    alert_commands,
    gap_commands,
    provider_commands,
):
    app.add_typer(group.app)
app.command("stats", help=stats_commands.HELP)(stats_commands.stats)
app.command("reconcile", help=reconcile_command.HELP)(reconcile_command.reconcile)
app.command("health", help=health_command.HELP)(health_command.health)
app.command("listen", help=listen_command.HELP)(listen_command.listen)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"webhookd {version('webhookd')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def serve() -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Logs go to standard error, by default one JSON object per line. If PostgreSQL, Redis or SQS is unavailable, the daemon
    still starts, and waits for the dependency.

    At SIGHUP, and when a file that holds a secret changes, the daemon reads its settings again. It applies the signature keys,
    the tokens, the TLS certificate, and a new user or password of PostgreSQL and of Redis. Requests go on meanwhile. If a
    setting is wrong, nothing changes, and the log reports the problem.
    """
    # The daemon handles SIGTERM a second later, when all is imported. Until then PID 1 of a container would ignore it.
    # The process ends at once, since nothing has begun. SystemExit would count as an error of the handlers' module.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from webhookd import service, settings
    from webhookd.runtime.files import Changes
    from webhookd.telemetry import logs

    files = Changes(settings.secret_files())
    loaded = settings.load()
    logs.configure(loaded.log_level, loaded.log_format)

    async def until_stopped() -> int:
        code = await service.serve(loaded, reload=settings.load, files=files)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left and (await asyncio.wait(left, timeout=1))[1]:
            # A handler that swallows its cancellation still runs, and closing the loop would wait for that handler for ever.
            logging.shutdown()
            os._exit(code)
        return code

    raise typer.Exit(run(until_stopped()))


@app.command()
def dev(
    folder: Folder = FOLDER,
    samples: Annotated[bool, typer.Option(help="Send one sample of every event type at the start.")] = True,
    schema: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Run the SQL of this file, which makes your own tables, before the samples."
        ),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Import your handlers again whenever one of their source files changes.")
    ] = False,
) -> None:
    """Run everything on this machine: embedded PostgreSQL, Valkey and SQS, the daemon, and sample events.

    The command needs no container, no root and no settings. If WEBHOOKD_DATABASE_URL, WEBHOOKD_REDIS_URL or
    WEBHOOKD_SQS_ENDPOINT_URL is set, the session uses that server instead. All other settings apply, too, but
    WEBHOOKD_TLS_CERTIFICATE must not be set: the session uses HTTP.

    Ctrl-C stops everything. The next run finds its data again. Remove the folder to begin anew.

    With `--schema`, the session runs the file in one transaction, once for each database: again only if the text has changed.
    If the SQL fails, the message names the line. psql's own commands, such as `\\copy`, do not work here.

    With `--reload`, the session watches the modules that WEBHOOKD_HANDLERS names, and your own modules that these import.
    Within a second of a change, the session imports them again. New events get the new handlers. The daemon goes on: events in
    work end with the handlers that they began with. If the new code cannot be imported, the session prints the file and the
    line, and keeps the handlers from before until the next change.

    While it runs, `webhookd trigger` and `webhookd doctor` in the same folder use its key and its addresses.
    """
    from webhookd.dev import environment

    raise typer.Exit(environment.run(folder, samples=samples, reload=reload, schema=schema, console=out, loop=run))


@app.command()
def migrate(
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Change nothing; list the migrations to apply. Exit codes: 3 if there are any, 1 if they would fail.",
        ),
    ] = False,
    lock_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a migration, and webhooks behind it, may wait for a lock.")
    ] = 2.0,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds after which the command gives up a migration that does not get its lock.")
    ] = 300.0,
    direct: Annotated[
        bool,
        typer.Option(
            "--direct", help="Do not check for a pooler: the server or proxy at the URL keeps each session for one client."
        ),
    ] = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Bring the database's schema up to date.

    The command is safe on several replicas at once, and while webhookd of this release or of the release before runs. If the
    schema is up to date, the command changes nothing. It needs no setting but WEBHOOKD_DATABASE_URL. The URL's role must be
    allowed to create the schema that WEBHOOKD_DATABASE_SCHEMA names, or tables in it. Run the command before `webhookd serve`,
    the first time and at each upgrade: migrate, then replace the replicas. If WEBHOOKD_DATABASE_URL is not set, the database is
    that of the `webhookd dev` in this folder. To go back to the release before, leave the schema as it is.

    If another session holds a lock, the command tries again and again, so that webhooks do not wait behind it. Progress goes to
    standard error. Exit codes: 0 up to date; 1 failed; 2 a wrong setting; 3 `--check` found migrations to apply.
    """
    from webhookd.dev import known
    from webhookd.sqs.rds import RdsTokens
    from webhookd.store import migrations

    database, brought = known.database(folder)
    url, schema = database.database_url.get_secret_value(), database.database_schema

    async def asked(call: Callable[..., Awaitable[T]], **options: Any) -> T:
        async with RdsTokens.password(database.database_auth, database.sqs_region) as password:
            return await call(url, schema=schema, password=password, **options)

    tell = partial(err.print, highlight=False, markup=False, soft_wrap=True)
    if brought is not None:
        tell(f"WEBHOOKD_DATABASE_URL is not set; its value comes from {brought}")
    if check:
        state = run(asked(migrations.state))
        if as_json:
            pending = [{"id": one.id, "about": one.about} for one in state.pending]
            print(json.dumps({"pending": pending, "unknown": state.unknown, "problem": state.problem}))  # noqa: T201
        else:
            for one in state.pending:
                out.print(f"{one.id}: {one.about}", highlight=False, markup=False, soft_wrap=True)
            if state.unknown:
                out.print(f"applied by another release: {', '.join(state.unknown)}", highlight=False, soft_wrap=True)
            for said in filter(None, (state.note, state.problem)):
                out.print(said, highlight=False, markup=False, soft_wrap=True)
            if not state.pending:
                out.print("the schema is up to date", highlight=False)
        raise typer.Exit(1 if state.problem else 3 if state.pending else 0)
    applied = run(asked(migrations.migrate, tell=tell, lock_timeout=lock_timeout, patience=patience, direct=direct))
    if as_json:
        print(json.dumps({"applied": applied}))  # noqa: T201
    else:
        out.print(f"applied {', '.join(applied)}" if applied else "the schema is up to date", highlight=False)


app.command()(trigger)
app.command()(simulate)
app.command()(doctor)
app.command("import")(import_)
app.command()(recover)


@app.command("settings")
def list_settings(
    in_force: Annotated[
        bool, typer.Option("--effective", help="Show the values that `webhookd serve` would use here, and their sources.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List every setting: its environment variable, its default, its meaning.

    With `--effective`, list every setting with its value and its source: the environment, a file or the default. Keys and
    tokens are shown as fingerprints, URLs without user, password and options. The exit code is 2 if a setting is wrong.
    """
    from webhookd import settings

    if in_force:
        _show_effective(as_json=as_json)
        return
    rows = settings.describe()
    if as_json:
        fields = ("name", "default", "meaning")
        print(json.dumps([dict(zip(fields, row, strict=True)) for row in rows]))  # noqa: T201
        return
    for name, default, meaning in rows:
        # The lines of a meaning break between words only, so a URL stays whole.
        out.print(Text.assemble((name, "bold"), f"  {default}"), soft_wrap=True)
        out.print(Padding(Text(meaning), (0, 0, 0, 4)))


def _show_effective(*, as_json: bool) -> None:
    from webhookd import settings
    from webhookd.cli.effective import effective
    from webhookd.settings import sources

    layers = sources.layers()
    rows = effective(settings.load_from(layers), layers)
    if as_json:
        print(json.dumps([dict(zip(("name", "value", "source"), row, strict=True)) for row in rows]))  # noqa: T201
        return
    for name, value, source in rows:
        out.print(Text.assemble((name, "bold"), f"  {value or '(empty)'}  ", (f"[{source}]", "dim")), soft_wrap=True)


def main() -> None:
    """Runs the command line. Turns an error of ours into one message and an exit code."""
    write_whole()
    try:
        app()
    except SettingsError as error:
        _fail(str(error), 2)
    except ApiError as error:
        _fail(str(error), error.exit_code)
    except WebhookdError as error:
        _fail(f"{error}{' (run `webhookd doctor` for details)' if isinstance(error, UnavailableError) else ''}", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no standard output, a closed one, or a full disk
            sys.stdout.flush()  # flush now, while the exit code can still report that nobody reads the output


def _fail(message: str, code: int) -> NoReturn:
    # Escape the text: otherwise rich would take the brackets of 'webhookd[dev]' for markup.
    err.print(f"[bold red]webhookd:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)
