"""Replays to destinations: one at a time for each, in bounded steps, and none in the way of other operations."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from tests.conftest import Start
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Connection, Operator, bury
from tests.helpers.stored import store_kind
from tests.integration.test_destination_replay import REPLAY, WAITING, replay
from tests.integration.test_destinations import destination
from webhookd.daemon import Daemon
from webhookd.deliver.destination import Destination
from webhookd.operate import runner
from webhookd.operate.destination_replays import Choice, DestinationReplays
from webhookd.operate.filter import Filter
from webhookd.settings.destinations import DestinationSettings
from webhookd.store.pools import Connection as Lent

FIRST = uuid.UUID(int=0)
NOWHERE = "http://127.0.0.1:9/hooks"
HISTORY = "INSERT INTO webhookd.audit (event_id, from_status, to_status, actor) VALUES ($1, 'received', 'processed', 'import')"
ENDED = "INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, consumer) VALUES ($1, 'waiting', $2, 'x', 'shop')"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the looks for operations frequent."""
    monkeypatch.setattr(runner, "_IDLE", 0.05)
    monkeypatch.setattr(runner, "_PAUSE", 0.5)


@pytest.fixture
async def idle(start: Start) -> Daemon:
    """Returns a daemon with the destination shop that sends nothing."""
    return await start(roles="receive", destinations={"shop": destination(NOWHERE)}, admin_tokens=ANN)


async def chosen(
    connection: Connection, size: int, *, after: uuid.UUID = FIRST, **settings: Any
) -> tuple[list[Choice], uuid.UUID | None]:
    """Returns a page of a replay to a destination of these settings."""
    shop = Destination("shop", DestinationSettings.model_validate(destination(NOWHERE, **settings)))
    page = await DestinationReplays(lambda: {"shop": shop}).choose(
        cast("Lent", connection),
        "shop",
        Filter(),
        ids=(after, uuid.UUID(int=2**128 - 1)),
        until=datetime.now(UTC),
        imported=False,
        looked=4000,
        size=size,
    )
    assert page is not None
    return page


async def test_a_destination_has_one_replay_at_a_time(idle: Daemon, connection: Connection) -> None:
    operator = Operator(idle.admin_url)
    await connection.execute(WAITING, "shop", 10)
    await bury(connection, 3, status="processed")
    order = REPLAY | {"dry_run": False, "rate": 0.1}
    answers = await asyncio.gather(*(operator.post("destinations/shop/replay", order) for _ in range(4)))
    assert sorted(status for status, _ in answers) == [202, 409, 409, 409]
    (first,) = [answer for status, answer in answers if status == 202]
    refused = next(answer["detail"] for status, answer in answers if status == 409)
    assert f"wait for the operation {first['id']}, or cancel it (`webhookd operations cancel {first['id']}`)" in refused
    assert (await replay(idle, dry_run=True))["total"] == 3, "a dry run is always possible"
    assert (await operator.post(f"operations/{first['id']}/cancel"))[0] == 202
    assert (await replay(idle))["done"] == 3


async def test_what_left_the_choice_before_its_turn_is_counted_as_skipped(idle: Daemon, connection: Connection) -> None:
    operator = Operator(idle.admin_url)
    await connection.execute(WAITING, "shop", 10)
    events = await bury(connection, 3, status="processed")
    ordered = await operator.order("destinations/shop/replay", **REPLAY, dry_run=False, rate=0.1)  # 10 may be ahead
    assert (await operator.held(ordered, "deliveries that are due go first"))["total"] == 3
    await connection.execute("INSERT INTO webhookd.deliveries (event_id, destination) VALUES ($1, 'shop')", events[1])
    await connection.execute("UPDATE webhookd.operations SET rate = 1000")
    ended = await operator.ended(ordered)
    assert (ended["total"], ended["done"], ended["skipped"]) == (3, 2, 1)


async def test_a_page_looks_on_until_it_has_events_that_are_sent(connection: Connection) -> None:
    """Otherwise the rate of a replay would count events that the destination does not ask for."""
    events = await bury(connection, 2503, status="processed")
    wanted, kind = events[2500:], await store_kind(connection, event_type=REFUND)
    await connection.execute("UPDATE ledger SET kind = $2 WHERE id = ANY($1)", wanted, kind)
    page, last = await chosen(connection, 2, event_types=REFUND)
    assert [choice.id for choice in page if choice.left_out is None] == wanted[:2]
    assert (len(page), last) == (2502, wanted[1])
    page, last = await chosen(connection, 2, after=wanted[1], event_types=REFUND)
    assert ([choice.id for choice in page], last) == (wanted[2:], None)
    page, last = await chosen(connection, 2, event_types="none.*")
    assert (len(page), last) == (2503, None)


