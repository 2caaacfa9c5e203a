"""A development session: embedded servers, the daemon, sample events shown from received to processed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
from dotenv import dotenv_values
from rich.console import Console
from rich.live import Live
from rich.table import Table

from webhookd import daemon, logs
from webhookd import settings as settings_module
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.dev.servers import Stack
from webhookd.errors import SettingsError, UnavailableError
from webhookd.event import Status
from webhookd.lifecycle import Watch
from webhookd.metrics import Metrics
from webhookd.settings import Settings
from webhookd.store.database import migrate

_KEY = "WEBHOOKD_SIGNATURE_KEYS"
_SHOWN_FOR = 60.0  # seconds until the show of samples gives up waiting for an end


@dataclass(slots=True, frozen=True)
class Target:
    """Where sample traffic goes, and the key that signs it."""

    url: str
    key: str


def target(folder: Path, *, account: str, url: str | None) -> Target:
    """The receiver's address and an account's key: from the settings, else from the last session in `folder`.

    Raises SettingsError where neither knows a key.
    """
    known = {**dotenv_values(folder / "dev.env"), **dotenv_values(".env"), **os.environ}
    name = _KEY if account == "default" else f"WEBHOOKD_ACCOUNTS__{account.upper()}__SIGNATURE_KEYS"
    keys = known.get(name) or ""
    if file := known.get(f"{name}_FILE"):
        keys = Path(file).read_text()
    key = keys.split(",")[0].strip()
    if not key:
        raise SettingsError(f"no key to sign with: set {name}, or run `webhookd dev` in this folder first")
    path = "/webhooks/authorize-net" + ("" if account == "default" else f"/{account}")
    return Target(url or f"http://{known.get('WEBHOOKD_LISTEN') or '127.0.0.1:8080'}{path}", key)


def fresh_number() -> int:
    """A number that sample entities start from: another one each second, so that runs do not share entities."""
    return int(time.time()) % 100_000_000


def run(folder: Path, *, samples: bool, console: Console, loop: Callable[[Coroutine[Any, Any, int]], int]) -> int:
    """Runs the session until Ctrl-C; returns the exit code."""
    folder = folder.absolute()
    console.print("[bold]webhookd dev[/]: everything on this machine", highlight=False)
    _check_ports()
    stack = Stack(
        folder,
        database_url=os.environ.get("WEBHOOKD_DATABASE_URL"),
        redis_url=os.environ.get("WEBHOOKD_REDIS_URL"),
        sqs_endpoint_url=os.environ.get("WEBHOOKD_SQS_ENDPOINT_URL"),
    )
    try:
        with console.status("starting PostgreSQL, Valkey and SQS"):
            stack.start()
        settings = _settings(folder, stack)
        with (folder / "webhookd.log").open("a", buffering=1) as log:
            logs.configure(settings.log_level, settings.log_format, log)
            code = loop(_serve(settings, stack, folder, samples=samples, console=console))
    finally:
        with console.status("stopping"):
            stack.stop()
    console.print("stopped; the data stays in", folder, highlight=False)
    return code


def _check_ports() -> None:
    """Says which address is taken before anything is started."""
    for name, default in (("WEBHOOKD_LISTEN", "127.0.0.1:8080"), ("WEBHOOKD_ADMIN_LISTEN", "127.0.0.1:9090")):
        address = os.environ.get(name) or default
        host, _, port = address.rpartition(":")
        with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), int(port)))
            except (OSError, ValueError) as error:
                raise SettingsError(
                    f"{name}: cannot listen on {address} ({getattr(error, 'strerror', None) or error}); "
                    f"stop what uses it, or choose another: {name}=127.0.0.1:{18080 if 'ADMIN' not in name else 19090} make run"
                ) from error


def _settings(folder: Path, stack: Stack) -> Settings:
    """The developer's settings, with what the embedded servers and a small machine need where nothing is set."""
    kept = folder / "dev.env"
    if not kept.exists():
        kept.touch(mode=0o600)
        kept.write_text(
            f"# Made by `webhookd dev`; `webhookd trigger` signs with this key.\n{_KEY}={secrets.token_hex(64).upper()}\n"
        )
    if stack.embeds_sqs:
        # The embedded SQS takes any credentials; the SDK must find some, and must not use real ones here.
        os.environ.update(AWS_ACCESS_KEY_ID="dev", AWS_SECRET_ACCESS_KEY="dev", AWS_SESSION_TOKEN="dev")  # noqa: S106
        os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    given: dict[str, Any] = {
        "database_url": stack.database_url,
        "redis_url": stack.redis_url,
        "sqs_endpoint_url": stack.sqs_endpoint_url,
    }
    # moto scans a whole queue at each send, so few messages at a time; and it forgets them when it stops.
    gentle = {"relay_window": 30, "resend_after": 15, "sqs_wait": 2, "shutdown_grace": 10}
    if not any(name.startswith((_KEY, "WEBHOOKD_ACCOUNTS__")) for name in {**dotenv_values(".env"), **os.environ}):
        given["signature_keys"] = dotenv_values(kept)[_KEY]
    present = {name.upper() for name in {**dotenv_values(".env"), **os.environ}}
    given |= {name: value for name, value in gentle.items() if f"WEBHOOKD_{name.upper()}" not in present}
    return settings_module.load(**given)


