"""`webhookd import` takes old webhooks as history or as work, each once, whatever interrupts it."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from tests.conftest import Servers, Start
from tests.helpers.database import Connection
from tests.helpers.import_file import NAME, environment, import_, line, old, start_import, write
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Operator, bury
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import fingerprint, sign
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.runtime.loops import Watch
from webhookd.store.database import Database
from webhookd.store.partitions import make_past_partitions
from webhookd.store.pools import PoolSettings
from webhookd.store.retention import Ages, Retention
from webhookd.telemetry.metrics import Metrics

DAY = 86_400.0
TABLES = ("ledger", "bodies", "audit", "work", "timeline", "notification_aliases", "kinds", "quarantine", "statistics")


async def content(connection: Connection) -> dict[str, list[str]]:
    """Returns every row of the tables that an import could write."""
    return {name: sorted(str(row) for row in await connection.fetch(f"SELECT t::text FROM {name} t")) for name in TABLES}


async def post(daemon: Daemon, body: bytes) -> str:
    async with aiohttp.ClientSession() as http:
        sent = sample(AUTHCAPTURE, 1)
        sent = type(sent)(sent.event_type, "", "", body)
        return (await traffic.post(http, f"{daemon.public_url}/webhooks/authorize-net", sent, key=KEY)).outcome


async def test_history_is_processed_at_the_time_of_its_receipt_with_its_exact_bytes(
    servers: Servers, connection: Connection
) -> None:
    odd = old(1).body.replace(b'{"notificationId"', b'{ \t"note":"\xc3\xa9\\u0041",\r\n"notificationId"')
    signed, plain = odd, old(2, event_type=REFUND).body
    received = datetime.now(UTC) - timedelta(days=20)
    write(
        servers.folder,
        [
            line(signed, received_at=received.isoformat(), signature=sign(signed, KEY).lower()),
            {"body": plain.decode(), "received_at": received.timestamp(), "other": "is ignored"},
        ],
    )
    code, report, err = await import_(servers)
    assert (code, err) == (0, "")
    assert report["imported"] == 2
    assert report["signatures"] == {"verified": 1, "wrong": 0, "none": 1}
    rows = await connection.fetch("SELECT e.*, b.body FROM events e JOIN bodies b ON b.event_id = e.id ORDER BY event_type")
    assert [row["body"] for row in rows] == [signed, plain]
    assert [row["key_fingerprint"] for row in rows] == [fingerprint(KEY), ""]
    for row in rows:
        assert (row["status"], row["attempts"]) == ("processed", 0)
        assert abs(row["received_at"] - received) < timedelta(milliseconds=2)
        assert abs(row["finished_at"] - received) < timedelta(milliseconds=2), "it was not late"
    trail = await connection.fetch("SELECT * FROM audit WHERE event_id = $1 ORDER BY at", rows[0]["id"])
    assert [(row["to_status"], row["actor"], row["reason"]) for row in trail] == [
        ("received", "import", f"imported as history from {NAME}"),
        ("processed", "import", f"imported as history from {NAME}"),
    ]
    assert await connection.fetchval("SELECT count(*) FROM timeline") == 2
    strays = "SELECT (SELECT count(*) FROM bodies_default) + (SELECT count(*) FROM audit_default)"
    assert await connection.fetchval(strays) == 0, "the weeks of the past have partitions"


async def test_a_second_run_changes_nothing(servers: Servers, connection: Connection) -> None:
    lines = [line(old(number).body) for number in range(300)]
    twice = old(0)
    other_webhook = twice.body.replace(twice.notification_id.encode(), b"another-id")
    lines += [line(twice.body), line(twice.body), line(other_webhook)]
    write(servers.folder, lines)
    _, report, _ = await import_(servers)
    assert (report["imported"], report["duplicates"]) == (301, 2)
    before = await content(connection)
    for way in ("history", "work"):
        code, report, _ = await import_(servers, "--as", way, "--unsigned")
        assert code == 0
        assert (report["lines"], report["imported"], report["duplicates"]) == (303, 0, 303)
        assert await content(connection) == before


async def test_what_webhookd_has_is_not_imported_and_what_was_imported_is_not_received(
    servers: Servers, connection: Connection, start: Start
) -> None:
    daemon = await start(roles="receive")
    has, lacks = sample(AUTHCAPTURE, 1), sample(AUTHCAPTURE, 2)
    through_another_webhook = has.body.replace(has.notification_id.encode(), b"another-id")
    assert await post(daemon, has.body) == "accepted"
    write(servers.folder, [line(has.body, days=0), line(through_another_webhook, days=0), line(lacks.body, days=0)])
    code, report, _ = await import_(servers, "--as", "work", "--unsigned")
    assert (code, report["imported"], report["duplicates"]) == (0, 1, 2)
    for body in (has.body, through_another_webhook, lacks.body):
        assert await post(daemon, body) == "duplicate"
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 2


async def test_work_is_processed_once_after_fresh_events_and_history_runs_no_handler(
    servers: Servers, connection: Connection, start: Start
) -> None:
    handled: list[Event] = []
    registry = Registry()

    async def handle(event: Event, _: Any) -> None:
        handled.append(event)

    registry.add("*", handle)
    write(servers.folder, [line(old(number).body) for number in range(3)], "history.jsonl")
    write(servers.folder, [line(old(number).body) for number in range(10, 13)], "work.jsonl")
    await import_(servers, name="history.jsonl")
    await import_(servers, "--as", "work", "--unsigned", name="work.jsonl")
    assert await connection.fetchval("SELECT count(*) FROM work WHERE NOT fresh AND since > now() - interval '1 hour'") == 3
    daemon = await start(registry)

    async def done() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM work")

    await until(done, "the work has ended", deadline=30)
    assert len(handled) == 3
    assert all(datetime.now(UTC) - event.received_at > timedelta(days=19) for event in handled)
    late = daemon.metrics.registry.get_sample_value("webhookd_end_to_end_seconds_sum") or 0.0
    assert late < 3600, "the time counts from the import"


async def test_a_line_without_a_signature_is_no_work_and_ends_none_unless_the_operator_says_so(
    servers: Servers, connection: Connection, start: Start
) -> None:
    daemon = await start(roles="receive")
    waits, signed, unsigned = (sample(AUTHCAPTURE, number).body for number in range(3))
    assert await post(daemon, waits) == "accepted"
    write(servers.folder, [line(waits, days=0)])
    code, report, err = await import_(servers, "--end-waiting")
    assert (code, report["ended"], report["bad"], "--unsigned" in err) == (1, 0, 1, True), err
    write(servers.folder, [line(unsigned, days=0), line(signed, days=0, signature=sign(signed, KEY))])
    for more in (["--dry-run"], []):
        code, report, err = await import_(servers, "--as", "work", *more)
        assert (code, report["imported"], report["bad"]) == (1, 1, 1), err
        assert "line 1: " in err
        assert "--unsigned" in err
    assert await connection.fetchval("SELECT count(*) FROM work") == 2, "the event that waits, and the signed line"


async def test_work_comes_no_faster_than_its_rate(servers: Servers, connection: Connection) -> None:
    write(servers.folder, [line(old(number).body) for number in range(6)])
    code, report, _ = await import_(servers, "--as", "work", "--unsigned", "--rate", "2")
    assert (code, report["imported"]) == (0, 6)
    took = await connection.fetchval("SELECT max(since) - min(since) FROM work")
    assert took >= timedelta(seconds=1.9), "two, two and two"


async def test_a_replay_leaves_out_history_whose_handlers_another_program_has_run_and_counts_it(
    servers: Servers, connection: Connection, start: Start
) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN)
    own = await bury(connection, 1, status="processed")
    write(servers.folder, [line(old(number).body) for number in range(3)])
    await import_(servers)
    operator = Operator(daemon.admin_url)
    chosen: dict[str, Any] = {"status": ["processed"], "received_from": "2020-01-01T00:00:00Z"}
    counted = await operator.ended(await operator.order("events/replay", filter=chosen, reason="to know"))
    assert (counted["total"], counted["reasons"]) == (1, {"processed": 1, "left out: imported as history": 3})
    assert (await operator.done("events/replay", filter=chosen, reason="again", force=True))["done"] == 1
    assert [row["event_id"] for row in await connection.fetch("SELECT event_id FROM work")] == own
    also = {**chosen, "imported": True}
    assert (await operator.done("events/replay", filter=also, reason="all of it", force=True))["done"] == 3
    assert await connection.fetchval("SELECT count(*) FROM work") == 4


async def test_history_needs_no_lock_that_keeps_out_the_receiver(servers: Servers, connection: Connection) -> None:
    """A handler's transaction has used both tables. A wait for an ACCESS EXCLUSIVE lock would hold up receipts."""
    write(servers.folder, [line(old(1).body), line(old(2, days=9).body, days=9)])
    async with connection.transaction():
        await connection.execute("LOCK TABLE ONLY bodies IN ROW EXCLUSIVE MODE; LOCK TABLE ONLY audit IN ROW EXCLUSIVE MODE")
        code, report, err = await import_(servers)
    assert (code, report.get("imported")) == (0, 2), err
    strays = "SELECT (SELECT count(*) FROM bodies_default) + (SELECT count(*) FROM audit_default)"
    assert await connection.fetchval(strays) == 0


