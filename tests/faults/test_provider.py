"""The gap closer of real daemons beside a simulated provider: killed, raced by late webhooks, and under a wrong clock."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.faults.test_clock import DAY, LIBRARY, Clock, clock_of_postgresql
from tests.helpers.ledger import COUNTING
from tests.helpers.rig import Rig, Row
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.api.limits import BURST
from webhookd.dev import traffic
from webhookd.simulate import Notification, Simulator

SALE = "net.authorize.payment.authcapture.created"  # the counting handler takes payments
URL = "http://127.0.0.1:9/webhooks/authorize-net"  # nobody listens there: the tests deliver, if anybody does
RATE = 100  # calls a second
_AT_A_KILL = 20 + 1  # notifications that were fetched and are not committed: a batch, and the call under way

_IDS = "SELECT notification_id FROM events WHERE notification_id IS NOT NULL"
_EFFECTS = "SELECT e.notification_id FROM effects f JOIN events e ON e.id = f.event_id"
_JUDGED = """
SELECT bool_and(d.looked_at IS NULL OR d.looked_at <= now()) AND bool_and(d.completeness <> 'whole' AND d.missing = 0)
    AND bool_and(a.compared_to BETWEEN a.compared_from::date AND now()::date)
FROM provider_days d JOIN provider_accounts a USING (account) WHERE d.day <= now()::date
"""
_WRITTEN = """
SELECT day::text AS key, xmin::text, completeness AS state FROM provider_days
UNION ALL SELECT notification_id, xmin::text, status FROM provider_notifications
UNION ALL SELECT 'compared', compared_at::text, compared_to::text FROM provider_accounts ORDER BY 1
"""
_COUNT = "SELECT sum(listed)::int AS listed, sum(ours)::int AS ours, sum(recovered)::int AS recovered FROM provider_days"


@asynccontextmanager
async def providing(rig: Rig) -> AsyncIterator[Simulator]:
    """Starts a provider whose webhook is the rig's."""
    rig.handlers(COUNTING)
    async with Simulator(1) as provider:
        provider.account(signature_key=KEY)
        provider.register(URL)
        yield provider


async def asking(rig: Rig, provider: Simulator, **settings: str) -> Process:
    """Starts a daemon that asks the provider each second, and takes what is missing at once."""
    own = provider.account()
    return await rig.daemon(
        ready=True,
        provider=provider.url,
        api_login_id=own.login_id,
        transaction_key=own.transaction_key,
        public_url=URL,
        provider_rate=str(RATE),
        **{"gap_every": "1", "gap_grace": "0"} | settings,
    )


async def holds(daemon: Process) -> bool:
    return daemon.running and await daemon.metric("webhookd_provider_account_held", account="default") == 1


async def holder(daemons: Sequence[Process]) -> Process | None:
    """Returns the daemon that asks the provider now."""
    held = [daemon for daemon in daemons if await holds(daemon)]
    assert len(held) < 2, "one replica asks for an account at a time"
    return held[0] if held else None


async def in_ledger(rig: Rig) -> int:
    return int(await rig.connection.fetchval("SELECT count(*) FROM ledger"))


