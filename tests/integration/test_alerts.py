"""Alerts without Prometheus: one message for each change of state, whatever restarts, and no false alarm for any merchant."""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.conftest import Servers, Start, settings_of
from tests.helpers.channels import SECRET, TOKEN, HttpChannel, MailServer
from tests.helpers.operator import ANN, LEO, Connection, Operator, bury
from tests.helpers.provider_rows import store_account, store_days
from tests.helpers.rhythms import big_shop, small_shop, store_rhythm
from tests.helpers.running import KEY
from tests.helpers.secrets import note
from tests.helpers.wait import until
from webhookd.alerts import alerts as part
from webhookd.alerts import evaluation as evaluations
from webhookd.alerts import outage, report, sender
from webhookd.alerts.catalogue import CONDITIONS
from webhookd.alerts.channel import Channel, NotSentError
from webhookd.alerts.conditions import Rhythm
from webhookd.alerts.evaluation import Evaluation
from webhookd.alerts.facts import read_facts
from webhookd.alerts.message import FIRES, Message
from webhookd.alerts.outage import Outage
from webhookd.alerts.report import Reports
from webhookd.alerts.sender import Sender
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import sign
from webhookd.dev.servers import Stack
from webhookd.runtime.loops import Watch
from webhookd.store import redis_keys
from webhookd.store.database import Database
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.store.pools import PoolSettings
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

LATE = {"compared_at": "now() - interval '3 hours'"}
NOON = datetime(2026, 2, 2, 12, tzinfo=UTC)
NIGHT = datetime(2026, 2, 2, 23, tzinfo=UTC)


@dataclass(slots=True)
class Replica:
    """One replica's parts of the alerts, without their loops."""

    database: Database
    metrics: Metrics
    evaluation: Evaluation
    reports: Reports
    sender: Sender
    now: datetime = NOON

    def use(self, *channels: Channel) -> None:
        """Sets the replica's channels."""
        self.sender.channels = {channel.name: channel for channel in channels}
        self.reports.channels = tuple(self.sender.channels)

    async def round(self) -> bool:
        """Reports, evaluates, and sends everything that is due. Returns whether this replica evaluated."""
        await self.reports.report()
        evaluated = await self.evaluation.run()
        while await self.sender.send_waiting():
            pass
        return evaluated

    def sent(self, outcome: str) -> float:
        """Returns the counter of messages."""
        return self.metrics.registry.get_sample_value("webhookd_alert_messages_total", {"outcome": outcome}) or 0.0


@pytest_asyncio.fixture
async def replicas(database_url: str) -> AsyncIterator[list[Replica]]:
    """Yields two replicas on one database."""
    made: list[Replica] = []
    for _ in range(2):
        metrics, watch = Metrics(), Watch()
        metrics.dependency_up.labels("sqs").set(1)
        database = Database(PoolSettings(database_url, short=2, work=1, handler_timeout=5), metrics=metrics, watch=watch)
        await database.start()
        evaluation = Evaluation(database, largest=None, metrics=metrics)
        reports = Reports(database, evaluation.id, metrics)
        replica = Replica(database, metrics, evaluation, reports, Sender(database, dashboard="", metrics=metrics))
        replica.sender = Sender(
            database,
            dashboard="https://ops.example.com",
            metrics=metrics,
            now=lambda own=replica: own.now,  # type: ignore[misc]
        )
        made.append(replica)
    yield made
    for replica in made:
        await replica.database.stop()


@pytest.fixture
def replica(replicas: list[Replica]) -> Replica:
    """Returns one replica."""
    return replicas[0]


@pytest_asyncio.fixture
async def http() -> AsyncIterator[HttpChannel]:
    """Starts the server of a channel."""
    note([TOKEN, SECRET])
    server = HttpChannel()
    await server.start()
    yield server
    if server.holds is not None:
        server.holds.set()
    await server.stop()


def channel(server: HttpChannel, name: str = "ops", form: str = "json", **more: Any) -> Channel:
    given = {"url": server.url(), "format": form, "secret": SECRET, **more}
    return Channel.of(name, settings_of({}, **_NEEDED, alerts={name: given}).alerts[name])


_NEEDED = {"database_url": "postgresql://x", "redis_url": "redis://x", "signature_keys": KEY}


async def pass_time(connection: Connection, seconds: float) -> None:
    """Makes the states and the messages look as if `seconds` had passed."""
    age = timedelta(seconds=seconds)
    await connection.execute(
        "UPDATE alert_states SET since = since - $1::interval, held_at = held_at - $1::interval, "
        "fires_since = fires_since - $1::interval",
        age,
    )
    await connection.execute("UPDATE alert_messages SET due = due - $1::interval, changed_at = changed_at - $1::interval", age)


async def have_counted(connection: Connection, hours: float = 24.0) -> None:
    """Makes it look as if the replicas had counted for `hours`."""
    await connection.execute(
        "INSERT INTO alert_counts (measure, account, step, at, count, first_at, last_at) "
        "SELECT 'accepted', '', 60, at, 0, at, at FROM (SELECT now() - make_interval(secs => $1 * 3600)) AS past (at) "
        "ON CONFLICT DO NOTHING",
        hours,
    )


async def mend(connection: Connection) -> None:
    """Ends the dead events."""
    await connection.execute("UPDATE work SET status = 'discarded', discarded_at = now() WHERE status = 'dead'")


def told(server: HttpChannel) -> list[tuple[str, str]]:
    """Returns change and condition of each message that came."""
    return [(post.json["type"].rpartition(".")[2], post.json["data"]["condition"]) for post in server.posts]