async def test_two_imports_make_the_same_partitions_at_once(database_url: str, connection: Connection) -> None:
    instants = [datetime.now(UTC) - timedelta(weeks=weeks) for weeks in range(10, 30)]
    settings = PoolSettings(database_url, short=2, work=1, handler_timeout=5)
    databases = [Database(settings, metrics=Metrics(), watch=Watch()) for _ in range(2)]
    try:
        for database in databases:
            await database.start()
        await until(lambda: all(database.up for database in databases), "both are connected")
        await asyncio.gather(*(make_past_partitions(database, "bodies", instants) for database in databases))
    finally:
        for database in databases:
            await database.stop()
    assert await connection.fetchval("SELECT count(*) FROM partitions WHERE parent = 'bodies'") >= len(instants)
    left = "SELECT count(*) FROM pg_constraint WHERE conname = 'webhookd_excluded'"
    assert await connection.fetchval(left) == 0, "no constraint refuses rows of the week"


async def test_an_error_of_postgresql_ends_the_import_with_a_sentence_and_the_next_step(
    servers: Servers, connection: Connection
) -> None:
    await connection.execute("""
        CREATE OR REPLACE PROCEDURE webhookd.make_partition(parent text, first timestamptz) LANGUAGE plpgsql AS $procedure$
        BEGIN
            RAISE EXCEPTION 'more than 10000 rows' USING ERRCODE = 'object_not_in_prerequisite_state';
        END
        $procedure$
    """)
    write(servers.folder, [line(old(1).body)])
    code, report, err = await import_(servers, "--as", "work", "--unsigned")
    assert (code, report) == (1, {})
    assert "Traceback" not in err
    assert "run the command again" in err


