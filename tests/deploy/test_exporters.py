"""Real exporters see what webhookd cannot see of itself: whether the provider reaches it, the proxy's certificate, the disk."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import botocore.session
import pytest
import pytest_asyncio
import trustme
import yaml
from botocore.validate import ParamValidator

from tests.conftest import Start
from tests.deploy.manifests import custom_problems
from tests.deploy.promql import EXPORTERS, named, rules
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.nginx import Nginx, needs_nginx
from tests.helpers.prometheus import CONFIGURATION, DEPLOY, Prometheus, needs_prometheus
from tests.helpers.wait import until
from webhookd.daemon import Daemon
from webhookd.dev.servers import free_port

BLACKBOX, NODE = shutil.which("prometheus-blackbox-exporter"), shutil.which("prometheus-node-exporter")
MODULES = DEPLOY / "prometheus" / "blackbox.yml"
JOBS = {one["job_name"]: one for one in yaml.safe_load(CONFIGURATION.read_text())["scrape_configs"]}
PATH = "/webhooks/authorize-net"
needs_blackbox = pytest.mark.skipif(
    BLACKBOX is None, reason="no blackbox_exporter; apt install --no-install-recommends prometheus-blackbox-exporter"
)
needs_node = pytest.mark.skipif(
    NODE is None, reason="no node_exporter; apt install --no-install-recommends prometheus-node-exporter"
)
Samples = dict[str, float]


class Exporter:
    """An exporter of its own, on a free port of this machine."""

    def __init__(self, log: Path, *command: str) -> None:
        self.address = f"127.0.0.1:{free_port(0)}"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, f"--web.listen-address={self.address}"], stdout=output, stderr=subprocess.STDOUT
            )
        asyncio.run(until(self._answers, "the exporter answers", deadline=30))

    def _answers(self) -> bool:
        assert self._process.poll() is None
        try:
            return bool(self.page("metrics"))
        except urllib.error.URLError:
            return False

    def page(self, path: str, **parameters: str) -> Samples:
        """Returns the samples of a page, by name with labels."""
        url = f"http://{self.address}/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self) -> None:
        """Kills the process: it has no data."""
        self._process.kill()
        self._process.wait(10)


class Proxied(NamedTuple):
    """A daemon behind nginx with TLS, and blackbox_exporter, which trusts nginx's certificate by the module `webhookd`."""

    daemon: Daemon
    nginx: Nginx
    blackbox: Exporter

    async def probe(self, url: str, module: str = "webhookd") -> Samples:
        return await asyncio.to_thread(self.blackbox.page, "probe", module=module, target=url)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def blackbox(authority: trustme.CA, tmp_path: Path) -> Iterator[Exporter]:
    assert BLACKBOX is not None
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    modules = yaml.safe_load(MODULES.read_text())["modules"]
    modules["trusting-nobody"] = json.loads(json.dumps(modules["webhookd"]))
    modules["webhookd"]["http"]["tls_config"] = {"ca_file": str(tmp_path / "ca.pem")}
    (tmp_path / "blackbox.yml").write_text(yaml.safe_dump({"modules": modules}))
    exporter = Exporter(tmp_path / "blackbox.log", BLACKBOX, f"--config.file={tmp_path / 'blackbox.yml'}")
    yield exporter
    exporter.stop()


@pytest_asyncio.fixture
async def proxied(start: Start, blackbox: Exporter, authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Proxied]:
    daemon = await start(roles="receive")
    replica = daemon.public_url.removeprefix("http://")
    async with Nginx(tmp_path / "nginx", [replica] * 3, authority) as nginx:
        yield Proxied(daemon, nginx, blackbox)