async def test_a_page_has_a_bounded_number_of_events(connection: Connection) -> None:
    events = await bury(connection, 5000, status="processed")
    page, last = await chosen(connection, 2, event_types=REFUND)
    assert 3000 < len(page) < 4000
    assert last == events[len(page) - 1] == page[-1].id


@pytest.mark.parametrize("size", [1_000_000, 6_000_000])
async def test_a_page_has_a_bounded_number_of_bytes(connection: Connection, size: int) -> None:
    events = await bury(connection, 7, status="processed")
    large = b'{"payload": {"authAmount": 101, "text": "%s"}}' % (b"x" * size)
    await connection.execute("UPDATE webhookd.bodies SET body = $1", large)
    await connection.execute("DELETE FROM webhookd.bodies WHERE event_id = $1", events[2])
    found: list[Choice] = []
    last: uuid.UUID | None = FIRST
    pages = 0
    while last is not None:
        page, last = await chosen(connection, 1000, after=last, filter="authAmount > `100`")
        assert len([one for one in page if one.left_out is None]) * size <= 4_194_304 + size
        found, pages = found + page, pages + 1
    assert [one.id for one in found] == events
    assert [one.id for one in found if one.left_out is not None] == [events[2]]
    assert pages >= 2


async def test_a_condition_leaves_events_out_by_name(connection: Connection) -> None:
    await bury(connection, 2, status="processed")
    page, _ = await chosen(connection, 10, filter="authAmount > `100`")
    assert {one.left_out for one in page} == {"left out: the destination's filter does not choose the event"}


