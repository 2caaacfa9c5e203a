"""The releases under measurement: this checkout, and the release before, built from its commit.

The release before runs in a folder and a virtual environment of its own, with the dependencies of its lock file. The bench
drives both releases in the same way: by commands, environment variables and HTTP.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.stored import EVENTS, LEDGER, Tables
from tests.upgrade.release import build, has_commit

ROOT = Path(__file__).parents[2]
# Ignored by git; `make clean-data` removes it.
_CACHE = ROOT / ".webhookd" / "bench"

BEFORE = "0.2.0"
# The last commit of the day that CHANGELOG.md gives for 0.2.0, since the release has no tag.
COMMIT = "61e633bfd9a7d30f7e1ea5644ee0a90b9f078581"


class ReleaseError(Exception):
    """The release before cannot be built. The message gives the reason and the remedy."""


@dataclass(slots=True, frozen=True)
class Release:
    """A release of webhookd that the bench drives.

    name: its name in the results.
    python: the interpreter in which it is installed.
    folder: the working folder of its processes. Python searches it first, so a wheel's package must not be the checkout's.
    tables: the statements that fill its database.
    """

    name: str
    python: Path
    folder: Path
    tables: Tables

    def run(self, *arguments: str, **settings: str) -> None:
        """Runs `webhookd` with `settings` (names without WEBHOOKD_). Raises RuntimeError with its output if it fails."""
        environment = {**os.environ, **{f"WEBHOOKD_{name}": value for name, value in settings.items()}}
        command = [str(self.python), "-m", "webhookd", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: webhookd {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


HERE = Release("webhookd", Path(sys.executable), ROOT, LEDGER)


def before() -> Release:
    """Returns the release before. The first call builds it, with the package registry, in a minute. Raises ReleaseError."""
    python = "{}.{}".format(*sys.version_info)
    folder = _CACHE / f"webhookd-{BEFORE}-{COMMIT[:7]}-python{python}"
    release = Release(BEFORE, folder / "venv" / "bin" / "python", folder, EVENTS)
    whole = folder / "whole"
    if not whole.exists():
        if not has_commit(COMMIT):
            raise ReleaseError(
                f"the bench builds webhookd {BEFORE} from commit {COMMIT[:7]}, which this clone does not have: run "
                "`git fetch --unshallow`, or leave the release before out (--alone)"
            )
        print(f"building webhookd {BEFORE} in {folder}; this takes a minute, once", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            _install(folder, release.python)
        except subprocess.CalledProcessError as error:
            raise ReleaseError(
                f"webhookd {BEFORE} could not be built from commit {COMMIT[:7]}: `{' '.join(map(str, error.cmd))}` failed, and "
                "its output is above. It needs the package registry; without one, leave the release before out (--alone)"
            ) from error
        whole.touch()
    return release


def _install(folder: Path, python: Path) -> None:
    wheel = build(COMMIT, folder)
    lock = folder / "requirements.txt"
    show = ["git", "show", f"{COMMIT}:deploy/requirements.txt"]
    lock.write_bytes(subprocess.run(show, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--require-hashes", "-r", str(lock)], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
