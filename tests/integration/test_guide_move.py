"""The guide's way from another receiver to webhookd, by the guide's own commands: no event is lost, none is booked twice."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from tests.conftest import Servers, Start
from tests.helpers.command import shell, webhookd
from tests.helpers.database import Connection, connect
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.operator import AUTHCAPTURE
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet.sampling import Sample, sample
from webhookd.dev import traffic
from webhookd.event import Event
from webhookd.process.handlers import Registry

PAGE = (GUIDE / "move.md").read_text()
BEGIN, COMPARE, SWITCH, OPEN = ([line for line in block.splitlines() if line] for block in blocks(PAGE, "sh"))


@pytest.fixture
async def old(empty_url: str) -> AsyncIterator[Connection]:
    """Opens the database of the old receiver, which stores JSON as PostgreSQL writes it anew."""
    connection = await connect(empty_url)
    await connection.execute("CREATE TABLE webhooks (received_at timestamptz, body bytea, processed boolean)")
    yield connection
    await connection.close()


async def receive(old: Connection, sent: Sample, *, processed: bool, at: datetime) -> None:
    """Stores the event as it came to the old webhook: with a notification id of its own, and parsed and written anew."""
    body = json.loads(sent.body, parse_float=float) | {"notificationId": f"old-{sent.notification_id}"}
    await old.execute(
        "INSERT INTO webhooks VALUES ($1, $2, $3)", at, json.dumps(body, indent=1, sort_keys=True).encode(), processed
    )


async def test_the_commands_of_the_page_lose_no_event_and_double_none(
    servers: Servers, start: Start, connection: Connection, old: Connection, empty_url: str
) -> None:
    async def run(line: str) -> dict[str, int]:
        if line.startswith("psql "):
            await shell(re.sub(r"'2026-[^']*'", "'2000-01-01'", line), servers.folder, OLD_URL=empty_url)
            return {}
        code, out, err = await webhookd(*line.split()[1:], "--json", folder=servers.folder, **servers.settings)
        assert (code, err) == (0, ""), out
        report: dict[str, int] = json.loads(out)
        return report

    assert BEGIN == ["webhookd migrate", "WEBHOOKD_ROLES=receive webhookd serve"]
    receiving = await start(roles="receive")
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=20)
    both = [sample(AUTHCAPTURE, number) for number in range(5)]
    before = [sample(AUTHCAPTURE, number, long_ago) for number in range(5, 8)]
    async with aiohttp.ClientSession() as http:
        for number, sent in enumerate(both):
            answer = await traffic.post(http, f"{receiving.public_url}/webhooks/authorize-net", sent, key=KEY)
            assert answer.outcome == "accepted"
            await receive(old, sent, processed=number < 3, at=now)

    reports = [await run(line) for line in COMPARE]
    assert (reports[-1]["imported"], reports[-1]["duplicates"]) == (0, 5), "webhookd has all that the old receiver has"

    for number, sent in enumerate(before):
        await receive(old, sent, processed=number < 2, at=long_ago)
    reports = [await run(line) for line in SWITCH]
    assert [(r["imported"], r["duplicates"], r["ended"]) for r in reports[1:]] == [(2, 3, 3)] * 2, "the dry run says so before"
    reports = [await run(line) for line in OPEN]
    assert (reports[-1]["imported"], reports[-1]["duplicates"]) == (1, 2)
    await receiving.stop()

    booked: list[str] = []
    registry = Registry()

    async def book(event: Event, _: object) -> None:
        booked.append(event.payload["id"])

    registry.add("*", book)
    await start(registry)

    async def done() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM work")

    await until(done, "webhookd has processed what was left", deadline=30)
    assert sorted(booked) == sorted(sent.entity_id for sent in (*both[3:], before[2]))
    assert await connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'") == 8
    assert await connection.fetchval("SELECT count(*) FROM transactions") == 8


async def test_the_line_of_the_page_has_the_fields_of_the_page(servers: Servers) -> None:
    (example,) = blocks(PAGE, "json")
    fields = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
    assert fields == {"received_at", "body", "body_base64", "signature", "account"}
    assert set(json.loads(example)) < fields
    (servers.folder / "old.jsonl").write_text(example)
    code, out, _ = await webhookd("import", "old.jsonl", "--json", folder=servers.folder, **servers.settings)
    assert code == 1
    assert "signature" in json.loads(out)["problems"][0]["reason"], "all is read, and the example's signature is none"