async def test_history_counts_in_no_statistic_and_no_alert(servers: Servers, connection: Connection, start: Start) -> None:
    before = await content(connection)
    write(servers.folder, [line(old(number).body) for number in range(3)])
    _, report, _ = await import_(servers)
    assert report["imported"] == 3
    after = await content(connection)
    changed = {name for name in TABLES if after[name] != before[name]}
    assert changed == {"ledger", "bodies", "audit", "timeline", "kinds"}, "neither statistics nor work, at which alerts look"
    daemon = await start(admin_tokens=ANN)
    _, stats = await Operator(daemon.admin_url).get("stats")
    assert stats["now"]["statuses"] == {"received": 0, "queued": 0, "retrying": 0, "dead": 0}
    assert stats["now"]["oldest_unfinished_seconds"] == 0
    assert (stats["totals"]["received"], stats["totals"]["processed"], stats["totals"]["dead"]) == (0, 0, 0)
    _, page = await Operator(daemon.admin_url).get("events", status="processed")
    assert len(page["events"]) == 3


async def test_a_bad_line_is_named_with_its_reason_and_stops_no_other(servers: Servers, connection: Connection) -> None:
    good = old(1).body
    future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    lines = [
        line(good),
        "no json",
        "[1]",
        "",
        {"body": {"eventType": "x"}, "received_at": "2026-01-01"},
        {"body": "{}"},
        line(b"{}", received_at="yesterday"),
        line(b"{}", received_at=True),
        {"body_base64": "*", "received_at": "2026-01-01"},
        line(b"not json"),
        line(old(2).body, signature="sha512=" + "0" * 128),
        line(old(3).body, signature="sha512=00"),
        line(old(4, days=500).body, days=3),
        line(old(5).body, days=500),
        line(old(6).body, received_at=future),
        line(old(7).body, account="nobody"),
        line(b'{"notificationId":"' + b"x" * 1_100_000 + b'"}'),
        line(old(8).body),
        line(old(9).body, received_at=f"{datetime.now(UTC) - timedelta(days=20, hours=5):%Y-%m-%dT%H:%M:%S}"),
    ]
    write(servers.folder, lines)
    code, report, err = await import_(servers)
    assert code == 1
    assert (report["lines"], report["imported"], report["bad"]) == (18, 2, 16), "an empty line does not count"
    assert report["signatures"] == {"verified": 0, "wrong": 2, "none": 7}
    told = {problem["line"]: problem["reason"] for problem in report["problems"]}
    assert sorted(told) == [2, 3, *range(5, 18), 19]
    wanted = {
        2: "no JSON",
        3: "no object",
        5: "`body` is no text",
        6: "`received_at`",
        7: "is no time",
        8: "is no time",
        9: "no base64",
        10: "JSON",
        11: "no key gives this signature",
        12: "malformed",
        13: "WEBHOOKD_EVENT_RETENTION",
        14: "WEBHOOKD_EVENT_RETENTION (400 days)",
        15: "future",
        16: "account",
        17: "WEBHOOKD_MAX_BODY_BYTES",
        19: "zone",
    }
    assert [number for number, part in wanted.items() if part not in told[number]] == [], told
    assert all(f"line {number}: {reason}" in err for number, reason in told.items())
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 2


