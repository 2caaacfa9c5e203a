"""A small Debian with systemd as its first process, in a container of systemd-nspawn, for tests that need systemd itself."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.wait import until

_TOOLS = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nsenter": "util-linux"}
_PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv"
_IN = ["-m", "-u", "-i", "-n", "-p", "-C"]


def needed() -> None:
    """Skips the test if a machine cannot be made."""
    if os.geteuid():
        pytest.skip("a machine with systemd can only be made by root")
    if absent := [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]:
        pytest.skip(f"no machine with systemd; apt install {' '.join(absent)}")


def _done(*command: str, **options: object) -> str:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return str(done.stdout)


class Machine:
    """The machine at `root`, which shares the loopback of this machine. Call `install` before `boot`."""

    def __init__(self, root: Path) -> None:
        needed()
        self.root = root
        self._boot: subprocess.Popen[bytes] | None = None
        self._pid = ""
        _done("mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root))

    def install(self, commands: str) -> None:
        """Fetches the packages to install; then runs `commands` in a folder with deploy/systemd and webhookd's wheel."""
        wheels, folder = self.root / "wheels", self.root / "srv/webhookd"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _done(*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", ".")
        lock = Path("deploy/requirements.txt")
        fetch = [*pip, "download", "--no-deps", "--only-binary=:all:", f"--dest={wheels}"]
        _done(*fetch, "--require-hashes", f"--requirement={lock}")
        # Debian's Python 3.11.2 may need this package in addition to those of this Python.
        _done(*fetch, *re.findall(r"^async-timeout==[^ ;]+", lock.read_text(), re.MULTILINE))
        shutil.copytree("deploy/systemd", folder / "deploy/systemd")
        shutil.copy(lock, folder / "deploy")
        plain = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        _done("chroot", str(self.root), "sh", "-exc", f"cd /srv/webhookd\n{commands}", env=plain)

    async def boot(self) -> None:
        """Starts systemd, and waits until it accepts commands."""
        command = ["systemd-nspawn", f"--directory={self.root}", "--boot", "--register=no", "--keep-unit", "--console=pipe"]
        with (self.root.parent / "machine.log").open("wb") as log:
            self._boot = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: ASYNC220
        leader = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children")

        def up() -> bool:
            self._pid = (leader.read_text().split() or [""])[0]
            if not self._pid:
                return False
            asked = ["nsenter", "-t", self._pid, *_IN, "systemctl", "is-system-running"]
            state = subprocess.run(asked, check=False, capture_output=True).stdout.strip()
            return state in (b"running", b"degraded")

        await until(lambda: asyncio.to_thread(up), "systemd is up", deadline=60, every=0.3)

    async def run(self, *command: str) -> str:
        """Runs a command on the machine and returns its output. The command must succeed."""
        return (await asyncio.to_thread(_done, "nsenter", "-t", self._pid, *_IN, "--", *command)).strip()

    async def shown(self, unit: str, name: str) -> str:
        """Returns a property of a unit, as `systemctl show` prints it."""
        return (await self.run("systemctl", "show", unit, f"--property={name}")).partition("=")[2]

    def close(self) -> None:
        """Ends the machine and removes it."""
        if self._boot is not None:
            self._boot.terminate()
            try:
                self._boot.wait(20)
            except subprocess.TimeoutExpired:
                self._boot.kill()
                self._boot.wait(10)
        shutil.rmtree(self.root, ignore_errors=True)
