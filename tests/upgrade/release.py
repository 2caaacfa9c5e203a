"""The previous release, as the wheel that was shipped. `python -m tests.upgrade.release COMMIT` replaces the wheel.

Until there is a wheel, this checkout stands for the previous release: nothing was published before it.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent
SUMS = FOLDER / "SHA256SUMS"
_ROOT = FOLDER.parent.parent


def wheel() -> Path | None:
    """Returns the wheel, or None if there is none yet. Fails if there are several wheels, or if SHA256SUMS does not fit."""
    wheels = list(FOLDER.glob("*.whl"))
    if not wheels:
        return None
    (found,) = wheels
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    assert SUMS.read_text() == f"{digest}  {found.name}\n", f"{found.name} is not what {SUMS.name} says"
    return found


def unpack(folder: Path) -> Path:
    """Unpacks the release into `folder`. On PYTHONPATH, the folder takes precedence over installed packages."""
    if (found := wheel()) is None:
        shutil.copytree(_ROOT / "webhookd", folder / "webhookd", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(_ROOT / "sql", folder / "webhookd" / "sql")
        return folder
    with zipfile.ZipFile(found) as archive:
        archive.extractall(folder)
    return folder


def migrations() -> dict[str, bytes]:
    """Returns the text of each migration of the previous release, by file name."""
    if (found := wheel()) is None:
        return {path.name: path.read_bytes() for path in sorted((_ROOT / "sql" / "migrations").glob("*.sql"))}
    with zipfile.ZipFile(found) as archive:
        names = [name for name in archive.namelist() if name.startswith("webhookd/sql/migrations/") and name.endswith(".sql")]
        return {name.rpartition("/")[2]: archive.read(name) for name in sorted(names)}


def has_commit(commit: str) -> bool:
    """Returns whether this clone has `commit`; a shallow clone may lack it."""
    found = subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=_ROOT, check=False, capture_output=True)
    return found.returncode == 0


def build(commit: str, folder: Path) -> Path:
    """Builds the wheel of `commit` into `folder`; returns the wheel's path."""
    packed = subprocess.run(["git", "archive", commit], cwd=_ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(source, filter="data")
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", scratch]
        subprocess.run([*command, str(source)], check=True)
        (built,) = Path(scratch).glob("*.whl")
        return Path(shutil.copy(built, folder / built.name))


def take(commit: str) -> Path:
    """Builds the wheel of `commit`, replaces the present wheel by it, and returns its path."""
    with tempfile.TemporaryDirectory() as scratch:
        built = build(commit, Path(scratch))
        for old in FOLDER.glob("*.whl"):
            old.unlink()
        found = Path(shutil.copy(built, FOLDER / built.name))
    SUMS.write_text(f"{hashlib.sha256(found.read_bytes()).hexdigest()}  {found.name}\n")
    return found


if __name__ == "__main__":
    print(take(sys.argv[1]).name)  # noqa: T201
