"""Files of old webhooks, as another receiver would export them, and the command that imports them."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.conftest import Servers
from tests.helpers.command import webhookd
from tests.helpers.operator import AUTHCAPTURE
from webhookd.authorizenet.sampling import Sample, sample

NAME = "old.jsonl"


def old(number: int, *, days: float = 20, event_type: str = AUTHCAPTURE) -> Sample:
    """Makes a webhook that is `days` days old."""
    return sample(event_type, number, datetime.now(UTC) - timedelta(days=days))


def line(body: bytes, *, days: float = 20, **fields: Any) -> dict[str, Any]:
    """Returns a line for a body that was received `days` days ago. `fields` replace or add fields."""
    received_at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    return {"body_base64": base64.b64encode(body).decode(), "received_at": received_at, **fields}


def write(folder: Path, lines: Iterable[Any], name: str = NAME) -> Path:
    """Writes a file of JSON lines; a text stands as it is."""
    path = folder / name
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


async def import_(servers: Servers, *arguments: str, name: str = NAME, **more: str) -> tuple[int, dict[str, Any], str]:
    """Imports the file in the folder of `servers`, with `more` settings; returns exit code, report and standard error."""
    code, out, err = await webhookd("import", name, "--json", *arguments, folder=servers.folder, **servers.settings, **more)
    return code, json.loads(out) if out else {}, err


def start_import(servers: Servers, *arguments: str) -> list[str]:
    """Returns the words that start an import of the file as a process."""
    return [sys.executable, "-m", "webhookd", "import", str(servers.folder / NAME), *arguments]


def environment(servers: Servers) -> dict[str, str]:
    """Returns the environment of such a process."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}, **servers.settings}
