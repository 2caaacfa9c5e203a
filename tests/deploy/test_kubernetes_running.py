"""A real daemon and a real migration run with the manifests' arguments and settings."""

from __future__ import annotations

import re
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

from tests.conftest import Servers
from tests.deploy.charts import render
from tests.deploy.manifests import Object, behind, build, container, environment, one, port_of, workloads
from tests.helpers.command import webhookd
from tests.helpers.database import connect
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.signature import sign

pytestmark = pytest.mark.xdist_group("kubernetes")

SECRETS = "/run/secrets/webhookd"
TOKEN = "ann-has-a-token-of-32-characters"


@pytest.fixture
def objects() -> list[Object]:
    """Returns the objects of production."""
    return build("production")


@pytest_asyncio.fixture
async def unmigrated(servers: Servers) -> AsyncIterator[Servers]:
    """Yields servers whose database is empty."""
    name = f"webhookd_{uuid.uuid4().hex[:12]}"
    server = await connect(servers.database_url)
    await server.execute(f"CREATE DATABASE {name}")
    yield replace(servers, database_url=urlsplit(servers.database_url)._replace(path=f"/{name}").geturl())
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest.fixture
def secrets(unmigrated: Servers, tmp_path: Path) -> Path:
    """Returns the folder of the mounted Secret; each file ends with a newline, as editors write it."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name, secret in {
        "database-url": unmigrated.database_url,
        "redis-url": unmigrated.redis_url,
        "signature-keys": KEY,
        "admin-tokens": f"ann:{TOKEN}",
    }.items():
        (folder / name).write_text(f"{secret}\n")
    return folder


def settings(objects: list[Object], workload: Object, servers: Servers, secrets: Path) -> dict[str, str]:
    """Returns the pod's environment, with the addresses of the test's servers and the folder of its secrets."""
    found = {
        name: value.replace(SECRETS, str(secrets)) if value.startswith(f"{SECRETS}/") else value
        for name, value in environment(objects, workload).items()
    }
    if workload["kind"] == "Deployment":
        found |= {
            "WEBHOOKD_SQS_ENDPOINT_URL": servers.sqs_endpoint_url,
            "WEBHOOKD_SQS_QUEUE": servers.queue,
            "WEBHOOKD_SQS_DEAD_LETTER_QUEUE": servers.dead_letter_queue,
            "WEBHOOKD_SQS_WAIT": "1",  # seconds; a shutdown waits for this receive
        }
    return found


async def status(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status


def selectors(objects: list[Object]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (metric, labels) of each selector in the scaler's queries, without the labels that a scrape adds."""
    for trigger in one(objects, "ScaledObject")["spec"]["triggers"]:
        for name, labels in re.findall(r"(webhookd_\w+)\{([^}]*)\}", trigger["metadata"].get("query", "")):
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            pairs.pop("namespace", None)
            yield name, pairs


@pytest.fixture
def daemon(objects: list[Object], unmigrated: Servers, secrets: Path, tmp_path: Path) -> Iterator[Process]:
    """Yields the daemon of the Deployment, not yet started."""
    deployment = one(objects, "Deployment")
    assert container(deployment)["args"] == ["serve"]  # Process runs the daemon with these arguments
    process = Process(settings(objects, deployment, unmigrated, secrets), tmp_path)
    yield process
    process.end(signal.SIGKILL)


async def test_a_first_rollout(
    objects: list[Object], daemon: Process, unmigrated: Servers, secrets: Path, tmp_path: Path
) -> None:
    deployment, job = workloads(objects)
    # The address on this machine for each of the container's ports.
    urls = {port_of(deployment, "public"): daemon.public_url, port_of(deployment, "admin"): daemon.admin_url}

    async def probe(name: str) -> int:
        get = container(deployment)[f"{name}Probe"]["httpGet"]
        try:
            return await status(urls[port_of(deployment, get["port"])] + get["path"])
        except aiohttp.ClientError:
            return 0

    async def passes(name: str) -> bool:
        return await probe(name) == 200

    await daemon.start(ready=False)
    await until(lambda: passes("startup"), "the startup probe passes", deadline=30)
    # Before the migration, the pod lives, takes no webhooks, and waits.
    assert await passes("liveness")
    assert await probe("readiness") == 503
    environ = settings(objects, job, unmigrated, secrets)
    for _ in range(2):  # a second Job finds nothing to do
        code, out, err = await webhookd(*container(job)["args"], folder=tmp_path, **environ)
        assert code == 0, err
    assert "up to date" in out
    await until(lambda: passes("readiness"), "the readiness probe passes", deadline=30)

    (rule,) = one(objects, "Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = path["backend"]["service"]
    outside = urls[behind(objects, service["name"], service["port"]["name"])]
    sample = sampling.sample("net.authorize.payment.refund.created", 1)
    headers = {"X-ANET-Signature": sign(sample.body, KEY)}
    async with (
        aiohttp.ClientSession() as session,
        session.post(outside + path["path"], data=sample.body, headers=headers) as response,
    ):
        assert (response.status, (await response.json())["status"]) == (200, "accepted")
    for inside in ("/", "/docs", "/metrics", "/readyz", "/webhooks/events", "/webhooks/stats", "/webhooks/health"):
        assert await status(outside + inside) == 404, inside
    annotations = one(render("alb"), "Ingress")["metadata"]["annotations"]
    assert await status(outside + annotations["alb.ingress.kubernetes.io/healthcheck-path"]) == 200

    within = urls[behind(objects, "webhookd-admin", "admin")]
    authorization = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=authorization) as session,
        session.get(f"{within}/webhooks/events") as response,
    ):
        assert [event["event_type"] for event in (await response.json())["events"]] == [sample.event_type]
    (endpoint,) = one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"  # Process.metrics scrapes this path
    assert urls[port_of(deployment, endpoint["port"])] == daemon.admin_url
    wanted = list(selectors(objects))
    assert len(wanted) == 6

    async def told() -> bool:
        samples = await daemon.metrics()
        return all(any(of == name and labels.items() <= dict(has).items() for of, has in samples) for name, labels in wanted)

    await until(told, f"the daemon reports {wanted}", deadline=20)
    assert await daemon.stop() == 0


async def test_a_migration_that_another_try_would_not_mend_ends_the_job(
    objects: list[Object], unmigrated: Servers, secrets: Path, tmp_path: Path
) -> None:
    _, job = workloads(objects)
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    environ = settings(objects, job, unmigrated, secrets)
    (secrets / "database-url").write_text("postgresql://webhookd@127.0.0.1:1/shop\n")
    away, _, _ = await webhookd(*container(job)["args"], folder=tmp_path, **environ)
    (secrets / "database-url").unlink()
    wrong, _, err = await webhookd(*container(job)["args"], folder=tmp_path, **environ)
    assert "WEBHOOKD_DATABASE_URL" in err
    assert wrong in rule["onExitCodes"]["values"]
    assert away not in [0, *rule["onExitCodes"]["values"]]
