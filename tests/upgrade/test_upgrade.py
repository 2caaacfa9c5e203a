"""An upgrade under load, and the way back, lose no event, double none and refuse no webhook."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Servers
from tests.helpers.operator import Json, Operator
from tests.helpers.running import Process
from tests.helpers.wait import until
from tests.upgrade import release
from tests.upgrade.fleet import Fleet, together
from webhookd.settings import Settings
from webhookd.store.queries import MIGRATIONS

COMMANDS = str(Path(__file__).parent / "commands.py")
RETENTION = str(Path(__file__).parent / "retention.py")
NEW = sorted(MIGRATIONS - {name.removesuffix(".sql") for name in release.migrations()})
LOOKS = [
    ["dead-letters", "list", "--limit", "5"],
    ["stats", "--window", "1h"],
    ["quarantine", "list", "--limit", "5"],
    ["operations", "list"],
    ["events", "list", "--event-type", "payment.*", "--status", "processed"],
    ["events", "list", "--invoice-number", "4711"],
]
# Events that ended long ago; only retention reads them.
_ANCIENT = """
INSERT INTO ledger (id, notification_key, body_hash, received_at, event_date, kind, notification_id)
SELECT (left(webhookd.first_id(at)::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, md5('ancient-' || n)::uuid, gen_random_uuid(),
    at, at, 1, 'ancient-' || n
FROM generate_series(1, 300) AS n, (SELECT now() - interval '900 days' AS at) AS ancient
"""


@asynccontextmanager
async def loaded(fleet: Fleet, rate: float) -> AsyncIterator[None]:
    """Sends the load during the block; checks that no webhook was refused or waited too long."""
    stop = asyncio.Event()
    sending = asyncio.create_task(fleet.load(rate, stop))
    try:
        yield
    finally:
        stop.set()
        await sending
    assert not fleet.failed
    assert fleet.slowest < Settings.model_fields["commit_timeout"].default


async def worked(fleet: Fleet, more: int) -> None:
    """Waits until `more` more webhooks are acknowledged, and half as many more events are processed or dead."""
    query = "SELECT count(*) FROM audit WHERE to_status IN ('processed', 'dead')"
    received = len(fleet.ledger.acknowledged) + more
    ended = await fleet.database.fetchval(query) + more // 2

    async def enough() -> bool:
        return len(fleet.ledger.acknowledged) >= received and await fleet.database.fetchval(query) >= ended

    await until(enough, f"{more} more webhooks are received, and worked on", deadline=600, every=0.1)


async def signed(fleet: Fleet, release: str) -> None:
    """Waits until the handlers of `release` have processed some more events."""
    goal = (await fleet.signed()).get(release, 0) + 5

    async def enough() -> bool:
        return (await fleet.signed()).get(release, 0) >= goal

    await until(enough, f"the {release} release works", deadline=600, every=0.1)


async def look(fleet: Fleet, replica: Process) -> str:
    """Reads by the API whatever an operator sees; returns the id of an event."""
    api = Operator(replica.admin_url)

    async def get(path: str, **query: Any) -> Json:
        status, found = await api.get(path, **query)
        assert status == 200, (path, found)
        return found

    found = await get("events", limit=5, event_type="payment.fraud.held")
    while not found["events"]:  # a call searches some of the events, and returns a cursor for the next
        found = await get("events", limit=5, event_type="payment.fraud.held", cursor=found["next"])
    event: Json = found["events"][0]
    for path in ("dead-letters", "quarantine", "operations", "stats", "health", f"events/{event['id']}"):
        await get(path)
    await get("events", invoice_number=event["invoice_number"])
    return str(event["id"])


async def operate(fleet: Fleet, replica: Process, *, old: bool) -> None:
    """Does an operator's work by either release's commands: looks at several things, and retries an event."""
    event = await look(fleet, replica)
    commands = [["events", "retry", event, "--note", "the gate may be open"], ["events", "show", event], *LOOKS]
    script = json.dumps([[*words, "--json"] for words in commands])
    outputs = json.loads(await fleet.run(COMMANDS, script, old=old, at=replica))
    assert all(json.loads(output) for output in outputs)


async def retain(fleet: Fleet) -> None:
    """Runs the previous release's retention, with events that it must remove."""
    await fleet.database.execute(_ANCIENT)
    await fleet.run(RETENTION, old=True)
    assert await fleet.database.fetchval("SELECT count(*) FROM events WHERE notification_id LIKE 'ancient-%'") == 0


async def migrated(fleet: Fleet, *, old: bool) -> list[str]:
    """Runs one release's `webhookd migrate`; returns the names of the migrations that it applied."""
    applied: list[str] = json.loads(await fleet.run("-m", "webhookd", "migrate", "--json", old=old))["applied"]
    return applied


async def migrated_already(fleet: Fleet) -> None:
    """Checks that the previous release finds nothing to apply."""
    assert await migrated(fleet, old=True) == []


@pytest.mark.parametrize(
    ("seed", "rate", "more", "rounds", "crossed"),
    [
        pytest.param(300, 25.0, 25, 1, None, id="short", marks=pytest.mark.timeout(900)),
        pytest.param(1000, 40.0, 200, 3, 0, id="long", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
async def test_upgrade_and_the_way_back(
    previous: Path, old_servers: Servers, seed: int, rate: float, more: int, rounds: int, crossed: int | None
) -> None:
    async with Fleet(old_servers, previous) as fleet:
        ledger = fleet.ledger
        one, two = await asyncio.gather(fleet.start(old=True), fleet.start(old=True))
        # Makes events that are processed, dead, put off, on their way or in quarantine, and later a running operation.
        await ledger.send(fleet.samples(seed), [one.webhook_url, two.webhook_url])
        async with loaded(fleet, rate):
            await worked(fleet, more)
            statuses = {row["status"] for row in await fleet.database.fetch("SELECT DISTINCT status FROM events")}
            assert {"processed", "dead", "retrying"} <= statuses
            # Sessions use statements again after the migration that they prepared before it.
            await together(look(fleet, one), look(fleet, two))
            redrive = await Operator(one.admin_url).order("dead-letters/redrive", all=True, rate=4, dry_run=False)

            assert await migrated(fleet, old=False) == NEW

            # The previous release keeps working.
            await together(look(fleet, one), look(fleet, two))
            await together(worked(fleet, more), operate(fleet, one, old=True), retain(fleet))
            assert set(await fleet.signed()) == {"previous"}

            for number in range(rounds):
                # The replicas are replaced one by one, and both releases share the work.
                one = await fleet.replace(one, old=False)
                await together(signed(fleet, "present"), signed(fleet, "previous"))
                await together(worked(fleet, more), look(fleet, one), look(fleet, two))
                if number == crossed:  # an operator's laptop has the other release
                    await together(operate(fleet, one, old=True), operate(fleet, two, old=False))
                two = await fleet.replace(two, old=False)
                # The way back: a deployment of the previous release migrates first, too.
                await together(signed(fleet, "present"), migrated_already(fleet))
                one = await fleet.replace(one, old=True)
                await together(signed(fleet, "present"), signed(fleet, "previous"), worked(fleet, more))
                await fleet.database.execute("UPDATE gate SET open = true")
                if number < rounds - 1:
                    two = await fleet.replace(two, old=True)
                    await worked(fleet, more)
                    await fleet.database.execute("UPDATE gate SET open = false")

        await ledger.settle([one.webhook_url, two.webhook_url])
        ended = await Operator(two.admin_url).ended(redrive)
        assert ended["state"] == "done", ended
        assert ended["done"] + ended["skipped"] == ended["total"] > 0
        await ledger.settle([one.webhook_url, two.webhook_url])
        await ledger.check(releases=2)
        assert fleet.misread() == []
        await _counted(fleet, one, two)


async def _counted(fleet: Fleet, *replicas: Process) -> None:
    """Waits until each replica reports the same totals of what all replicas have counted."""
    events = await fleet.database.fetchval("SELECT count(*) FROM events")
    processed = await fleet.database.fetchval("SELECT count(*) FROM events WHERE status = 'processed'")

    async def agree() -> bool:
        totals = [(await Operator(replica.admin_url).get("stats", window=3600))[1]["totals"] for replica in replicas]
        return all((told["received"], told["processed"]) == (events, processed) for told in totals)

    await until(agree, f"both count {events} received and {processed} processed", deadline=120, every=0.5)
