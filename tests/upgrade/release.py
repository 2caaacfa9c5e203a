"""The previous release, as the wheel that was shipped. `python -m tests.upgrade.release COMMIT` takes another one."""

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


def wheel() -> Path:
    """The wheel; fails where there is not exactly one, or it is not the one that was put there."""
    (found,) = FOLDER.glob("*.whl")
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    assert SUMS.read_text() == f"{digest}  {found.name}\n", f"{found.name} is not what {SUMS.name} says"
    return found


def unpack(folder: Path) -> Path:
    """Unpacks it into `folder`, which on PYTHONPATH goes before what is installed."""
    with zipfile.ZipFile(wheel()) as archive:
        archive.extractall(folder)
    return folder


def migrations() -> dict[str, bytes]:
    """Its migrations, by file name."""
    with zipfile.ZipFile(wheel()) as archive:
        names = [name for name in archive.namelist() if name.startswith("webhookd/sql/migrations/") and name.endswith(".sql")]
        return {name.rpartition("/")[2]: archive.read(name) for name in sorted(names)}


def take(commit: str) -> Path:
    """Builds the wheel of `commit`, and puts it in the place of the present one."""
    packed = subprocess.run(["git", "archive", commit], cwd=FOLDER.parent.parent, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(source, filter="data")
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", scratch]
        subprocess.run([*build, str(source)], check=True)
        (built,) = Path(scratch).glob("*.whl")
        for old in FOLDER.glob("*.whl"):
            old.unlink()
        shutil.copy(built, FOLDER / built.name)
    SUMS.write_text(f"{hashlib.sha256((FOLDER / built.name).read_bytes()).hexdigest()}  {built.name}\n")
    return wheel()


if __name__ == "__main__":
    print(take(sys.argv[1]).name)  # noqa: T201
