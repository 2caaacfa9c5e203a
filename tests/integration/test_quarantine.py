"""The API finds each quarantined body; the body is released as an event or discarded, and only once, whatever fails."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from tests.conftest import Servers, Start
from tests.helpers.command import webhookd
from tests.helpers.operator import ANN, AUTHCAPTURE, LEO, Connection, Operator, come_to, statuses
from tests.helpers.running import KEY
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import sign
from webhookd.daemon import Daemon
from webhookd.errors import UnavailableError
from webhookd.event import Event
from webhookd.operate import search
from webhookd.process.handlers import Registration, Registry
from webhookd.store.receipts import Receipts

OLD = timedelta(days=20)


@pytest.fixture
async def daemon(start: Start) -> Daemon:
    """Returns a daemon that receives and takes orders, but neither sends events nor works on them."""
    return await start(roles="receive", admin_tokens=ANN, read_tokens=LEO)


@pytest.fixture
def ann(daemon: Daemon) -> Operator:
    return Operator(daemon.admin_url)


def old_one(number: int = 1) -> bytes:
    return sample(AUTHCAPTURE, number, datetime.now(UTC) - OLD).body


async def post(daemon: Daemon, body: bytes) -> dict[str, str]:
    """Sends an authentic body; returns the receiver's answer."""
    headers = {"Content-Type": "application/json", "X-ANET-Signature": sign(body, KEY)}
    async with (
        aiohttp.ClientSession(daemon.public_url, headers=headers) as session,
        session.post("/webhooks/authorize-net", data=body) as answer,
    ):
        assert answer.status == 200
        found: dict[str, str] = await answer.json()
        return found


async def set_aside(daemon: Daemon, body: bytes) -> str:
    answer = await post(daemon, body)
    assert answer["status"] == "quarantined"
    return answer["id"]


async def waiting(operator: Operator, **query: Any) -> list[str]:
    status, page = await operator.get("quarantine", **query)
    assert status == 200, page
    return [body["id"] for body in page["bodies"]]


async def test_it_lists_what_waits_newest_first_by_filters_and_in_pages(daemon: Daemon, ann: Operator) -> None:
    first = await set_aside(daemon, b"not json")
    second = await set_aside(daemon, old_one())
    third = await set_aside(daemon, b'{"eventType": "net.authorize.customer.created"}')
    assert await set_aside(daemon, b"not json") == first, "the same bytes again are counted"
    assert await waiting(ann) == [third, second, first]
    assert await waiting(ann, reason="too_old") == [second]
    assert await waiting(ann, reason="no_notification_id") == [third]
    assert await waiting(ann, account="default", reason="not_json") == [first]
    assert await waiting(ann, account="other") == []
    _, shown = await ann.get(f"quarantine/{second}")
    at = shown["received_at"]
    assert await waiting(ann, received_from=at) == [third, second]
    assert await waiting(ann, received_to=at) == [first]
    _, page = await ann.get("quarantine", limit=2)
    _, rest = await ann.get("quarantine", limit=2, cursor=page["next"])
    assert [body["id"] for body in page["bodies"] + rest["bodies"]] == [third, second, first]
    assert rest["next"] is None
    (told,) = rest["bodies"]
    assert (told["reason"], told["times_received"], told["size"], told["state"]) == ("not_json", 2, 8, "waiting")
    assert (told["event_id"], told["handled_at"], told["handled_by"], told["note"]) == (None, None, None, None)
    assert "body" not in told
    leo = Operator(daemon.admin_url, LEO["leo"])
    assert await waiting(leo) == [third, second, first]
    for change in ("release", "discard"):
        assert (await leo.post(f"quarantine/{second}/{change}"))[0] == 403
    assert await waiting(ann, state="waiting") == [third, second, first]
    assert (await ann.get("quarantine", state="lost"))[0] == 422


