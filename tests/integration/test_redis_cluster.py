"""Redis works in cluster mode, as in ElastiCache Serverless: one slot has all keys of an installation; redirections work."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import pytest_asyncio
from redis import Redis

from tests.conftest import Servers, Start, settings_of
from tests.helpers.cluster import Cluster, ClusterNode, cluster
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.doctor import Finding, Verdict, examine

pytestmark = pytest.mark.xdist_group("redis_cluster")
TYPE = "net.authorize.customer.created"


@pytest_asyncio.fixture
async def nodes(_own_environment: None) -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="webhookd-cluster-") as folder, cluster(Path(folder)) as made:
        await made.form()
        yield made


async def _known_by_redis(daemon: Daemon) -> None:
    """Sends webhooks until Redis recognises all repeats as duplicates."""
    samples, url = sampling.stream([TYPE], 5), f"{daemon.public_url}/webhooks/authorize-net"

    async def known() -> bool:
        before = daemon.metrics.registry.get_sample_value("webhookd_duplicates_total", {"layer": "redis"}) or 0
        await traffic.send(samples, url, KEY)
        after = daemon.metrics.registry.get_sample_value("webhookd_duplicates_total", {"layer": "redis"}) or 0
        return after >= before + len(samples)

    await until(known, "all repeats are known by what Redis keeps", every=0.2, deadline=20)


async def _redis(servers: Servers, url: str) -> Finding:
    findings = [finding async for finding in examine(settings_of(servers.settings, redis_url=url))]
    (finding,) = [finding for finding in findings if finding.check == "redis"]
    return finding


async def _claims_work(daemon: Daemon) -> None:
    events = [uuid4() for _ in range(3)]
    token, mine = await daemon.idempotency.acquire(events)
    assert mine == [True] * 3
    assert (await daemon.idempotency.acquire(events))[1] == [False] * 3, "Redis keeps the claims"
    daemon.idempotency.release(events, token)
    await until(lambda: _free(daemon, events[0]), "the claims are given back")


async def _free(daemon: Daemon, event: Any) -> bool:
    token, (mine,) = await daemon.idempotency.acquire([event])
    if mine:
        daemon.idempotency.release([event], token)
    return mine


@pytest.mark.parametrize("which", ["there", "here"])
async def test_every_operation_works_in_cluster_mode(which: str, nodes: Cluster, start: Start, servers: Servers) -> None:
    """Runs with the endpoint that has the slots, and with a node that redirects each command."""
    node: ClusterNode = getattr(nodes, which)
    daemon = await start(redis_url=node.url)
    await until(lambda: daemon.idempotency.up, "Redis is up")
    await _known_by_redis(daemon)
    await _claims_work(daemon)
    assert daemon.idempotency.up, daemon.idempotency.problem
    with nodes.there.client() as client:
        keys = [key for key in client.keys("*") if not key.endswith("probe")]
        assert len({client.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}) == 1, keys
    finding = await _redis(servers, node.url)
    assert finding.verdict is Verdict.OK
    assert "in cluster mode" in finding.detail
    assert f":{urlsplit(nodes.there.url).port} has" in finding.detail, "the finding names the node that has the keys"


async def test_slots_that_move_are_followed(nodes: Cluster, start: Start) -> None:
    daemon = await start(redis_url=nodes.there.url)
    await _known_by_redis(daemon)
    await asyncio.to_thread(nodes.give_slots, nodes.here)
    await _known_by_redis(daemon)
    await _claims_work(daemon)
    assert daemon.idempotency.up, daemon.idempotency.problem


async def test_a_node_that_is_lost_is_found_anew_from_the_url(nodes: Cluster, start: Start) -> None:
    daemon = await start(redis_url=nodes.here.url)
    await _known_by_redis(daemon)
    await asyncio.to_thread(nodes.there.stop)
    await until(lambda: not daemon.idempotency.up, "the daemon notices that Redis is away")
    await asyncio.to_thread(nodes.there.start)
    await until(lambda: daemon.idempotency.up, "the daemon finds Redis again", deadline=30)
    await _known_by_redis(daemon)


async def test_a_cluster_that_serves_no_slot_counts_as_away_and_the_doctor_says_why(start: Start, servers: Servers) -> None:
    with tempfile.TemporaryDirectory(prefix="webhookd-cluster-") as folder, cluster(Path(folder)) as apart:
        daemon = await start(redis_url=apart.here.url)
        # On a busy machine, a single try may get no answer in time, and the daemon tries again.
        await until(lambda: "serves no slot" in str(daemon.idempotency.problem), "the daemon says why")
        assert not daemon.idempotency.up
        finding = await _redis(servers, apart.here.url)
        assert finding.verdict is Verdict.FAILED
        assert "serves no slot" in finding.detail


async def test_a_database_number_that_cluster_mode_has_not_is_named(nodes: Cluster, start: Start, servers: Servers) -> None:
    url = nodes.there.url.removesuffix("/0") + "/1"
    daemon = await start(redis_url=url)
    assert not daemon.idempotency.up
    finding = await _redis(servers, url)
    assert finding.verdict is Verdict.FAILED
    for told in (str(daemon.idempotency.problem), finding.detail):
        assert "WEBHOOKD_REDIS_URL names the database 1" in told


@pytest.mark.parametrize("command", ["eval", "mget"])
async def test_a_command_that_redis_refuses_makes_it_count_as_away(command: str, start: Start, servers: Servers) -> None:
    """Each command counts: even if PING, SET and GET work, Redis may refuse the other commands."""
    user = f"user{uuid4().hex[:8]}"
    with _client(servers.redis_url) as client:
        client.execute_command("ACL", "SETUSER", user, "on", ">hunter2", "~*", "+@all", f"-{command}")
        place = servers.redis_url.rpartition("@")[2]
        daemon = await start(redis_url=f"redis://{user}:hunter2@{place}")
        await until(lambda: daemon.idempotency.problem not in (None, "not yet reached"), "the daemon notices the refusal")
        assert not daemon.idempotency.up
        assert daemon.metrics.registry.get_sample_value("webhookd_dependency_up", {"dependency": "redis"}) == 0
        finding = await _redis(servers, f"redis://{user}:hunter2@{place}")
        assert finding.verdict is Verdict.FAILED
        assert "(NOPERM)" in finding.detail
        assert "hunter2" not in f"{daemon.idempotency.problem}{finding.detail}"
        client.execute_command("ACL", "SETUSER", user, f"+{command}")
        await until(lambda: daemon.idempotency.up, "Redis is up again", deadline=20)
        # Now the refusal is met by the calls themselves: no probe has looked yet.
        client.execute_command("ACL", "SETUSER", user, f"-{command}")
        await daemon.idempotency.seen([("default", "a"), ("default", "b")])
        await daemon.idempotency.acquire([uuid4(), uuid4()])
        assert not daemon.idempotency.up
        client.execute_command("ACL", "DELUSER", user)


def _client(url: str) -> Any:
    return Redis.from_url(url)
