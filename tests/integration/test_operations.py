"""Operations: bulk work that an operator orders is done once for each event, in any process, even if the process dies."""

from __future__ import annotations

import signal
import time
import uuid
from typing import Any

import asyncpg
import pytest

from tests.conftest import Servers, Start
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Connection, Operator, bury, come_to, statuses, times_put_back
from tests.helpers.running import KEY, Process
from tests.helpers.stored import end_well
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import UnavailableError
from webhookd.event import Event
from webhookd.operate import runner as module
from webhookd.operate.destination_replays import Choice
from webhookd.operate.runner import Runner
from webhookd.process.handlers import Registry

EVERYTHING = {"received_from": "2020-01-01T00:00:00Z"}
PROCESSED = {"status": ["processed"], **EVERYTHING}
REPLAY: dict[str, Any] = {"filter": PROCESSED, "reason": "the shop was mended", "force": True}


@pytest.fixture
async def idle(start: Start) -> Operator:
    """Returns an operator of a daemon that takes orders, but sends and processes no events: put-back work stays visible."""
    return Operator((await start(roles="receive", admin_tokens=ANN)).admin_url)


async def has_begun(connection: Connection, count: int = 1) -> None:
    some = "SELECT count(*) >= $1 FROM events WHERE redriven_at IS NOT NULL"
    await until(lambda: connection.fetchval(some, count), f"{count} events were put back", deadline=30)


# -- which events are chosen


async def test_a_dry_run_which_is_the_default_counts_by_type_and_changes_nothing(
    idle: Operator, connection: Connection
) -> None:
    await bury(connection, 3, status="processed")
    await bury(connection, 2, REFUND, status="processed")
    await bury(connection, 1)
    changes = await connection.fetchval("SELECT count(*) FROM audit")
    operation = await idle.ended(await idle.order("events/replay", filter=PROCESSED, reason="to know"))
    assert (operation["kind"], operation["state"], operation["dry_run"]) == ("replay", "done", True)
    assert (operation["total"], operation["done"], operation["skipped"]) == (5, 0, 0)
    assert operation["event_types"] == {AUTHCAPTURE: 3, REFUND: 2}
    assert operation["finished_at"] is not None
    assert await statuses(connection) == {"processed": 5, "dead": 1}
    assert await connection.fetchval("SELECT count(*) FROM audit") == changes


async def test_processed_events_run_again_only_with_force(idle: Operator, connection: Connection) -> None:
    await bury(connection, 2, status="processed")
    dead = await bury(connection, 1)
    order = {"filter": PROCESSED, "reason": "again", "dry_run": False}
    status, answer = await idle.post("events/replay", order)
    assert status == 409
    assert "force" in answer["detail"]
    assert await connection.fetchval("SELECT count(*) FROM operations") == 0
    # A filter that does not name their status does not choose processed events, even with force.
    assert (await idle.done("events/replay", filter=EVERYTHING, reason="again", force=True))["done"] == 1
    assert await times_put_back(connection) == {dead[0]: 1}
    assert (await idle.done("events/replay", **REPLAY))["done"] == 2


async def test_a_replay_needs_a_filter_and_a_reason(idle: Operator, connection: Connection) -> None:
    await bury(connection, 1)
    orders: list[Any] = [
        {"filter": {}, "reason": "x"},
        {"filter": {"status": ["processed"]}, "reason": "x"},
        {"filter": EVERYTHING},
        {"filter": EVERYTHING, "reason": ""},
        {"filter": EVERYTHING, "reason": "x", "rate": 0},
        {"filter": EVERYTHING, "reason": "x", "rate": 1e6},
        {"filter": EVERYTHING, "reason": "x", "limit": 0},
        {"filter": {**EVERYTHING, "status": ["queued"]}, "reason": "x"},
        {"filter": {**EVERYTHING, "statuses": ["dead"]}, "reason": "x"},
        {"reason": "x"},
    ]
    for order in orders:
        status, answer = await idle.post("events/replay", order | {"dry_run": False, "force": True})
        assert status == 422, (order, answer)
        assert answer["errors"]
    assert await connection.fetchval("SELECT count(*) FROM operations") == 0


