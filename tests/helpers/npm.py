"""Packages from npm, installed by their lock file, once for all test processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path


def node_modules(package: Path) -> Path:
    """Returns the `node_modules` of the folder `package`, kept in the user's cache under the hash of its lock file."""
    lock = hashlib.sha256((package / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "webhookd-tests"
    folder, part = cache / f"npm-{lock}", cache / f"npm-{lock}.part"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"npm-{lock}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # several test processes start at the same time
        if not folder.exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(package / name, part / name)
            subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=part, check=True)
            part.rename(folder)  # the folder's existence proves that the installation is complete
    return folder / "node_modules"
