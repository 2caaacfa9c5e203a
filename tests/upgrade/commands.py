"""A script that runs several commands of the webhookd that PYTHONPATH names, in one process: each start takes a second.

The argument is a JSON list of commands, each a list of words. The script prints a JSON list of the outputs, and fails if a
command fails.
"""

from __future__ import annotations

import json
import sys
import time

from typer.testing import CliRunner

from webhookd.cli.main import app

_BUSY_BEFORE = ("a worker has the event in hand", "it is on its way")  # the texts of the previous release
_BUSY = ("a worker processes the event", "the event is on its way", *_BUSY_BEFORE)
_BUSY_SECONDS = 90.0  # shorter than the time that a script has


def _run(words: list[str]) -> str:
    result = CliRunner().invoke(app, words)
    end = time.monotonic() + _BUSY_SECONDS
    # A refusal of a busy event is right, and temporary: the operator waits until the attempt has ended.
    while result.exit_code and any(why in f"{result.output}{result.exception}" for why in _BUSY) and time.monotonic() < end:
        time.sleep(0.1)
        result = CliRunner().invoke(app, words)
    if result.exit_code:
        sys.exit(f"{words}: exit code {result.exit_code}: {result.output} {result.exception}")
    return result.stdout


if __name__ == "__main__":
    print(json.dumps([_run(words) for words in json.loads(sys.argv[1])]))  # noqa: T201
