"""The guide's commands for operators, each exactly as written there, against a real daemon."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from typing import Any

import asyncpg
import pytest

from tests.conftest import Servers, Start
from tests.helpers.command import webhookd
from tests.helpers.guide import lines_of
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Permanent
from webhookd.event import Event
from webhookd.process.handlers import Registry

TOKEN = "operate-0123456789"
PAYMENT = "net.authorize.payment.authcapture.created"
LINES = lines_of("events", "timeline", "stats", "quarantine", "refused")


def test_the_guide_shows_each_group() -> None:
    told = {" ".join(line.split()[1:3]) for line in LINES}
    assert {"events list", "events show", "events retry", "events replay", "events tail", "quarantine list"} <= told
    assert {"timeline transaction", "stats --window", "refused list"} <= told


@pytest.fixture
async def dead(start: Start, connection: asyncpg.Connection[Any]) -> tuple[Daemon, str]:
    """Starts a daemon with a dead event and a body in quarantine, and returns the daemon and the event's id."""
    registry = Registry()

    async def refuse(_: Event, __: Any) -> None:
        raise Permanent("the order is unknown")

    registry.add("*", refuse)
    daemon = await start(registry, admin_tokens={"ann": TOKEN})
    unusable = sampling.Sample("unusable", "", "", b"no JSON")
    sent = await traffic.send([*sampling.stream([PAYMENT], 1), unusable], f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert sent.failed == 0

    async def ended() -> Any:
        return await connection.fetchval("SELECT id::text FROM events WHERE status = 'dead'")

    return daemon, await until(ended, "the event is dead")


def environment(servers: Servers, daemon: Daemon) -> dict[str, str]:
    """Returns the environment of an operator's laptop: an address and a token, and no setting of the daemon."""
    (servers.folder / "token").write_text(f"{TOKEN}\n")
    return {"WEBHOOKD_API_URL": daemon.admin_url, "WEBHOOKD_API_TOKEN_FILE": str(servers.folder / "token")}


@pytest.mark.parametrize("line", [line for line in LINES if "tail" not in line])
async def test_a_command_of_the_guide_does_what_it_says(
    servers: Servers, dead: tuple[Daemon, str], connection: asyncpg.Connection[Any], line: str
) -> None:
    daemon, event = dead
    transaction = await connection.fetchval("SELECT entity_id FROM events")
    body = await connection.fetchval("SELECT id::text FROM quarantine")
    here = {"ID": body if " quarantine " in line else event, "60022194830": transaction}
    await connection.execute(
        "INSERT INTO webhookd.provider_subscriptions (account, subscription_id, status, status_since, seen_at)"
        " VALUES ('default', '4415473', 'active', now(), now())"
    )
    words = [here.get(word, word) for word in shlex.split(line, comments=True)[1:]]
    code, out, err = await webhookd(*words, "--json", folder=servers.folder, **environment(servers, daemon))
    assert (code, err) == (0, "")
    told = json.loads(out)
    match words[:2]:
        case ["events", "list"]:
            assert [row["id"] for row in told["events"]] == ([event] if "dead" in words else [])
        case ["events", "show"]:
            error = told["failed_attempts"][0]["error"]
            assert error.startswith(f"Permanent: the order is unknown [handler {__name__}.dead.<locals>.refuse at {__file__}:")
        case ["events", "retry"]:
            trail = await connection.fetch("SELECT actor, reason FROM audit WHERE event_id = $1", event)
            note = words[words.index("--note") + 1]
            assert ("operator (ann)", note) in [(row["actor"], row["reason"]) for row in trail]
        case ["events", "replay"]:
            assert told["state"] == "done"
            assert told["dry_run"] is True
        case ["timeline", "transaction"]:
            assert told["state"] == "captured"
            assert [row["id"] for row in told["events"]] == [event]
        case ["timeline", "subscription"]:
            assert told["settlement"]["status"] == "active"
        case ["timeline", "missed-renewals"]:
            assert told["renewals"] == []
        case ["refused", "list"]:
            assert told["samples"] == []
        case ["stats", *_]:
            assert told["window"] == (86_400 if "1d" in words else 3600)
        case ["quarantine", "list"]:
            assert [row["id"] for row in told["bodies"]] == [body]
        case ["quarantine", "release"]:
            assert told == {"total": 0, "reasons": {}}, "the body that waits has another reason"
        case ["quarantine", "show"]:
            assert (told["id"], told["reason"]) == (body, "not_json")
        case _:
            pytest.fail(f"nothing is known of what {line!r} should do")


async def test_tail_shows_what_comes_and_ends_well_by_ctrl_c(servers: Servers, dead: tuple[Daemon, str]) -> None:
    daemon, _ = dead
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhookd", "events", "tail", "--json"),
        env={**os.environ, **environment(servers, daemon)},
        cwd=servers.folder,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    shown = None
    for number in range(100):  # the command does not show events from before it began to follow
        await traffic.send(
            sampling.stream([PAYMENT], 1, first=1000 + number), f"{daemon.public_url}/webhooks/authorize-net", KEY
        )
        try:
            shown = json.loads(await asyncio.wait_for(process.stdout.readline(), 0.5))
            break
        except TimeoutError:
            continue
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 10)
    assert shown is not None
    assert shown["event_type"] == PAYMENT
    assert process.returncode == 130
