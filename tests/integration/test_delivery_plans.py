"""The statements about deliveries read their indexes, also by a plan that was made while no delivery waited."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.helpers.database import connect
from webhookd.store.pools import SESSIONS
from webhookd.store.queries import queries

# Each statement, and the indexes of `deliveries` that it may read.
INDEXES = {
    "due_destinations": {"deliveries_waiting", "deliveries_retrying"},
    "claim_deliveries": {"deliveries_waiting", "deliveries_retrying", "deliveries_pkey"},
    "end_deliveries": {"deliveries_pkey"},
    "fail_delivery": {"deliveries_pkey"},
    "put_back_delivery": {"deliveries_pkey"},
    "destination_count": {"deliveries_waiting", "deliveries_retrying", "deliveries_dead"},
    "destination_is_known": {"deliveries_waiting", "deliveries_retrying", "deliveries_dead"},
    "destination_counts": {"deliveries_waiting", "deliveries_retrying", "deliveries_dead"},
    "list_deliveries": {"deliveries_waiting", "deliveries_retrying", "deliveries_dead"},
    "hasten_retries": {"deliveries_retrying", "deliveries_pkey"},
    "redrive_deliveries": {"deliveries_dead", "deliveries_pkey"},
    "drop_deliveries": {"deliveries_waiting", "deliveries_retrying", "deliveries_dead", "deliveries_pkey"},
    "deliveries_of_event": {"deliveries_pkey"},
    "oldest_deliveries": {"deliveries_waiting", "deliveries_retrying", "deliveries_dead"},
    "replay_gate": {"deliveries_waiting", "deliveries_retrying"},
    "choose_stored": {"deliveries_pkey"},
}


def reads(plan: dict[str, Any]) -> Iterator[str]:
    """Yields the index of each node that reads `deliveries`; says so if a node reads all of the table or of the index."""
    name = plan.get("Index Name", "")
    if name.startswith("deliveries_"):
        bounded = plan.get("Index Cond") or plan.get("Scan Direction") == "Forward"
        yield name if bounded else f"all of {name}"
    elif plan.get("Relation Name") == "deliveries" and plan["Node Type"] == "Seq Scan":
        yield "no index"
    for below in plan.get("Plans", ()):
        yield from reads(below)


@pytest.fixture(params=["never analyzed", "analyzed while empty", "analyzed with a backlog"])
async def planned(request: pytest.FixtureRequest, database_url: str) -> Any:
    connection = await connect(database_url)
    if request.param == "analyzed while empty":
        await connection.execute("VACUUM ANALYZE deliveries")
    insert = "INSERT INTO deliveries (event_id, destination) SELECT gen_random_uuid(), 'shop' FROM generate_series(1, 20000)"
    if request.param == "analyzed with a backlog":
        await connection.execute(insert)
        await connection.execute("VACUUM ANALYZE deliveries")
    for setting, value in SESSIONS["short"].items():
        await connection.execute(f"SET {setting} = {value}")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", INDEXES)
async def test_a_statement_reads_its_index(planned: asyncpg.Connection[Any], name: str) -> None:
    text = getattr(queries, name).sql
    await planned.execute(f"PREPARE {name} AS {text}")
    nothing = ", ".join("NULL" for _ in set(re.findall(r"\$\d+", text)))
    call = f"({nothing})" if nothing else ""
    explained = await planned.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name}{call}")
    found = set(reads(json.loads(explained)[0]["Plan"]))
    assert found, name
    assert found <= INDEXES[name], explained


@pytest.mark.parametrize("name", ["redrive_deliveries", "drop_deliveries", "hasten_retries"])
async def test_a_batch_of_an_operator_is_chosen_without_sorting_what_waits(database_url: str, name: str) -> None:
    connection = await connect(database_url, server_settings=SESSIONS["admin"])
    await connection.execute("VACUUM ANALYZE deliveries")
    await connection.execute(
        "INSERT INTO deliveries (event_id, destination, status, due) "
        "SELECT gen_random_uuid(), 'shop', status, now() + interval '1 hour' "
        "FROM generate_series(1, 20000), unnest('{waiting,retrying,dead}'::text[]) AS status"
    )
    given = {"destination": "shop", "ids": None, "most": 1000, "unfinished": True, "actor": "ann", "reason": None}
    text = getattr(queries, name).sql
    left_out = {"redrive_deliveries": {"unfinished"}, "hasten_retries": {"ids", "unfinished", "actor", "reason"}}.get(
        name, set()
    )
    order = [given[part] for part in given if part not in left_out]
    async with connection.transaction():
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", *order)
    assert '"Sort"' not in explained
    assert max(read(json.loads(explained)[0]["Plan"])) <= 3000, explained
    await connection.close()


def read(plan: dict[str, Any]) -> Iterator[float]:
    """Yields the number of rows that each node took from `deliveries`."""
    if plan.get("Relation Name") == "deliveries":
        yield plan["Actual Rows"] * plan["Actual Loops"]
    for below in plan.get("Plans", ()):
        yield from read(below)