async def test_replays_that_wait_take_no_place_from_other_operations(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PAUSE", 2.0)
    names = [f"shop{number}" for number in range(runner._AT_ONCE)]
    settings = {name: destination(NOWHERE) for name in names}
    daemon = await start(roles="receive", destinations=settings, admin_tokens=ANN)
    operator = Operator(daemon.admin_url)
    await bury(connection, 3)
    ordered = []
    for name in names:
        await connection.execute(WAITING, name, 10)
        await operator.post(f"destinations/{name}/pause")
        ordered.append(await operator.order(f"destinations/{name}/replay", **REPLAY, dry_run=False, rate=0.1))
    for operation in ordered:
        await operator.held(operation, "the destination is paused")
    assert (await operator.done("dead-letters/redrive", all=True))["done"] == 3
    assert {(await operator.operation(one))["state"] for one in ordered} == {"working"}


@pytest.fixture
async def three(start: Start, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Returns a daemon with three destinations that sends nothing, and works on one operation of a lane at a time."""
    monkeypatch.setattr(runner, "_AT_ONCE", 1)
    monkeypatch.setattr(runner, "_PAUSE", 0.0)
    monkeypatch.setattr(runner, "_TURN", 0.05)
    settings = {name: destination(NOWHERE) for name in ("one", "two", "three")}
    return await start(roles="receive", destinations=settings, admin_tokens=ANN)


async def waiting(daemon: Daemon, connection: Connection, *names: str) -> list[dict[str, Any]]:
    """Orders replays to paused destinations, and returns them when they wait."""
    operator = Operator(daemon.admin_url)
    ordered = []
    for name in names:
        await connection.execute(WAITING, name, 10)
        await operator.post(f"destinations/{name}/pause")
        ordered.append(await operator.order(f"destinations/{name}/replay", **REPLAY, dry_run=False, rate=0.1))
        await operator.held(ordered[-1], "the destination is paused")
    return ordered


async def test_more_replays_that_wait_than_there_are_places_delay_no_other_operation(
    three: Daemon, connection: Connection
) -> None:
    await bury(connection, 3)
    await waiting(three, connection, "one", "two")
    assert (await Operator(three.admin_url).done("dead-letters/redrive", all=True))["done"] == 3
    assert (await replay(three, "three"))["done"] == 3


async def test_a_replay_that_takes_long_delays_no_operation_of_another_kind(three: Daemon, connection: Connection) -> None:
    operator = Operator(three.admin_url)
    await bury(connection, 30)
    ordered = await operator.order("destinations/one/replay", **REPLAY, dry_run=False, rate=0.1)
    assert (await operator.done("dead-letters/redrive", all=True))["done"] == 30
    found = await operator.operation(ordered)
    assert (found["state"], found["held_by"]) == ("working", None), "it goes on for five minutes"


async def test_replays_that_wait_are_looked_at_in_turn(three: Daemon, connection: Connection) -> None:
    await bury(connection, 3, status="processed")
    ordered = await waiting(three, connection, "one", "two", "three")
    await connection.execute("DELETE FROM webhookd.deliveries WHERE destination = 'three'")
    await connection.execute("UPDATE webhookd.operations SET rate = 1000 WHERE selection->>'destination' = 'three'")
    assert (await Operator(three.admin_url).ended(ordered[-1]))["done"] == 3


async def test_a_slow_replay_goes_on_while_few_deliveries_are_due(idle: Daemon, connection: Connection) -> None:
    """A destination that works always has some. They would hold a replay of one event in ten seconds for ever."""
    await connection.execute(WAITING, "shop", 9)
    await bury(connection, 1, status="processed")
    assert (await replay(idle, rate=0.1, limit=1))["done"] == 1


async def test_a_replay_to_a_removed_destination_says_so(start: Start, connection: Connection) -> None:
    await bury(connection, 3, status="processed")
    daemon = await start(roles="receive", destinations={"shop": destination(NOWHERE)}, admin_tokens=ANN)
    await connection.execute(WAITING, "shop", 10)
    operator = Operator(daemon.admin_url)
    ordered = await operator.order("destinations/shop/replay", **REPLAY, dry_run=False, rate=0.1)
    await operator.held(ordered, "deliveries that are due go first")
    await daemon.stop()
    other = await start(roles="receive", admin_tokens=ANN)
    said = "the settings do not name shop: set it again, or cancel the operation"
    await Operator(other.admin_url).held(ordered, said)
    _, page = await Operator(other.admin_url).get("operations")
    assert [one["held_by"] for one in page["operations"]] == [said]


async def test_dropping_everything_ends_the_replay(idle: Daemon, connection: Connection) -> None:
    operator = Operator(idle.admin_url)
    await connection.execute(WAITING, "shop", 10)
    await bury(connection, 3, status="processed")
    ordered = await operator.order("destinations/shop/replay", **REPLAY, dry_run=False, rate=0.1)
    await operator.held(ordered, "deliveries that are due go first")
    assert (await operator.post("destinations/shop/drop", {"all": True}))[0] == 200
    assert (await operator.operation(ordered))["state"] == "working", "the dead deliveries alone leave the replay alone"
    assert (await operator.post("destinations/shop/drop", {"all": True, "unfinished": True}))[1]["count"] == 10
    ended = await operator.operation(ordered)
    assert (ended["state"], ended["error"]) == ("cancelled", "operator (ann) dropped all deliveries of shop")
    assert await connection.fetchval("SELECT count(*) FROM webhookd.deliveries") == 0


async def test_history_is_left_out_unless_it_is_asked_for_or_was_sent_before(idle: Daemon, connection: Connection) -> None:
    delivered, dropped, imported, resent = await bury(connection, 4, AUTHCAPTURE, status="processed")
    never = (await bury(connection, 1, status="processed"))[0]
    for event, ends in ((delivered, ["delivered"]), (dropped, ["delivered", "dropped"]), (resent, ["delivered"])):
        for end in ends:
            await connection.execute(ENDED, event, end)
    for event in (imported, resent):
        await connection.execute(HISTORY, event)
    counted = await replay(idle, dry_run=True)
    assert counted["reasons"] == {
        "delivered before": 2,
        "dropped by an operator before": 1,
        "never sent": 1,
        "left out: imported as history": 1,
    }
    assert counted["total"] == 4
    done = await replay(idle)
    started = {row["event_id"] for row in await connection.fetch("SELECT event_id FROM webhookd.deliveries")}
    assert (done["done"], started) == (4, {delivered, dropped, resent, never})
    everything = await replay(idle, dry_run=True, filter=REPLAY["filter"] | {"imported": True})  # type: ignore[operator]
    assert (everything["total"], everything["reasons"]["never sent"]) == (1, 1)
