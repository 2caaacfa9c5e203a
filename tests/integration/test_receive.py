"""Every answer of the public listener, over real sockets, and the rows that each answer leaves in PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Servers, Start
from tests.helpers.database import connect
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import fingerprint, sign
from webhookd.daemon import Daemon
from webhookd.errors import ConflictError, UnavailableError
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.quarantine import Quarantine
from webhookd.store.idempotency import Seen
from webhookd.store.keys import notification_key

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AUTHCAPTURE = "net.authorize.payment.authcapture.created"
PATH = "/webhooks/authorize-net"
EU_OLD, EU_NEW = "E0" * 64, "E1" * 64


@pytest_asyncio.fixture
async def daemon(start: Start) -> Daemon:
    """Returns a daemon that only receives."""
    return await start(
        roles="receive", accounts={"eu": {"signature_keys": f"{EU_OLD},{EU_NEW}"}}, body_timeout=1, max_body_bytes=4096
    )


@pytest_asyncio.fixture
async def http(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.public_url) as session:
        yield session


async def post(
    http: aiohttp.ClientSession, body: bytes, *, key: str = KEY, path: str = PATH, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], Any]:
    signed = {"X-ANET-Signature": sign(body, key), "Content-Type": "application/json", **(headers or {})}
    async with http.post(path, data=body, headers=signed) as response:
        return response.status, json.loads(await response.read()), response.headers


def metric(daemon: Daemon, name: str, **labels: str) -> float:
    return daemon.metrics.registry.get_sample_value(name, labels) or 0.0


async def known(daemon: Daemon, notification_id: str) -> Seen | None:
    """Returns the mark that Redis has of a notification, or None."""
    [seen] = await daemon.idempotency.seen([("default", notification_id)])
    return seen


async def test_a_new_event_is_committed_before_its_200(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    sent = sample(AUTHCAPTURE, 1)
    status, answer, _ = await post(http, sent.body)
    assert (status, answer["status"]) == (200, "accepted")
    row = await connection.fetchrow("SELECT * FROM events JOIN bodies ON event_id = id")
    assert row is not None
    assert str(row["id"]) == answer["id"]
    assert row["notification_id"] == sent.notification_id
    assert row["event_type"] == AUTHCAPTURE
    assert row["status"] == "received"
    assert row["entity_id"] == sent.entity_id
    assert row["key_fingerprint"] == fingerprint(KEY)
    assert row["body"] == sent.body, "the exact bytes"
    assert metric(daemon, "webhookd_received_total", account="default", outcome="accepted") == 1
    assert metric(daemon, "webhookd_ack_seconds_count") == 1
    trail = await daemon.store.audit_trail(row["id"])
    assert [(t["from_status"], t["to_status"], t["actor"]) for t in trail] == [(None, "received", "receiver")]


async def test_the_published_notification_with_a_five_year_old_date_is_quarantined_not_refused(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    body = (
        b'{"notificationId":"701bf27d-d46f-4c3b-82f2-066448e2901e","eventType":"net.authorize.payment.authorization.created",'
        b'"eventDate":"2019-01-31T14:38:42.6937313Z","webhookId":"e6b3764d-5677-4fb1-a929-2e25a02f3073","payload":'
        b'{"responseCode":1,"authCode":"P1XHLC","avsResponse":"Y","authAmount":7.67,"entityName":"transaction","id":"60116007277"}}'
    )
    status, answer, _ = await post(http, body)
    assert (status, answer["status"]) == (200, "quarantined")
    row = await connection.fetchrow("SELECT * FROM quarantine")
    assert row is not None
    assert (str(row["id"]), row["reason"], row["body"]) == (answer["id"], "too_old", body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "not_json"),
        (b"[1]", "not_object"),
        (b'{"eventType":"net.authorize.x"}', "no_notification_id"),
        (b'{"notificationId":"a"}', "no_event_type"),
        (b'{"notificationId":"a\\u0000b","eventType":"net.authorize.x"}', "unstorable"),
        (b'{"notificationId":"%s","eventType":"x"}' % (b"n" * 3000), "unstorable"),
    ],
)
async def test_an_authentic_body_that_is_unusable_is_kept_aside_once(
    body: bytes, reason: str, daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    first = await post(http, body)
    again = await post(http, body)
    assert first[0] == again[0] == 200
    assert first[1] == again[1]
    assert first[1]["status"] == "quarantined"
    row = await connection.fetchrow("SELECT reason, times_received, body FROM quarantine")
    assert row is not None
    assert tuple(row) == (reason, 2, body)
    assert metric(daemon, "webhookd_received_total", account="default", outcome="quarantined") == 2


async def test_odd_fields_and_unknown_types_are_no_reason_to_refuse(
    http: aiohttp.ClientSession, connection: Connection
) -> None:
    """A U+0000, a date in the year 20000 or a number out of range is stored, and no other webhook of the batch fails."""
    odd: list[dict[str, Any]] = [
        {"payload": {"id": "a\u0000b", "entityName": 7}},
        {"eventDate": "20000-01-01T00:00:00Z"},
        {"eventDate": 12, "payload": [1, 2]},
        {"payload": {"id": 10**300, "authAmount": 1e300, "invoiceNumber": "i" * 1000}},
        {"eventType": "net.authorize.brand.new"},
        {"webhookId": None, "payload": None},
    ]
    bodies = [
        json.dumps({"notificationId": str(uuid.uuid4()), "eventType": AUTHCAPTURE, **fields}).encode() for fields in odd
    ] + [sample(AUTHCAPTURE, n).body for n in range(20)]
    answers = await asyncio.gather(*(post(http, body) for body in bodies))
    assert {(status, answer["status"]) for status, answer, _ in answers} == {(200, "accepted")}
    assert await connection.fetchval("SELECT count(*) FROM events") == len(bodies)


POISON = "net.authorize.poison"


async def refuse(
    connection: Connection, state: str, condition: str = "true", table: str = "ledger", when: str = "BEFORE"
) -> None:
    """Makes PostgreSQL answer the insert of some rows with the error of SQLSTATE `state`."""
    await connection.execute(
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {condition} THEN RAISE SQLSTATE '{state}'; END IF; RETURN NEW; END $$;"
        f"CREATE TRIGGER refuse {when} INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


@pytest.mark.parametrize("state", ["22000", "P0001", "23514", "23502", "54000", "44000", "check"])
async def test_one_row_that_postgresql_refuses_is_quarantined_and_its_neighbours_are_committed(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection, state: str
) -> None:
    """If the parser does not know the fault, the group commit isolates the row itself."""
    if state == "check":
        await connection.execute(f"ALTER TABLE kinds ADD CONSTRAINT no_poison CHECK (event_type <> '{POISON}')")
    else:
        await refuse(connection, state, f"NEW.event_type = '{POISON}'", "kinds")
    bodies = [sample(POISON if n == 5 else AUTHCAPTURE, n).body for n in range(10)]
    answers = await asyncio.gather(*(post(http, body) for body in bodies))
    assert [answer["status"] for _, answer, _ in answers] == ["quarantined" if n == 5 else "accepted" for n in range(10)]
    assert await connection.fetchval("SELECT count(*) FROM events") == 9
    row = await connection.fetchrow("SELECT reason, detail FROM quarantine")
    assert row is not None
    assert row["reason"] == "unstorable"
    assert ("no_poison" if state == "check" else state) in row["detail"]
    assert metric(daemon, "webhookd_duplicates_total", layer="notification_id") == 0


async def test_what_a_constraint_refused_is_released_once_it_is_gone(
    start: Start, http: aiohttp.ClientSession, daemon: Daemon, connection: Connection
) -> None:
    await connection.execute(f"ALTER TABLE kinds ADD CONSTRAINT no_poison CHECK (event_type <> '{POISON}')")
    _, answer, _ = await post(http, sample(POISON, 1).body)
    assert answer["status"] == "quarantined"
    quarantine = Quarantine(OperatorQueries(daemon.database), daemon.receipts)
    with pytest.raises(ConflictError, match="the constraint no_poison of the table kinds"):
        await quarantine.release(uuid.UUID(answer["id"]), actor="operator (ann)", note="")
    await connection.execute("ALTER TABLE kinds DROP CONSTRAINT no_poison")
    await quarantine.release(uuid.UUID(answer["id"]), actor="operator (ann)", note="")
    assert await connection.fetchval("SELECT event_type FROM events") == POISON


async def test_a_body_that_even_quarantine_refuses_is_put_off_alone(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    await refuse(connection, "23514", "length(NEW.body) = 5", "quarantine")
    answers = await asyncio.gather(*(post(http, b"x" * length) for length in range(1, 10)))
    assert [status for status, _, _ in answers] == [503 if length == 5 else 200 for length in range(1, 10)]
    assert metric(daemon, "webhookd_received_total", account="default", outcome="postgresql_refused") == 1
    assert daemon.health.ready


@pytest.mark.parametrize(("state", "when"), [("42501", "BEFORE"), ("XX002", "BEFORE"), ("42P01", "BEFORE"), ("XX002", "AFTER")])
async def test_while_postgresql_refuses_to_store_webhooks_are_put_off_and_counted_and_the_daemon_is_not_ready(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection, state: str, when: str
) -> None:
    """A missing right, a corrupted index or a missing table is not the sender's fault, and may concern all webhooks."""
    await refuse(connection, state, when=when)
    status, _, headers = await post(http, sample(AUTHCAPTURE, 1).body)
    assert status == 503
    assert "Retry-After" in headers
    assert metric(daemon, "webhookd_received_total", account="default", outcome="postgresql_refused") == 1
    assert not daemon.health.ready
    assert metric(daemon, "webhookd_dependency_up", dependency="postgresql") == 0
    for _ in range(3):
        with pytest.raises(UnavailableError):  # a probe meets the same refusal as webhooks
            await daemon.database._probe()
    assert (await post(http, sample(AUTHCAPTURE, 1).body))[0] == 503
    assert metric(daemon, "webhookd_received_total", account="default", outcome="postgresql_away") == 1
    await connection.execute("DROP TRIGGER refuse ON ledger")
    await until(lambda: daemon.health.ready, "it is ready again by itself")
    status, answer, _ = await post(http, sample(AUTHCAPTURE, 1).body)
    assert (status, answer["status"]) == (200, "accepted")
    assert await connection.fetchval("SELECT count(*) FROM events") == 1, "the probe left nothing behind"