async def test_a_condition_that_fires_and_ends_is_two_messages_however_often_it_is_evaluated(
    replica: Replica, http: HttpChannel, connection: Connection
) -> None:
    replica.use(channel(http))
    await replica.round()
    assert told(http) == []
    await have_counted(connection)
    await bury(connection, 3)
    for _ in range(3):
        await replica.round()
    assert told(http) == [("fires", "dead_events"), ("fires", "many_dead_events")]
    data = http.posts[0].json["data"]
    assert data["detail"] == "Dead events of the account default that wait for somebody to redrive or discard them: 3."
    assert data["links"]["What to do"] == "https://ops.example.com/guide/runbook-dead#webhookddeadevents"
    await mend(connection)
    await replica.round()
    assert len(http.posts) == 2, (
        "a condition must be gone for a while, so that one that comes and goes is not two messages a minute"
    )
    await pass_time(connection, evaluations.QUIET_AFTER)
    for _ in range(3):
        await replica.round()
    assert sorted(told(http)[2:]) == [("resolved", "dead_events"), ("resolved", "many_dead_events")]
    assert len({post.header["webhook-id"] for post in http.posts}) == 4
    assert replica.sent("sent") == 4


async def test_a_condition_fires_only_after_its_time(replica: Replica, http: HttpChannel, connection: Connection) -> None:
    replica.use(channel(http))
    replica.metrics.dependency_up.labels("sqs").set(0)
    await replica.round()
    await pass_time(connection, 100)
    await replica.round()
    await pass_time(connection, 100)
    await replica.round()
    assert told(http) == []
    await pass_time(connection, 101)
    await replica.round()
    assert told(http) == [("fires", "sqs_away")]
    # Redis was away for less than its time, and came back: the time begins anew.
    replica.metrics.dependency_up.labels("redis").set(0)
    await replica.round()
    replica.metrics.dependency_up.labels("redis").set(1)
    await replica.round()
    await pass_time(connection, 901)
    replica.metrics.dependency_up.labels("redis").set(0)
    await replica.round()
    assert ("fires", "redis_away") not in told(http)


async def test_a_condition_does_not_fire_for_the_time_in_which_nobody_evaluated(
    replica: Replica, http: HttpChannel, connection: Connection
) -> None:
    replica.use(channel(http))
    replica.metrics.dependency_up.labels("sqs").set(0)
    await replica.round()
    await pass_time(connection, 3600)
    await replica.round()
    assert told(http) == []


async def test_two_replicas_send_one_message(replicas: list[Replica], http: HttpChannel, connection: Connection) -> None:
    for one in replicas:
        one.use(channel(http))
        await one.reports.report()
    await have_counted(connection)
    await bury(connection, 3)
    evaluated = await asyncio.gather(*(one.evaluation.run() for one in replicas for _ in range(3)))
    assert 1 <= sum(evaluated) <= 3, "one of the two replicas has the duty"
    await asyncio.gather(*(one.sender.send_waiting() for one in replicas for _ in range(3)))
    await asyncio.gather(*(one.sender.send_waiting() for one in replicas for _ in range(3)))
    assert sorted(told(http)) == [("fires", "dead_events"), ("fires", "many_dead_events")]
    # The duty passes on if its replica is gone.
    await connection.execute("UPDATE duties SET held_until = now() - interval '1 second'")
    await mend(connection)
    await pass_time(connection, evaluations.QUIET_AFTER)
    assert sum([await one.round() for one in reversed(replicas)]) == 1
    assert len(told(http)) == 4


async def test_a_replica_without_channels_loses_no_message_of_the_others(
    replicas: list[Replica], http: HttpChannel, connection: Connection
) -> None:
    with_channel, without = replicas
    with_channel.use(channel(http))
    await with_channel.reports.report()
    await bury(connection, 1)
    assert await without.round()
    assert told(http) == []
    await with_channel.round()
    assert told(http) == [("fires", "dead_events")]


