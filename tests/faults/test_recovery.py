"""The recoveries of the guide, on real servers: what `webhookd recover` finds and removes, and that nothing else is lost.

test_restore.py restores a backup under a running daemon. tests/integration/test_guide_statements.py runs the guide's commands
for a dump.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from redis.asyncio import Redis

from tests.conftest import make_queues
from tests.helpers.command import webhookd
from tests.helpers.queues import client, depth, url_of
from tests.helpers.rig import Rig
from tests.helpers.wait import until
from webhookd.authorizenet import sampling


class Report(NamedTuple):
    """The report of `webhookd recover`."""

    code: int
    steps: dict[str, dict[str, Any]]
    missing: list[dict[str, Any]]

    def left(self) -> set[str]:
        return {check for check, step in self.steps.items() if step["state"] == "left"}


async def _recover(rig: Rig, *options: str) -> Report:
    code, out, err = await webhookd("recover", "--json", *options, folder=rig.servers.folder, **rig.settings())
    assert out, err
    report = json.loads(out)
    assert report["missing_count"] == len(report["missing"])
    assert report["ok"] == (code == 0)
    return Report(code, {step["check"]: step for step in report["steps"]}, report["missing"])


async def _send(rig: Rig, samples: list[sampling.Sample], outcome: str = "accepted") -> None:
    url = rig.daemons[-1].webhook_url
    assert (await rig.ledger.send(samples, url)).outcomes == {outcome: len(samples)}


async def _backup(rig: Rig) -> Path:
    """Copies the data of PostgreSQL, which it stops for this."""
    postgresql = rig.stack.postgresql
    backup = postgresql.folder / "backup"

    def copy() -> None:
        postgresql.stop()
        subprocess.run(["cp", "-a", postgresql.data, backup], check=True)
        postgresql.start()

    await rig.ledger.close()
    await asyncio.to_thread(copy)
    await rig.ledger.connect()
    return backup


async def _restore(rig: Rig, backup: Path) -> None:
    """Brings PostgreSQL back to the state of the backup, on a new timeline, as a recovery to a point in time does."""
    postgresql = rig.stack.postgresql

    def restore() -> None:
        postgresql.stop()
        shutil.rmtree(postgresql.data)
        backup.rename(postgresql.data)
        (postgresql.data / "recovery.signal").touch()
        with (postgresql.data / "postgresql.auto.conf").open("a") as settings:
            settings.write("restore_command = 'false'\n")
        postgresql.start()

    await rig.ledger.close()
    await asyncio.to_thread(restore)
    await rig.ledger.connect()
    await until(lambda: _is(rig, "SELECT pg_is_in_recovery()::int", 0), "PostgreSQL takes writes")
    # The backup is some seconds old, so its rows look like those of workers that run now.
    await rig.connection.execute("DELETE FROM processes")


async def _known_by_redis(rig: Rig, count: int) -> None:
    redis: Any = Redis.from_url(rig.servers.redis_url)

    async def known() -> bool:
        return len([key async for key in redis.scan_iter("*:seen:*")]) >= count

    await until(known, f"Redis remembers {count} notifications")
    await redis.aclose()


async def _in_queue(rig: Rig, count: int) -> None:
    async def sent() -> bool:
        return await depth(rig.servers, rig.servers.queue) >= count

    await until(sent, "SQS has the messages")


async def test_after_a_recovery_to_a_point_in_time_the_missing_events_are_listed_until_they_are_sent_again(
    own_rig: Rig, tmp_path: Path
) -> None:
    rig = own_rig
    daemon = await rig.daemon(roles="receive,relay,work")
    kept, lost = list(rig.samples(5)), list(rig.samples(6))
    await _send(rig, kept)
    await rig.ledger.settle(rig.urls)
    await daemon.stop()
    backup = await _backup(rig)
    daemon = await rig.daemon(roles="receive,relay")
    await _send(rig, lost)
    await _known_by_redis(rig, 11)
    await until(lambda: _is(rig, "SELECT count(*) FROM work WHERE status = 'queued'", 6), "the events are sent", deadline=30)
    await daemon.stop()
    assert (await _recover(rig)).code == 0, "nothing is missing yet"
    waiting = await depth(rig.servers, rig.servers.queue)
    await _restore(rig, backup)

    report = await _recover(rig)
    assert report.code == 1
    assert report.left() == {"sqs", "missing events"}, "Redis is not believed, so it holds nothing up"
    told = {one["notification_id"]: one for one in report.missing}
    assert set(told) == {sample.notification_id for sample in lost}
    assert {one["event_id"] for one in report.missing} == {rig.ledger.acknowledged[sample.notification_id] for sample in lost}
    assert [one["event_type"] for one in report.missing if one["event_type"] is None] == [], "SQS knows the type"
    assert report.steps["gap of default"]["state"] == "look"
    newest = await rig.connection.fetchval("SELECT max(received_at) FROM events")
    assert f"{newest:%Y-%m-%dT%H:%M:%SZ}" in report.steps["gap of default"]["found"]
    assert await depth(rig.servers, rig.servers.queue) == waiting, "each message is visible again"

    report = await _recover(rig, "--apply")
    assert report.left() == {"missing events"}
    assert await depth(rig.servers, rig.servers.queue) == 0
    assert len(report.missing) == 6, "the list stays, since Redis still remembers"

    rig.ledger.acknowledged.clear()  # the recovery voids earlier promises; later ones must hold
    daemon = await rig.daemon(roles="receive,relay,work")
    for sample in lost:  # as the provider's history shows it: other bytes than those that were signed once
        body = orjson.dumps(orjson.loads(sample.body) | {"deliveryStatus": "Delivered"})
        (tmp_path / "body.json").write_bytes(body)
        sending = ("trigger", "--body", str(tmp_path / "body.json"), "--url", daemon.webhook_url, "--json")
        code, out, _ = await webhookd(*sending, folder=tmp_path, **rig.settings())
        assert (code, json.loads(out)["outcomes"]) == (0, {"accepted": 1})
    report = await _recover(rig)
    assert (report.code, report.missing) == (0, [])
    assert report.steps["sqs"]["state"] == "look", "replicas read the queues"
    assert "--before" in report.steps["gap of default"]["found"]
    processed = "SELECT count(*) FROM events WHERE status = 'processed'"
    await until(lambda: _is(rig, processed, 11), "all events are processed")


async def _is(rig: Rig, query: str, value: int) -> bool:
    return bool(await rig.connection.fetchval(query) == value)


async def test_keys_that_redis_wrongly_believes_are_found_and_removed(own_rig: Rig) -> None:
    """The instance stays the same if somebody brings the rows alone back, for example by pg_restore --data-only."""
    rig = own_rig
    daemon = await rig.daemon(roles="receive")
    samples = list(rig.samples(5))
    await _send(rig, samples)
    await _known_by_redis(rig, 5)
    for table in ("ledger", "work", "bodies"):
        await rig.connection.execute(f"DELETE FROM {table}")
    await _send(rig, samples[:1], "duplicate")  # this is what must not happen
    report = await _recover(rig)
    assert report.left() == {"redis", "missing events"}
    assert "5 notifications remembered, 5 of them believed now" in report.steps["redis"]["found"]
    assert report.steps["redis"]["command"] == "webhookd recover --apply"
    assert "5 of them" in (await _recover(rig)).steps["redis"]["found"], "without --apply, nothing changes"
    assert (await _recover(rig, "--apply")).left() == {"missing events"}
    rig.ledger.acknowledged.clear()
    await _send(rig, samples)
    assert (await _recover(rig)).left() == set()
    await daemon.stop()
    await rig.daemon(roles="receive,relay,work")
    await rig.finish()


async def test_a_failover_that_loses_commits_is_found(own_rig: Rig, server_folder: Path) -> None:
    """A replica that lags is promoted: `synchronous_standby_names` is empty, so the primary has answered without it."""
    rig, primary = own_rig, own_rig.stack.postgresql
    daemon = await rig.daemon(roles="receive")
    kept, lost = list(rig.samples(4)), list(rig.samples(3))
    await _send(rig, kept)
    standby = primary.folder / "standby"
    binaries = primary.binaries()
    options = ["-d", primary.url, "-D", str(standby), "-R", "-X", "stream", "--checkpoint=fast"]
    basebackup = [str(binaries / "pg_basebackup"), *options]
    await asyncio.to_thread(lambda: subprocess.run(basebackup, check=True, capture_output=True))
    await _send(rig, lost)  # the standby does not run, so it lags
    await _known_by_redis(rig, 7)

    def fail_over() -> None:
        primary.kill()
        primary.data.rename(primary.folder / "failed")
        standby.rename(primary.data)
        with (primary.data / "postgresql.auto.conf").open("a") as settings:
            settings.write("hot_standby = on\nprimary_conninfo = ''\n")
        primary.start()

    await rig.ledger.close()
    await asyncio.to_thread(fail_over)
    await rig.ledger.connect()
    await rig.connection.fetchval("SELECT pg_promote()")
    await until(daemon.ready, "the daemon has found the new primary", deadline=30)
    report = await _recover(rig)
    assert {one["notification_id"] for one in report.missing} == {sample.notification_id for sample in lost}
    assert report.left() == {"missing events"}
    rig.ledger.acknowledged.clear()
    await _send(rig, [*kept, *lost][4:])
    assert (await _recover(rig)).left() == set()
    await rig.daemon(roles="relay,work")
    await rig.finish()


async def test_without_sqs_and_redis_nothing_is_lost(own_rig: Rig) -> None:
    """The loss of SQS and Redis, or of a region whose PostgreSQL is replicated: new queues and an empty Redis."""
    rig = own_rig
    daemon = await rig.daemon(roles="receive,relay")
    await _send(rig, list(rig.samples(8)))
    await _in_queue(rig, 1)
    await daemon.stop()
    async with client(rig.servers) as sqs:
        for name in (rig.servers.queue, rig.servers.dead_letter_queue):
            await sqs.delete_queue(QueueUrl=await url_of(sqs, name))
    redis: Any = Redis.from_url(rig.servers.redis_url)
    await redis.flushall()
    await redis.aclose()
    report = await _recover(rig)
    assert report.left() == {"sqs"}
    assert report.steps["sqs"]["command"] == "webhookd doctor"
    await make_queues(rig.servers)
    report = await _recover(rig)
    assert report.left() == set()
    assert "0 notifications remembered" in report.steps["redis"]["found"]
    assert report.steps["unfinished events"]["found"] == "8 events"
    await rig.daemon(roles="receive,relay,work")
    await rig.finish()


async def test_a_server_that_takes_no_writes_is_not_believed(rig: Rig) -> None:
    """A standby that lags, or the primary from before a failover, would show other events as missing, or none."""
    name = await rig.connection.fetchval("SELECT current_database()")
    await rig.connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    code, out, err = await webhookd("recover", "--json", folder=rig.servers.folder, **rig.settings())
    assert code == 1
    assert not out
    assert "writes" in err


@pytest.mark.parametrize(("setting", "check", "state"), [("redis_url", "redis", "look"), ("sqs_endpoint_url", "sqs", "left")])
async def test_a_server_that_is_away_is_told(rig: Rig, setting: str, check: str, state: str) -> None:
    away = {"redis_url": "redis://127.0.0.1:1/0", "sqs_endpoint_url": "http://127.0.0.1:1"}[setting]
    settings = rig.settings(**{setting: away})
    code, out, _ = await webhookd("recover", "--json", folder=rig.servers.folder, **settings)
    (step,) = [step for step in json.loads(out)["steps"] if step["check"] == check]
    assert step["state"] == state
    assert f"WEBHOOKD_{setting.upper()}" in step["found"]
    assert code == (state == "left")


async def test_an_event_of_another_installation_in_the_same_redis_is_not_missing(rig: Rig) -> None:
    daemon = await rig.daemon(roles="receive")
    await _send(rig, list(rig.samples(3)))
    redis: Any = Redis.from_url(rig.servers.redis_url)
    installation = str(await rig.connection.fetchval("SELECT id FROM instance"))

    async def known() -> bool:
        return len([key async for key in redis.scan_iter(f"webhookd:{{{installation[:8]}*:seen:*", count=1000)]) == 3

    await until(known, "Redis remembers the notifications")
    others = b"webhookd:{00000000-0000-0000-0000-000000000000}:seen:default:another"
    await redis.set(others, bytes(32), ex=60)
    report = await _recover(rig)
    await redis.delete(others)
    await redis.aclose()
    assert report.code == 0
    assert report.steps["redis"]["found"].startswith("3 notifications")
    await daemon.stop()
