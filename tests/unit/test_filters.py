"""A filter is one line of a table: each place that knows the filters knows every line."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.helpers.admin_api import commands, ran, serving
from webhookd.admin.dead_letter_routes import DeadLetterRoutes, Redrive
from webhookd.admin.event_routes import EventRoutes
from webhookd.admin.openapi import document
from webhookd.admin.operation_routes import OperationRoutes, Replay
from webhookd.admin.quarantine_routes import QuarantineRoutes
from webhookd.operate.filter import DeadEventFilter, Filter, FilterField, QuarantineFilter, Table, choose, filters_of
from webhookd.store.queries import SQL, queries

DASHBOARD = Path(__file__).parents[2] / "webhookd" / "admin" / "dashboard"
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
TABLES = (Filter, DeadEventFilter, QuarantineFilter)
LINES = [pytest.param(table, line, id=f"{table.__name__}.{line.name}") for table in TABLES for line in filters_of(table)]
PATHS = {Filter: "events", DeadEventFilter: "dead-letters", QuarantineFilter: "quarantine"}
BODIES = {Filter: "ReplayFilter", DeadEventFilter: "DeadFilter"}
COMMANDS = {
    Filter: ["events list", "events replay", "events tail"],
    DeadEventFilter: ["dead-letters list", "dead-letters redrive", "dead-letters discard"],
    QuarantineFilter: ["quarantine list"],
}
QUERIES = {
    Filter: ["search_events", "search_open", "search_key", "choose_finished", "choose_stored"],
    DeadEventFilter: ["search_dead", "choose_dead"],
    QuarantineFilter: ["list_quarantine"],
}
PAGES = {
    Filter: [["events.js", "filters.js"], ["replay.js", "filters.js"]],
    DeadEventFilter: [["dead-letters.js"]],
    QuarantineFilter: [["quarantine.js"]],
}
# A tail shows new events. The bounds of deaths are the places where the statements begin and end.
NOT_THERE = {
    *(("events tail", name) for name in ("received_from", "received_to")),
    *((query, name) for query in ("search_dead", "choose_dead") for name in ("died_from", "died_to")),
    # A search for what waits is used if no index of the ledger finds the events.
    *(("search_open", line.name) for line in filters_of(Filter) if line.about.index),
}


def api() -> dict[str, Any]:
    routes = [*EventRoutes(Any).routes(), *DeadLetterRoutes(Any, Any, Any).routes()]  # type: ignore[arg-type]
    return document([*routes, *OperationRoutes(Any, Any).routes(), *QuarantineRoutes(Any).routes()])  # type: ignore[arg-type]


@pytest.mark.parametrize(("table", "line"), LINES)
def test_the_api_takes_and_describes_it(table: type, line: FilterField) -> None:
    described = api()
    listed = {one["name"]: one for one in described["paths"][f"/webhooks/{PATHS[table]}"]["get"]["parameters"]}
    assert listed[line.name]["description"] == line.about.text
    assert (listed[line.name]["schema"]["type"] == "array") == (line.kind is tuple)
    if table in BODIES:
        assert described["components"]["schemas"][BODIES[table]]["properties"][line.name]["description"]


@pytest.mark.parametrize(("table", "line"), LINES)
def test_its_commands_have_an_option(table: type, line: FilterField) -> None:
    option = f"--{line.about.option or line.name.replace('_', '-')}"
    for command in COMMANDS[table]:
        found: Any = typer.main.get_command(commands())
        for name in command.split():
            found = found.commands[name]
        options = {name: one for one in found.params for name in one.opts}
        assert (option in options) == ((command, line.name) not in NOT_THERE), command
        if option in options:
            assert options[option].help.endswith(" May be repeated.") == (line.kind is tuple)
            assert options[option].multiple == (line.kind is tuple)


@pytest.mark.parametrize(("table", "line"), LINES)
def test_its_statements_use_it(table: type, line: FilterField) -> None:
    for name in QUERIES[table]:
        used = getattr(queries, name).attributes["wanted"]
        assert any(one.startswith(line.name) for one in used) == ((name, line.name) not in NOT_THERE), name
        assert all(hasattr(table, one) for one in used), name


@pytest.mark.parametrize(("table", "line"), LINES)
def test_the_dashboard_offers_it(table: type, line: FilterField) -> None:
    for files in PAGES[table]:
        text = "".join((DASHBOARD / name).read_text() for name in files)
        assert f'"{line.name}"' in text, files


@pytest.mark.parametrize("line", [line for line in filters_of(Filter) if line.about.index], ids=lambda line: line.name)
def test_its_index_is_of_the_ledger(line: FilterField) -> None:
    text = "\n".join(path.read_text() for path in (SQL / "migrations").glob("*.sql"))
    assert re.search(rf"CREATE INDEX (CONCURRENTLY )?{line.about.index} ON webhookd\.ledger \({line.name}\b", text)


@pytest.mark.parametrize(("table", "line"), [one for one in LINES if one.values[0] in BODIES])
def test_an_operation_stores_it_and_its_runner_reads_it(table: type, line: FilterField) -> None:
    given = {str: "seven", datetime: "2026-03-01T14:00:00+02:00", tuple: ["dead"]}[line.kind]
    body: Any = {"filter": {line.name: given}, "reason": "a test"}
    if table is DeadEventFilter:
        stored = Redrive.model_validate_json(json.dumps(body), strict=True).selection()
    else:
        body["filter"] = {"account": "shop"} | body["filter"]
        replay: Any = Replay.model_validate_json(json.dumps(body), strict=True)
        stored = replay.filter.model_dump(mode="json", exclude_none=True)
    read: Any = choose(table, json.loads(json.dumps(stored)))
    assert getattr(read, line.name) == {str: "seven", datetime: AT, tuple: ("dead",)}[line.kind]


STORED: list[tuple[type[Any], dict[str, Any], Any]] = [
    (Filter, {"status": ["dead"], "account": "shop"}, Filter(status=("dead",), account="shop")),
    (
        Filter,
        {"status": ["processed", "dead"], "event_type": ["payment.*"], "received_from": "2026-03-01T12:00:00Z"},
        Filter(status=("processed", "dead"), event_type=("payment.*",), received_from=AT),
    ),
    (
        Filter,
        {"status": ["dead"], "entity_id": "7", "invoice_number": "I", "merchant_reference": "R", "received_to": AT.isoformat()},
        Filter(status=("dead",), entity_id="7", invoice_number="I", merchant_reference="R", received_to=AT),
    ),
    (DeadEventFilter, {}, DeadEventFilter()),
    (
        DeadEventFilter,
        {"event_type": ["*.x"], "account": "a", "reason": "r", "died_from": "2026-03-01T12:00:00Z", "died_to": AT.isoformat()},
        DeadEventFilter(event_type=("*.x",), account="a", reason="r", died_from=AT, died_to=AT),
    ),
]


@pytest.mark.parametrize(("table", "stored", "filter_"), STORED)
def test_a_selection_that_release_0_3_0_stored_is_read(table: type[Table], stored: dict[str, Any], filter_: Table) -> None:
    assert choose(table, stored) == filter_


def test_a_filter_of_a_later_release_is_not_left_out() -> None:
    with pytest.raises(ValueError, match="colour: this release has no such filter"):
        choose(Filter, {"status": ["dead"], "colour": "red"})


async def test_an_option_that_is_not_given_is_left_out_and_an_empty_one_is_left_to_the_api_to_refuse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script whose variable is empty must not choose more events than it means."""
    monkeypatch.chdir(tmp_path)
    async with serving() as api:
        api.answer("GET", "events", {"events": [], "next": None, "searched_to": None})
        await ran(api.url, "events", "list", "--account", "", "--since", "2026-03-01T12:00")
    assert api.asked[0].query == {"limit": ["50"], "account": [""], "received_from": ["2026-03-01T12:00:00Z"]}
