"""Packages from npm, installed as their lock says, once for all test processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path


def node_modules(package: Path) -> Path:
    """The `node_modules` of the folder `package`, kept in the user's cache under the hash of its lock."""
    lock = hashlib.sha256((package / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "webhookd-tests"
    folder, part = cache / f"npm-{lock}", cache / f"npm-{lock}.part"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"npm-{lock}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # several test processes begin at once
        if not folder.exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(package / name, part / name)
            subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=part, check=True)
            part.rename(folder)  # its being there is the sign that all is
    return folder / "node_modules"
