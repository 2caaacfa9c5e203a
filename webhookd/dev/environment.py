"""A development session: embedded servers, the daemon, and sample events that are shown from received to processed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import dotenv_values
from rich.console import Console

from webhookd.dev.known import Receiver, given_settings, reachable
from webhookd.dev.provider import TIMING, Provider
from webhookd.dev.samples import show_samples
from webhookd.dev.servers import DevError, Stack
from webhookd.errors import SettingsError
from webhookd.process import loading
from webhookd.process.retry import Policy
from webhookd.settings import Settings, load
from webhookd.store.sql_file import run_once

if TYPE_CHECKING:
    from webhookd.daemon import Daemon
    from webhookd.dev.reload import Reloader
    from webhookd.runtime.loops import Watch

# moto scans the whole queue at each send, so the window keeps few messages there. When moto stops, it loses its messages, so
# lost messages are sent again soon.
_GENTLE = {"relay_window": 30, "resend_after": 15, "sqs_wait": 2, "shutdown_grace": 10}


class _Interrupts:
    """A record of Ctrl-C, SIGTERM and a closed terminal, so that nothing is left half started or half stopped."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.asked = False
        self.take()

    def take(self) -> None:
        """Takes over the signals. To be called again after an event loop has used them."""
        for number in self._SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self._note)

    def ignore(self) -> None:
        """Ignores the signals for good: a further Ctrl-C must not turn an orderly end into a crash while Python exits."""
        for number in self._SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, *_: object) -> None:
        self.asked = True


def run(
    folder: Path,
    *,
    samples: bool,
    reload: bool,
    schema: Path | None,
    console: Console,
    loop: Callable[[Coroutine[Any, Any, int]], int],
) -> int:
    """Runs the session until Ctrl-C; returns the exit code. Raises WebhookdError if it cannot start.

    `samples`: send sample events at the start. `reload`: import the handlers again when one of their source files changes.
    `schema`: a file of SQL that makes the user's own tables.
    """
    from webhookd.telemetry import logs

    interrupts = _Interrupts()
    folder = folder.absolute()
    console.print("[bold]webhookd dev[/]: everything on this machine", highlight=False)
    given, checked = given_settings(**_GENTLE)
    if checked.tls_certificate is not None:
        raise SettingsError(
            "WEBHOOKD_TLS_CERTIFICATE: `webhookd dev` speaks HTTP on this machine; unset it, or use `webhookd serve`"
        )
    if checked.database_auth != "password":
        raise SettingsError(
            "WEBHOOKD_DATABASE_AUTH: `webhookd dev` signs with credentials of its own, which AWS does not know; unset it, and "
            "write a password into WEBHOOKD_DATABASE_URL"
        )
    _check_ports(checked)
    tables = None if schema is None else (str(schema), _sql_of(schema))
    reloader = _reloader(checked, console) if reload else None
    loading.load(checked.handlers, Policy.of(checked))
    stack = Stack(
        folder,
        database_url=checked.database_url.get_secret_value() if "database_url" in given else None,
        redis_url=checked.redis_url.get_secret_value() if "redis_url" in given else None,
        sqs_endpoint_url=checked.sqs_endpoint_url,
    )
    code = 0
    try:
        with console.status("starting PostgreSQL, Valkey and SQS"):
            again = stack.postgresql.data.exists()
            stack.start()
        if again:
            console.print("  found the data of an earlier session", highlight=False)
        if not interrupts.asked:
            own = _own(folder, stack, given, checked)
            settings = load(**own)
            # A provider without samples would have an empty history, and contradict what a sandbox delivers.
            provider = Provider.of(settings) if samples else None
            if provider is not None:
                own |= {name: value for name, value in provider.settings.items() if name not in given}
                settings = load(**own)
            with (folder / "webhookd.log").open("a", buffering=1) as log:
                logs.configure(checked.log_level, checked.log_format, log)
                session = _Session(settings, own, stack, provider, folder, console, interrupts)
                code = loop(session.serve(samples=samples, reloader=reloader, tables=tables))
    except KeyboardInterrupt:  # Ctrl-C arrived after the event loop had removed its handler and before ours was set
        interrupts.asked = True
    finally:
        interrupts.take()
        stack.stop()  # stop first, then print: the terminal may be gone
        interrupts.ignore()
    with contextlib.suppress(OSError):
        if code:
            console.print(f"[bold red]a part of the daemon failed[/]: {folder / 'webhookd.log'} names it", soft_wrap=True)
        console.print(f"stopped; the data stays in {folder}", highlight=False, soft_wrap=True)
    return code


