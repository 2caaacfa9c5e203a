"""A message about an alert survives kill -9 of the replica that writes or sends it. It comes once, or again under its id."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import Servers
from tests.helpers.channels import SECRET, TOKEN, HttpChannel
from tests.helpers.operator import Connection, bury
from tests.helpers.running import Process
from tests.helpers.secrets import note
from tests.helpers.wait import until
from webhookd.runtime.failpoints import Failpoint

Daemon = Callable[..., Process]


@pytest_asyncio.fixture
async def http() -> AsyncIterator[HttpChannel]:
    """Starts the server of a channel."""
    note([TOKEN, SECRET])
    server = HttpChannel()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def daemon(servers: Servers, http: HttpChannel, tmp_path: Path) -> AsyncIterator[Daemon]:
    """Returns a function that makes a daemon with the channel, and kills the daemons at the end."""
    made: list[Process] = []
    channel = {"WEBHOOKD_ALERTS__OPS__URL": http.url(), "WEBHOOKD_ALERTS__OPS__SECRET": SECRET}

    def make(**settings: str) -> Process:
        folder = tmp_path / f"daemon{len(made)}"
        folder.mkdir()
        more = {f"WEBHOOKD_{name.upper()}": value for name, value in settings.items()}
        made.append(Process({**servers.settings, **channel, **more}, folder))
        return made[-1]

    yield make
    for process in made:
        process.end(signal.SIGKILL)


async def hasten(connection: Connection) -> None:
    """Ends the leases and the duty of replicas that were killed, as two minutes do."""
    await connection.execute("UPDATE alert_messages SET due = now() WHERE due > now()")
    await connection.execute("UPDATE duties SET held_until = now() - interval '1 second'")


@pytest.mark.parametrize("killed", ["after the message was sent", pytest.param("before it was sent", marks=pytest.mark.long)])
async def test_a_message_survives_a_kill_of_the_replica_that_tells_it(
    daemon: Daemon, http: HttpChannel, connection: Connection, killed: str
) -> None:
    after = killed == "after the message was sent"
    if not after:
        http.answers = [(503, {})] * 1_000
    first = daemon(**({"failpoints": Failpoint.ALERTS_AFTER_SEND} if after else {}))
    await bury(connection, 1)
    await first.start()
    await until(lambda: http.posts, "the daemon has sent, or has tried to", deadline=90)
    if after:
        await until(lambda: not first.running, "the daemon is killed at the failpoint")
    first.end(signal.SIGKILL)
    http.answers.clear()
    before = len(http.posts)
    assert await connection.fetchval("SELECT count(*) FROM alert_messages") == 1
    second = daemon()
    await second.start()
    await hasten(connection)
    await until(lambda: len(http.posts) > before, "another daemon tells it", deadline=90)
    await until(lambda: connection.fetchval("SELECT count(*) = 0 FROM alert_messages"), "the message counts as sent")
    await hasten(connection)
    age = "SELECT evaluated_at FROM alert_replicas WHERE evaluated_at > $1"
    sent_at = await connection.fetchval("SELECT now()")
    await until(lambda: connection.fetchval(age, sent_at), "the conditions are evaluated once more", deadline=60)
    assert len(http.posts) == before + 1
    assert {post.header["webhook-id"] for post in http.posts} == {http.posts[0].header["webhook-id"]}
    assert {post.json["data"]["condition"] for post in http.posts} == {"dead_events"}
