"""PostgreSQL finds an event that is looked up by id by its id, whatever number of waiting events the statistics show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.helpers.database import connect
from tests.helpers.stored import store_kind
from webhookd.store.pools import SESSIONS
from webhookd.store.queries import queries

# These queries run in the sessions that handlers use.
_BESIDE_HANDLERS = {"claim_event", "claim_event_if_free", "mark_processed"}
# These queries choose by other columns, and ids narrow the choice or find other rows of what was chosen.
_CHOOSE = {
    "alert_deaths",
    "choose_dead",
    "likely_twins",
    "owe_dead_letters",
    "search_dead",
    "search_key",
    "search_open",
    "settled_rows",
}


def looks_up() -> list[str]:
    """Returns the names of the queries that look events up by id."""
    found = []
    for name in queries.available_queries:
        text = getattr(queries, name).sql
        by_id = re.search(r"\b(event_)?id = (\$\d|ANY\(\$\d|[a-z]\.(event_)?id\b)", text)
        if (
            by_id
            and re.search(r"\b(FROM|JOIN|UPDATE) webhookd\.(ledger|work)\b", text)
            and not name.endswith("_cursor")
            and name not in _CHOOSE
        ):
            found.append(name)
    return found


def scans(plan: dict[str, Any]) -> Iterator[str]:
    """Yields, for each node that reads the ledger or the work, its index; says so if the node looks up no id and reads all."""
    if plan.get("Index Name", "").startswith(("ledger_", "work_")):
        by_id = re.search(r"\b((event_)?id|notification_key) = |\b(event_)?id [<>]", plan.get("Index Cond", ""))
        yield plan["Index Name"] if by_id else f"all of {plan['Index Name']}"
    elif plan.get("Relation Name") in ("ledger", "work") and plan["Node Type"] == "Seq Scan":
        yield "no index"
    for below in plan.get("Plans", ()):
        yield from scans(below)


@pytest.fixture(params=[0, 20])
async def little_waits(request: pytest.FixtureRequest, database_url: str) -> Any:
    """Yields a connection to a database whose statistics date from a time when `request.param` events had not ended."""
    connection = await connect(database_url)
    await connection.execute(
        "INSERT INTO ledger (id, notification_key, kind, notification_id, body_hash) "
        "SELECT gen_random_uuid(), gen_random_uuid(), $1, n, gen_random_uuid() FROM generate_series(1, 20000) AS n",
        await store_kind(connection),
    )
    await connection.execute(
        "INSERT INTO work (event_id, consumer, due) SELECT id, 'handlers', now() FROM ledger LIMIT $1", request.param
    )
    await connection.execute("VACUUM work")
    await connection.execute("ANALYZE ledger, work; SET plan_cache_mode = force_generic_plan")
    yield connection
    await connection.close()


def test_there_are_such_queries() -> None:
    assert {"mark_sent", "process_events", "put_back", "mark_retrying", "mark_dead", "claim_event", "read_events"} <= set(
        looks_up()
    )
    assert {"revive_event", "redrive_events", "discard_events", "mark_dead_letter_sent"} <= set(looks_up())


async def test_look_ups_by_id_read_no_index_of_what_waits(little_waits: asyncpg.Connection[Any]) -> None:
    for name in looks_up():
        found = set(scans(await _plan(little_waits, name)))
        assert found, name
        assert found <= {"ledger_pkey", "work_pkey", *(("ledger_notification_key",) if name == "missing_events" else ())}, name


async def test_twins_are_looked_up_by_their_entity(little_waits: asyncpg.Connection[Any]) -> None:
    plan = json.dumps(await _plan(little_waits, "likely_twins"))
    assert set(re.findall(r'"Index Name": "(ledger_\w+)"', plan)) == {"ledger_entity"}
    assert re.search(r'"Index Cond": "\(entity_id = ', plan)
    assert not re.search(r'"Node Type": "Seq Scan", [^}]*"Relation Name": "(ledger|bodies)', plan)


async def _plan(connection: asyncpg.Connection[Any], name: str) -> dict[str, Any]:
    # Handlers run in the other sessions, in which webhookd sets nothing of its own.
    for setting, value in {} if name in _BESIDE_HANDLERS else SESSIONS["short"].items():
        await connection.execute(f"SET {setting} = {value}")
    text = getattr(queries, name).sql
    await connection.execute(f"PREPARE {name} AS {text}")
    nothing = ", ".join("NULL" for _ in set(re.findall(r"\$\d+", text)))
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name} ({nothing})")
    await connection.execute("RESET ALL; SET plan_cache_mode = force_generic_plan; SET search_path = public, webhookd")
    plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return plan
