"""The command line as a user runs it: in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.helpers.running import KEY
from tests.helpers.secrets import found, note_environment
from webhookd.dev.postgres import PostgresServer


async def webhookd(*arguments: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """Runs the command in `folder`; returns its exit code, standard output and standard error. Fails after a minute."""
    note_environment(environment)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    paths = [environment.get("PYTHONPATH"), inherited.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhookd", *arguments),
        env={**inherited, "COLUMNS": "80", **environment},
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    assert KEY.encode() not in out + err
    assert not (told := found((out + err).decode())), told
    return process.returncode, out.decode(), err.decode()


async def shell(line: str, folder: Path, **environment: str) -> str:
    """Runs lines of the guide by bash in `folder`, with the embedded PostgreSQL's programs and this webhookd.

    Returns the output, standard error too. Fails with the output if the last line fails.
    """
    path = f"{PostgresServer.binaries()}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"webhookd() {{ '{sys.executable}' -m webhookd \"$@\"; }}\n{line}"),
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()