def _reloader(settings: Settings, console: Console) -> Reloader:
    if not settings.handlers:
        raise SettingsError(
            "WEBHOOKD_HANDLERS is not set: `--reload` has no module to watch; name the modules of your handlers"
        )
    try:
        from webhookd.dev.reload import Reloader
    except ImportError as error:
        raise DevError(f"`--reload` needs the package {error.name}: install it with: pip install 'webhookd[dev]'") from error
    return Reloader(settings, console)


def _sql_of(schema: Path) -> str:
    try:
        return schema.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"--schema {schema}: cannot be read as text in UTF-8; convert the file, or correct its rights"
        ) from error


def _check_ports(settings: Settings) -> None:
    """Raises SettingsError with each address that is in use, before anything is started."""
    problems = []
    for name, (host, port) in (("LISTEN", settings.public_address), ("ADMIN_LISTEN", settings.admin_address)):
        with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                problems.append(
                    f"WEBHOOKD_{name}: cannot listen on {host}:{port} ({error.strerror}); "
                    "stop the program that uses the address (another `webhookd dev`?), "
                    f"or choose another address: WEBHOOKD_{name}=127.0.0.1:{10_000 + port % 10_000}"
                )
    if problems:
        raise SettingsError("\n".join(problems))


def _own(folder: Path, stack: Stack, given: set[str], checked: Settings) -> dict[str, Any]:
    """Returns the session's values for unset settings, by field: embedded servers, a key, a token, small-machine limits."""
    brought: dict[str, Any] = {name: value for name, value in _GENTLE.items() if name not in given}
    servers = {"database_url": stack.database_url, "redis_url": stack.redis_url}
    brought |= {name: url for name, url in servers.items() if name not in given}
    if stack.embeds_sqs:
        brought["sqs_endpoint_url"] = stack.sqs_endpoint_url
        # The embedded SQS takes any credentials; the SDK must find some, and must not use real ones here.
        os.environ.update(AWS_ACCESS_KEY_ID="dev", AWS_SECRET_ACCESS_KEY="dev", AWS_SESSION_TOKEN="dev")  # noqa: S106
        os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    if not {"admin_tokens", "read_tokens"} & given:
        token = dotenv_values(folder / "dev.env", interpolate=False).get("WEBHOOKD_ADMIN_TOKENS")
        brought["admin_tokens"] = token or f"dev:{secrets.token_hex(16)}"
    if "signature_keys" not in given and "default" not in checked.accounts:
        kept = dotenv_values(folder / "dev.env", interpolate=False)
        brought["signature_keys"] = kept.get("WEBHOOKD_SIGNATURE_KEYS") or secrets.token_hex(64).upper()
    return brought