async def test_csv_has_the_exact_bytes_too(servers: Servers, connection: Connection) -> None:
    odd = old(1).body.replace(b'{"notificationId"', b'{\r\n "note" :\t"a,b", "latin": "\xc3\xa9","notificationId"')
    plain = old(2).body
    at = f"{datetime.now(UTC) - timedelta(days=10):%Y-%m-%d %H:%M:%S}+00"
    quoted = odd.decode().replace('"', '""')
    broken = f'"{at}","unfinished\n'
    text = f'\ufeffreceived_at,note,signature,body\r\n{at},x,{sign(odd, KEY)},"{quoted}"\r\n{at},too,many,fields,here\r\n'
    quoted = plain.decode().replace('"', '""')
    (servers.folder / "old.csv").write_bytes(f'{text}{at},,,"{quoted}"\n{broken}'.encode())
    code, report, err = await import_(servers, name="old.csv")
    assert (code, report["imported"], report["signatures"]["verified"]) == (1, 2, 1), err
    assert {problem["line"] for problem in report["problems"]} == {4, 6}, "the first body takes two lines"
    bodies = await connection.fetch("SELECT body FROM bodies")
    assert {row["body"] for row in bodies} == {odd, plain}
    (servers.folder / "old.csv").write_text("recieved_at,body\n1,2\n")
    code, _, err = await import_(servers, name="old.csv")
    assert code == 2
    assert "`received_at`" in err


async def test_a_kill_in_the_middle_and_a_second_run_import_everything_once(servers: Servers, connection: Connection) -> None:
    count = 8000
    write(servers.folder, (line(old(number).body) for number in range(count)))
    process = await asyncio.create_subprocess_exec(
        *start_import(servers), env=environment(servers), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )

    async def begun() -> int:
        return int(await connection.fetchval("SELECT count(*) FROM ledger"))

    await until(begun, "the first batch is committed", deadline=60)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    stored = await begun()
    assert 0 < stored < count
    code, report, _ = await import_(servers)
    assert (code, report["imported"], report["duplicates"]) == (0, count - stored, stored)
    assert await begun() == count
    assert await connection.fetchval("SELECT count(*) FROM bodies") == count
    assert await connection.fetchval("SELECT count(*) FROM audit") == 2 * count
    assert await connection.fetchval("SELECT count(*) FROM timeline") == count


async def test_history_that_was_stored_and_not_folded_is_folded_by_the_second_run(
    servers: Servers, connection: Connection
) -> None:
    write(servers.folder, [line(old(1).body)])
    await import_(servers)
    before = await connection.fetch("SELECT * FROM timeline")
    await connection.execute("DELETE FROM timeline")
    await import_(servers)
    assert await connection.fetch("SELECT * FROM timeline") == before != []


async def test_a_repeat_of_an_event_without_a_date_changes_no_time_on_the_timeline(
    servers: Servers, connection: Connection
) -> None:
    event = old(1)
    body = event.body.replace(b'"eventDate"', b'"noDate"')
    write(servers.folder, [line(body, days=20)])
    await import_(servers)
    before = await connection.fetch("SELECT * FROM timeline")
    write(servers.folder, [line(body, days=10)])
    _, report, _ = await import_(servers)
    assert report["duplicates"] == 1
    assert await connection.fetch("SELECT * FROM timeline") == before != []


async def test_a_dry_run_stores_nothing_and_counts_what_webhookd_lacks(
    servers: Servers, connection: Connection, start: Start
) -> None:
    daemon = await start(roles="receive")
    has = sample(AUTHCAPTURE, 1)
    assert await post(daemon, has.body) == "accepted"
    written_anew = has.body.replace(b'","', b'", "')
    through_another_webhook = has.body.replace(has.notification_id.encode(), b"another-id")
    bodies = [has.body, written_anew, through_another_webhook, sample(AUTHCAPTURE, 2).body]
    write(servers.folder, [line(body, days=0) for body in bodies])
    await daemon.stop()  # it would write statistics
    before = await content(connection)
    code, report, _ = await import_(servers, "--dry-run", "--end-waiting", "--unsigned")
    assert code == 0
    assert (report["imported"], report["duplicates"], report["other_body"], report["ended"]) == (1, 3, 1, 1)
    assert await content(connection) == before


