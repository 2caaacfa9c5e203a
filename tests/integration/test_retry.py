"""A retry of one event does what its answer says for each status, and never repeats an effect more often than that."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.helpers.operator import ANN, AUTHCAPTURE, LEO, Connection, Operator, bury, come_to, statuses
from tests.helpers.queues import client, depth, url_of
from tests.helpers.running import KEY
from tests.helpers.stored import lease
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Retryable
from webhookd.event import Event
from webhookd.process.handlers import Handler, Registry
from webhookd.queue.message import EventReference, encode
from webhookd.store.event_store import Claimed
from webhookd.store.outbox import Outgoing

Effects = Callable[[], Awaitable[int]]


@pytest.fixture
async def idle(start: Start) -> Operator:
    """Returns an operator of a daemon that takes orders, but neither sends nor handles events: put-back events stay visible."""
    return Operator((await start(roles="receive", admin_tokens=ANN)).admin_url)


@pytest.fixture
async def effects(connection: Connection) -> Effects:
    """Creates a table for handlers to write to; returns a function that counts its rows."""
    await connection.execute("CREATE TABLE effects (event_id uuid, attempt integer)")
    return lambda: connection.fetchval("SELECT count(*) FROM effects")


async def count(event: Event, connection: Any) -> None:
    await connection.execute("INSERT INTO effects VALUES ($1, $2)", event.id, event.attempt)


def handlers(*given: Handler) -> Registry:
    registry = Registry()
    for handler in given:
        registry.add("*", handler)
    return registry


async def deliver(daemon: Daemon, connection: Connection) -> uuid.UUID:
    summary = await traffic.send([sampling.sample(AUTHCAPTURE, 1)], f"{daemon.public_url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0
    event_id: uuid.UUID = await connection.fetchval("SELECT id FROM events")
    return event_id


@pytest.mark.parametrize(
    ("status", "force", "answer", "then"),
    [
        ("received", False, 409, "received"),
        ("received", True, 409, "received"),
        ("queued", False, 409, "queued"),
        ("queued", True, 409, "queued"),
        ("retrying", False, 202, "retrying"),
        ("retrying", True, 202, "retrying"),
        ("processed", False, 409, "processed"),
        ("processed", True, 202, "received"),
        ("dead", False, 202, "received"),
        ("dead", True, 202, "received"),
    ],
)
async def test_what_a_retry_does_to_each_status(
    idle: Operator, connection: Connection, status: str, force: bool, answer: int, then: str
) -> None:
    (event_id,) = await bury(connection, 1, status=status)
    _, before = await idle.get(f"events/{event_id}")
    assert before["retry"]["allowed"] is (answer == 202 or before["retry"]["needs_force"]), "the advice about a retry"
    assert before["retry"]["needs_force"] is (status == "processed")
    code, told = await idle.post(f"events/{event_id}/retry", force=str(force).lower())
    assert code == answer, told
    assert await statuses(connection) == {then: 1}
    _, after = await idle.get(f"events/{event_id}")
    if code == 409:
        assert told["detail"] == before["retry"]["reason"]
        assert after == before, "nothing has changed"
        return
    assert told["event"]["status"] == then
    assert len(after["audit"]) == len(before["audit"]) + 1
    assert after["attempts"] == (12 if status == "retrying" else 0), "anew, with all its attempts; or the next one, now"


async def test_an_event_that_is_not_there_is_not_found(idle: Operator) -> None:
    assert (await idle.post(f"events/{uuid.uuid4()}/retry"))[0] == 404
    assert (await idle.post("events/nonsense/retry"))[0] == 404


async def test_who_may_only_look_retries_nothing(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive", read_tokens=LEO)
    (event_id,) = await bury(connection, 1)
    assert (await Operator(daemon.admin_url, LEO["leo"]).post(f"events/{event_id}/retry"))[0] == 403
    assert await statuses(connection) == {"dead": 1}


async def test_an_event_in_a_workers_hands_is_refused_at_once(start: Start, connection: Connection, effects: Effects) -> None:
    """The retry does not wait for the worker, and is not applied to the event after the worker has ended."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Event, __: Any) -> None:
        began.set()
        await go_on.wait()

    daemon = await start(handlers(count, slow), admin_tokens=ANN)
    event_id = await deliver(daemon, connection)
    await asyncio.wait_for(began.wait(), 60)
    # The worker continues only after the answer: a retry that waits for the row's lock would fail at its statement's timeout.
    code, told = await Operator(daemon.admin_url).post(f"events/{event_id}/retry", force="true")
    assert code == 409
    assert "a worker processes the event at the moment" in told["detail"]
    go_on.set()
    await come_to(connection, {"processed": 1})
    assert await effects() == 1


