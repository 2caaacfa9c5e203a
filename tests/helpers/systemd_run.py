"""A stand-in for systemd-run, which needs a running systemd: runs a command with the properties of a transient unit.

It follows systemd-run(1) and systemd.exec(5): the environment is EnvironmentFile's without UnsetEnvironment, credentials come
from LoadCredential (for a folder, one of each file), and SystemCallFilter holds. The user is not changed. In
test_runbook_commands.py, systemd-analyze checks the other properties.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dotenv import dotenv_values


def main() -> int:
    """Runs the command, and returns its exit code."""
    parser = argparse.ArgumentParser()
    for flag in ("--quiet", "--pipe", "--wait", "--collect"):
        parser.add_argument(flag, action="store_true", required=True)
    parser.add_argument("--service-type", choices=["exec"])
    parser.add_argument("--property", action="append", default=[])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    properties: dict[str, list[str]] = {}
    for one in given.property:
        name, _, value = one.partition("=")
        properties.setdefault(name, []).append(value)
    environment = {name: value or "" for path in properties["EnvironmentFile"] for name, value in dotenv_values(path).items()}
    for name in " ".join(properties.get("UnsetEnvironment", [])).split():
        environment.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        for credential in properties["LoadCredential"]:
            id_, _, source = credential.partition(":")
            path = Path(source)
            for file in path.iterdir() if path.is_dir() else [path]:
                name = f"{id_}_{file.name}" if path.is_dir() else id_
                (Path(folder) / name).write_bytes(file.read_bytes())
        outer = {"PATH": "/usr/bin:/bin", "CREDENTIALS_DIRECTORY": folder, **json.loads(os.environ["TEST_ENVIRONMENT"])}
        filters = " ".join(
            " ".join(f"~{word.removeprefix('~')}" for word in value.split()) if value.startswith("~") else value
            for value in properties["SystemCallFilter"]
        )
        sandbox = [sys.executable, "-m", "tests.helpers.sandbox", filters]
        (directory,) = properties["WorkingDirectory"]
        command = [*sandbox, *given.command]
        return subprocess.run(command, check=False, env=environment | outer, cwd=directory.removeprefix("-")).returncode


if __name__ == "__main__":
    sys.exit(main())