async def test_one_row_that_meets_a_corrupted_index_does_not_stop_the_others(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    await refuse(connection, "XX002", f"NEW.event_type = '{POISON}'", "kinds")
    assert (await post(http, sample(POISON, 1).body))[0] == 503
    await until(lambda: daemon.health.ready, "others can be stored")
    assert (await post(http, sample(AUTHCAPTURE, 1).body))[0] == 200


async def test_a_repeated_notification_is_a_duplicate_by_redis_and_by_postgresql_alone(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    sent = sample(AUTHCAPTURE, 1)
    _, first, _ = await post(http, sent.body)
    await until(lambda: known(daemon, sent.notification_id), "Redis knows the notification")
    _, second, _ = await post(http, sent.body)
    assert second == {"status": "duplicate", "id": first["id"]}
    assert metric(daemon, "webhookd_duplicates_total", layer="redis") == 1
    daemon.idempotency.up = False  # the receiver believes that Redis is away
    _, third, _ = await post(http, sent.body)
    assert third == second
    assert metric(daemon, "webhookd_duplicates_total", layer="notification_id") == 1
    assert await connection.fetchval("SELECT count(*) FROM events") == 1


async def test_redis_hears_of_a_notification_only_after_its_commit(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    """If Redis had the mark and the commit then failed, the provider's retry would count as a duplicate, and be lost."""
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '53100'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    sent = sample(AUTHCAPTURE, 1)
    status, _, headers = await post(http, sent.body)
    assert status == 503
    assert headers["Retry-After"] == "5"
    await connection.execute("DROP TRIGGER refuse ON ledger")
    await until(lambda: daemon.database.up, "PostgreSQL takes writes again")
    status, answer, _ = await post(http, sent.body)
    assert (status, answer["status"]) == (200, "accepted"), "the provider's retry is taken for what it is: new"


async def test_a_notification_id_differing_in_case_is_the_same(http: aiohttp.ClientSession, connection: Connection) -> None:
    sent = sample(AUTHCAPTURE, 1)
    upper = sent.body.replace(sent.notification_id.encode(), sent.notification_id.upper().encode())
    _, first, _ = await post(http, sent.body)
    _, second, _ = await post(http, upper)
    assert second == {"status": "duplicate", "id": first["id"]}


async def test_the_same_id_with_another_body_is_a_duplicate_counted_as_a_mismatch(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    sent = sample(AUTHCAPTURE, 1)
    _, first, _ = await post(http, sent.body)
    for redis_up in (False, True):
        daemon.idempotency.up = redis_up
        _, second, _ = await post(http, sent.body.replace(b'"P1XHLC"', b'"OTHER1"'))
        assert second == {"status": "duplicate", "id": first["id"]}
    assert metric(daemon, "webhookd_body_mismatches_total", account="default") == 2
    assert await connection.fetchval("SELECT body FROM bodies") == sent.body, "the first one stands"


async def test_what_redis_says_of_other_bytes_is_not_believed(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    """Redis may hold marks of events that PostgreSQL never committed. Only PostgreSQL decides whether an event is known."""
    sent = sample(AUTHCAPTURE, 1)
    daemon.idempotency.mark_seen([("default", sent.notification_id, Seen(uuid.uuid4(), b"other bytes here"))])
    await until(lambda: known(daemon, sent.notification_id), "Redis has the mark")
    _, answer, _ = await post(http, sent.body)
    assert answer["status"] == "accepted"
    assert await connection.fetchval("SELECT count(*) FROM events") == 1


async def test_an_event_through_a_second_webhook_is_linked_to_the_first(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    sent = sample(AUTHCAPTURE, 1)
    twin = sent.body.replace(sent.notification_id.encode(), b"b5d0c5a0-0000-4000-8000-000000000000")
    _, first, _ = await post(http, sent.body)
    _, second, _ = await post(http, twin)
    assert second == {"status": "duplicate", "id": first["id"]}
    assert metric(daemon, "webhookd_duplicates_total", layer="content") == 1
    # The twin's own retry, with other bytes, is recognised by its id.
    daemon.idempotency.up = False
    _, third, _ = await post(http, twin.replace(b'"eventDate":"2', b'"eventDate": "2'))
    _, fourth, _ = await post(http, twin.replace(b'"P1XHLC"', b'"OTHER1"'))
    assert third == fourth == second
    assert await connection.fetchval("SELECT count(*) FROM events") == 1
    assert await connection.fetchval("SELECT count(*) FROM notification_aliases") == 1


async def test_two_events_that_differ_only_in_what_parsing_loses_are_two(
    http: aiohttp.ClientSession, connection: Connection
) -> None:
    date = datetime.now(UTC).isoformat()
    amounts = ("0.1", "0.10000000000000000555", '7,"amount":8', '6,"amount":8')
    for number, amount in enumerate(amounts):
        text = f'{{"notificationId":"{number}","eventType":"t","eventDate":"{date}","payload":{{"id":"1","amount":{amount}}}}}'
        status, answer, _ = await post(http, text.encode())
        assert (status, answer["status"]) == (200, "accepted")
    assert await connection.fetchval("SELECT count(*) FROM events") == len(amounts)


async def test_one_notification_at_two_accounts_is_two_events(http: aiohttp.ClientSession, connection: Connection) -> None:
    sent = sample(AUTHCAPTURE, 1)
    _, ours, _ = await post(http, sent.body)
    _, theirs, _ = await post(http, sent.body, key=EU_OLD, path=f"{PATH}/eu")
    assert ours["status"] == theirs["status"] == "accepted"
    assert await connection.fetchval("SELECT count(DISTINCT account) FROM events") == 2


async def test_each_of_an_accounts_keys_verifies_and_is_recorded(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    for number, key in enumerate((EU_OLD, EU_NEW), 10):
        status, _, _ = await post(http, sample(AUTHCAPTURE, number).body, key=key, path=f"{PATH}/eu")
        assert status == 200
        row = await connection.fetchval("SELECT count(*) FROM events WHERE key_fingerprint = $1", fingerprint(key))
        assert row == 1
        name = "webhookd_signature_key_last_used_timestamp_seconds"
        assert metric(daemon, name, account="eu", key=fingerprint(key)) > 0
    status, _, _ = await post(http, sample(AUTHCAPTURE, 3).body, key=KEY, path=f"{PATH}/eu")
    assert status == 401, "another account's key"


@pytest.mark.parametrize(
    ("signature", "outcome"),
    [(None, "missing"), ("sha512=zz", "malformed"), ("", "malformed"), ("sha512=" + "0" * 128, "mismatch")],
)
async def test_what_is_not_authentic_is_refused_and_leaves_nothing(
    signature: str | None, outcome: str, daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    headers = {} if signature is None else {"X-ANET-Signature": signature}
    async with http.post(PATH, data=sample(AUTHCAPTURE, 1).body, headers=headers) as response:
        assert response.status == 401
        assert response.content_type == "application/problem+json"
        text = await response.text()
        assert json.loads(text)["status"] == 401
    assert fingerprint(KEY) not in text
    assert KEY not in text
    assert metric(daemon, "webhookd_received_total", account="default", outcome=f"signature_{outcome}") == 1
    assert await connection.fetchval("SELECT count(*) FROM events") == 0


async def test_an_unknown_account_is_404_and_makes_no_label(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    status, answer, headers = await post(http, sample(AUTHCAPTURE, 1).body, path=f"{PATH}/nobody")
    assert (status, answer["status"]) == (404, 404)
    assert headers["Content-Type"].startswith("application/problem+json")
    assert metric(daemon, "webhookd_received_total", account="unknown", outcome="unknown_account") == 1


async def test_the_public_listener_has_nothing_else(http: aiohttp.ClientSession) -> None:
    async with http.get("/livez") as response:
        assert response.status == 200
    for path in ("/", "/metrics", "/readyz", "/webhooks/health", "/webhooks/events"):
        async with http.get(path) as response:
            assert response.status == 404, path
            assert response.content_type == "application/problem+json"
    for path in (f"{PATH}//", f"{PATH}/default/more", f"{PATH}/default//", f"{PATH}x", f"{PATH}x/"):
        status, answer, _ = await post(http, sample(AUTHCAPTURE, 1).body, path=path)
        assert (status, answer["title"]) == (404, "Not Found"), path
    async with http.get(PATH) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
    async with http.post("/livez") as response:
        assert response.status == 405
    async with http.head("/livez") as response:
        assert response.status == 200


async def test_an_accounts_path_may_be_written_in_other_ways(http: aiohttp.ClientSession) -> None:
    for path in (f"{PATH}/default", f"{PATH}/%64efault", f"{PATH}?a=b"):
        status, answer, _ = await post(http, sample(AUTHCAPTURE, 1).body, path=path)
        assert (status, answer["status"]) == (200, "accepted"), path


@pytest.mark.parametrize(("path", "key"), [("/", KEY), ("/default/", KEY), ("/eu/", EU_NEW), ("/eu/?a=b", EU_NEW)])
@pytest.mark.parametrize("headers", [{}, {"Expect": "100-continue"}], ids=["plain", "expect"])
async def test_a_trailing_slash_means_the_same_path(
    http: aiohttp.ClientSession, path: str, key: str, headers: dict[str, str]
) -> None:
    status, answer, _ = await post(http, sample(AUTHCAPTURE, 1).body, path=PATH + path, key=key, headers=headers)
    assert (status, answer["status"]) == (200, "accepted")


async def test_an_unknown_account_with_a_trailing_slash_is_an_unknown_account(http: aiohttp.ClientSession) -> None:
    status, answer, _ = await post(http, sample(AUTHCAPTURE, 1).body, path=f"{PATH}/nobody/")
    assert (status, answer["detail"]) == (404, "no such account")


async def test_a_body_too_large_by_its_length_is_refused_before_it_is_read(daemon: Daemon) -> None:
    """The provider sends `Expect: 100-continue`, and receives no 100."""
    answer = await _raw(daemon, b"Content-Length: 4097\r\nExpect: 100-continue\r\n\r\n", b"")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer


async def test_a_chunked_body_too_large_is_refused(daemon: Daemon) -> None:
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    answer = await _raw(daemon, b"Transfer-Encoding: chunked\r\n\r\n", chunk * 2 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


async def test_expect_100_continue_is_answered(daemon: Daemon) -> None:
    body = sample(AUTHCAPTURE, 1).body
    head = f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nX-Anet-Signature: {sign(body, KEY)}\r\n\r\n"
    answer = await _raw(daemon, head.encode(), body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_a_slow_body_is_408_and_a_truncated_one_leaves_nothing(daemon: Daemon, connection: Connection) -> None:
    answer = await _raw(daemon, b"Content-Length: 100\r\n\r\n", b"half")
    assert answer.startswith(b"HTTP/1.1 408")
    _, writer = await _open(daemon)
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await until(lambda: metric(daemon, "webhookd_received_total", account="default", outcome="truncated") == 1, "it is counted")
    assert await connection.fetchval("SELECT count(*) FROM events") == 0


async def test_a_content_encoding_is_refused(http: aiohttp.ClientSession) -> None:
    """Decompressed bytes are not the bytes that were signed."""
    body = sample(AUTHCAPTURE, 1).body
    async with http.post(PATH, data=body, headers={"Content-Encoding": "gzip"}) as response:
        assert response.status == 415


async def test_a_client_that_leaves_does_not_undo_its_event(daemon: Daemon, connection: Connection) -> None:
    """aiohttp does not cancel the handler of a client that left; the outcome of a cancelled commit would be unknown."""
    body = sample(AUTHCAPTURE, 1).body
    await connection.execute("BEGIN; LOCK TABLE ledger IN SHARE MODE")  # holds the commit until the client has left
    _, writer = await _open(daemon)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nX-ANET-Signature: {sign(body, KEY)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    await until(lambda: metric(daemon, "webhookd_commit_batch_size_count") == 1, "the commit has begun")
    writer.close()
    await writer.wait_closed()
    await connection.execute("COMMIT")
    await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM events"), "the event is committed")


async def test_a_commit_that_takes_too_long_is_503(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive", commit_timeout=0.3)
    await connection.execute("BEGIN; LOCK TABLE ledger IN SHARE MODE")
    async with aiohttp.ClientSession(daemon.public_url) as http:
        status, _, headers = await post(http, sample(AUTHCAPTURE, 1).body)
        assert status == 503
        assert headers["Retry-After"] == "5"
        assert metric(daemon, "webhookd_received_total", account="default", outcome="postgresql_away") == 1
        await connection.execute("COMMIT")


async def test_a_commit_that_waits_for_a_lock_keeps_no_other_webhook_waiting(
    start: Start, servers: Servers, connection: Connection
) -> None:
    """The other webhooks do not fill a batch; such a batch could otherwise wait for the end of the commit before it."""
    daemon = await start(roles="receive", commit_timeout=60, shutdown_grace=90)
    held, *others = (sample(AUTHCAPTURE, number) for number in range(5))
    holder = await connect(servers.database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(
        "INSERT INTO ledger (id, notification_key, body_hash, kind, notification_id) "
        "VALUES (gen_random_uuid(), $1, gen_random_uuid(), 1, $2)",
        notification_key("default", held.notification_id),
        held.notification_id,
    )
    async with aiohttp.ClientSession(daemon.public_url) as http:
        waits = asyncio.create_task(post(http, held.body))
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await until(lambda: connection.fetchval(query), "the commit waits for the lock")
        for other in others:
            status, answer, _ = await asyncio.wait_for(post(http, other.body), 30)
            assert (status, answer["status"]) == (200, "accepted")
        assert not waits.done()
        await transaction.rollback()
        status, answer, _ = await waits
        assert (status, answer["status"]) == (200, "accepted")
    await holder.close()


async def test_more_than_max_pending_is_503_and_what_waits_is_taken(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive", max_pending=5, commit_timeout=10, shutdown_grace=20)
    await connection.execute("BEGIN; LOCK TABLE ledger IN SHARE MODE")
    async with aiohttp.ClientSession(daemon.public_url) as http:
        posts = [asyncio.create_task(post(http, sample(AUTHCAPTURE, n).body)) for n in range(40)]
        await until(  # account unknown: refused before the request was parsed
            lambda: metric(daemon, "webhookd_received_total", account="unknown", outcome="overload") > 0, "a refusal"
        )
        await connection.execute("COMMIT")
        statuses = [(await one)[0] for one in posts]
    accepted = statuses.count(200)
    assert set(statuses) == {200, 503}
    assert await connection.fetchval("SELECT count(*) FROM events") == accepted


async def test_while_postgresql_is_known_to_be_away_the_answer_is_503_at_once(
    daemon: Daemon, http: aiohttp.ClientSession
) -> None:
    daemon.database.up = False
    status, answer, headers = await post(http, sample(AUTHCAPTURE, 1).body)
    assert status == 503
    assert headers["Retry-After"] == "5"
    assert answer["status"] == 503


async def test_a_future_date_is_quarantined_and_a_retry_after_nine_days_is_not(http: aiohttp.ClientSession) -> None:
    now = datetime.now(UTC)
    _, future, _ = await post(http, sample(AUTHCAPTURE, 1, now + timedelta(days=2)).body)
    _, late, _ = await post(http, sample(AUTHCAPTURE, 2, now - timedelta(days=9)).body)
    assert future["status"] == "quarantined"
    assert late["status"] == "accepted"


async def test_many_at_once_share_commits(daemon: Daemon, http: aiohttp.ClientSession, connection: Connection) -> None:
    bodies = [sample(AUTHCAPTURE, n).body for n in range(200)]
    await asyncio.gather(*(post(http, body) for body in bodies))
    assert await connection.fetchval("SELECT count(*) FROM events") == 200
    assert metric(daemon, "webhookd_commit_batch_size_count") < 200
    assert metric(daemon, "webhookd_commit_batch_size_sum") == 200


async def test_redis_is_asked_under_heavy_load_once_there_are_duplicates(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    """Most of 64 webhooks at once share a batch. PostgreSQL finds their first repetitions, and Redis finds the later ones."""
    bodies = [sample(AUTHCAPTURE, n).body for n in range(64)]
    asked: list[tuple[int, bool]] = []
    real = daemon.idempotency.seen

    async def seen(notifications: Any) -> Any:
        known = await real(notifications)
        asked.append((len(known), any(known)))
        return known

    daemon.idempotency.seen = seen  # type: ignore[method-assign]
    rounds = [[answer["status"] for _, answer, _ in await asyncio.gather(*(post(http, b) for b in bodies))] for _ in range(8)]
    assert rounds == [["accepted"] * 64, *[["duplicate"] * 64] * 7]
    assert any(count >= 16 and known for count, known in asked), "a storm is Redis's to answer"
    assert metric(daemon, "webhookd_duplicates_total", layer="notification_id") > 0, "at first it was not asked"


@pytest.mark.parametrize("off", [(), ("nestloop",), ("nestloop", "hashjoin")], ids=["nested loops", "hashes", "merges"])
async def test_two_receivers_with_the_same_events_at_once_make_each_one_event(
    start: Start, servers: Servers, connection: Connection, off: tuple[str, ...]
) -> None:
    """Two replicas receive bursts of notifications, and of their twins through a second webhook in another order. No deadlock.

    PostgreSQL chooses how it looks for aliases. If it hashes, the rows may have no order. If it merges, the rows have the order
    of the notifications' keys, and the twins have another order. Each row takes a while, so that commits overlap.
    """
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    for join in off:
        await connection.execute(f"ALTER DATABASE {database} SET enable_{join} = off")
    await connection.execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END $$;"
        "CREATE TRIGGER linger BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION linger()"
    )
    daemons = [await start(roles="receive"), await start(roles="receive")]

    async def taken(http: aiohttp.ClientSession, body: bytes) -> tuple[int, dict[str, Any], Any]:
        """Sends a body; sends it again only while the answer is 503 for overload, which a slow machine may give."""
        for _ in range(100):
            answer = await post(http, body)
            if answer[0] != 503 or not answer[1]["detail"].startswith("too many webhooks"):
                break
            await asyncio.sleep(0.1)
        return answer

    async with aiohttp.ClientSession(daemons[0].public_url) as one, aiohttp.ClientSession(daemons[1].public_url) as two:
        for burst in range(12):
            samples = [sample(AUTHCAPTURE, 64 * burst + number) for number in range(64)]
            twins = [s.body.replace(s.notification_id.encode(), str(uuid.uuid4()).encode()) for s in samples]
            answers = await asyncio.gather(
                *(taken(one, s.body) for s in samples),
                *(taken(two, body) for body in reversed(twins)),
                *(taken(one, body) for body in twins),
            )
            assert {status for status, _, _ in answers} == {200}
            firsts, seconds, thirds = answers[:64], answers[64:128][::-1], answers[128:]
            assert [a["id"] for _, a, _ in firsts] == [a["id"] for _, a, _ in seconds] == [a["id"] for _, a, _ in thirds]
    assert await connection.fetchval("SELECT count(*) FROM events") == 12 * 64
    assert await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


async def _open(daemon: Daemon) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = daemon.public_url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def _raw(daemon: Daemon, head: bytes, body: bytes) -> bytes:
    """Sends a request as bytes; returns all bytes until the server closes, or a complete answer."""
    reader, writer = await _open(daemon)
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode() + head)
    await writer.drain()
    answer = b""
    if b"Expect" in head:
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    if not answer or answer.startswith(b"HTTP/1.1 100"):
        writer.write(body)
        await writer.drain()
        answer += await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()
    await writer.wait_closed()
    return answer