async def test_filters_of_a_replay_choose_what_they_name(idle: Operator, connection: Connection) -> None:
    ours = await bury(connection, 4, status="processed")
    await bury(connection, 2, REFUND, status="processed")
    await connection.execute("UPDATE ledger SET entity_id = '7', invoice_number = 'A-1' WHERE id = $1", ours[1])
    received = await connection.fetchval("SELECT received_at FROM events WHERE id = $1", ours[2])
    for given, expected in (
        ({"event_type": ["payment.refund.*"]}, 2),
        ({"event_type": ["*authcapture*"]}, 4),
        ({"entity_id": "7"}, 1),
        ({"invoice_number": "A-1", "account": "default"}, 1),
        ({"invoice_number": "A-1", "account": "other"}, 0),
        ({"received_from": received.isoformat(), "event_type": [AUTHCAPTURE]}, 2),
        ({"received_to": received.isoformat(), "event_type": [AUTHCAPTURE]}, 2),
    ):
        chosen = {"status": ["processed"], **given}
        operation = await idle.ended(await idle.order("events/replay", filter=chosen, reason="to know"))
        assert operation["total"] == expected, given
        assert operation["selection"] == chosen | {
            name: operation["selection"][name] for name in ("received_from", "received_to") if name in given
        }


async def test_a_limit_means_the_oldest(idle: Operator, connection: Connection) -> None:
    events = await bury(connection, 5, status="processed")
    operation = await idle.done("events/replay", **REPLAY, limit=3)
    assert (operation["total"], operation["done"]) == (3, 3)
    assert await times_put_back(connection) == dict.fromkeys(events[:3], 1)


async def test_an_event_without_its_body_is_not_run_again(idle: Operator, connection: Connection) -> None:
    """Without the body, the event would die."""
    kept = await bury(connection, 2, status="processed")
    await bury(connection, 3, REFUND, status="processed", body=False)
    operation = await idle.done("events/replay", **REPLAY)
    assert (operation["done"], operation["skipped"]) == (2, 3)
    assert await times_put_back(connection) == dict.fromkeys(kept, 1)


@pytest.mark.parametrize("died_anew", ["clock_timestamp()", "due - interval '1 hour'"])
async def test_what_has_moved_on_since_it_was_chosen_is_skipped(
    idle: Operator, connection: Connection, monkeypatch: pytest.MonkeyPatch, died_anew: str
) -> None:
    """An operation acts only on the death that it chose, and on no later death, whatever PostgreSQL's clock shows."""
    dead = await bury(connection, 3)
    change = Runner._change

    async def late(self: Runner, lent: Any, work: Any, rows: list[Choice]) -> int:
        await connection.execute(f"UPDATE work SET due = {died_anew} WHERE event_id = $1", dead[1])
        return await change(self, lent, work, rows)

    monkeypatch.setattr(Runner, "_change", late)
    operation = await idle.done("dead-letters/redrive", all=True)
    assert (operation["done"], operation["skipped"]) == (2, 1)
    assert await times_put_back(connection) == {dead[0]: 1, dead[2]: 1}


async def test_what_ended_after_the_order_is_not_run_again_by_it(idle: Operator, connection: Connection) -> None:
    events = await bury(connection, 2, status="processed")
    waiting = await bury(connection, 100, REFUND, status="queued")
    operation = await idle.order("events/replay", **REPLAY, dry_run=False)
    await idle.held(operation, "fresh events go first")
    await end_well(connection, waiting)
    ended = await idle.ended(operation)
    assert (ended["done"], ended["skipped"], ended["total"]) == (2, 0, 2)
    assert await times_put_back(connection) == dict.fromkeys(events, 1)


# -- how an operation runs


async def test_a_replay_keeps_its_rate(idle: Operator, connection: Connection) -> None:
    """The rate is kept, even if it is less than one event in each turn of a quarter of a second."""
    await bury(connection, 7, status="processed")
    assert (await idle.done("events/replay", **REPLAY, rate=2))["done"] == 7
    took = await connection.fetchval("SELECT max(at) - min(at) FROM audit WHERE to_status = 'received'")
    assert took.total_seconds() >= 6 / 2 - 0.5


async def test_the_audit_trail_names_the_token_the_operation_and_the_reason(idle: Operator, connection: Connection) -> None:
    (event_id,) = await bury(connection, 1, status="processed")
    operation = await idle.done("events/replay", **REPLAY)
    assert (operation["actor"], operation["reason"]) == ("operator (ann)", "the shop was mended")
    _, shown = await idle.get(f"events/{event_id}")
    receipt, end, change = shown["audit"]
    assert [(one["to_status"], one["actor"]) for one in (receipt, end)] == [("received", "receiver"), ("processed", "worker")]
    assert (change["from_status"], change["to_status"]) == ("processed", "received")
    assert change["actor"] == "operator (ann)"
    assert change["reason"] == f"replay {operation['id']}: the shop was mended"


