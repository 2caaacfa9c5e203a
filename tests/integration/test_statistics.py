"""The API reports exactly what happened in a window, on any number of replicas, and across a restart."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Start
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Connection, Json, Operator, bury, come_to
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import sign
from webhookd.daemon import Daemon
from webhookd.errors import Permanent, Retryable
from webhookd.event import Event
from webhookd.operate import statistics as module
from webhookd.operate.statistics import Statistics, percentiles, step_of
from webhookd.process.handlers import Registry

VOID = "net.authorize.payment.void.created"
UNKNOWN = "net.authorize.payment.invented.created"
Startable = Callable[..., Awaitable[Daemon]]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes daemons record their counts many times a second, so that a test need not wait five seconds."""
    monkeypatch.setattr(module, "_EVERY", 0.1)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes daemons record their counts only when they stop."""
    monkeypatch.setattr(module, "_EVERY", 10_000.0)


def registry() -> Registry:
    """Returns a registry whose handlers give refunds up, and fail twice at voids before they succeed."""
    made = Registry()

    async def refuse(_: Event, __: Any) -> None:
        raise Permanent("no refunds")

    async def try_again(event: Event, _: Any) -> None:
        if event.attempt < 3:
            raise Retryable("not yet", after=0.05)

    made.add(REFUND, refuse)
    made.add(VOID, try_again)
    return made


async def post(daemon: Daemon, body: bytes, signature: str | None = None) -> int:
    headers = {"Content-Type": "application/json", "X-ANET-Signature": signature or sign(body, KEY)}
    async with (
        aiohttp.ClientSession(daemon.public_url, headers=headers) as session,
        session.post("/webhooks/authorize-net", data=body) as answer,
    ):
        return answer.status


async def traffic(daemon: Daemon) -> None:
    """Sends 4 captures (one of them three times), 2 refunds, 1 void, 1 of an unknown type, 2 unusable bodies, 3 forged."""
    bodies = [sample(AUTHCAPTURE, number).body for number in range(4)]
    bodies += [sample(REFUND, number).body for number in range(2)]
    bodies += [sample(VOID, 0).body, sample(UNKNOWN, 0).body]
    bodies += [bodies[0]] * 2
    bodies += [b"not json", sample(AUTHCAPTURE, 9, datetime.now(UTC) - timedelta(days=20)).body]
    for body in bodies:
        assert await post(daemon, body) == 200
    for _ in range(3):
        assert await post(daemon, bodies[0], "sha512=" + "0" * 128) == 401


EXPECTED = {"received": 8, "duplicates": 2, "quarantined": 2, "refused": 3, "processed": 6, "retried": 2, "dead": 2}
TYPES = {
    AUTHCAPTURE: {"received": 4, "processed": 4, "retried": 0, "dead": 0},
    REFUND: {"received": 2, "processed": 0, "retried": 0, "dead": 2},
    VOID: {"received": 1, "processed": 1, "retried": 2, "dead": 0},
    "other": {"received": 1, "processed": 1, "retried": 0, "dead": 0},
}


async def stats(daemon: Daemon, **query: Any) -> Json:
    status, found = await Operator(daemon.admin_url).get("stats", **query)
    assert status == 200, found
    return found


async def told(daemon: Daemon, expected: dict[str, int]) -> Json:
    """Waits until the totals are as expected; returns the statistics."""
    last: Json = {}

    async def look() -> bool:
        last.update(await stats(daemon))
        return bool(last["totals"] == expected)

    try:
        await until(look, "the totals are as expected")
    except AssertionError:
        assert last["totals"] == expected
    return last


def by_type(found: Json) -> dict[str, dict[str, int]]:
    return {
        of["event_type"]: {name: count for name, count in of.items() if name != "event_type"} for of in found["event_types"]
    }


@pytest.mark.usefixtures("often")
async def test_it_tells_exactly_what_happened(start: Start, connection: Connection) -> None:
    daemon = await start(registry(), admin_tokens=ANN)
    await traffic(daemon)
    await come_to(connection, {"processed": 6, "dead": 2})
    found = await told(daemon, EXPECTED)
    assert found["rates"] == {name: round(count / 3600, 4) for name, count in EXPECTED.items()}
    assert by_type(found) == TYPES
    received = [of["received"] for of in found["event_types"]]
    assert received == sorted(received, reverse=True), "the most received first"
    # Every authentic webhook was acknowledged, and six events ended well.
    assert found["latency"]["acknowledgement"]["count"] == 12
    assert found["latency"]["end_to_end"]["count"] == 6
    for of in found["latency"].values():
        assert 0 < of["p50"] <= of["p95"] <= of["p99"]
    assert found["now"]["statuses"] == {"received": 0, "queued": 0, "retrying": 0, "dead": 2}
    assert found["now"]["quarantine"] == 2
    for name in ("received", "processed", "retried", "dead"):
        assert sum(step[name] for step in found["series"]) == EXPECTED[name]
    long = await stats(daemon, window=7 * 86_400)
    assert long["totals"] == EXPECTED, "by longer steps, the same"
    assert by_type(long) == TYPES


@pytest.mark.usefixtures("often")
async def test_what_two_replicas_count_adds_up(start: Start, connection: Connection) -> None:
    daemons = [await start(registry(), admin_tokens=ANN) for _ in range(2)]
    for daemon in daemons:
        await traffic(daemon)
    await come_to(connection, {"processed": 12, "dead": 4})
    for daemon in daemons:
        found = await told(daemon, {name: 2 * count for name, count in EXPECTED.items()})
        assert by_type(found) == {name: {of: 2 * count for of, count in counts.items()} for name, counts in TYPES.items()}
        assert found["latency"]["end_to_end"]["count"] == 12


@pytest.mark.usefixtures("seldom")
async def test_an_orderly_stop_loses_nothing(start: Start, connection: Connection) -> None:
    for runs in (1, 2):
        daemon = await start(registry(), admin_tokens=ANN)
        await traffic(daemon)
        await come_to(connection, {"processed": 6 * runs, "dead": 2 * runs})
        await daemon.stop()
    again = await start(admin_tokens=ANN)
    found = await stats(again)
    assert found["totals"] == {name: 2 * count for name, count in EXPECTED.items()}
    assert by_type(found) == {name: {of: 2 * count for of, count in counts.items()} for name, counts in TYPES.items()}
    assert found["latency"]["acknowledgement"]["count"] == 24


async def test_what_stands_where_is_counted_now(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN)
    for number, status in enumerate(("received", "queued", "retrying", "dead", "processed"), 1):
        await bury(connection, number, status=status)
    one = "SELECT event_id FROM work WHERE status = 'queued' LIMIT 1"
    await connection.execute(f"UPDATE work SET redriven_at = now() WHERE event_id IN ({one})")
    (discarded,) = await bury(connection, 1)
    await Operator(daemon.admin_url).done("dead-letters/discard", ids=[str(discarded)])
    found = await stats(daemon)
    assert found["now"]["statuses"] == {"received": 1, "queued": 2, "retrying": 3, "dead": 4}
    assert set(found["totals"].values()) == {0}
    assert found["latency"]["end_to_end"] == {"count": 0, "p50": None, "p95": None, "p99": None}


@pytest.mark.usefixtures("seldom")
@pytest.mark.parametrize(("window", "step"), [(60, 10), (3600, 10), (3601, 300), (604_800, 3600), (7_776_000, 86_400)])
async def test_the_series_has_every_step_of_the_window_once_and_in_order(
    start: Start, connection: Connection, window: int, step: int
) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN)
    found, steps = await stats(daemon, window=window), None
    while steps != (steps := [datetime.fromisoformat(one["at"]) for one in found["series"]]):  # until no step begins meanwhile
        # Rows for the window's last step, its first step and the step before; rows of other step lengths do not count here.
        await connection.execute("DELETE FROM statistics")
        await connection.execute(
            """INSERT INTO statistics SELECT step, webhookd.step(step, moment), 'received', '', '{1}'
            FROM unnest(ARRAY[10, 300, 3600, 86400]) AS step, unnest($1::timestamptz[]) AS moment
            ON CONFLICT DO NOTHING""",
            [steps[-1], steps[0], steps[0] - timedelta(seconds=step)],
        )
        found = await stats(daemon, window=window)
    assert (found["window"], found["step"]) == (window, step)
    began, ended = datetime.fromisoformat(found["from"]), datetime.fromisoformat(found["to"])
    assert (ended - began).total_seconds() == window
    at = [datetime.fromisoformat(one["at"]) for one in found["series"]]
    assert {(later - earlier).total_seconds() for earlier, later in itertools.pairwise(at)} == {step}
    assert began < at[0] <= began + timedelta(seconds=step)
    assert at[-1] <= ended < at[-1] + timedelta(seconds=step), "the last one is not over"
    assert all(moment.timestamp() % step == 0 for moment in at), "steps begin with the clock"
    assert found["totals"]["received"] == sum(one["received"] for one in found["series"]) == 2
    assert found["series"][-1]["received"] == 1


async def test_a_window_that_is_too_long_or_too_short_is_refused(start: Start) -> None:
    ann = Operator((await start(roles="receive", admin_tokens=ANN)).admin_url)
    for window in (59, 7_776_001, "1h", ""):
        assert (await ann.get("stats", window=window))[0] == 422


async def test_gauges_are_the_highest_of_their_step(start: Start, connection: Connection) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN)
    insert = "INSERT INTO statistics_gauges VALUES (10, webhookd.step(10, now() - interval '1 minute'), $1, $2)"
    for gauge, value in (("outbox", 7.0), ("main_visible", 3.0), ("main_in_flight", 2.0), ("oldest_unfinished_seconds", 1.5)):
        await connection.execute(insert, gauge, value)
    found = await stats(daemon)
    (step,) = [one for one in found["series"] if one["outbox"] == 7.0]
    assert (step["queue"], step["oldest_unfinished_seconds"]) == (5.0, 1.5)


async def test_rows_are_removed_when_they_are_older_than_any_window(
    start: Start, connection: Connection, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLEANED", 0.0)
    for step, (longest, kept) in module._STEPS.items():
        assert kept > longest + step
        for name, age in (("kept", longest), ("old", kept + 2 * step)):
            at = await connection.fetchval("SELECT webhookd.step($1, now() - $2 * interval '1 second')", step, float(age))
            await connection.execute("INSERT INTO statistics VALUES ($1, $2, 'received', $3, '{1}')", step, at, name)
            await connection.execute("INSERT INTO statistics_gauges VALUES ($1, $2, $3, 1)", step, at, name)
    await start(roles="receive")

    async def names(sql: str) -> list[str]:
        return [row[0] for row in await connection.fetch(sql)]

    async def only_the_old_ones_are_gone() -> bool:
        counted = await names("SELECT event_type FROM statistics WHERE event_type IN ('kept', 'old')")
        measured = await names("SELECT gauge FROM statistics_gauges WHERE gauge IN ('kept', 'old')")
        assert counted.count("kept") == measured.count("kept") == len(module._STEPS)
        return "old" not in counted + measured

    await until(only_the_old_ones_are_gone, "old rows are removed")


# -- percentiles

UPPER = [0.001, 0.01, 0.1, 1.0, 10.0, math.inf]


@pytest.mark.parametrize(
    ("counts", "part", "expected"),
    [
        ([0, 0, 0, 0, 0, 0], 0.5, None),
        ([], 0.5, None),
        ([0, 0, 10, 0, 0, 0], 0.5, 0.055),  # half-way through the bucket
        ([0, 0, 10, 0, 0, 0], 1.0, 0.1),
        ([0, 0, 10, 0, 0, 0], 0.0, 0.01),
        ([4, 0, 0, 0, 0, 0], 0.5, 0.0005),
        ([50, 0, 0, 50, 0, 0], 0.5, 0.001),  # an empty bucket between two others is not entered
        ([50, 0, 0, 50, 0, 0], 0.75, 0.55),
        ([90, 0, 0, 0, 0, 10], 0.95, 10.0),  # if the value is beyond all bounds, the last bound is reported
        ([0, 0, 0, 0, 0, 1], 0.01, 10.0),
    ],
)
def test_percentiles_of_a_known_histogram(counts: list[int], part: float, expected: float | None) -> None:
    [found] = percentiles(counts, UPPER, [part])
    assert found is None if expected is None else found == pytest.approx(expected)


@given(values=st.lists(st.floats(0.000_001, 100.0), min_size=1, max_size=60), parts=st.lists(st.floats(0, 1), min_size=1))
def test_a_percentile_is_in_the_bucket_of_the_value_that_it_estimates(values: list[float], parts: list[float]) -> None:
    counts = [0] * len(UPPER)
    for value in values:
        counts[bisect.bisect_left(UPPER, value)] += 1
    ordered = sorted(values)
    found = []
    for part in sorted(parts):
        rank = min(max(math.ceil(part * len(ordered)), 1), len(ordered))
        at = bisect.bisect_left(UPPER, ordered[rank - 1])
        [estimated] = percentiles(counts, UPPER, [part])
        assert estimated is not None
        found.append(estimated)
        if at == len(UPPER) - 1:
            assert estimated == UPPER[-2]
        else:
            low = UPPER[at - 1] if at else 0.0
            assert low <= estimated <= UPPER[at] * (1 + 1e-12)
    assert found == sorted(found), "a greater part is no smaller"


@given(window=st.integers(60, module.LONGEST_WINDOW), ago=st.floats(0, 3e9))
def test_the_steps_of_any_window_cover_it_without_a_gap(window: int, ago: float) -> None:
    now = datetime(2100, 1, 1, tzinfo=UTC) - timedelta(seconds=ago)
    length = timedelta(seconds=step_of(window))
    began = now - timedelta(seconds=window)
    of: Any = {name: {} for name in ("totals", "types", "latency", "counts", "latencies", "gauges", "standing")}
    steps = Statistics(window=window, step=step_of(window), start=began, end=now, cap=0, **of).steps
    assert all(later - earlier == length for earlier, later in itertools.pairwise(steps))
    if steps:
        assert began < steps[0] <= began + length
        assert steps[-1] <= now < steps[-1] + length
    assert len(steps) <= 400
