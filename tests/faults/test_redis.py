"""Redis dies, forgets, hangs, refuses and remembers wrongly: webhookd is slower at worst, and loses or doubles nothing.

Each case also sends some webhooks again. Each must be answered as a duplicate, with its event's id; otherwise the ledger
finds a contradiction.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from tests.helpers.ledger import COUNTING
from tests.helpers.rig import Rig
from tests.helpers.running import Process
from tests.helpers.wait import until
from webhookd.store.queries import queries

_RATE = 30.0  # webhooks a second: the cases wait until the events end, and SQS is slow here
# The daemon waits half a second for a batch of commands to Redis. Afterwards it asks again only when a probe has found Redis
# well. The rest is for a busy machine. Without the bound, an answer waits as long as Redis hangs: the cases
# let Redis go on only after the answers.
_BOUND = 0.5 + 9.5


@contextlib.asynccontextmanager
async def _redis(rig: Rig) -> AsyncIterator[Any]:
    """Yields a client, straight to Redis, and restores the server's configuration afterwards."""
    client: Any = Redis.from_url(rig.servers.redis_url)
    kept = {name: (await client.config_get(name))[name] for name in ("maxmemory", "maxmemory-policy", "requirepass", "save")}
    try:
        yield client
    finally:
        await client.replicaof("NO", "ONE")
        for name, value in kept.items():
            await client.config_set(name, value)
        await client.aclose()


async def _keys(client: Any, rig: Rig, kind: str) -> list[bytes]:
    """Returns the present keys of one kind, of this case's database alone."""
    instance = (await queries.identify(rig.connection))["instance"]
    return [key async for key in client.scan_iter(f"webhookd:{{{instance}}}:{kind}:*", count=1000)]


async def _is(daemon: Process, up: bool) -> bool:
    return await daemon.metric("webhookd_dependency_up", dependency="redis") == up


async def _finds(daemon: Process, *, up: bool) -> None:
    await until(lambda: _is(daemon, up), f"Redis is found {'well' if up else 'away'}", deadline=30)


async def _again(rig: Rig, count: int = 10) -> None:
    """Sends webhooks again that were answered 200: each is a duplicate, and the ledger compares its id."""
    known = list(rig.ledger.acknowledged)
    chosen = [rig.ledger.samples[id_] for id_ in random.sample(known, min(count, len(known)))]
    summary = await rig.ledger.send(chosen, rig.urls)
    assert set(summary.outcomes) == {"duplicate"}
    assert not rig.ledger.contradictions


# -- Redis dies, and forgets


@pytest.mark.long
async def test_redis_killed_and_started_again_empty(own_rig: Rig) -> None:
    rig, redis = own_rig, own_rig.stack.redis
    daemon = await rig.daemon()
    async with rig.load(_RATE):
        for _ in range(rig.rounds(1, 3)):
            await rig.acknowledged(20)
            await asyncio.to_thread(redis.kill)
            await rig.acknowledged(20)
            await _again(rig)
            await asyncio.to_thread(redis.start)
            await _finds(daemon, up=True)
        rig.recovered()
        await _again(rig)
    assert rig.ledger.answers[503] == 0
    await rig.finish()


async def test_redis_flushed_again_and_again(rig: Rig) -> None:
    daemon = await rig.daemon()
    async with rig.load(_RATE), _redis(rig) as redis:
        for _ in range(rig.rounds(3, 15)):
            await rig.acknowledged(10)
            await redis.flushall()
            await _again(rig, 3)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    assert await _is(daemon, True)
    await rig.finish()


@pytest.mark.long
async def test_redis_evicts_our_keys(rig: Rig) -> None:
    await rig.daemon()
    async with rig.load(_RATE), _redis(rig) as redis:
        await rig.acknowledged(20)
        await redis.config_set("maxmemory-policy", "allkeys-random")
        before = (await redis.info("stats"))["evicted_keys"]
        for _ in range(rig.rounds(1, 3)):
            await redis.config_set("maxmemory", "1mb")  # less than an empty server takes, so Redis must evict
            await rig.acknowledged(20)
            await _again(rig)
        assert (await redis.info("stats"))["evicted_keys"] > before
    rig.recovered()
    await rig.finish()


# -- Redis hangs


async def test_while_redis_hangs_the_receivers_latency_stays_bounded(rig: Rig) -> None:
    daemon = await rig.daemon()
    async with rig.load(_RATE):
        for _ in range(rig.rounds(1, 4)):
            await rig.acknowledged(20)
            rig.proxies.redis.stall()
            before = len(rig.ledger.latencies)
            await rig.acknowledged(60)
            assert max(rig.ledger.latencies[before:]) < _BOUND
            await _finds(daemon, up=False)
            await _again(rig)
            await rig.proxies.redis.heal()
            await _finds(daemon, up=True)
            await _again(rig)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    await rig.finish()