async def test_the_audit_trail_names_whose_work_changed_and_nobody_for_the_receipt(
    idle: Operator, connection: Connection
) -> None:
    (event_id,) = await bury(connection, 1, status="processed")
    # If somebody other than the provider caused an event, the event has an audit row for its receipt, too.
    receipt = "INSERT INTO audit (event_id, at, to_status, actor) VALUES ($1, 'epoch', 'received', 'ann')"
    await connection.execute(receipt, event_id)
    await connection.execute("INSERT INTO audit VALUES ($1, now(), 'queued', 'dead', 'worker', 9, 'no', 'mail')", event_id)
    _, shown = await idle.get(f"events/{event_id}")
    assert [(change["actor"], change["consumer"]) for change in shown["audit"]] == [
        ("ann", None),
        ("worker", "handlers"),
        ("worker", "mail"),
    ]


async def test_effects_happen_once_for_each_run_that_was_forced(start: Start, connection: Connection) -> None:
    await connection.execute("CREATE TABLE effects (event_id uuid, attempt integer)")

    async def count(event: Event, connection: Any) -> None:
        await connection.execute("INSERT INTO effects VALUES ($1, $2)", event.id, event.attempt)

    registry = Registry()
    registry.add("*", count)
    daemon = await start(registry, admin_tokens=ANN)
    ann = Operator(daemon.admin_url)
    summary = await traffic.send(sampling.stream([AUTHCAPTURE], 5), f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    await come_to(connection, {"processed": 5})
    for runs in (2, 3):
        assert (await ann.done("events/replay", **REPLAY, rate=100))["done"] == 5
        await come_to(connection, {"processed": 5})
        rows = await connection.fetch("SELECT count(*), max(attempt) AS attempt FROM effects GROUP BY event_id")
        assert [(row["count"], row["attempt"]) for row in rows] == [(runs, 1)] * 5


async def test_a_replay_holds_back_while_fresh_events_wait(idle: Operator, connection: Connection) -> None:
    await bury(connection, 2, status="processed")
    waiting = await bury(connection, 100, REFUND, status="received")
    operation = await idle.order("events/replay", **REPLAY, dry_run=False)
    assert (await idle.held(operation, "fresh events go first"))["done"] == 0
    await connection.execute("UPDATE work SET redriven_at = now(), fresh = false WHERE event_id = $1", waiting[0])
    assert (await idle.ended(operation))["done"] == 2


async def test_a_cancelled_operation_stops_and_what_it_did_stays(idle: Operator, connection: Connection) -> None:
    await bury(connection, 30, status="processed")
    operation = await idle.order("events/replay", **REPLAY, dry_run=False, rate=4)
    await has_begun(connection)
    status, cancelled = await idle.post(f"operations/{operation['id']}/cancel")
    assert (status, cancelled["state"]) == (202, "cancelled")
    assert await statuses(connection) == {"received": cancelled["done"], "processed": 30 - cancelled["done"]}
    status, answer = await idle.post(f"operations/{operation['id']}/cancel")
    assert status == 409
    assert "already ended: cancelled" in answer["detail"]
    # Before the runner does another operation's work, it looks for work again.
    (dead,) = await bury(connection, 1)
    await idle.done("dead-letters/redrive", ids=[str(dead)])
    assert await idle.operation(operation) == cancelled
    assert len(await times_put_back(connection)) == cancelled["done"] + 1


async def test_a_batch_in_hand_when_its_operation_is_cancelled_is_undone(
    idle: Operator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(connection, 3, status="processed")
    change = Runner._change
    answers: list[int] = []

    async def cancelled(self: Runner, lent: Any, work: Any, rows: list[Choice]) -> int:
        changed = await change(self, lent, work, rows)
        answers.append((await idle.post(f"operations/{work.id}/cancel"))[0])
        return changed

    monkeypatch.setattr(Runner, "_change", cancelled)
    operation = await idle.ended(await idle.order("events/replay", **REPLAY, dry_run=False))
    assert (operation["state"], operation["done"]) == ("cancelled", 0)
    monkeypatch.undo()
    (dead,) = await bury(connection, 1)
    await idle.done("dead-letters/redrive", ids=[str(dead)])  # after this one, the batch of the cancelled operation has ended
    assert answers == [202]
    assert await idle.operation(operation) == operation
    assert await statuses(connection) == {"processed": 3, "received": 1}


async def test_a_batch_and_the_record_of_it_commit_together(
    idle: Operator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure between the two undoes the batch. Otherwise, the next run would find its events done, and skip them."""
    await bury(connection, 4, status="processed")
    record = Runner._record
    broken: list[int] = []

    async def breaks_once(self: Runner, lent: Any, work: Any, state: str) -> None:
        if work.done and not broken:
            broken.append(work.done)
            raise UnavailableError("postgresql", "away, for this test")
        await record(self, lent, work, state)

    monkeypatch.setattr(Runner, "_record", breaks_once)
    operation = await idle.done("events/replay", **REPLAY, rate=4)
    assert broken
    assert (operation["done"], operation["skipped"]) == (4, 0)
    assert set((await times_put_back(connection)).values()) == {1}


async def test_an_operation_that_fails_by_a_mistake_ends_and_the_others_go_on(idle: Operator, connection: Connection) -> None:
    await bury(connection, 40)
    other = await idle.order("dead-letters/redrive", all=True, dry_run=False, rate=20)
    selection = '{"ids": ["no id"]}'
    bad = await idle.order("dead-letters/discard", all=True, dry_run=True)
    await idle.ended(bad)  # otherwise the runner would end the operation after the change below
    await connection.execute(
        "UPDATE operations SET selection = $2, state = 'counting', finished_at = NULL WHERE id = $1",
        uuid.UUID(bad["id"]),
        selection,
    )
    failed = await idle.ended(bad)
    assert failed["state"] == "failed"
    assert failed["error"].startswith("ValueError at ")
    assert "no id" not in failed["error"], "where it failed, and nothing of what it was given"
    assert (await idle.ended(other))["done"] == 40


async def test_an_operation_that_takes_too_long_for_postgresql_does_not_keep_others_from_their_turn(
    idle: Operator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(connection, 3)
    count = Runner._count

    async def too_long(self: Runner, work: Any) -> None:
        if work.reason == "slow":
            raise UnavailableError("postgresql", "QueryCanceledError")
        await count(self, work)

    monkeypatch.setattr(Runner, "_count", too_long)
    slow = await idle.order("dead-letters/redrive", all=True, dry_run=False, reason="slow")
    assert (await idle.done("dead-letters/redrive", all=True))["done"] == 3
    assert (await idle.operation(slow))["state"] == "counting"


# -- in several processes, and after a process has ended


async def test_two_replicas_work_on_one_operation_and_do_nothing_twice(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each replica loses the operation to the other in a batch, like a process that stood still until its lease had ended."""
    monkeypatch.setattr(module, "_IDLE", 0.05)
    change = Runner._change
    lost: list[uuid.UUID] = []

    async def interrupted(self: Runner, lent: Any, work: Any, rows: list[Choice]) -> int:
        changed = await change(self, lent, work, rows)
        if self._me not in lost:
            lost.append(self._me)
            await connection.execute("UPDATE operations SET held_until = '-infinity'")
            taken = "SELECT holder <> $1 FROM operations"
            await until(lambda: connection.fetchval(taken, self._me), "the other one has taken it", deadline=10)
        return changed

    monkeypatch.setattr(Runner, "_change", interrupted)
    daemons = [await start(roles="receive", admin_tokens=ANN) for _ in range(2)]
    first, second = [Operator(daemon.admin_url) for daemon in daemons]
    events = await bury(connection, 20, status="processed")
    operation = await first.order("events/replay", **REPLAY, dry_run=False, rate=20)
    done = await second.ended(operation)
    assert len(lost) == 2
    assert (done["state"], done["done"], done["skipped"], done["total"]) == ("done", 20, 0, 20)
    assert await times_put_back(connection) == dict.fromkeys(events, 1)


async def test_one_process_at_a_time_has_an_operation(start: Start, connection: Connection) -> None:
    daemons = [await start(roles="receive", admin_tokens=ANN) for _ in range(2)]
    await bury(connection, 12, status="processed")
    operation = await Operator(daemons[0].admin_url).order("events/replay", **REPLAY, dry_run=False, rate=4)
    holders = set()

    async def ended() -> bool:
        # Read the lease as a number: before the operation begins, held_until is '-infinity', which no timedelta can express.
        lease = "EXTRACT(epoch FROM held_until - now())::float8 AS lease"
        row = await connection.fetchrow(f"SELECT holder, {lease}, finished_at FROM operations")
        assert row is not None
        holders.add(row["holder"])
        assert row["holder"] is None or row["lease"] <= module._LEASE
        return row["finished_at"] is not None

    await until(ended, "the operation has ended", deadline=30, every=0.01)
    assert len(holders - {None}) == 1
    assert (await Operator(daemons[1].admin_url).operation(operation))["done"] == 12


async def test_what_a_stopped_process_leaves_goes_on_in_another_one_at_once(start: Start, connection: Connection) -> None:
    first = await start(roles="receive", admin_tokens=ANN)
    events = await bury(connection, 24, status="processed")
    operation = await Operator(first.admin_url).order("events/replay", **REPLAY, dry_run=False, rate=8)
    await has_begun(connection)
    second: Daemon = await start(roles="receive", admin_tokens=ANN)
    await first.stop()
    left = await connection.fetchval("SELECT done FROM operations")
    assert 0 < left < 24
    began = time.monotonic()
    done = await Operator(second.admin_url).ended(operation)
    assert time.monotonic() - began < module._LEASE / 2, "without waiting for the lease's end"
    assert (done["done"], done["skipped"]) == (24, 0)
    assert await times_put_back(connection) == dict.fromkeys(events, 1)


async def test_an_operation_survives_kill_9_of_its_process_and_goes_on_exactly_where_it_was(
    start: Start, servers: Servers, connection: Connection
) -> None:
    events = await bury(connection, 60, status="processed")
    settings = servers.settings | {"WEBHOOKD_ADMIN_TOKENS": f"ann:{ANN['ann']}", "WEBHOOKD_ROLES": "receive"}
    async with Process(settings, servers.folder) as process:
        operation = await Operator(process.admin_url).order("events/replay", **REPLAY, dry_run=False, rate=40)
        await has_begun(connection)
        process.end(signal.SIGKILL)
    row = await connection.fetchrow("SELECT done, skipped, finished_at, held_until - now() AS lease FROM operations")
    assert row is not None
    assert 0 < row["done"] < 60
    assert row["finished_at"] is None
    assert 0 < row["lease"].total_seconds() <= 30
    assert len(await times_put_back(connection)) == row["done"], "what was done, and the record of it"
    await connection.execute("UPDATE operations SET held_until = now()")  # as if the lease had ended, which takes 30 s at most
    daemon = await start(roles="receive", admin_tokens=ANN)
    done = await Operator(daemon.admin_url).ended(operation)
    assert (done["state"], done["done"], done["skipped"]) == ("done", 60, 0)
    assert await times_put_back(connection) == dict.fromkeys(events, 1)


async def test_the_list_of_operations_is_newest_first_and_has_pages(idle: Operator) -> None:
    made = [(await idle.order("dead-letters/redrive", all=True))["id"] for _ in range(3)]
    _, page = await idle.get("operations", limit=2)
    _, rest = await idle.get("operations", limit=2, cursor=page["next"])
    assert [one["id"] for one in page["operations"] + rest["operations"]] == made[::-1]
    assert rest["next"] is None
    for call in (idle.get(f"operations/{uuid.uuid4()}"), idle.post(f"operations/{uuid.uuid4()}/cancel")):
        assert (await call)[0] == 404


async def test_ended_operations_are_removed_when_they_are_old(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_UPKEEP", 0.0)
    insert = """INSERT INTO operations (id, kind, dry_run, actor, reason, selection, rate, state, finished_at, held_until)
        SELECT gen_random_uuid(), 'redrive', true, $1, '', '{}', 1, 'done', now() - $2 * interval '1 day', '-infinity'"""
    await connection.execute(insert, "old", 401.0)
    await connection.execute(insert, "late", 399.0)
    await start(roles="receive")

    async def one_is_left() -> bool:
        rows: list[asyncpg.Record] = await connection.fetch("SELECT actor FROM operations")
        return [row["actor"] for row in rows] == ["late"]

    await until(one_is_left, "the old one is removed")
