"""The servers of a bench: PostgreSQL as in production (fsync, synchronous_commit), Valkey, and fauxqs for SQS."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.npm import node_modules
from webhookd.dev.child import HOST, DevError, Server
from webhookd.dev.servers import PostgresServer, ValkeyServer

# Settings of a production server (a quarter of the memory for buffers, as PostgreSQL's manual advises), with full
# durability.
POSTGRESQL = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": f"{max(psutil.virtual_memory().total // 2**32, 1)}GB",
    "max_wal_size": "4GB",
    "wal_compression": "on",
}
_PACKAGE = Path(__file__).parent / "sqs"


class FauxqsServer(Server):
    """SQS from the npm package `fauxqs`, in memory. moto cannot serve here: it scans its whole queue at each send."""

    name = "SQS (fauxqs)"
    program = "fauxqs"
    _modules: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _prepare(self) -> None:
        if shutil.which("npm") is None:
            raise DevError("the bench takes SQS from the npm package fauxqs: install Node.js 20 or newer, with npm")
        self._modules = node_modules(_PACKAGE)

    def _command(self) -> list[str]:
        # fauxqs reads its settings from environment variables, so `env` sets them.
        names = {"FAUXQS_PORT": str(self.port), "FAUXQS_LOGGER": "false", "FAUXQS_HOST": HOST}
        settings = [f"{name}={value}" for name, value in names.items()]
        return ["env", *settings, "node", str(self._modules / "fauxqs/dist/cli.js")]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


@dataclass(slots=True, frozen=True)
class Servers:
    """The started servers."""

    postgresql: PostgresServer
    redis: ValkeyServer
    sqs: FauxqsServer


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Starts the servers in `folder`, and stops them after the block."""
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "bench")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "bench")
    with (
        PostgresServer(folder / "postgresql", settings=POSTGRESQL) as postgresql,
        ValkeyServer(folder / "valkey", durable=False) as redis,
        FauxqsServer(folder / "sqs") as sqs,
    ):
        yield Servers(postgresql, redis, sqs)