@pytest.mark.long
async def test_redis_stopped_by_sigstop_and_continued(own_rig: Rig) -> None:
    rig = own_rig
    daemon = await rig.daemon()
    assert rig.stack.redis.process is not None
    process = psutil.Process(rig.stack.redis.process.pid)
    async with rig.load(_RATE):
        for _ in range(rig.rounds(1, 3)):
            await rig.acknowledged(20)
            process.suspend()
            before = len(rig.ledger.latencies)
            await rig.acknowledged(60)
            assert max(rig.ledger.latencies[before:]) < _BOUND
            await _finds(daemon, up=False)
            process.resume()
            await _finds(daemon, up=True)
            await _again(rig)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    await rig.finish()


@pytest.mark.long
async def test_a_slow_redis_is_left_aside(rig: Rig) -> None:
    """A Redis slower than PostgreSQL is of no use, and a probe more patient than its users must not find it well."""
    daemon = await rig.daemon()
    async with rig.load(_RATE):
        await rig.acknowledged(20)
        rig.proxies.redis.delay(0.3)
        await _finds(daemon, up=False)
        # Counts commits, and measures no time: on a busy machine, a webhook is slow for other reasons.
        skipped = await daemon.metric("webhookd_redis_skipped_total", operation="seen")
        commits = await daemon.metric("webhookd_commit_batch_size_count")
        await rig.acknowledged(150)
        commits = await daemon.metric("webhookd_commit_batch_size_count") - commits
        skipped = await daemon.metric("webhookd_redis_skipped_total", operation="seen") - skipped
        assert skipped > 0.8 * commits > 0, "hardly any group commit waits for it"
        assert await _is(daemon, False)
        await rig.proxies.redis.heal()
        await _finds(daemon, up=True)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    await rig.finish()


# -- Redis' answers get lost


_FAILS_ONCE = """
from webhookd import Retryable


@on("*")
async def fail_once(event, connection):
    if event.attempt == 1:
        raise Retryable(after=0.2)
"""


async def test_a_claim_whose_reply_was_lost_does_not_hold_its_own_event_up(rig: Rig) -> None:
    """Redis did SET NX, but the reply was lost: no worker holds the claim, and the claim lives for its TTL."""
    rig.handlers(COUNTING + _FAILS_ONCE)  # the failure makes a worker claim each event a second time
    daemon = await rig.daemon(roles="receive,relay", handler_timeout="600")
    await rig.send(5)
    worker = await rig.daemon(roles="work", handler_timeout="600")  # a claim lives 10 s longer than that
    async with _redis(rig) as redis:

        async def left_behind() -> bool:
            rig.proxies.redis.drop_replies()
            await rig.send(10)
            await _finds(worker, up=False)
            await rig.proxies.redis.heal()
            await _finds(worker, up=True)
            await _finds(daemon, up=True)
            return bool(await _keys(redis, rig, "claim"))

        await until(left_behind, "the lost reply was the reply of a claim, not of a probe", deadline=60)
        rig.recovered()
        await rig.finish(deadline=60)


@pytest.mark.long
async def test_replies_are_lost_under_load_and_none_is_taken_for_anothers(rig: Rig) -> None:
    daemon = await rig.daemon()
    async with rig.load(_RATE):
        for _ in range(rig.rounds(1, 4)):
            await rig.acknowledged(20)
            rig.proxies.redis.drop_replies()
            await _finds(daemon, up=False)
            await _again(rig)
            await rig.proxies.redis.heal()
            await _finds(daemon, up=True)
            await _again(rig, 30)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    await rig.finish()


@pytest.mark.long
async def test_connections_reset_again_and_again(rig: Rig) -> None:
    await rig.daemon()
    async with rig.load(_RATE):
        for _ in range(rig.rounds(3, 20)):
            await rig.acknowledged(5)
            await rig.proxies.redis.reset()
            await _again(rig, 5)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    await rig.finish()


# -- Redis refuses


