"""A real Alertmanager with deploy/prometheus/alertmanager.yml: one outage pages once."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.promql import rules
from tests.helpers.prometheus import RULES
from tests.helpers.wait import until
from webhookd.dev.servers import free_port

CONFIGURATION = RULES.parent / "alertmanager.yml"
OUTAGE = RULES.parent / "webhookd.rules.outage.test.yml"
ALERTMANAGER, AMTOOL = shutil.which("prometheus-alertmanager"), shutil.which("amtool")
pytestmark = [
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.skipif(
        ALERTMANAGER is None or AMTOOL is None,
        reason="no Alertmanager; apt install --no-install-recommends prometheus-alertmanager",
    ),
]
Labels = dict[str, str]


def walk() -> Iterator[tuple[str, list[Labels]]]:
    """Yields each time of the outage, and the labels of the alerts that promtool has seen fire then."""
    [test] = yaml.safe_load(OUTAGE.read_text())["tests"]
    for case in test["promql_expr_test"]:
        found = [dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"])) for sample in case.get("exp_samples", ())]
        yield case["eval_time"], [{name: one[name] for name in one if name != "alertstate"} for one in found]


class Alertmanager:
    """An Alertmanager of its own, on free ports of this machine."""

    def __init__(self, folder: Path) -> None:
        assert ALERTMANAGER is not None
        port = free_port(0)
        self._url = f"http://127.0.0.1:{port}"
        self._log = (folder / "alertmanager.log").open("wb")
        self._process = subprocess.Popen(
            [
                ALERTMANAGER,
                f"--config.file={CONFIGURATION}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def call(self, path: str, body: object = None) -> Any:
        """Returns the answer of the API, version 2."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}/api/v2/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def ready(self) -> bool:
        """Returns whether Alertmanager answers."""
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            return bool(self.call("status"))
        except OSError:
            return False

    def notifies(self, firing: list[Labels]) -> list[Labels]:
        """Sends the firing alerts, and returns those that no other one inhibits.

        Alertmanager looks for the alerts that inhibit others after it has taken them all. So the answer counts when it has been
        the same for a second.
        """
        self.call("alerts", [{"labels": one} for one in firing])
        known: list[dict[str, Any]] = []
        since = time.monotonic()

        def processed() -> bool:
            nonlocal since
            before, known[:] = list(known), self.call("alerts")
            if [one["status"] for one in before] != [one["status"] for one in known]:
                since = time.monotonic()
            settled = len(known) == len(firing) and all(one["status"]["state"] != "unprocessed" for one in known)
            return settled and time.monotonic() - since > 1

        asyncio.run(until(processed, "Alertmanager has the alerts", deadline=60))
        return [one["labels"] for one in known if not one["status"]["inhibitedBy"]]

    def stop(self) -> None:
        """Kills the process: nobody needs its data."""
        self._process.kill()
        self._process.wait(10)
        self._log.close()


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    server = Alertmanager(tmp_path)
    try:
        asyncio.run(until(server.ready, "Alertmanager is ready", deadline=30))
        yield server
    finally:
        server.stop()


def test_the_sample_is_valid() -> None:
    assert AMTOOL is not None
    done = subprocess.run([AMTOOL, "check-config", str(CONFIGURATION)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_that_is_named_is_one() -> None:
    known = {rule.alert for rule in rules()}
    named = set(re.findall(r"Webhookd\w+", re.sub(r"#.*", "", CONFIGURATION.read_text())))
    assert named
    assert named <= known


@pytest.mark.parametrize(("at", "firing"), [(at, firing) for at, firing in walk() if firing], ids=lambda value: str(value)[:4])
def test_the_outage_pages_once(alertmanager: Alertmanager, at: str, firing: list[Labels]) -> None:
    told = alertmanager.notifies(firing)
    pages = [one["alertname"] for one in told if one["severity"] == "page"]
    outage = any(one["severity"] == "page" for one in firing)
    assert pages == (["WebhookdPostgreSQLDown"] if outage else []), at
    if outage:
        assert len(told) == 1, f"a ticket beside the page: {told}"


@pytest.mark.parametrize(
    ("firing", "pages"),
    [
        (["WebhookdDown", "WebhookdNoWebhooks", "WebhookdReplicaDown"], ["WebhookdDown"]),
        (["WebhookdOutboxStuck", "WebhookdEventsStuck"], ["WebhookdOutboxStuck"]),
        (["WebhookdPostgreSQLDown", "WebhookdCertificateEnds"], ["WebhookdCertificateEnds", "WebhookdPostgreSQLDown"]),
        (["WebhookdSignaturesRefused", "WebhookdNoWebhooks"], ["WebhookdSignaturesRefused"]),
        (["WebhookdDown", "WebhookdUnreachable"], ["WebhookdDown"]),
        (["WebhookdPostgreSQLDown", "WebhookdUnreachable"], ["WebhookdPostgreSQLDown"]),
        (["WebhookdUnreachable", "WebhookdNoWebhooks", "WebhookdEventsStuck"], ["WebhookdEventsStuck", "WebhookdUnreachable"]),
    ],
    ids="-".join,
)
def test_a_cause_silences_its_effects_and_nothing_else(alertmanager: Alertmanager, firing: list[str], pages: list[str]) -> None:
    common = {"job": "webhookd", "namespace": "shop", "severity": "page"}
    elsewhere = {"alertname": "WebhookdEventsStuck", **common, "namespace": "staging"}
    jobs = {"WebhookdUnreachable": "webhookd-public"}
    told = alertmanager.notifies(
        [{"alertname": name, **common, "job": jobs.get(name, "webhookd")} for name in firing] + [elsewhere]
    )
    assert sorted(one["alertname"] for one in told if one["namespace"] == "shop") == pages
    assert elsewhere in told