async def test_a_page_ends_after_so_many_that_were_looked_at_and_the_next_one_goes_on(
    daemon: Daemon, ann: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_LOOKED", ())  # as if the first look took all the time
    wanted = await set_aside(daemon, old_one())
    for number in range(5):
        await set_aside(daemon, b"not json %d" % number)
    query = {"reason": "too_old", "limit": 1}
    cursors: list[str | None] = [None]
    found = []
    while len(cursors) < 9:
        _, page = await ann.get("quarantine", **query, **({"cursor": cursors[-1]} if cursors[-1] else {}))
        found.append([body["id"] for body in page["bodies"]])
        if page["next"] is None:
            break
        assert page["searched_to"] is not None
        cursors.append(page["next"])
    # A page of one body looks at two bodies, because it must report whether there is a next page.
    assert found == [[], [], [wanted], []]
    assert await waiting(ann, received_to="2020-01-01T00:00:00Z") == []
    assert await waiting(ann, received_from="2020-01-01T00:00:00Z", reason="too_old") == [wanted]


async def test_show_tells_the_exact_bytes_and_whether_it_can_be_released(daemon: Daemon, ann: Operator) -> None:
    old = old_one()
    _, shown = await ann.get(f"quarantine/{await set_aside(daemon, old)}")
    assert shown["body"] == {"encoding": "utf-8", "text": old.decode(), "mended": []}
    assert shown["release"]["allowed"] is True
    odd = await set_aside(daemon, b"{\xff")
    _, shown = await ann.get(f"quarantine/{odd}")
    assert shown["body"] == {"encoding": "base64", "text": "e/8=", "mended": ["Latin-1 was read as such"]}
    assert shown["release"]["allowed"] is False
    assert "cannot become an event" in shown["release"]["reason"]
    assert "at offset 1" in shown["release"]["reason"]
    assert (await ann.get(f"quarantine/{uuid.uuid4()}"))[0] == 404
    for change in ("release", "discard"):
        assert (await ann.post(f"quarantine/{uuid.uuid4()}/{change}"))[0] == 404


async def test_one_that_is_too_old_is_released_and_handled(start: Start, connection: Connection) -> None:
    daemon = await start(admin_tokens=ANN)
    ann = Operator(daemon.admin_url)
    body = old_one()
    body_id = await set_aside(daemon, body)
    assert await statuses(connection) == {}
    status, released = await ann.post(f"quarantine/{body_id}/release", {"reason": "their queue was stuck"})
    assert (status, released["outcome"]) == (200, "released")
    await come_to(connection, {"processed": 1})
    assert await connection.fetchval("SELECT count(*) FROM transactions") == 1, "its handlers ran"
    _, event = await ann.get(f"events/{released['event_id']}")
    assert event["notification_id"] == json.loads(body)["notificationId"]
    assert event["body"]["text"] == body.decode()
    first = event["audit"][0]
    assert (first["from_status"], first["to_status"], first["actor"]) == (None, "received", "operator (ann)")
    assert first["reason"] == f"released from quarantine {body_id}: their queue was stuck"
    assert await waiting(ann) == []
    _, page = await ann.get("quarantine", state="released")
    (told,) = page["bodies"]
    assert (told["event_id"], told["handled_by"], told["note"]) == (event["id"], "operator (ann)", "their queue was stuck")
    assert told["handled_at"] is not None
    assert (await post(daemon, body))["status"] == "quarantined", "sent again it is as old as before"
    assert await waiting(ann) == [], "and does not wait again"
    assert await statuses(connection) == {"processed": 1}


async def test_one_that_has_become_an_event_meanwhile_is_a_duplicate(
    start: Start, daemon: Daemon, ann: Operator, connection: Connection
) -> None:
    body = old_one()
    body_id = await set_aside(daemon, body)
    patient = await start(roles="receive", max_event_age=100 * 86_400.0)
    event = await post(patient, body)
    assert event["status"] == "accepted"
    status, released = await ann.post(f"quarantine/{body_id}/release")
    assert (status, released) == (200, {"outcome": "duplicate", "event_id": event["id"], "mended": []})
    assert await connection.fetchval("SELECT count(*) FROM events") == 1
    assert await connection.fetchval("SELECT count(*) FROM audit WHERE actor LIKE 'operator%'") == 0
    assert await waiting(ann, state="released") == [body_id]


@pytest.mark.parametrize(
    ("encoding", "written", "said", "mended", "name"),
    [
        ("latin-1", "José", "not UTF-8: byte 0xe9 at offset", ["Latin-1 was read as such"], "José"),
        ("utf-16", "José", "UTF-16", ["UTF-16 was read as such"], "José"),
        ("utf-8", r"a\ud83d", "surrogate", ["1 of half a surrogate pair became U+FFFD"], "a\ufffd"),
        ("utf-8", 'a","amount":1e400,"b":"', "infinity", [], "a"),
    ],
)
async def test_a_body_that_can_be_mended_is_released_with_its_exact_bytes(
    start: Start, connection: Connection, encoding: str, written: str, said: str, mended: list[str], name: str
) -> None:
    got: list[Event] = []

    async def remember(event: Event, _: object) -> None:
        got.append(event)

    registry = Registry([Registration("*", remember)])
    daemon = await start(registry, admin_tokens=ANN)
    ann = Operator(daemon.admin_url)
    text = sample(AUTHCAPTURE, 1).body.decode().replace('"payload":{', '"payload":{"name":"' + written + '",')
    body = text.encode(encoding)
    body_id = await set_aside(daemon, body)
    _, shown = await ann.get(f"quarantine/{body_id}")
    assert shown["reason"] == "not_json"
    assert said in shown["detail"]
    assert shown["release"]["allowed"] is True
    assert shown["body"]["mended"] == mended
    assert all(what in shown["release"]["reason"] for what in mended)
    status, released = await ann.post(f"quarantine/{body_id}/release", {"reason": "seen"})
    assert (status, released["outcome"], released["mended"]) == (200, "released", mended)
    await come_to(connection, {"processed": 1})
    assert await connection.fetchval("SELECT body FROM bodies") == body
    _, event = await ann.get(f"events/{released['event_id']}")
    assert event["body"]["mended"] == mended
    assert event["audit"][0]["reason"] == "; ".join([f"released from quarantine {body_id}", *mended]) + ": seen"
    assert got[0].raw == body
    assert got[0].payload["name"] == name
    assert got[0].payload.get("amount") in (None, Decimal("1e400"))
    assert await connection.fetchval("SELECT count(*) FROM transactions") == 1
    assert (await post(daemon, body))["status"] == "quarantined", "sent again it is as odd as before"
    assert await waiting(ann) == [], "and does not wait again"


async def test_what_cannot_become_an_event_stays_with_the_reason(daemon: Daemon, ann: Operator, connection: Connection) -> None:
    for body, said in ((b"not json", "JSON"), (b"[1]", "object"), (b'{"notificationId": "1"}', "eventType")):
        body_id = await set_aside(daemon, body)
        status, answer = await ann.post(f"quarantine/{body_id}/release")
        assert status == 409, answer
        assert said in answer["detail"]
        assert body_id in await waiting(ann)
    assert await statuses(connection) == {}


async def test_what_was_handled_is_not_handled_again(daemon: Daemon, ann: Operator, connection: Connection) -> None:
    released, discarded = await set_aside(daemon, old_one(1)), await set_aside(daemon, old_one(2))
    assert (await ann.post(f"quarantine/{released}/release"))[0] == 200
    status, answer = await ann.post(f"quarantine/{discarded}/discard", {"reason": "a test"})
    assert (status, answer) == (200, {"outcome": "discarded"})
    for body_id, how in ((released, "released"), (discarded, "discarded")):
        for change in ("release", "discard"):
            status, answer = await ann.post(f"quarantine/{body_id}/{change}")
            assert status == 409
            assert f"operator (ann) has already {how} the body" in answer["detail"]
        _, shown = await ann.get(f"quarantine/{body_id}")
        assert (shown["state"], shown["release"]["allowed"]) == (how, False)
        assert await waiting(ann, state=how) == [body_id]
    _, shown = await ann.get(f"quarantine/{discarded}")
    assert (shown["event_id"], shown["note"], shown["handled_by"]) == (None, "a test", "operator (ann)")
    assert await statuses(connection) == {"received": 1}, "what was discarded is no event"


async def test_releases_at_the_same_time_make_one_event(daemon: Daemon, ann: Operator, connection: Connection) -> None:
    body_id = await set_aside(daemon, old_one())
    answers = await asyncio.gather(*(ann.post(f"quarantine/{body_id}/release") for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    assert await statuses(connection) == {"received": 1}


async def test_a_crash_between_the_events_commit_and_its_mark_makes_no_second_event(
    daemon: Daemon, ann: Operator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    body_id = await set_aside(daemon, old_one())

    def breaks(*_: Any) -> None:
        raise UnavailableError("postgresql", "away, for this test")

    with monkeypatch.context() as broken:
        broken.setattr("webhookd.operate.quarantine._handling", breaks)
        assert (await ann.post(f"quarantine/{body_id}/release"))[0] == 503
    assert await statuses(connection) == {"received": 1}
    assert await waiting(ann) == [body_id]
    event_id = await connection.fetchval("SELECT id FROM events")
    status, released = await ann.post(f"quarantine/{body_id}/release")
    assert (status, released) == (200, {"outcome": "duplicate", "event_id": str(event_id), "mended": []})
    assert await statuses(connection) == {"received": 1}


async def test_what_was_not_committed_as_an_event_waits_still(
    daemon: Daemon, ann: Operator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body is marked as released after the commit of its event: if it were marked before, a crash would lose the body."""
    body_id = await set_aside(daemon, old_one())

    async def breaks(*_: Any, **__: Any) -> None:
        raise UnavailableError("postgresql", "away, for this test")

    with monkeypatch.context() as broken:
        broken.setattr(Receipts, "accept", breaks)
        assert (await ann.post(f"quarantine/{body_id}/release"))[0] == 503
    assert await waiting(ann) == [body_id]
    status, released = await ann.post(f"quarantine/{body_id}/release")
    assert (status, released["outcome"]) == (200, "released")
    assert await statuses(connection) == {"received": 1}


async def test_one_that_is_being_released_is_not_discarded(
    daemon: Daemon, ann: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    body_id = await set_aside(daemon, old_one())
    accept, reached, goes_on = Receipts.accept, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any, **named: Any) -> Any:
        reached.set()
        await goes_on.wait()
        return await accept(*arguments, **named)

    monkeypatch.setattr(Receipts, "accept", slow)
    releasing = asyncio.create_task(ann.post(f"quarantine/{body_id}/release"))
    await reached.wait()
    discarding = asyncio.create_task(ann.post(f"quarantine/{body_id}/discard"))
    done, _ = await asyncio.wait([discarding], timeout=0.3)
    assert not done  # the discard waits until the release has ended
    goes_on.set()
    assert (await releasing)[0] == 200
    assert (await discarding)[0] == 409


async def test_the_gauge_counts_only_what_waits(daemon: Daemon, ann: Operator) -> None:
    ids = [await set_aside(daemon, old_one(number)) for number in range(3)]

    async def measured() -> float | None:
        await daemon.retention.keep_partitions()
        return daemon.metrics.registry.get_sample_value("webhookd_quarantine_rows")

    assert await measured() == 3
    await ann.post(f"quarantine/{ids[0]}/release")
    assert await measured() == 2
    await ann.post(f"quarantine/{ids[1]}/discard")
    assert await measured() == 1
    _, stats = await ann.get("stats")
    assert stats["now"]["quarantine"] == 1


async def test_the_command_releases_the_bodies_of_a_filter_after_a_count(
    daemon: Daemon, servers: Servers, ann: Operator, connection: Connection
) -> None:
    late = [await set_aside(daemon, old_one(number)) for number in range(3)]
    odd = await set_aside(daemon, b"not json")

    async def ran(*arguments: str) -> tuple[int, str, str]:
        return await webhookd("quarantine", *arguments, folder=servers.folder, **ann.environment)

    code, out, _ = await ran("release", "--reason", "too_old", "--dry-run", "--json")
    assert (code, json.loads(out)) == (0, {"total": 3, "reasons": {"too_old": 3}})
    code, _, err = await ran("release", "--account", "", "--yes")
    assert code == 2, err
    assert await statuses(connection) == {}
    code, out, _ = await ran("release", "--reason", "too_old", "--yes", "--json", "--note", "a wrong clock")
    assert (code, [row["id"] for row in json.loads(out)["released"]]) == (0, late)
    assert await statuses(connection) == {"received": 3}
    assert await waiting(ann) == [odd]
    code, _, err = await ran("release", "--all", "--yes")
    assert (code, "the body cannot become an event" in err) == (1, True)
    code, out, _ = await ran("discard", "--until", "0s", "--yes")
    assert (code, out.splitlines()[-1]) == (0, f"{odd}: discarded")
    assert await waiting(ann) == []