@pytest.mark.long
async def test_a_redis_that_takes_no_writes_is_found_out_and_left_aside(rig: Rig) -> None:
    """Redis is full, or has become a replica: it answers PING, and every read."""
    daemon = await rig.daemon()
    async with rig.load(_RATE), _redis(rig) as redis:
        for _ in range(rig.rounds(1, 2)):
            await rig.acknowledged(20)
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("maxmemory", "1mb")
            await _finds(daemon, up=False)
            await rig.acknowledged(20)
            await _again(rig)
            await redis.config_set("maxmemory", "0")
            await _finds(daemon, up=True)

            await redis.replicaof("127.0.0.1", "1")
            await _finds(daemon, up=False)
            await rig.acknowledged(20)
            await _again(rig)
            await redis.replicaof("NO", "ONE")
            await _finds(daemon, up=True)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    await rig.finish()


@pytest.mark.long
async def test_redis_has_another_password_now(rig: Rig) -> None:
    daemon = await rig.daemon()
    async with rig.load(_RATE), _redis(rig) as redis:
        password = (await redis.config_get("requirepass"))["requirepass"]
        for _ in range(rig.rounds(1, 2)):
            await rig.acknowledged(20)
            await redis.config_set("requirepass", "another")
            await rig.proxies.redis.reset()  # existing sessions would go on
            await _finds(daemon, up=False)
            await rig.acknowledged(20)
            await _again(rig)
            await redis.config_set("requirepass", password)
            await _finds(daemon, up=True)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    assert password not in daemon.log.read_text()
    assert "another" not in [word for line in daemon.log.read_text().splitlines() if "redis" in line for word in line.split()]
    await rig.finish()


# -- Redis remembers wrongly


async def test_wrong_values_under_our_keys(rig: Rig) -> None:
    """The values have other shapes and types, or belong to other events."""
    await rig.daemon()
    async with rig.load(_RATE), _redis(rig) as redis:
        for _ in range(rig.rounds(1, 3)):
            await rig.acknowledged(40)
            await until(lambda: _keys(redis, rig, "seen"), "some are remembered")
            for key in await _keys(redis, rig, "seen"):
                wrong = random.choice(["", "x", "a:b:c", "\xff" * 50, "0" * 32 + ":" + "00" * 16])
                await redis.set(key, wrong.encode("latin-1"), ex=60)
                if random.random() < 0.3:
                    await redis.delete(key)
                    await redis.lpush(key, "a list")
            await _again(rig, 40)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    await rig.finish()


async def test_claims_that_nobody_holds_delay_an_event_by_seconds_at_most(rig: Rig) -> None:
    """A dead worker, a lost reply or a restored old dump leaves such claims; no event waits until one expires."""
    # The outbox sends again too late to matter, and claims live far longer than the case.
    await rig.daemon(roles="receive,relay", handler_timeout="600", resend_after="600")
    await rig.send(20)
    async with _redis(rig) as redis:
        instance = (await queries.identify(rig.connection))["instance"]
        for row in await rig.connection.fetch("SELECT id FROM events"):
            await redis.set(f"webhookd:{{{instance}}}:claim:{row['id']}", "a dead worker's", px=600_000)
        worker = await rig.daemon(roles="work", handler_timeout="600")
        rig.recovered()
        await rig.finish(deadline=15)
    assert worker.running


_DIES_ONCE = """
import os
import pathlib
import signal


@on("*")
async def die_once(event, connection):
    if not pathlib.Path("died").exists():
        pathlib.Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
async def test_the_claim_of_a_worker_that_died_delays_its_event_no_longer_than_its_message(rig: Rig) -> None:
    rig.handlers(COUNTING + _DIES_ONCE)
    daemon = await rig.daemon(handler_timeout="600", resend_after="600")
    await rig.send(5)
    await until(lambda: not daemon.running, "it is killed")
    await daemon.start()
    rig.recovered()
    await rig.finish(deadline=20)  # VISIBILITY_TIMEOUT is 3 s, the claim's TTL 610 s


@pytest.mark.long
async def test_redis_restored_from_an_old_dump(rig: Rig) -> None:
    """Old marks are true, as a mark is set only after its commit; no worker holds the old claims."""
    daemon = await rig.daemon()
    async with rig.load(_RATE), _redis(rig) as redis:
        for _ in range(rig.rounds(1, 3)):
            await rig.acknowledged(40)
            keys = await _keys(redis, rig, "seen") + await _keys(redis, rig, "claim")
            dump = {key: await redis.dump(key) for key in keys}
            await rig.acknowledged(40)
            await redis.flushall()
            for key, value in dump.items():
                if value is not None:  # a claim may have been given back meanwhile
                    await redis.restore(key, 60_000, value, replace=True)
            await _again(rig, 40)
        rig.recovered()
    assert rig.ledger.answers[503] == 0
    assert await _is(daemon, True)
    await rig.finish()