async def _serve(settings: Settings, stack: Stack, folder: Path, *, samples: bool, console: Console) -> int:
    for applied in await migrate(settings.database_url.get_secret_value()):
        console.print(f"  applied migration {applied}", highlight=False)
    shows: list[asyncio.Task[None]] = []

    def started(running: Daemon) -> None:
        shows.append(asyncio.create_task(_after_start(running, settings, stack, folder, samples=samples, console=console)))

    if stack.embeds_sqs:
        sqs = daemon.make_sqs(settings, Metrics(), Watch())
        await sqs.start()
        try:
            await sqs.create_queues(max_receive_count=settings.max_attempts + 5)
        finally:
            await sqs.stop()
    try:
        return await daemon.serve(settings, started=started)
    finally:
        for show in shows:
            show.cancel()
        await asyncio.gather(*shows, return_exceptions=True)


async def _after_start(
    running: Daemon, settings: Settings, stack: Stack, folder: Path, *, samples: bool, console: Console
) -> None:
    host, port = settings.public_address
    admin_host, admin_port = settings.admin_address
    aim = target(folder, account="default", url=f"http://{host}:{port}/webhooks/authorize-net")
    if samples:
        await _show_samples(running, aim, console)
    table = Table.grid(padding=(0, 2))
    table.add_row("webhook", aim.url)
    table.add_row("health", f"http://{admin_host}:{admin_port}/webhooks/health")
    table.add_row("metrics", f"http://{admin_host}:{admin_port}/metrics")
    for name, where in stack.describe():
        table.add_row(name, where)
    table.add_row("logs", str(folder / "webhookd.log"))
    console.print()
    console.print(table)
    command = ".venv/bin/webhookd" if os.access(".venv/bin/webhookd", os.X_OK) else "webhookd"
    console.print("\n[bold]serving[/], until Ctrl-C. Send more events from another terminal:", highlight=False)
    console.print(f"\n    {command} trigger all --count 200 --duplicates 20 --out-of-order\n", highlight=False)


@dataclass(slots=True)
class _Row:
    label: str
    answer: str = "…"
    event_id: UUID | None = None
    status: str = ""
    final: bool = False


async def _show_samples(running: Daemon, aim: Target, console: Console) -> None:
    """Sends one sample of every type, and what must not be processed; shows each until it has ended."""
    first = fresh_number()
    rows = [_Row(name.removeprefix("net.authorize.")) for name in EVENT_TYPES]
    samples = [traffic.sample(name, first) for name in EVENT_TYPES]
    unusable = traffic.Sample("unusable", "", "", b'{"eventDate":"2019-01-31T14:38:42.6937313Z","seen":%d}' % first)
    forged = traffic.sample(EVENT_TYPES[0], first + 1)
    rows += [_Row("the first one again"), _Row("a forged signature"), _Row("authentic, but unusable")]
    sends: list[tuple[traffic.Sample, str | None]] = [(s, None) for s in samples]
    sends += [(samples[0], None), (forged, "sha512=" + "0" * 128), (unusable, None)]
    with Live(_table(rows), console=console, refresh_per_second=10) as live:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            for row, (sent, signature) in zip(rows, sends, strict=True):
                answer = await traffic.post(session, aim.url, sent, key=aim.key, signature=signature)
                row.answer = f"{answer.status} {answer.outcome}"
                row.final = answer.outcome != "accepted"
                row.event_id = UUID(answer.id) if answer.id and not row.final else None
                live.update(_table(rows))
        deadline = time.monotonic() + _SHOWN_FOR
        while not all(row.final for row in rows) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            await _look(running, rows)
            live.update(_table(rows))
    processed = sum(row.status == Status.PROCESSED for row in rows)
    console.print(f"[bold green]{processed} events processed[/], each effect committed with its status", highlight=False)


async def _look(running: Daemon, rows: list[_Row]) -> None:
    try:
        states = await running.store.states([row.event_id for row in rows if row.event_id is not None])
    except UnavailableError:
        return
    for row in rows:
        if row.event_id in states:
            row.status = states[row.event_id]["status"]
            row.final = Status(row.status).finished


def _table(rows: list[_Row]) -> Table:
    table = Table("event", "answer", "status", box=None, header_style="bold")
    colours = {"processed": "green", "dead": "red", "retrying": "yellow"}
    for row in rows:
        colour = colours.get(row.status, "cyan")
        table.add_row(row.label, row.answer, f"[{colour}]{row.status}[/]" if row.status else "")
    return table
