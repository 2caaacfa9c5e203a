"""Daemons under test: as a real process, driven over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.secrets import note_environment
from tests.helpers.wait import until
from webhookd.dev.servers import free_port

KEY = (
    "339E42F5D962293A925C244313E8C3546FD765AD202BFF3805F4C8459193E2AA"
    "1C106F476D6907C7A85714CCD69BB7BF184D17ECCDD546CED7EF69DB4C4AD723"
)


def base_settings() -> dict[str, str]:
    """Returns the settings of every daemon under test: quick to retry, to poll and to stop, on its own ports."""
    return {
        "WEBHOOKD_SIGNATURE_KEYS": KEY,
        "WEBHOOKD_LISTEN": "127.0.0.1:0",
        "WEBHOOKD_ADMIN_LISTEN": "127.0.0.1:0",
        "WEBHOOKD_RELAY_WINDOW": "30",  # moto scans its queue for each message
        "WEBHOOKD_RESEND_AFTER": "5",
        "WEBHOOKD_SQS_WAIT": "1",
        "WEBHOOKD_SHUTDOWN_GRACE": "10",
    }


class Process:
    """`webhookd serve` as a child process, with `settings` as its environment."""

    def __init__(self, settings: dict[str, str], folder: Path) -> None:
        ports = {name: f"127.0.0.1:{free_port(0)}" for name in ("WEBHOOKD_LISTEN", "WEBHOOKD_ADMIN_LISTEN")}
        self._settings = {**settings, **ports}
        self.public_url = f"http://{ports['WEBHOOKD_LISTEN']}"
        self.admin_url = f"http://{ports['WEBHOOKD_ADMIN_LISTEN']}"
        self.webhook_url = f"{self.public_url}/webhooks/authorize-net"
        self.log = folder / "webhookd.log"
        self.process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Process:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    async def start(self, *, ready: bool = True, **settings: str) -> None:
        """Starts the process, with `settings` by field over its own. Waits until it is ready, unless `ready` is false."""
        overrides = {f"WEBHOOKD_{name.upper()}": value for name, value in settings.items()}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
        note_environment({**self._settings, **overrides})
        paths = [overrides.get("PYTHONPATH", self._settings.get("PYTHONPATH")), environment.pop("PYTHONPATH", None)]
        environment_path = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220  returns as soon as it has forked
                [sys.executable, "-m", "webhookd", "serve"],
                env={**environment, **self._settings, **overrides, **environment_path},
                cwd=self.log.parent,
                stdout=log,
                stderr=log,
            )
        if ready:
            # A start takes a second of CPU time. On a very busy machine this is a minute.
            await until(self.ready, "the daemon is ready", deadline=120)

    @property
    def running(self) -> bool:
        """Returns whether the process lives."""
        return self.process is not None and self.process.poll() is None

    async def ready(self) -> bool:
        """Returns whether the daemon answers its readiness probe with 200."""
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended:\n{self.log.read_text()}"
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.admin_url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end of the process; returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    async def stop(self) -> int:
        """Sends SIGTERM, waits for the end of the process, and returns the exit code."""
        return await asyncio.to_thread(self.end, signal.SIGTERM)

    @property
    def spent(self) -> float:
        """Returns a clock in seconds. It stands while the daemon's main thread waits for a processor of a busy machine."""
        assert self.process is not None
        statistics = Path(f"/proc/{self.process.pid}/schedstat")  # the second number: nanoseconds of such waits, on Linux
        waited = int(statistics.read_text().split()[1]) / 1e9 if statistics.exists() else 0.0
        return time.monotonic() - waited

    async def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Returns every sample of a scrape by (name, labels)."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin_url}/metrics") as response:
            text = await response.text()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def metric(self, name: str, **labels: str) -> float:
        """Returns one sample of a scrape, or the sum of the samples that have `labels`."""
        wanted = labels.items()
        found: list[Any] = [
            value for (sample, of), value in (await self.metrics()).items() if sample == name and wanted <= dict(of).items()
        ]
        return float(sum(found))