class _Session:
    """A daemon on the servers of `stack`, and its display in the terminal."""

    def __init__(
        self,
        settings: Settings,
        own: dict[str, Any],
        stack: Stack,
        provider: Provider | None,
        folder: Path,
        console: Console,
        interrupts: _Interrupts,
    ) -> None:
        self._folder_is_named = folder != Path(".webhookd").absolute()
        self._settings = settings
        self._own = own
        self._stack = stack
        self._provider = provider
        self._folder = folder
        self._console = console
        self._interrupts = interrupts

    async def serve(self, *, samples: bool, reloader: Reloader | None, tables: tuple[str, str] | None) -> int:
        """Migrates, creates the queues, and serves until a signal; returns the exit code."""
        from webhookd import service
        from webhookd.runtime.loops import Watch
        from webhookd.sqs.gateway import Sqs
        from webhookd.store.migrations import migrate
        from webhookd.telemetry.metrics import Metrics

        for applied in await migrate(self._settings.database_url.get_secret_value(), schema=self._settings.database_schema):
            self._console.print(f"  applied migration {applied}", highlight=False)
        if tables is not None:
            await self._make_tables(*tables)
        if self._stack.embeds_sqs:
            sqs = Sqs(self._settings, metrics=Metrics(), watch=Watch())
            await sqs.start()
            try:
                await sqs.create_queues()
            finally:
                await sqs.stop()
        tasks: dict[asyncio.Task[None], Watch] = {}

        def started(running: Daemon) -> None:
            if self._interrupts.asked:  # a signal arrived before the daemon took over the signals
                signal.raise_signal(signal.SIGTERM)
            self._keep(running)
            tasks[asyncio.create_task(self._show(running, samples=samples), name="show")] = running.watch
            if reloader is not None:
                tasks[running.watch.spawn(reloader.follow(), "reload")] = running.watch

        try:
            async with contextlib.nullcontext() if self._provider is None else self._provider:
                return await service.serve(self._settings, started=started)
        finally:
            for task, watch in tasks.items():
                watch.cancel(task)
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _make_tables(self, name: str, sql: str) -> None:
        """Runs the SQL of the file `name`, unless an earlier session has run the same text in the same database."""
        url = self._settings.database_url.get_secret_value()
        ran = await run_once(url, self._settings.database_schema, sql, name, self._folder / "schema.done")
        told = "ran" if ran else "an earlier session has run"
        self._console.print(f"  {told} {name}", highlight=False, markup=False, soft_wrap=True)

    def _keep(self, running: Daemon) -> None:
        """Stores the session's own values for commands in another terminal, and the key for the next session."""
        kept = {
            f"WEBHOOKD_{name.upper()}": str(value)
            for name, value in self._own.items()
            if name not in _GENTLE and name not in TIMING
        }
        kept |= {"WEBHOOKD_LISTEN": running.public_url, "WEBHOOKD_ADMIN_LISTEN": running.admin_url}
        if "database_url" in self._own:
            kept["WEBHOOKD_DATABASE_SCHEMA"] = self._settings.database_schema
        if self._stack.embeds_sqs:
            kept |= {name: value for name, value in os.environ.items() if name.startswith("AWS_") and value == "dev"}
            kept["AWS_DEFAULT_REGION"] = os.environ["AWS_DEFAULT_REGION"]
        lines = [f"{name}={value.removeprefix('http://') if 'LISTEN' in name else value}" for name, value in kept.items()]
        lines.insert(
            0, "# Made by `webhookd dev`: the commands in this folder use these settings if no other source sets them."
        )
        path = self._folder / "dev.env"
        if "signature_keys" not in self._own and (key := dotenv_values(path, interpolate=False).get("WEBHOOKD_SIGNATURE_KEYS")):
            lines.append(f"WEBHOOKD_SIGNATURE_KEYS={key}")
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text("\n".join(lines) + "\n")
        new.replace(path)

    async def _show(self, running: Daemon, *, samples: bool) -> None:
        """Prints the addresses, the samples' progress, and the command that sends more."""
        console, where = self._console, reachable(running.public_url)
        console.print()
        for name, address in self._addresses(where, reachable(running.admin_url)):
            console.print(f"  {name:<12}{address}", highlight=False, soft_wrap=True)
        console.print()
        command = ".venv/bin/webhookd" if os.access(".venv/bin/webhookd", os.X_OK) else "webhookd"
        more = f" --folder '{self._folder}'" if self._folder_is_named else ""
        keys = self._settings.keys_by_account.get("default")
        if samples and where and keys:
            aim = Receiver(f"{where}/webhooks/authorize-net", keys[0])
            await show_samples(
                running, aim, self._provider, console, retry=lambda event: f"{command} events retry {event}{more}"
            )
        console.print("\n[bold]serving[/], until Ctrl-C. Send more events from another terminal, in this folder:\n")
        console.print(
            f"    {command} trigger all --count 200 --duplicates 20 --out-of-order{more}\n", highlight=False, soft_wrap=True
        )

    def _addresses(self, public: str, admin: str) -> Iterator[tuple[str, str]]:
        if public:
            yield "webhook", f"{public}/webhooks/authorize-net"
        yield "dashboard", admin
        if "admin_tokens" in self._own:
            yield "token", self._own["admin_tokens"].partition(":")[2]
        yield "API", f"{admin}/docs"
        yield "metrics", f"{admin}/metrics"
        yield from self._stack.describe()
        if self._provider is not None:
            yield "provider", f"{self._provider.url} (Authorize.Net, simulated)"
        yield "logs", str(self._folder / "webhookd.log")