async def test_one_that_waits_for_its_next_attempt_is_tried_at_once(
    start: Start, connection: Connection, effects: Effects
) -> None:
    async def once(event: Event, _: Any) -> None:
        if event.attempt == 1:
            raise Retryable("the till is closed", after=3600)

    daemon = await start(handlers(count, once), admin_tokens=ANN)
    event_id = await deliver(daemon, connection)
    await come_to(connection, {"retrying": 1})
    ann = Operator(daemon.admin_url)
    _, before = await ann.get(f"events/{event_id}")
    code, told = await ann.post(f"events/{event_id}/retry", {"reason": "the till is open"})
    assert code == 202, told
    assert told["event"]["retry_at"] < before["retry_at"]
    await come_to(connection, {"processed": 1})
    assert await connection.fetchval("SELECT array_agg(attempt) FROM effects") == [2], "its second attempt, and that alone"
    _, shown = await ann.get(f"events/{event_id}")
    (change,) = [change for change in shown["audit"] if change["actor"].startswith("operator")]
    assert (change["from_status"], change["to_status"]) == ("retrying", "retrying")
    assert (change["actor"], change["reason"]) == ("operator (ann)", "tried at once: the till is open")
    assert [failure["attempt"] for failure in shown["failed_attempts"]] == [1], "and no attempt of the operator's"


async def test_a_processed_one_that_is_forced_has_its_effects_once_more_even_if_its_old_message_comes_again(
    start: Start, servers: Servers, connection: Connection, effects: Effects
) -> None:
    daemon = await start(handlers(count), admin_tokens=ANN)
    event_id = await deliver(daemon, connection)
    await come_to(connection, {"processed": 1})
    ann = Operator(daemon.admin_url)
    old = encode((EventReference(event_id, "default", AUTHCAPTURE),))

    async def comes_again(times: int) -> None:
        async with client(servers) as sqs:
            url = await url_of(sqs, servers.queue)
            for _ in range(times):
                await sqs.send_message(QueueUrl=url, MessageBody=old)

    async def queue_is_empty() -> bool:
        return await depth(servers, servers.queue) == 0

    await comes_again(1)
    await until(queue_is_empty, "the old message is gone")
    assert await effects() == 1
    await asyncio.gather(comes_again(3), ann.post(f"events/{event_id}/retry", {"reason": "lost a file"}, force="true"))
    await come_to(connection, {"processed": 1})
    await comes_again(2)
    await until(queue_is_empty, "the old messages are gone")
    assert await effects() == 2
    assert await connection.fetchval("SELECT array_agg(attempt) FROM effects") == [1, 1]
    _, shown = await ann.get(f"events/{event_id}")
    (change,) = [change for change in shown["audit"] if change["from_status"] == "processed"]
    assert (change["to_status"], change["actor"], change["reason"]) == ("received", "operator (ann)", "forced: lost a file")
    assert [change["to_status"] for change in shown["audit"]].count("processed") == 2


@pytest.mark.parametrize("status", ["retrying", "processed", "dead"])
async def test_one_whose_body_is_gone_cannot_be_retried(idle: Operator, connection: Connection, status: str) -> None:
    (event_id,) = await bury(connection, 1, status=status, body=False)
    code, told = await idle.post(f"events/{event_id}/retry", force="true")
    assert code == 409
    assert "body is no longer kept" in told["detail"]
    assert await statuses(connection) == {status: 1}


async def test_one_that_was_discarded_comes_back(idle: Operator, connection: Connection) -> None:
    (event_id,) = await bury(connection, 1)
    assert (await idle.done("dead-letters/discard", all=True))["done"] == 1
    code, told = await idle.post(f"events/{event_id}/retry", {"reason": "a mistake"})
    assert (code, told["event"]["status"], told["event"]["discarded_at"]) == (202, "received", None)
    _, shown = await idle.get(f"events/{event_id}")
    last = shown["audit"][-1]
    assert (last["from_status"], last["actor"], last["reason"]) == ("dead", "operator (ann)", "a mistake")


