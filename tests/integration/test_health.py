"""`webhookd health` against real daemons; and a SIGTERM before the daemon is ready to handle it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from typer.testing import CliRunner

from tests.conftest import Servers, Start
from tests.helpers.command import webhookd
from tests.helpers.running import Process
from tests.helpers.wait import until
from webhookd.cli.main import app
from webhookd.cli.operator import health_command as command
from webhookd.cli.operator.target import find_open
from webhookd.errors import SettingsError

HEAVY = {"aiohttp", "aiobotocore", "asyncpg", "botocore", "pydantic", "prometheus_client", "redis"}


def place(url: str) -> str:
    return url.removeprefix("http://")


def everywhere(url: str) -> str:
    """Returns a value of WEBHOOKD_ADMIN_LISTEN: every interface (0.0.0.0), and the port of `url`."""
    return f"0.0.0.0:{urlsplit(url).port}"


async def test_a_daemon_that_can_take_webhooks_is_well(start: Start, servers: Servers) -> None:
    daemon = await start()
    await until(lambda: daemon.health.report()["status"] == "ok", "every dependency is there")
    listens = everywhere(daemon.admin_url)
    # A file of tokens that cannot be read does not change the health.
    settings = {"WEBHOOKD_ADMIN_LISTEN": listens, "WEBHOOKD_ADMIN_TOKENS_FILE": "not-there"}
    code, out, err = await webhookd("health", folder=servers.folder, **settings)
    assert (code, out, err) == (0, f"ready: {daemon.admin_url}\n", "")
    code, out, err = await webhookd("health", "--live", "--json", folder=servers.folder, WEBHOOKD_ADMIN_LISTEN=listens)
    assert (code, err) == (0, "")
    assert json.loads(out) == {"ok": True, "url": daemon.admin_url, "status": 200, "report": {"status": "alive"}}


async def test_a_daemon_without_postgresql_is_alive_and_not_ready(start: Start, servers: Servers) -> None:
    daemon = await start(database_url="postgresql://shop:hunter2-hunter2@127.0.0.1:1/shop", redis_url="redis://127.0.0.1:1/0")
    live = await webhookd("health", "--live", folder=servers.folder, WEBHOOKD_ADMIN_LISTEN=place(daemon.admin_url))
    assert live[:2] == (0, f"alive: {daemon.admin_url}\n"), "a restart would not bring PostgreSQL back"
    code, out, _ = await webhookd("health", "--url", daemon.admin_url, folder=servers.folder)
    assert code == 1
    assert out.startswith(f"not ready: {daemon.admin_url}; PostgreSQL is away: ")
    assert "; Redis is away: " in out
    code, out, _ = await webhookd("health", "--url", daemon.admin_url, "--json", folder=servers.folder)
    found = json.loads(out)
    assert (code, found["ok"], found["status"]) == (1, False, 503)
    assert found["report"]["dependencies"]["postgresql"]["up"] is False


async def test_what_is_away_and_no_failure_is_told(start: Start, servers: Servers) -> None:
    daemon = await start(redis_url="redis://127.0.0.1:1/0")
    code, out, _ = await webhookd("health", "--url", daemon.admin_url, folder=servers.folder)
    assert (code, out.startswith(f"ready: {daemon.admin_url}; Redis is away: ")) == (0, True)


async def test_a_daemon_whose_loop_does_not_turn_and_one_that_is_gone_are_not_well(servers: Servers) -> None:
    async with Process(servers.settings, servers.folder) as daemon:
        assert daemon.process is not None
        ask = ("health", "--live", "--timeout", "0.3", "--url", daemon.admin_url)
        daemon.process.send_signal(signal.SIGSTOP)
        code, out, _ = await webhookd(*ask, folder=servers.folder)
        assert (code, out) == (1, f"not alive: {daemon.admin_url}; no answer within 0.3 s\n")
        daemon.process.send_signal(signal.SIGCONT)
        assert await daemon.stop() == 0
        code, out, _ = await webhookd(*ask, "--json", folder=servers.folder)
        found = json.loads(out)
        assert (code, found["ok"], found["status"]) == (1, False, None)
        assert found["problem"] == "no answer (Connection refused)"


@pytest.mark.parametrize(
    ("status", "text"),
    [(200, "welcome"), (200, "[]"), (200, "{}"), (404, '{"status": 404}'), (302, ""), (200, '"\u001b]0;owned"')],
)
async def test_another_server_there_is_not_taken_for_webhookd(status: int, text: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    other = web.Application()
    other.router.add_get("/readyz", answer)
    runner = web.AppRunner(other)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        found = await asyncio.to_thread(CliRunner().invoke, app, ["health", "--url", url])
    finally:
        await runner.cleanup()
    assert found.exit_code == 1
    assert found.output == f"not ready: {url}; the server there ({status}) is not webhookd's admin listener\n"


async def test_a_server_that_breaks_off_or_speaks_something_else_is_no_answer() -> None:
    async def odd(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(odd, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await asyncio.to_thread(command.ask, f"http://127.0.0.1:{port}/livez", 3)
    assert found.status is None
    assert found.problem.startswith("no answer (")


async def test_a_connection_that_is_not_taken_is_given_up_in_time() -> None:
    with contextlib.ExitStack() as open_, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # fill the queue of connections to accept: the kernel answers no further one
            waiting = open_.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with asyncio.timeout(5):
            found = await asyncio.to_thread(command.ask, f"http://127.0.0.1:{full.getsockname()[1]}/livez", 0.3)
    assert found == command.Answer(None, {}, "no answer within 0.3 s")


@pytest.mark.parametrize(
    ("settings", "files", "address"),
    [
        ({}, {}, "http://127.0.0.1:9090"),
        ({"ADMIN_LISTEN": "[::]:9191", "ADMIN_TOKENS_FILE": "not-there"}, {}, "http://[::1]:9191"),
        ({}, {".webhookd/dev.env": "WEBHOOKD_ADMIN_LISTEN=127.0.0.1:9444\n"}, "http://127.0.0.1:9444"),
        ({"CONFIG": "webhookd.toml"}, {"webhookd.toml": 'admin_listen = "0.0.0.0:9555"\n'}, "http://127.0.0.1:9555"),
        ({"API_URL": "https://hooks.example.com/", "ADMIN_LISTEN": "127.0.0.1:1"}, {}, "https://hooks.example.com"),
    ],
)
def test_it_finds_the_daemon_and_wants_no_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, str], files: dict[str, str], address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(f"WEBHOOKD_{name}", value)
    for file, text in files.items():
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(text)
    assert find_open(None, Path(".webhookd")) == address


def test_an_address_that_cannot_work_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for environment in ({"WEBHOOKD_ADMIN_LISTEN": "0.0.0.0:0"}, {"WEBHOOKD_API_URL": "hooks.example.com"}):
        found = CliRunner().invoke(app, ["health"], env=environment)
        assert isinstance(found.exception, SettingsError)


def test_the_command_starts_without_what_only_the_daemon_needs() -> None:
    code = f"import sys, webhookd.cli.main; print(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


async def test_sigterm_before_the_daemon_takes_it_ends_the_process_in_order(servers: Servers) -> None:
    # In a container, webhookd is PID 1, which no signal ends by itself: a signal without a handler is lost.
    (servers.folder / "slow.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(30)\n")
    settings = {**servers.settings, "WEBHOOKD_HANDLERS": "slow", "PYTHONPATH": str(servers.folder)}
    daemon = Process(settings, servers.folder)
    try:
        await daemon.start(ready=False)
        assert daemon.process is not None
        assert await asyncio.to_thread(daemon.process.wait, 60) == 0
    finally:
        daemon.end(signal.SIGKILL)