async def test_work_that_another_program_has_done_ends_and_work_that_failed_stays(
    servers: Servers, connection: Connection, start: Start
) -> None:
    daemon = await start(roles="receive")
    samples = [sample(AUTHCAPTURE, number) for number in range(4)]
    for one in samples:
        assert await post(daemon, one.body) == "accepted"
    written_anew = samples[1].body.replace(b'","', b'", "')
    ids = {row["notification_id"]: row["id"] for row in await connection.fetch("SELECT id, notification_id FROM ledger")}
    failed = ids[samples[2].notification_id]
    await connection.execute("UPDATE work SET attempts = 1, status = 'retrying', fresh = false WHERE event_id = $1", failed)
    write(servers.folder, [line(body, days=0) for body in (samples[0].body, written_anew, samples[2].body)])
    _, report, _ = await import_(servers)
    assert (report["duplicates"], report["ended"]) == (3, 0)
    assert await connection.fetchval("SELECT count(*) FROM work") == 4, "without the option, work stays"
    _, report, _ = await import_(servers, "--end-waiting", "--unsigned")
    assert (report["duplicates"], report["other_body"], report["ended"]) == (3, 1, 2)
    left = {row["event_id"] for row in await connection.fetch("SELECT event_id FROM work")}
    assert left == {failed, ids[samples[3].notification_id]}
    assert await connection.fetchval("SELECT count(*) FROM timeline") == 3
    trail = await connection.fetch("SELECT * FROM audit WHERE event_id = $1", ids[samples[1].notification_id])
    assert [(row["from_status"], row["to_status"], row["actor"]) for row in trail] == [("received", "processed", "import")]


async def test_history_is_removed_when_its_time_is_over_and_old_bodies_are_not_stored(
    servers: Servers, connection: Connection, database_url: str
) -> None:
    write(servers.folder, [line(old(1, days=200).body, days=200), line(old(2, days=60).body, days=60)])
    code, report, _ = await import_(servers)
    assert (code, report["imported"], report["without_body"]) == (0, 2, 1)
    assert await connection.fetchval("SELECT count(*) FROM bodies") == 1
    metrics, watch = Metrics(), Watch()
    database = Database(PoolSettings(database_url, short=2, work=1, handler_timeout=5), metrics=metrics, watch=watch)
    await database.start()
    ages = Ages(bodies=30 * DAY, audit=100 * DAY, events=100 * DAY, quarantine=90 * DAY, window=15 * DAY)
    retention = Retention(database, ages, metrics=metrics, watch=watch)
    for task in ("bodies", "events"):
        await retention.remove(task)
    await retention.stop()
    await database.stop()
    assert await connection.fetchval("SELECT count(*) FROM bodies") == 0
    left = await connection.fetch("SELECT received_at FROM ledger")
    assert [(datetime.now(UTC) - row["received_at"]).days for row in left] == [60]


async def test_work_goes_to_its_destinations_once_and_history_to_none(servers: Servers, connection: Connection) -> None:
    shop = {"WEBHOOKD_DESTINATIONS__SHOP__URL": "https://shop.example.com", "WEBHOOKD_DESTINATIONS__SHOP__EVENT_TYPES": REFUND}
    history = line(old(1, event_type=REFUND).body)
    write(servers.folder, [history])
    assert (await import_(servers, "--as", "history", **shop))[0] == 0
    assert await connection.fetchval("SELECT count(*) FROM deliveries") == 0
    write(servers.folder, [history, line(old(2, event_type=REFUND).body), line(old(3).body)])
    for _ in range(2):
        assert (await import_(servers, "--as", "work", "--unsigned", **shop))[0] == 0
    rows = await connection.fetch(
        "SELECT d.destination, e.event_type, e.status FROM deliveries d JOIN events e ON e.id = event_id"
    )
    assert [tuple(row) for row in rows] == [("shop", REFUND, "received")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["old.txt"], "--format: the ending"),
        (["old.jsonl", "--account", "eu"], "WEBHOOKD_ACCOUNTS__EU__SIGNATURE_KEYS"),
        (["old.jsonl", "--as", "work", "--end-waiting"], "--end-waiting"),
    ],
)
async def test_a_wrong_argument_is_named_before_anything_is_read(servers: Servers, arguments: list[str], told: str) -> None:
    for name in ("old.txt", NAME):
        (servers.folder / name).write_text("no json\n")
    name, *others = arguments
    code, _, err = await import_(servers, *others, name=name)
    assert (code, told in err, "line 1" in err) == (2, True, False), err