@pytest.mark.parametrize("status", ["processed", "dead"])
async def test_of_retries_at_the_same_time_one_is_accepted(start: Start, connection: Connection, status: str) -> None:
    daemons = [await start(roles="receive", admin_tokens=ANN) for _ in range(2)]
    (event_id,) = await bury(connection, 1, status=status)
    asked = (Operator(daemon.admin_url).post(f"events/{event_id}/retry", force="true") for daemon in daemons * 5)
    codes = [code for code, _ in await asyncio.gather(*asked)]
    assert sorted(codes) == [202] + [409] * 9
    assert await connection.fetchval("SELECT count(*) FROM audit WHERE to_status = 'received'") == 1


async def test_the_late_record_of_the_first_send_does_not_put_a_retry_off(start: Start, connection: Connection) -> None:
    """A send is recorded up to seconds later. If the event has ended and was put back since, its first message is gone."""
    daemon = await start(roles="receive", admin_tokens=ANN)
    event_id, *_ = await bury(connection, 1)
    died = await connection.fetchval("SELECT due FROM work")
    sent = Outgoing(event_id, "default", AUTHCAPTURE, due=died)
    assert (await Operator(daemon.admin_url).post(f"events/{event_id}/retry"))[0] == 202
    await daemon.outbox.mark_sent([sent], resend_after=600)
    due = "SELECT status, send_after <= now() AS due FROM events"
    assert dict(await connection.fetchrow(due) or {}) == {"status": "received", "due": True}
    (taken,) = (await lease(daemon.outbox, rest=1)).rest
    await daemon.outbox.mark_sent([taken], resend_after=600)
    assert dict(await connection.fetchrow(due) or {}) == {"status": "queued", "due": False}


async def test_the_late_result_of_an_attempt_before_a_redrive_changes_nothing(start: Start, connection: Connection) -> None:
    """A redrive counts attempts anew, so the number alone does not distinguish the old attempt from the new attempt."""
    daemon = await start(roles="receive", admin_tokens=ANN)
    store = daemon.store
    event_id, *_ = await bury(connection, 1)

    async def redrive() -> Claimed:
        assert (await Operator(daemon.admin_url).post(f"events/{event_id}/retry"))[0] == 202
        async with daemon.database.acquire() as session:
            (claimed,) = await store.read(session, [event_id])
        return claimed

    old = await redrive()
    await connection.execute("UPDATE work SET status = 'dead', due = now()")
    new = await redrive()
    await connection.execute("CREATE TEMPORARY TABLE before AS SELECT * FROM work")
    assert (old.attempts, old.status) == (new.attempts, new.status)

    async def results(claimed: Claimed) -> list[object]:
        """Returns, for each way to record a result of `claimed`, whether it changes the row; undoes each change."""
        outcomes: list[object] = []
        ways: list[Callable[[], Awaitable[object]]] = [
            lambda: store.mark_retrying(claimed, reason="late", delay=60),
            lambda: store.mark_dead(claimed, reason="late", detail="late"),
        ]
        for record in ways:
            row = await connection.fetchrow("SELECT * FROM events")
            outcomes.append(bool(await record()))
            assert (await connection.fetchrow("SELECT * FROM events") != row) is outcomes[-1]
            await connection.execute("DELETE FROM work; INSERT INTO work SELECT * FROM before")
        return outcomes

    assert await results(old) == [False, False]
    assert await results(new) == [True, True]


async def test_what_is_not_understood_changes_nothing(idle: Operator, connection: Connection) -> None:
    (event_id,) = await bury(connection, 1)
    bodies: list[Any] = [{"note": "x"}, {"reason": "x" * 501}, {"reason": "a\x00b"}, {"reason": 1}]
    for body in bodies:
        assert (await idle.post(f"events/{event_id}/retry", body))[0] == 422, body
    assert (await idle.post(f"events/{event_id}/retry", force="perhaps"))[0] == 422
    assert await statuses(connection) == {"dead": 1}
