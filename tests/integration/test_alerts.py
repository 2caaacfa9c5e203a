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

from tests.conftest import Servers, Start, settings_of
from tests.helpers.channels import SECRET, TOKEN, HttpChannel, MailServer
from tests.helpers.operator import ANN, LEO, Connection, Operator, bury
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
from webhookd.store.database import Database
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.store.pools import PoolSettings
from webhookd.telemetry.metrics import Metrics

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
    await bury(connection, 3)
    for _ in range(3):
        await replica.round()
    assert told(http) == [("fires", "dead_events"), ("fires", "many_dead_events")]
    data = http.posts[0].json["data"]
    assert data["detail"] == "Events of the account default that died within an hour and still are dead: 3."
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
        one.metrics.stuck_handlers.inc()
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
        ("stuck", ""): 2,
    }
    unused = {key.fingerprint: round((key.unused or 0) / 86_400) for key in facts.keys}
    assert unused == {"old": 8, "new": 0}
    assert facts.accounts == ["eu"]
    assert sorted(one.away for one in facts.replicas) == [(), ("redis",)]
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


async def test_two_replicas_without_postgresql_send_one_message_and_one_end(
    replicas: list[Replica], http: HttpChannel, keys: IdempotencyKeys, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "NEVER_UP", 0.0)
    http.answers = [(500, {})]
    away = SimpleNamespace(up=False)
    outages = []
    for one in replicas:
        one.use(channel(http))
        await one.reports.report()
        outages.append(Outage(away, keys, one.evaluation, one.sender))  # type: ignore[arg-type]
        outages[-1].channels = one.sender.channels
    await asyncio.gather(*(seen.look() for seen in outages))
    assert len(http.posts) == 1
    await keys.unmark("alert-turn:ops")  # as a minute later
    for seen in outages:
        seen._tries.clear()
        await seen.look()
    assert told(http) == [("fires", "postgresql_away")] * 2, "the first one failed"
    for _ in range(3):
        await keys.unmark("alert-turn:ops")
        await asyncio.gather(*(seen.look() for seen in outages))
    assert len(http.posts) == 2
    # The replica that sent is killed. The other one knows by the mark in Redis that a message was sent.
    away.up = True
    teller = next(number for number, seen in enumerate(outages) if seen._told)
    await outages[1 - teller].look()
    assert await connection.fetchval("SELECT condition FROM alert_states") == "postgresql_away"
    await pass_time(connection, evaluations.QUIET_AFTER)
    await replicas[0].round()
    await outages[1 - teller].look()
    await replicas[0].round()
    assert told(http)[2:] == [("resolved", "postgresql_away")]


async def test_an_outage_that_ends_in_time_is_not_told(replica: Replica, http: HttpChannel, keys: IdempotencyKeys) -> None:
    away = SimpleNamespace(up=True)
    one = Outage(away, keys, replica.evaluation, replica.sender)  # type: ignore[arg-type]
    one.channels = {"ops": channel(http)}
    await one.look()
    away.up = False
    await one.look()
    assert one.finding is None
    away.up = True
    await one.look()
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


async def test_a_channel_that_hangs_blocks_no_event_and_no_stop(
    start: Start, http: HttpChannel, connection: Connection, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.alerts.channel._TIMEOUT", 3_600.0)
    http.holds = asyncio.Event()
    daemon = await start(alerts={"ops": {"url": http.url(), "secret": SECRET}})
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
