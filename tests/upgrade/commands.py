"""Run as a script, by the code that PYTHONPATH names: several commands in one process, which takes a second to start.

Its argument is a JSON list of commands, each a list of words; it prints a JSON list of their outputs, and fails if one does.
"""

from __future__ import annotations

import json
import sys
import time

from typer.testing import CliRunner

from webhookd.cli import app

_BUSY = ("a worker has the event in hand", "it is on its way")
_BUSY_SECONDS = 90.0  # within the time that a script has


def _run(words: list[str]) -> str:
    result = CliRunner().invoke(app, words)
    end = time.monotonic() + _BUSY_SECONDS
    # Such a refusal is right, and passes: the operator waits until an attempt has ended.
    while result.exit_code and any(why in f"{result.output}{result.exception}" for why in _BUSY) and time.monotonic() < end:
        time.sleep(0.1)
        result = CliRunner().invoke(app, words)
    if result.exit_code:
        sys.exit(f"{words}: exit code {result.exit_code}: {result.output} {result.exception}")
    return result.stdout


if __name__ == "__main__":
    print(json.dumps([_run(words) for words in json.loads(sys.argv[1])]))  # noqa: T201
