"""A stand-in for systemd, which cannot run here. It starts, reloads and stops a unit as the unit's file says.

It follows systemd.service(5) (the order of Exec lines, EnvironmentFile, RuntimeDirectory), systemd.exec(5) (for a folder,
LoadCredential makes a credential `<id>_<file>` of each file, read once, at the start) and sd_notify(3) (datagrams of lines,
READY=1, STOPPING=1, WATCHDOG=1). Paths outside the unit's own folder are moved below `root`; nothing else is changed.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from dotenv import dotenv_values

from tests.helpers.wait import until


class Unit:
    """A unit file: its options in order, each with all its values."""

    def __init__(self, path: Path) -> None:
        self.options: dict[str, dict[str, list[str]]] = {}
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line.strip() and not line.startswith("#"):
                name, _, value = line.partition("=")
                self.options.setdefault(section, {}).setdefault(name, []).append(value)

    def all(self, name: str, section: str = "Service") -> list[str]:
        """Returns all values of an option, in order."""
        return self.options[section].get(name, [])

    def one(self, name: str, section: str = "Service") -> str:
        """Returns the value of an option that is set exactly once."""
        (value,) = self.all(name, section)
        return value


class Manager:
    """A service manager for one unit. `told` holds each line from the service, with its time (monotonic)."""

    def __init__(self, unit: Unit, root: Path) -> None:
        self._unit = unit
        self._root = root
        self._runtime = root / "run" / unit.one("RuntimeDirectory")
        self._etc = root / "etc/webhookd"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.told: list[tuple[float, str]] = []
        self.log = root / "journal.log"
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, path: str, content: str) -> None:
        """Writes a file below /etc/webhookd."""
        file = self._etc / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    def remove(self, path: str) -> None:
        """Removes a file below /etc/webhookd."""
        (self._etc / path).unlink()

    def handed_over(self) -> set[str]:
        """Returns the names of the files in RuntimeDirectory: the unit's Exec lines put files there for the service to read."""
        return {file.name for file in self._runtime.iterdir()}

    def _moved(self, text: str) -> str:
        moved = text.replace("/etc/webhookd", str(self._etc)).replace("%t", str(self._root / "run"))
        moved = moved.replace("/run/webhookd", str(self._runtime)) if str(self._runtime) not in moved else moved
        moved = moved.replace("/opt/webhookd/bin", str(Path(sys.executable).parent))
        return moved.replace("-o webhookd -g webhookd", f"-o {os.getuid()} -g {os.getgid()}")

    def _load(self, id_: str, path: str) -> None:
        for file in Path(self._moved(path)).iterdir():
            (self._root / "credentials" / f"{id_}_{file.name}").write_bytes(file.read_bytes())

    def _run(self, name: str) -> None:
        """Runs the Exec lines of this name in order. Each must succeed."""
        pid = "" if self.process is None else str(self.process.pid)
        for line in self._unit.all(name):
            subprocess.run(shlex.split(self._moved(line.lstrip("+")).replace("$MAINPID", pid)), check=True, timeout=30)

    async def start(self, environment: dict[str, str]) -> None:
        """Starts the service, with `environment` in addition to the unit's own, and waits for its READY=1."""
        unit = self._unit
        self._runtime.mkdir(parents=True, mode=int(unit.one("RuntimeDirectoryMode"), 8))
        (self._root / "credentials").mkdir()
        for given in unit.all("LoadCredential"):
            self._load(*given.split(":"))
        self._run("ExecStartPre")
        settings = {
            name: self._moved(value or "")
            for file in unit.all("EnvironmentFile")
            for name, value in dotenv_values(self._moved(file)).items()
        }
        self._socket.bind(str(self._root / "notify"))
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)
        sandbox = [sys.executable, "-m", "tests.helpers.sandbox", " ".join(unit.all("SystemCallFilter"))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220  returns as soon as it has forked
                [*sandbox, *shlex.split(self._moved(unit.one("ExecStart")))],
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": os.getcwd(),  # noqa: PTH109  for the sandbox
                    **settings,
                    **environment,
                    "CREDENTIALS_DIRECTORY": str(self._root / "credentials"),
                    "NOTIFY_SOCKET": str(self._root / "notify"),
                    "WATCHDOG_USEC": str(int(unit.one("WatchdogSec")) * 1_000_000),
                },
                stdout=log,
                stderr=log,
            )
        await self.hears("READY=1", deadline=float(unit.one("TimeoutStartSec")))

    def _hear(self) -> None:
        self.told += [(time.monotonic(), line) for line in self._socket.recv(4096).decode().splitlines()]

    async def hears(self, line: str, count: int = 1, *, deadline: float = 20.0) -> None:
        """Waits until the service has sent `line` at least `count` times."""

        def heard() -> bool:
            assert self.process is not None
            assert self.process.poll() is None or line == "STOPPING=1", f"the service ended:\n{self.log.read_text()}"
            return self.times(line) >= count

        await until(heard, f"the service tells {line}; it has told {[told for _, told in self.told]}", deadline=deadline)

    def times(self, line: str) -> int:
        """Returns how many lines from the service begin with `line`."""
        return sum(told.startswith(line) for _, told in self.told)

    async def reload(self) -> None:
        """Reloads as `systemctl reload` does: for Type=notify, it ends when the service reports that it is ready again."""
        ready, reloading = self.times("READY=1"), self.times("RELOADING=1")
        await asyncio.to_thread(self._run, "ExecReload")
        await self.hears("RELOADING=1", reloading + 1)
        await self.hears("READY=1", ready + 1)

    async def stop(self) -> int:
        """Sends SIGTERM and returns the exit code. Fails after TimeoutStopSec."""
        assert self.process is not None
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, float(self._unit.one("TimeoutStopSec")))

    def close(self) -> None:
        """Kills the service if it still runs. Call this in the running event loop."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