@needs_blackbox
def test_the_modules_are_valid() -> None:
    assert BLACKBOX is not None
    command = [BLACKBOX, f"--config.file={MODULES}", "--config.check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_nginx
@needs_blackbox
async def test_the_probe_succeeds_only_if_a_replica_answers_behind_a_valid_certificate(proxied: Proxied) -> None:
    url = f"{proxied.nginx.https_url}{PATH}"
    found = await proxied.probe(url)
    assert (found["probe_success"], found["probe_http_status_code"]) == (1, 401)
    assert {re.sub(r"\{.*", "", name) for name in found} >= {name for name in EXPORTERS if name.startswith("probe_")}
    assert 'probe_http_duration_seconds{phase="tls"}' in found
    assert found["probe_ssl_earliest_cert_expiry"] > time.time()
    for address, module in (
        (url, "trusting-nobody"),
        (f"{proxied.nginx.http_url}{PATH}", "webhookd"),  # no TLS
        (f"{proxied.nginx.https_url}/other", "webhookd"),
        (f"https://127.0.0.1:{free_port(0)}{PATH}", "webhookd"),  # nobody listens
    ):
        assert (await proxied.probe(address, module))["probe_success"] == 0, address
    await proxied.daemon.stop()
    found = await proxied.probe(url)
    assert (found["probe_success"], found["probe_http_status_code"]) == (0, 503)


@needs_nginx
@needs_blackbox
async def test_the_probe_leaves_no_event(proxied: Proxied, connection: Any) -> None:
    assert (await proxied.probe(f"{proxied.nginx.https_url}{PATH}"))["probe_success"] == 1
    assert await connection.fetchval("SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM quarantine)") == 0


@pytest.mark.xdist_group("prometheus")
@needs_nginx
@needs_blackbox
@needs_node
@needs_prometheus
async def test_prometheus_with_the_samples_jobs_sees_the_proxy_and_the_disk(proxied: Proxied, tmp_path: Path) -> None:
    assert NODE is not None
    url = f"{proxied.nginx.https_url}{PATH}"
    # A container's root is an overlay, which node_exporter leaves out by default.
    options = ("--collector.filesystem.fs-types-exclude=^proc$", "--collector.filesystem.mount-points-exclude=^/proc$")
    node = await asyncio.to_thread(Exporter, tmp_path / "node.log", NODE, *options)
    prometheus = Prometheus(
        tmp_path / "prometheus",
        [proxied.daemon.admin_url.removeprefix("http://")],
        {"webhookd-public": (url, proxied.blackbox.address), "webhookd-disks": (node.address, "")},
    )
    try:
        await asyncio.to_thread(prometheus.start)

        def labels(name: str) -> list[dict[str, str]]:
            return [one.labels for one in prometheus.query(name)]

        def scraped() -> bool:
            return bool(prometheus.query("probe_success == 1") and labels("node_filesystem_avail_bytes"))

        await until(lambda: asyncio.to_thread(scraped), "both exporters are scraped", deadline=30)
        [probe] = await asyncio.to_thread(labels, "probe_success")
        assert (probe["job"], probe["instance"]) == ("webhookd-public", url)
        disks = await asyncio.to_thread(labels, "node_filesystem_avail_bytes")
        assert {disk["mountpoint"] for disk in disks} == {"/"}
        assert set(disks[0]) >= EXPORTERS["node_filesystem_avail_bytes"]
        assert await asyncio.to_thread(labels, "node_filesystem_size_bytes")
        names = await asyncio.to_thread(prometheus.values, "__name__", '{job="webhookd-disks"}')
        assert [name for name in names if not name.startswith(("node_filesystem_", "scrape_", "up"))] == []
        assert "WebhookdUnreachable" not in await asyncio.to_thread(prometheus.firing)
        await proxied.daemon.stop()
        await asyncio.to_thread(prometheus.fires, "WebhookdUnreachable")
    finally:
        prometheus.stop()
        node.stop()


def test_the_probe_of_the_prometheus_operator_is_the_samples_job() -> None:
    probe = yaml.safe_load((DEPLOY / "helm" / "probe.yaml").read_text())
    assert custom_problems([probe]) == []
    spec, job = probe["spec"], JOBS["webhookd-public"]
    assert spec["jobName"] == "webhookd-public"
    assert [spec["module"]] == job["params"]["module"] == list(yaml.safe_load(MODULES.read_text())["modules"])
    assert spec["targets"]["staticConfig"]["static"] == job["static_configs"][0]["targets"]
    assert (spec["interval"], spec["scrapeTimeout"]) == (job["scrape_interval"], job["scrape_timeout"])


def test_each_job_that_the_alerts_ask_for_is_in_the_sample() -> None:
    selectors = [selector for rule in rules() for selector in named(rule.expression).selectors]
    asked = {one.value for selector in selectors for one in selector.matchers if one.label == "job"}
    assert asked == set(JOBS)


def test_aws_understands_the_guides_alarm_on_the_free_disk() -> None:
    (text,) = (block for block in blocks((GUIDE / "managed-postgresql.md").read_text(), "sh") if "put-metric-alarm" in block)
    options = dict(re.findall(r"--([a-z-]+) (\S+)", text))
    names = {"".join(word.capitalize() for word in name.split("-")): value for name, value in options.items()}
    parameters: dict[str, Any] = {
        **names,
        "AlarmActions": [names["AlarmActions"]],
        "Dimensions": [dict(re.findall(r"(Name|Value)=(\w+)", names["Dimensions"]))],
        **{name: int(names[name]) for name in ("Period", "EvaluationPeriods", "Threshold")},
    }
    model = botocore.session.get_session().get_service_model("cloudwatch").operation_model("PutMetricAlarm")
    shape: Any = model.input_shape
    assert not (report := ParamValidator().validate(parameters, shape)).has_errors(), report.generate_report()
    assert set(parameters) <= set(shape.members)
    for name in ("Statistic", "ComparisonOperator"):
        assert parameters[name] in shape.members[name].enum