async def test_a_message_that_fails_is_sent_again_under_its_id(
    replica: Replica, http: HttpChannel, connection: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    replica.use(channel(http))
    http.answers = [(500, {}), (302, {"Location": http.url("/elsewhere")}), (429, {"Retry-After": "600"})]
    await bury(connection, 1)
    await replica.round()
    delays = []
    while http.answers or len(http.posts) < 4:
        await replica.sender.send_waiting()
        delays.append(await connection.fetchval("SELECT extract(epoch FROM due - now()) FROM alert_messages"))
        await pass_time(connection, 700)
    assert [post.path for post in http.posts] == [f"/services/{TOKEN}"] * 4, "no redirect is followed"
    assert len({post.header["webhook-id"] for post in http.posts}) == 1
    assert (replica.sent("failed"), replica.sent("sent")) == (3, 1)
    assert delays[-2] == pytest.approx(600, abs=60), "the server asked for this pause"
    shown = "".join(capfd.readouterr())
    assert "the server answered 302" in shown
    assert TOKEN not in shown


@pytest.mark.parametrize("wrong", ["closed", "hangs", "no name"])
async def test_a_channel_that_cannot_be_reached_is_an_error_without_its_address(
    wrong: str, http: HttpChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.alerts.channel._TIMEOUT", 0.3)
    url = http.url()
    if wrong == "closed":
        await http.stop()
    elif wrong == "hangs":
        http.holds = asyncio.Event()
    else:
        url = f"http://no-such-host.invalid/services/{TOKEN}"
    one = (
        channel(http, url=url)
        if wrong == "no name"
        else Channel.of("ops", settings_of({}, **_NEEDED, alerts={"ops": {"url": url, "secret": SECRET}}).alerts["ops"])
    )
    with pytest.raises(NotSentError) as caught:
        await one.send(Message(uuid.uuid4(), FIRES, "dead_events", "", "", NOON))
    assert TOKEN not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__
    assert str(caught.value).startswith("no answer within" if wrong == "hangs" else "no connection (")


async def test_a_message_that_cannot_be_sent_for_two_days_is_dropped_and_counted(
    replica: Replica, http: HttpChannel, connection: Connection
) -> None:
    replica.use(channel(http))
    http.answers = [(500, {})] * 10
    await bury(connection, 1)
    await replica.round()
    await connection.execute("UPDATE alert_messages SET changed_at = now() - interval '3 days'")
    await replica.evaluation.run()
    assert replica.sent("dropped") == 1
    assert await connection.fetchval("SELECT count(*) FROM alert_messages") == 0


async def test_in_quiet_hours_pages_come_and_tickets_wait_or_vanish(
    replica: Replica, http: HttpChannel, connection: Connection
) -> None:
    replica.use(channel(http, quiet_hours="22:00-07:00"), channel(http, "all"))
    replica.now = NIGHT
    await have_counted(connection)
    await bury(connection, 3)
    await replica.round()
    by_id = [(post.json["data"]["severity"], post.json["type"].rpartition(".")[2]) for post in http.posts]
    assert sorted(by_id) == [("page", "fires"), ("page", "fires"), ("ticket", "fires")], "the ticket went to one channel only"
    # The ticket still stands in the morning: now it is sent.
    replica.now = NOON
    await replica.round()
    assert told(http)[3:] == [("fires", "dead_events")]
    await mend(connection)
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replica.round()
    assert len(http.posts) == 8
    # Only the channel without quiet hours learns of a ticket that came and went in the night.
    http.posts.clear()
    replica.now = NIGHT
    await bury(connection, 1)
    await replica.round()
    await mend(connection)
    await pass_time(connection, evaluations.QUIET_AFTER)
    replica.now = NOON
    await replica.round()
    assert told(http) == [("fires", "dead_events"), ("resolved", "dead_events")]


async def test_a_dead_event_of_the_night_is_reported_in_the_morning(
    replica: Replica, http: HttpChannel, connection: Connection
) -> None:
    replica.use(channel(http, quiet_hours="22:00-07:00"))
    replica.now = NIGHT
    await bury(connection, 1)
    await replica.round()
    for _ in range(3):  # hours pass; the event still is dead
        await connection.execute("UPDATE work SET due = due - interval '3 hours' WHERE status = 'dead'")
        await pass_time(connection, 3 * 3_600)
        await replica.round()
    assert told(http) == []
    replica.now = NOON
    await replica.round()
    assert told(http) == [("fires", "dead_events")]
    await connection.execute("UPDATE work SET due = due - interval '3 days' WHERE status = 'dead'")
    await pass_time(connection, 3 * 86_400)
    await replica.round()
    assert told(http) == [("fires", "dead_events")], "it stands until somebody acts"


async def test_an_alert_of_dead_events_does_not_end_because_others_have_many(
    replica: Replica, http: HttpChannel, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.use(channel(http))
    await bury(connection, 1)
    await replica.round()
    monkeypatch.setattr("webhookd.alerts.facts._DEATHS", 2)
    await connection.execute("UPDATE work SET due = due - interval '3 hours' WHERE status = 'dead'")
    await bury(connection, 2)
    await connection.execute(
        "INSERT INTO kinds (id, account, event_type, key_fingerprint) "
        "SELECT id + 1, 'other', event_type, key_fingerprint FROM kinds LIMIT 1"
    )
    await connection.execute(
        "UPDATE ledger SET kind = (SELECT id FROM kinds WHERE account = 'other') "
        "WHERE id IN (SELECT event_id FROM work WHERE status = 'dead' ORDER BY due DESC LIMIT 2)"
    )
    await replica.round()
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replica.round()
    assert [post.json["data"]["subject"] for post in http.posts] == ["default", "other"]


async def test_no_alert_ends_because_nobody_evaluated(replica: Replica, http: HttpChannel, connection: Connection) -> None:
    replica.use(channel(http))
    replica.metrics.dependency_up.labels("redis").set(0)
    await replica.round()
    for _ in range(10):
        await pass_time(connection, 100)
        await replica.round()
    assert told(http) == [("fires", "redis_away")]
    # All replicas stop for an hour. The first evaluation finds no report of a replica yet.
    await pass_time(connection, 3_600)
    await connection.execute(
        "UPDATE alert_replicas SET seen_at = now() - interval '1 hour', evaluated_at = evaluated_at - interval '1 hour'"
    )
    await replica.evaluation.run()
    await replica.round()
    assert told(http) == [("fires", "redis_away")], "the first evaluation after the pause ends nothing"


async def test_a_state_and_a_message_of_a_newer_release_stay(
    replica: Replica, http: HttpChannel, connection: Connection
) -> None:
    replica.use(channel(http))
    await replica.round()
    await connection.execute(
        "INSERT INTO alert_states (condition, subject, detail, since, held_at, fires_since) "
        "VALUES ('of_tomorrow', '', '', now() - interval '1 day', now() - interval '1 day', now() - interval '1 day')"
    )
    await connection.execute(
        "INSERT INTO alert_messages (id, channel, condition, subject, change, page, detail) "
        "VALUES (gen_random_uuid(), 'ops', 'of_tomorrow', '', 'fires', true, '')"
    )
    await replica.round()
    assert http.posts == []
    assert await connection.fetchval("SELECT attempts FROM alert_messages") == 0
    assert await connection.fetchval("SELECT condition FROM alert_states") == "of_tomorrow"


async def test_the_end_goes_only_to_channels_that_got_the_beginning(
    replica: Replica, http: HttpChannel, connection: Connection
) -> None:
    http.answers = [(500, {})]
    replica.use(channel(http, "a"))
    await bury(connection, 1)
    await replica.round()
    await connection.execute("UPDATE alert_messages SET changed_at = now() - interval '3 days'")
    await replica.round()
    http.posts.clear()
    replica.use(channel(http, "a"), channel(http, "new"))
    await mend(connection)
    await replica.reports.report()
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replica.round()
    assert http.posts == []


async def test_a_clock_that_is_put_back_delays_no_message(replica: Replica, http: HttpChannel, connection: Connection) -> None:
    replica.use(channel(http))
    await bury(connection, 1)
    await replica.reports.report()
    await replica.evaluation.run()
    await pass_time(connection, -3_600)
    await replica.round()
    assert told(http) == [("fires", "dead_events")]
    await mend(connection)
    await pass_time(connection, -3_600)
    await replica.round()
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replica.round()
    assert told(http)[1:] == [("resolved", "dead_events")]
    await connection.execute(
        "INSERT INTO alert_counts (measure, account, step, at, count, first_at, last_at) "
        "VALUES ('not_stored', '', 60, now() + interval '1 hour', 1, now(), now())"
    )
    await replica.round()
    assert len(http.posts) == 2, "a count of the future"


async def test_a_channel_that_hangs_does_not_keep_messages_from_the_others(
    replica: Replica, http: HttpChannel, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "EVERY", 0.05)
    slow = HttpChannel(holds=asyncio.Event())
    await slow.start()
    replica.use(channel(slow, "slow"), channel(http))
    await replica.reports.report()
    await bury(connection, 1)
    await replica.round()
    await until(lambda: slow.posts, "the slow channel has its message")
    await mend(connection)
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replica.round()
    await until(replica.sender.send_waiting, "the other message is sent") if len(http.posts) < 2 else None
    assert told(http) == [("fires", "dead_events"), ("resolved", "dead_events")]
    assert len(slow.posts) == 1
    assert slow.holds is not None
    slow.holds.set()
    await replica.sender.stop()
    await slow.stop()


async def test_the_end_follows_the_beginning_however_the_sending_goes(
    replica: Replica, http: HttpChannel, connection: Connection
) -> None:
    replica.use(channel(http))
    http.answers = [(500, {})]
    await bury(connection, 1)
    await replica.round()
    await mend(connection)
    await connection.execute("UPDATE alert_states SET held_at = now() - interval '1 hour'")
    await replica.round()
    assert told(http) == [("fires", "dead_events")], "the end waits, although it is due"
    await connection.execute("UPDATE alert_messages SET due = now() WHERE change = 'fires'")
    await replica.round()
    assert told(http)[1:] == [("fires", "dead_events"), ("resolved", "dead_events")]


async def test_counts_keys_and_state_of_all_replicas_become_facts(replicas: list[Replica], connection: Connection) -> None:
    for number, one in enumerate(replicas):
        for outcome in (
            "accepted",
            "duplicate",
            "quarantined",
            "signature_mismatch",
            "overload",
            "postgresql_refused",
            "error",
        ):
            one.metrics.received.labels("eu", outcome).inc(2)
        one.metrics.received.labels("unknown", "webhookd_away").inc()
        one.metrics.unended_handlers.set(number)
        one.metrics.key_last_used.labels("eu", "old").set(time.time() - 8 * 86_400)
        one.metrics.key_last_used.labels("eu", "new").set(number and time.time())
        one.metrics.certificate_ends.set(number and time.time() + 86_400)
        one.metrics.dependency_up.labels("redis").set(number)
        await one.reports.report()
        await one.reports.report()
    async with replicas[0].database.acquire() as lent:
        facts = await read_facts(lent, largest=1)
    assert {key: counts.m3 for key, counts in facts.counts.items()} == {
        ("authentic", "eu"): 12,
        ("accepted", "eu"): 4,
        ("mismatch", "eu"): 4,
        ("put_off", ""): 14,
        ("not_stored", ""): 8,
    }
    unused = {key.fingerprint: round((key.unused or 0) / 86_400) for key in facts.keys}
    assert unused == {"old": 8, "new": 0}
    assert facts.accounts == ["eu"]
    assert sorted((one.away, one.stuck) for one in facts.replicas) == [((), 1), (("redis",), 0)]
    assert [round((one.certificate or 0) / 86_400) for one in facts.replicas if one.certificate] == [1]
    assert facts.partitions_ahead > 20 * 86_400
    assert facts.bytes > 1
    # A report that PostgreSQL did not take is made later; nothing is counted twice.
    replicas[0].metrics.received.labels("eu", "accepted").inc()
    await replicas[0].reports.report()
    async with replicas[0].database.acquire() as lent:
        assert (await read_facts(lent, largest=None)).count("accepted", "eu").m3 == 5


async def rhythm(replica: Replica, account: str) -> Rhythm:
    async with replica.database.acquire() as lent:
        return (await read_facts(lent, largest=None)).rhythms[account]


async def at(replica: Replica, connection: Connection, present: datetime, times: list[datetime]) -> Rhythm:
    """Returns the rhythm of a shop at a moment of its own calendar."""
    now = await connection.fetchval("SELECT now()")
    await store_rhythm(connection, "eu", [time + (now - present) for time in times if time <= present])
    return await rhythm(replica, "eu")


async def test_a_small_merchant_gets_no_false_alarm_in_a_week_and_one_if_nothing_comes(
    replica: Replica, connection: Connection
) -> None:
    monday = datetime(2026, 3, 2, tzinfo=UTC)
    usual = list(small_shop(monday - timedelta(days=30), monday + timedelta(days=8)))
    alarms = []
    for hours in range(0, 168, 3):
        found = await at(replica, connection, monday + timedelta(hours=hours), usual)
        if found.silence > found.bound:
            alarms.append(hours)
    assert alarms == []
    # Nothing comes after Monday noon. The longest pause was a weekend of two and a half days: the alarm comes on Friday.
    stopped = [time for time in usual if time < monday + timedelta(hours=12)]
    thursday = await at(replica, connection, monday + timedelta(days=3, hours=12), stopped)
    assert thursday.silence < thursday.bound
    friday = await at(replica, connection, monday + timedelta(days=4, hours=12), stopped)
    assert friday.silence > friday.bound
    assert friday.bound == pytest.approx(1.5 * 2.5 * 86_400, rel=0.1)


async def clean(replica: Replica) -> None:
    """Removes old counts, as each hour does."""
    await replica.database.one(queries.remove_alert_counts)


@pytest.mark.parametrize("days", [10, 14, 30])
async def test_a_rare_merchant_gets_no_alarm_in_the_usual_pause(replica: Replica, connection: Connection, days: int) -> None:
    end = datetime(2026, 6, 1, tzinfo=UTC)
    batches = [end - timedelta(days=days * number, minutes=minute) for number in range(5) for minute in range(90)]
    alarms = []
    for day in range(days):
        await at(replica, connection, end + timedelta(days=day), sorted(batches))
        await clean(replica)
        found = await rhythm(replica, "eu")
        if found.silence > found.bound:
            alarms.append(day)
    assert alarms == []
    late = await at(replica, connection, end + timedelta(days=1.6 * days), sorted(batches))
    assert late.silence > late.bound


async def test_an_alarm_does_not_end_while_the_account_is_silent(replica: Replica, connection: Connection) -> None:
    end = datetime(2026, 6, 1, tzinfo=UTC)
    times = list(big_shop(end - timedelta(days=15), end))
    for days in (1, 4, 9, 17, 60, 120):
        await at(replica, connection, end + timedelta(days=days), times)
        await clean(replica)
        found = await rhythm(replica, "eu")
        assert found.silence > found.bound, days


async def test_a_big_merchant_gets_an_alarm_after_a_quarter_of_an_hour(replica: Replica, connection: Connection) -> None:
    end = await connection.fetchval("SELECT now()")
    for minutes, alarm in ((1, False), (14, False), (16, True)):
        stop = end - timedelta(minutes=minutes)
        await store_rhythm(connection, "eu", list(big_shop(end - timedelta(days=15), stop)))
        found = await rhythm(replica, "eu")
        assert (found.silence > found.bound) is alarm, minutes
        assert found.bound == pytest.approx(900)


async def test_an_outage_of_yesterday_does_not_teach_that_outages_are_usual(replica: Replica, connection: Connection) -> None:
    end = await connection.fetchval("SELECT now()")
    before = big_shop(end - timedelta(days=15), end - timedelta(days=2))
    after = big_shop(end - timedelta(days=1), end)
    await store_rhythm(connection, "eu", [*before, *after])
    assert (await rhythm(replica, "eu")).bound == pytest.approx(900)
    old = big_shop(end - timedelta(days=15), end - timedelta(days=8))
    later = big_shop(end - timedelta(days=7), end)
    await store_rhythm(connection, "eu", [*old, *later])
    assert (await rhythm(replica, "eu")).bound == pytest.approx(1.5 * 86_400, rel=0.01)


async def test_an_account_with_less_than_a_week_may_be_silent_for_three_days(replica: Replica, connection: Connection) -> None:
    end = await connection.fetchval("SELECT now()")
    await store_rhythm(connection, "eu", list(big_shop(end - timedelta(days=6), end - timedelta(days=1))))
    assert (await rhythm(replica, "eu")).bound == 3 * 86_400


@pytest.mark.parametrize(
    ("columns", "fires"),
    [
        ({}, set()),
        ({"credentials": "'refused'"}, {"credentials_refused"}),
        ({"compared_at": "now() - interval '3 hours'"}, {"provider_unreachable"}),
        ({"compared_at": "NULL"}, {"provider_unreachable"}),
        ({"compared_at": "NULL", "credentials_since": "now()"}, set()),  # the first comparison is under way
        ({"compared_at": "now() - interval '3 hours'", "credentials_since": "now()"}, set()),  # new credentials, since just now
        ({"webhook_state": "'inactive'"}, {"webhook_not_ok"}),
        ({"webhook_state": "'doubled'"}, {"webhook_doubled"}),
        ({"webhook_state": "'unknown'", "webhook_id": "'72a55c78'"}, {"webhook_not_ok"}),
        ({"webhook_state": "'unknown'", "webhook_id": "NULL"}, set()),  # nobody has set a webhook up yet
        ({"webhook_state": "'unknown'", "webhook_seen_at": "NULL"}, set()),  # nobody has looked: the guardian is off
        ({"webhook_state": "'inactive'", "webhook_seen_at": "now() - interval '2 days'"}, set()),  # nobody looks any more
        ({"webhook_state": "'inactive'", "held_until": "now() - interval '55 minutes'"}, {"webhook_not_ok"}),
        ({"webhook_state": "'inactive'", "held_until": "now() - interval '61 minutes'"}, set()),  # nobody asks any more
        ({"webhook_state": "'doubled'", "held_until": "now() - interval '61 minutes'"}, set()),
        ({"held_until": "now() - interval '3 hours'", "compared_at": "now() - interval '3 hours'"}, {"provider_unreachable"}),
        # Nobody asks any more: that is the reason, also if the credentials were refused before.
        ({"held_until": "now() - interval '70 hours'"} | LATE, {"provider_unreachable"}),
        (
            {"held_until": "now() - interval '3 hours'", "credentials": "'refused'", "compared_at": "NULL"},
            {"provider_unreachable"},
        ),
        ({"held_until": "now() - interval '73 hours'", "compared_at": "NULL"}, set()),  # removed on purpose
        ({"held_until": "'-infinity'", "webhook_state": "'inactive'", "credentials": "'refused'"}, set()),  # never asked for
    ],
)
async def test_the_state_of_the_providers_side_becomes_conditions(
    replica: Replica, connection: Connection, columns: dict[str, str], fires: set[str]
) -> None:
    await store_account(connection, "eu", **columns)
    await store_account(connection, "us")
    await _evaluate_for(replica, connection, hours=2)
    assert await _firing(replica) == {(name, "eu") for name in fires}


async def test_a_day_is_an_alert_only_if_it_is_over_and_not_whole_for_hours(replica: Replica, connection: Connection) -> None:
    await store_account(connection, "eu")
    states = {0: "missing", 1: "open", 2: "whole", 3: "not known", 5: "missing", 6: "unreadable", 15: "missing"}  # by age
    await store_days(connection, "eu", {age: (state, 9, 7, 0, 2, 0) for age, state in states.items()})
    async with replica.database.acquire("admin") as own:
        (found,) = (await read_facts(own, largest=None)).providers
    assert (found.days, found.missing) == (3, 6)
    assert found.oldest == await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date - 6")
    await _evaluate_for(replica, connection, hours=5.5)
    assert await _firing(replica) == set()
    await _evaluate_for(replica, connection, hours=0.6)
    assert await _firing(replica) == {("day_not_whole", "eu")}
    await connection.execute("UPDATE provider_days SET completeness = 'whole'")
    await pass_time(connection, evaluations.QUIET_AFTER)
    assert await replica.evaluation.run()
    assert await _firing(replica) == set()


async def _evaluate_for(replica: Replica, connection: Connection, *, hours: float) -> None:
    """Evaluates as if the present facts had lasted for `hours`."""
    assert await replica.evaluation.run()
    await connection.execute("UPDATE alert_states SET since = since - make_interval(secs => $1::float8 * 3600)", hours)
    assert await replica.evaluation.run()


async def _firing(replica: Replica) -> set[tuple[str, str]]:
    return {(one.finding.name, one.finding.subject) for one in await replica.evaluation.firing()}


async def test_a_burst_of_reports_keeps_the_longest_gap_within_a_step(replica: Replica, connection: Connection) -> None:
    counter = replica.metrics.received.labels("eu", "accepted")
    counter.inc()
    await replica.reports.report()
    await connection.execute("UPDATE alert_counts SET last_at = last_at - interval '700 seconds'")
    for _ in range(2):
        counter.inc()
        await replica.reports.report()
    gaps = await connection.fetch("SELECT longest_gap FROM alert_counts WHERE measure = 'authentic' AND step = 3600")
    assert [row["longest_gap"] for row in gaps] == [pytest.approx(700, abs=20)]


async def test_a_recipient_whom_the_mail_server_refuses_is_reported(
    replica: Replica, connection: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    server = MailServer(refuses_recipient="gone@example.com")
    await server.start()
    given = {
        "url": f"smtp://localhost:{server.port}",
        "sender": "webhookd@example.com",
        "recipients": "a@example.com,gone@example.com",
    }
    one = Channel.of("mail", settings_of({}, **_NEEDED, alerts={"mail": given}).alerts["mail"])
    replica.use(one)
    assert str(await replica.sender.test(one)) == "the mail server refused 1 of 2 recipients"
    await bury(connection, 1)
    await replica.round()
    assert await connection.fetchval("SELECT count(*) FROM alert_messages") == 0, "the others have it, so it is not sent again"
    assert len(server.mails) == 2
    assert "refused 1 of 2 recipients" in "".join(capfd.readouterr())
    await server.stop()


@pytest.mark.parametrize("kind", ["starttls", "tls", "refused", "no tls", "silent"])
async def test_a_mail_goes_over_tls_with_a_password_and_its_refusal_holds_no_secret(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    monkeypatch.setattr("ssl.create_default_context", lambda: trusted)
    monkeypatch.setattr("webhookd.alerts.channel.is_loopback", lambda _: False)  # as if the server were elsewhere
    password = "p@ss/word-of-the-mail-server"
    note([password])
    server = MailServer(None if kind == "no tls" else context, user="ops", password=password)
    if kind == "refused":
        server.refuses = f"550 no mail with {password}"
    if kind == "silent":
        server.silent = True
        monkeypatch.setattr("webhookd.alerts.channel._MAIL_TIMEOUT", 0.3)
    server.implicit = kind == "tls"
    await server.start()
    scheme = "smtps" if kind == "tls" else "smtp"
    given = {
        "url": f"{scheme}://ops:p%40ss%2Fword-of-the-mail-server@localhost:{server.port}",
        "sender": "webhookd@example.com",
        "recipients": "a@example.com,b@example.com",
    }
    one = Channel.of("mail", settings_of({}, **_NEEDED, alerts={"mail": given}).alerts["mail"])
    message = Message(uuid.uuid4(), FIRES, "dead_events", "eu", "Three.", NOON)
    try:
        reasons = {"refused": "the mail server answered 550", "no tls": "SMTPNotSupportedError", "silent": "no answer within"}
        if kind in reasons:
            with pytest.raises(NotSentError, match=reasons[kind]):
                await one.send(message)
            assert server.mails == []
        else:
            await one.send(message)
            ((sender_, recipients, mail),) = server.mails
            assert server.encrypted == [True]
            assert (sender_, recipients) == ("webhookd@example.com", ["a@example.com", "b@example.com"])
            assert mail["Subject"] == "webhookd: ticket: Events are dead (eu)"
            assert "What to do: /guide/runbook-dead#webhookddeadevents" in mail.get_content()
    finally:
        await server.stop()


@pytest_asyncio.fixture
async def keys(stack: Stack) -> AsyncIterator[IdempotencyKeys]:
    """Connects to Redis as a replica of an installation of its own."""
    instance = uuid.uuid4()
    made = IdempotencyKeys(
        stack.redis_url, instance=lambda: instance, dedupe_ttl=60, claim_ttl=60, metrics=Metrics(), watch=Watch()
    )
    await made.start()
    yield made
    await made.stop()


def outage_of(one: Replica, keys: IdempotencyKeys, *channels: Channel) -> Outage:
    """Makes the part of a replica that watches for an outage. The replica has its own view of PostgreSQL."""
    one.use(*channels)
    made = Outage(SimpleNamespace(up=True), keys, keys._token, one.evaluation, one.sender)  # type: ignore[arg-type]
    made.channels = one.sender.channels
    return made


async def see(seen: Outage, *, up: bool, seconds: float = 0.0) -> None:
    """Lets a replica look, `seconds` later."""
    seen._database.up = up
    if seen._began is not None:
        seen._began -= seconds
    seen._tries.clear()
    await seen.look()


async def expire(keys: IdempotencyKeys, name: str) -> None:
    """Ends a mark, as its time does."""
    await keys._ask_always("release", ("DEL", redis_keys.key(keys._token, "mark", name)))


async def test_two_replicas_without_postgresql_send_one_message_and_one_end(
    replicas: list[Replica], http: HttpChannel, keys: IdempotencyKeys, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.answers = [(500, {})]
    outages = [outage_of(one, keys, channel(http)) for one in replicas]
    for seen in outages:
        await see(seen, up=True)
        await see(seen, up=False)
    await asyncio.gather(*(see(seen, up=False, seconds=121) for seen in outages))
    assert len(http.posts) == 1
    await expire(keys, "alert-turn:ops")
    for seen in outages:
        await see(seen, up=False)
    assert told(http) == [("fires", "postgresql_away")] * 2, "the first one failed"
    assert len({post.header["webhook-id"] for post in http.posts}) == 1
    for _ in range(3):
        await expire(keys, "alert-turn:ops")
        await asyncio.gather(*(see(seen, up=False) for seen in outages))
    assert len(http.posts) == 2
    # One replica recovers; the other one notices only later, and sends nothing meanwhile.
    await see(outages[0], up=True)
    await expire(keys, "alert-turn:ops")
    await see(outages[1], up=False)
    await see(outages[1], up=True)
    await replicas[0].round()
    assert len(http.posts) == 2
    assert await connection.fetchval("SELECT condition FROM alert_states") == "postgresql_away"
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replicas[0].round()
    await replicas[0].round()
    assert told(http)[2:] == [("resolved", "postgresql_away")]


async def test_the_next_outage_is_sent_though_redis_was_away_at_the_end_of_the_last_one(
    replica: Replica, http: HttpChannel, keys: IdempotencyKeys, connection: Connection
) -> None:
    seen = outage_of(replica, keys, channel(http))
    await see(seen, up=True)
    await see(seen, up=False)
    await see(seen, up=False, seconds=121)
    keys.up = False
    await see(seen, up=True)
    keys.up = True
    name = redis_keys.key(keys._token, "mark", "alert-sent:ops")
    assert 0 < await keys._ask_always("seen", ("PTTL", name)) <= 300_000, "the mark expires soon after the outage"
    for mark in ("alert-sent:ops", "alert-turn:ops", "outage"):
        await expire(keys, mark)
    await see(seen, up=False)
    await see(seen, up=False, seconds=121)
    assert told(http) == [("fires", "postgresql_away")] * 2


@pytest.mark.parametrize("away", [1, 2])
async def test_a_channel_that_was_away_with_postgresql_gets_its_messages_afterwards(
    replicas: list[Replica], http: HttpChannel, keys: IdempotencyKeys, connection: Connection, away: int
) -> None:
    http.answers = [(500, {})] * away
    outages = [outage_of(one, keys, channel(http, "ops"), channel(http, "second")) for one in replicas]
    for seen in outages:
        await see(seen, up=True)
        await see(seen, up=False)
        await see(seen, up=False, seconds=121)
    assert len(http.posts) == 2
    for one, seen in zip(replicas, outages, strict=True):
        await see(seen, up=True)
        await one.round()
    assert told(http) == [("fires", "postgresql_away")] * (2 + away)
    ids = [post.header["webhook-id"] for post in http.posts]
    assert set(ids[2:]) == set(ids[:away]), "the same messages come again"
    assert len(set(ids)) == 2
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replicas[0].round()
    assert told(http)[2 + away :] == [("resolved", "postgresql_away")] * 2


async def test_a_replica_that_restarts_during_an_outage_sends_nothing_again(
    replica: Replica, http: HttpChannel, keys: IdempotencyKeys, connection: Connection
) -> None:
    seen = outage_of(replica, keys, channel(http))
    await see(seen, up=True)
    await see(seen, up=False)
    await see(seen, up=False, seconds=121)
    # After a restart, nothing knows the identity that the database has: the keys in Redis are those of its address.
    again = outage_of(replica, keys, channel(http))
    keys._instance = lambda: None
    await replica.round()
    for seconds in (0, outage.NEVER_UP):
        await see(again, up=False, seconds=seconds)
        await expire(keys, "alert-turn:ops")
    await see(again, up=False)
    assert told(http) == [("fires", "postgresql_away")]
    await see(again, up=True)
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replica.round()
    assert told(http) == [("fires", "postgresql_away"), ("resolved", "postgresql_away")]


def test_the_name_of_a_database_in_redis_is_that_of_its_place() -> None:
    place = redis_keys.place("postgresql://ann:one@db.test:5432/shop?sslmode=require", "webhookd")
    assert place == redis_keys.place("postgresql://leo:two@db.test:5432/shop", "webhookd")
    others = ("postgresql://ann:one@db.test:5432/other", "postgresql://ann:one@elsewhere.test:5432/shop")
    assert len({place, *(redis_keys.place(url, "webhookd") for url in others)}) == 3
    assert place != redis_keys.place("postgresql://ann:one@db.test:5432/shop", "another")
    assert "db.test" not in place


async def test_an_outage_that_ends_in_time_is_not_sent(
    replica: Replica, http: HttpChannel, keys: IdempotencyKeys, connection: Connection
) -> None:
    seen = outage_of(replica, keys, channel(http))
    await see(seen, up=True)
    await see(seen, up=False)
    assert seen.finding is None
    await see(seen, up=True, seconds=121)  # it ended in time; this replica only looks later
    await replica.round()
    assert http.posts == []


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes daemons report, evaluate and send many times a second."""
    for module in (report, evaluations, sender, outage):
        monkeypatch.setattr(module, "EVERY", 0.05)


async def test_the_api_and_the_commands_show_what_fires_and_test_the_channels(
    start: Start, servers: Servers, http: HttpChannel, connection: Connection, often: None
) -> None:
    daemon = await start(
        admin_tokens=ANN,
        read_tokens=LEO,
        alerts={"ops": {"url": http.url(), "secret": SECRET}, "chat": {"url": http.url(), "format": "slack"}},
    )
    ann, leo = Operator(daemon.admin_url), Operator(daemon.admin_url, LEO["leo"])

    async def healthy() -> bool:
        return (await leo.get("alerts"))[1]["believable"]  # type: ignore[no-any-return]

    await until(healthy, "the conditions were evaluated")
    code, out, _ = await ann.command(servers, "health", "--strict")
    assert (code, out.splitlines()[1:]) == (0, ["no condition fires"])
    code, out, _ = await ann.command(servers, "alerts", "list")
    assert (code, out.splitlines()) == (0, ["no condition fires", "channel chat: slack", "channel ops: json"])
    await bury(connection, 1)
    await until(lambda: len(http.posts) == 2, "both channels have the message")
    code, out, _ = await leo.command(servers, "health", "--strict", "--json")
    assert code == 1
    assert '"condition": "dead_events"' in out
    code, out, _ = await leo.command(servers, "alerts", "list")
    assert code == 0
    assert "ticket: Events are dead" in out
    assert (await ann.command(servers, "health"))[0] == 0, "webhookd is ready all the same"
    # The test goes through both channels; only who may operate can send it.
    http.posts.clear()
    assert (await leo.post("alerts/test"))[0] == 403
    code, out, _ = await ann.command(servers, "alerts", "test")
    assert (code, out.splitlines()) == (0, ["chat: sent", "ops: sent"])
    assert [post.json["type"] for post in http.posts if "type" in post.json] == ["webhookd.alert.test"]
    http.answers = [(404, {})]
    code, out, _ = await ann.command(servers, "alerts", "test", "--channel", "ops")
    assert (code, out.splitlines()) == (1, ["ops: not sent: the server answered 404"])
    code, _, err = await ann.command(servers, "alerts", "test", "--channel", "nobody")
    assert (code, "no such channel" in err) == (3, True)


async def test_health_strict_fails_if_nobody_evaluates(
    start: Start, servers: Servers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "STALE", -1.0)
    daemon = await start(admin_tokens=ANN)
    code, out, _ = await Operator(daemon.admin_url).command(servers, "health", "--strict")
    assert (code, "more may be wrong" in out) == (1, True)


async def test_health_strict_waits_no_longer_than_its_timeout(servers: Servers) -> None:
    released = asyncio.Event()

    async def ready(_: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def hang(_: web.Request) -> web.Response:
        await released.wait()
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/readyz", ready)
    app.router.add_get("/webhooks/alerts", hang)
    async with TestServer(app) as server:
        try:
            async with asyncio.timeout(40):
                code, _, err = await Operator(str(server.make_url(""))).command(
                    servers, "health", "--strict", "--timeout", "0.5"
                )
        finally:
            released.set()
    assert (code, "it did not answer in time" in err) == (4, True)


async def test_a_channel_that_hangs_blocks_no_event_and_no_stop(
    start: Start, http: HttpChannel, connection: Connection, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.alerts.channel._TIMEOUT", 3_600.0)
    http.holds = asyncio.Event()
    daemon = await start(alerts={"ops": {"url": http.url(), "secret": SECRET}})
    monkeypatch.setattr("webhookd.alerts.sender.EVERY", 3_600.0)  # a round waits for the channel as long as it may
    await bury(connection, 1)
    await until(lambda: http.posts, "the channel has a message, and does not answer")
    async with aiohttp.ClientSession() as session:
        for number in range(5):
            body = sample("net.authorize.payment.authcapture.created", number).body
            header = {"X-ANET-Signature": sign(body, KEY)}
            async with session.post(f"{daemon.public_url}/webhooks/authorize-net", data=body, headers=header) as answer:
                assert answer.status == 200
    done = "SELECT count(*) = 5 FROM events WHERE status = 'processed'"
    await until(lambda: connection.fetchval(done), "the events are processed")
    async with asyncio.timeout(100):
        await daemon.stop()
    assert len(http.posts) == 1, "the channel still has not answered"
    assert await connection.fetchval("SELECT attempts FROM alert_messages") == 1, "another replica sends it"


async def test_new_channels_are_used_without_a_restart(start: Start, servers: Servers, http: HttpChannel) -> None:
    daemon = await start()
    assert daemon.alerts.channels == {}
    fresh = settings_of(servers.settings, alerts={"ops": {"url": http.url(), "secret": SECRET}})
    assert await daemon.renew(fresh) == ["alerts"]
    assert await daemon.alerts.test(daemon.alerts.channels["ops"]) is None
    assert len(http.posts) == 1


def test_every_condition_has_a_summary_that_fits_a_subject_line() -> None:
    assert all(len(condition.summary) < 70 for condition in CONDITIONS.values())
