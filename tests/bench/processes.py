"""The measured programs, each in a process of its own: webhookd, the baselines, and the load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.bench.load import Report
from tests.bench.releases import ROOT, Release
from webhookd.dev.servers import free_port

KEY = "a1" * 64
PATH = "/webhooks/authorize-net"
# The measured process has one core, and everything else has the other cores. If the system moves processes between cores as it
# likes, two runs of the same code differ by half.
CORES = psutil.Process().cpu_affinity()


class Target:
    """A process under measurement."""

    def __init__(
        self, command: list[str], environment: dict[str, str], log: Path, *, folder: Path = ROOT, pinned: bool = True
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(command, env={**os.environ, **environment}, cwd=folder, stdout=out, stderr=out)
        self.process = psutil.Process(self._process.pid)
        self.process.cpu_affinity(CORES[:1] if pinned else CORES)

    def wait(self, answers: Any, seconds: float = 30.0) -> None:
        """Waits until `answers()`. Raises RuntimeError with the log's end if the process ends before, or after `seconds`."""
        end = time.monotonic() + seconds
        while not answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.log.name} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def result(self, seconds: float) -> Any:
        """Waits for the end of the process, and returns the last line of its output as JSON."""
        self._process.wait(seconds)
        return json.loads(self.log.read_text().splitlines()[-1])

    def stop(self) -> None:
        """Sends SIGTERM, and waits until the process ends."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)

    def kill(self) -> None:
        """Sends SIGKILL, and waits until the process has ended."""
        self._process.kill()
        self._process.wait(60)

    @property
    def running(self) -> bool:
        """Returns whether the process has not ended."""
        return self._process.poll() is None

    @property
    def memory(self) -> float:
        """Returns the resident memory in MiB."""
        return float(self.process.memory_info().rss) / 2**20

    @property
    def peak_memory(self) -> float:
        """Returns the most resident memory so far in MiB."""
        (line,) = (one for one in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    @property
    def processor_seconds(self) -> float:
        """Returns the CPU seconds of this process so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


class Webhookd(Target):
    """A process `webhookd serve` of a release with `settings` (names without WEBHOOKD_)."""

    def __init__(self, release: Release, settings: dict[str, str], log: Path, *, pinned: bool) -> None:
        public, admin = free_port(0), free_port(0)
        given = {"LISTEN": f"127.0.0.1:{public}", "ADMIN_LISTEN": f"127.0.0.1:{admin}", "SIGNATURE_KEYS": KEY, **settings}
        clean = {f"WEBHOOKD_{name}": value for name, value in given.items()}
        super().__init__([str(release.python), "-m", "webhookd", "serve"], clean, log, folder=release.folder, pinned=pinned)
        self.url = f"http://127.0.0.1:{public}{PATH}"
        self.admin = f"http://127.0.0.1:{admin}"

    def ready(self) -> bool:
        """Returns whether the daemon is ready for webhooks."""
        try:
            with urllib.request.urlopen(f"{self.admin}/readyz", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def metric(self, name: str, **labels: str) -> float:
        """Returns the sum of a metric's samples that have `labels`, or 0 if there is none."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        total = 0.0
        for line in text.splitlines():
            if re.match(rf"webhookd_{name}(\{{|\s)", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total


@contextmanager
def running(target: Target) -> Iterator[Any]:
    """Stops `target` after the block."""
    try:
        yield target
    finally:
        target.stop()


def load(url: str, **options: float | str) -> Report:
    """Runs the load in a process of its own. `options` have the names of its command line."""
    command = [sys.executable, "-m", "tests.bench.load", url, "--key", KEY]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load failed:\n{done.stderr}")
    return Report(**json.loads(done.stdout))