async def check(rig: Rig, made: Sequence[Notification]) -> tuple[int, int]:
    """Asserts that each notification is in the ledger once and processed once. Returns the day's counts: ours, recovered."""

    async def processed() -> bool:
        return int(await rig.connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'")) >= len(made)

    async def counted() -> tuple[int, int] | None:
        days = await rig.connection.fetchrow(_COUNT)
        whole = days is not None and days["listed"] == days["ours"] == len(made)
        return (days["ours"], days["recovered"]) if days is not None and whole else None

    await until(processed, "all are processed", deadline=300)
    counts: tuple[int, int] = await until(counted, "the days count all", deadline=60)
    expected = sorted(one.id for one in made)
    assert sorted(row["notification_id"] for row in await rig.connection.fetch(_IDS)) == expected, "once in the ledger"
    assert sorted(row["notification_id"] for row in await rig.connection.fetch(_EFFECTS)) == expected, "processed once"
    return counts


def note(rig: Rig, made: Sequence[Notification]) -> None:
    """Adds the case's row to the table of the run. All notifications are found, so none was lost or doubled."""
    rig.record(Row(rig.case, rig.rounds_run, len(made), len(made), 0, 0, None))


def assert_within_the_bucket(provider: Simulator) -> None:
    """Asserts that no second had more calls than the token bucket lets through, and what was in flight before."""
    times = [call.at.timestamp() for call in provider.calls]
    most = RATE + BURST + 2
    for number, at in enumerate(times[most:]):
        assert at - times[number] > 1, f"more than {most} calls in a second"


async def test_a_recovery_goes_on_where_it_was_after_kill_9_at_another_replica_within_a_minute(rig: Rig) -> None:
    count, rounds = (10_000 if rig.long else 300), rig.rounds(1, 3)
    async with providing(rig) as provider:
        daemons = [await asking(rig, provider) for _ in range(2)]
        held = await until(lambda: holder(daemons), "a replica asks the provider", deadline=60)
        made = [one for _ in range(count) for one in provider.make(SALE, withheld=True)]
        began, kills = len(provider.calls), list[tuple[int, set[str]]]()
        for number in range(1, rounds + 1):
            goal = began + count * number // (rounds + 1)
            await until(partial(_called, provider, goal), "a part is fetched", deadline=300, every=0.001)
            held.end(signal.SIGKILL)  # at once: with a question to the daemon before it, all could be committed meanwhile
            kills.append((len(_fetched(provider)), {row["notification_id"] for row in await rig.connection.fetch(_IDS)}))
            if number > 1:  # to wait for the end of a lease once is enough
                await rig.connection.execute("UPDATE provider_accounts SET held_until = '-infinity'")
            killed = held
            held = await until(lambda: holder(daemons), "another replica takes over within a minute", deadline=60, every=0.5)
            assert held is not killed
            await killed.start()
        await until(lambda: _reached(rig, count), "all are taken", deadline=600)
        assert await check(rig, made) == (count, count)
        fetched = _fetched(provider)
        for number, (before, committed) in enumerate(kills, start=1):
            assert 0 < len(committed) < count, "the kill comes in the middle"
            assert before - len(committed) <= number * _AT_A_KILL, "a batch is committed before the next one is fetched"
            assert not committed.intersection(fetched[before:]), "what was committed is not fetched again"
        assert len(fetched) - count <= rounds * _AT_A_KILL, "a kill costs what was in flight"
        assert_within_the_bucket(provider)
        note(rig, made)


async def test_a_replica_that_is_frozen_while_it_takes_notifications_writes_nothing_stale_when_it_wakes_up(rig: Rig) -> None:
    """The lease of the frozen replica ends by PostgreSQL's clock alone: by its own clock, it still has the lease."""
    count = 300
    async with providing(rig) as provider:
        daemons = [await asking(rig, provider) for _ in range(2)]
        frozen = await until(lambda: holder(daemons), "a replica asks the provider", deadline=60)
        other = next(one for one in daemons if one is not frozen)
        made = [one for _ in range(count) for one in provider.make(SALE, withheld=True)]
        began = len(provider.calls)
        await until(partial(_called, provider, began + count // 3), "a part is fetched", deadline=300, every=0.001)
        _send(frozen, signal.SIGSTOP)
        assert 0 < await in_ledger(rig) < count, "it is frozen in the middle"
        await rig.connection.execute("UPDATE provider_accounts SET held_until = '-infinity'")
        await until(lambda: holds(other), "the other replica takes over", deadline=60, every=0.5)
        assert await check(rig, made) == (count, count)
        _send(other, signal.SIGSTOP)  # so that whatever changes from now on is a write of the replica that wakes up
        before = await rig.connection.fetch(_WRITTEN)
        _send(frozen, signal.SIGCONT)
        await until(lambda: _given_up(frozen), "it finds that its lease has ended", deadline=60)
        assert await rig.connection.fetch(_WRITTEN) == before
        _send(other, signal.SIGCONT)
        assert await check(rig, made) == (count, count)
        note(rig, made)


def _send(daemon: Process, number: signal.Signals) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(number)


async def _given_up(daemon: Process) -> bool:
    return await daemon.metric("webhookd_provider_account_held", account="default") == 0


def _called(provider: Simulator, number: int) -> bool:
    return len(provider.calls) >= number


def _fetched(provider: Simulator) -> list[str]:
    """Returns the ids of the notifications that were asked for alone, in the order of the calls."""
    start = "GET notifications/"
    return [call.name.removeprefix(start) for call in provider.calls if call.name.startswith(start)]


async def _reached(rig: Rig, goal: int) -> bool:
    return await in_ledger(rig) >= goal


@pytest.mark.parametrize(
    "ahead",
    [
        0,
        pytest.param(40 * DAY, marks=pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")),
        pytest.param(-40 * DAY, marks=[pytest.mark.long, pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime")]),
    ],
)
async def test_webhooks_that_come_while_the_gap_closer_takes_the_same_notifications(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Also if the daemon's clock is wrong: PostgreSQL's clock counts."""
    if ahead:
        Clock(rig.servers.folder, monkeypatch, "wrong").set(ahead)
    async with providing(rig) as provider:
        daemon = await asking(rig, provider)
        await until(lambda: holds(daemon), "the daemon asks the provider", deadline=60)
        chance, made, sends = random.Random(7), [], []
        for _ in range(rig.rounds(4, 20)):
            some = [one for _ in range(40) for one in provider.make(SALE, withheld=True)]
            made += some
            late = [sampling.sample_of(one.body) for one in some for _ in range(chance.choice((0, 1, 2)))]
            chance.shuffle(late)
            sends.append(await traffic.send(late, daemon.webhook_url, KEY, rate=chance.choice((20, 40, 100))))
        ours, recovered = await check(rig, made)
        assert sum(one.failed for one in sends) == 0
        again = await traffic.send([sampling.sample_of(one.body) for one in made], daemon.webhook_url, KEY)
        assert again.outcomes == {"duplicate": len(made)}
        assert await check(rig, made) == (ours, recovered)
        assert 0 < recovered < ours == len(made), "some came as webhooks, and some from the history"
        assert await daemon.metric("webhookd_body_mismatches_total") == 0
        note(rig, made)


@pytest.mark.long
@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")
@pytest.mark.parametrize("ahead", [40 * DAY, -40 * DAY])
async def test_after_postgresqls_clock_was_wrong_nothing_is_lost_and_the_days_are_judged_by_the_right_one(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    rig = own_rig
    clock = await clock_of_postgresql(rig, monkeypatch, 0)
    async with providing(rig) as provider:
        daemon = await asking(rig, provider)
        await until(lambda: holds(daemon), "the daemon asks the provider", deadline=60)
        made: list[Notification] = []
        for wrong in (0, ahead, 0):
            clock.set(wrong)
            made += [one for _ in range(20) for one in provider.make(SALE, withheld=True)]
            await until(partial(_looked, provider, _looks(provider) + 10), "some looks", deadline=120)
        assert await check(rig, made) == (60, 60)
        await until(lambda: rig.connection.fetchval(_JUDGED), "the days are judged by the right clock", deadline=60)
        note(rig, made)


def _looks(provider: Simulator) -> int:
    return sum(call.name == "GET notifications" for call in provider.calls)


def _looked(provider: Simulator, number: int) -> bool:
    return _looks(provider) >= number
