"""A real Prometheus with the project's configuration and rules. The test's own targets and intervals replace the project's."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.helpers.wait import until
from webhookd.dev.servers import free_port

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
CONFIGURATION = DEPLOY / "prometheus" / "prometheus.yml"
RULES = DEPLOY / "prometheus" / "webhookd.rules.yml"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None, reason="no Prometheus; apt install --no-install-recommends prometheus"
)


class Sample(NamedTuple):
    """One series of an answer, with its value."""

    labels: dict[str, str]
    value: float


def promtool(*arguments: object) -> str:
    """Runs promtool. Returns its output if it fails, and nothing if it succeeds."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *map(str, arguments)], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout if done.returncode else ""


class Prometheus:
    """A Prometheus that scrapes `targets` (host:port of admin listeners) and evaluates the rules, both once a second.

    Alerts fire as soon as they are true. promtool tests their `for`.

    exporters: for each further job of the project's configuration to run, its target and the exporter's host:port.
    """

    def __init__(self, folder: Path, targets: Sequence[str], exporters: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._folder = folder
        folder.mkdir()
        self.log = folder / "prometheus.log"
        port = free_port(0)
        self.url = f"http://127.0.0.1:{port}"
        rules = yaml.safe_load(RULES.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                rule.pop("for", None)
                rule.pop("keep_firing_for", None)
        (folder / RULES.name).write_text(yaml.safe_dump(rules))
        configuration = yaml.safe_load(CONFIGURATION.read_text())
        configuration["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        jobs = {one["job_name"]: one for one in configuration["scrape_configs"]}
        wanted = {"webhookd": list(targets), **{job: [target] for job, (target, _) in (exporters or {}).items()}}
        configuration["scrape_configs"] = [jobs[name] for name in wanted]
        for name, addresses in wanted.items():
            jobs[name] |= {"static_configs": [{"targets": addresses, "labels": {"namespace": "tests"}}]}
            jobs[name] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
        for name, (_, address) in (exporters or {}).items():
            for rule in jobs[name].get("relabel_configs", ()):
                if "replacement" in rule:
                    rule["replacement"] = address
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts Prometheus, and returns when it answers."""
        assert PROMETHEUS is not None
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={urllib.parse.urlsplit(self.url).netloc}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        asyncio.run(until(self._ready, "Prometheus is ready", deadline=30))

    def stop(self) -> None:
        """Kills the process at once: nobody needs its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """Returns `data` of an answer of the HTTP API, version 1. If the answer has none, fails with the API's error."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters or path}: {json.load(error)['error']}") from None

    def query(self, expression: str, *, at: float | None = None) -> list[Sample]:
        """Returns the value of each series of an expression, now or `at` (seconds since 1970). Leaves out each NaN."""
        data = self.get("query", query=expression, **({} if at is None else {"time": f"{at:.3f}"}))
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        found = [Sample(one["metric"], float(one["value"][1])) for one in data["result"]]
        return [one for one in found if not math.isnan(one.value)]

    def values(self, label: str, selector: str) -> list[str]:
        """Returns the values of a label in the series that `selector` chooses."""
        found: list[str] = self.get(f"label/{label}/values", **{"match[]": selector})
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Returns each rule with its last evaluation."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """Returns the names of the firing alerts."""
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}

    def fires(self, alert: str) -> None:
        """Waits until an alert fires."""
        asyncio.run(until(lambda: alert in self.firing(), f"{alert} fires", deadline=30, every=0.1))

    def ends(self, alert: str) -> None:
        """Waits until an alert no longer fires."""
        asyncio.run(until(lambda: alert not in self.firing(), f"{alert} ends", deadline=30, every=0.1))

    def scraped(self, times: int = 1) -> None:
        """Waits for `times` scrapes that begin after now."""
        for _ in range(times):
            now = self.query("time()")[0].value

            def later(now: float = now) -> bool:
                # timestamp() of a comparison would return the time of the comparison, so `and` joins the comparison.
                scrapes = self.query('timestamp(up{job="webhookd"}) and up{job="webhookd"} == 1')
                return any(one.value > now for one in scrapes)

            asyncio.run(until(later, "a scrape", deadline=30, every=0.1))
