"""The circuit of a destination, by the statements of two replicas: when it opens, what then passes, and how it closes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias, cast
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tests.helpers.database import connect
from tests.helpers.stored import store_kind
from webhookd.alerts.facts import read_facts
from webhookd.store.database import Database
from webhookd.store.deliveries import Circuit, Deliveries, Delivery, Failure
from webhookd.store.pools import Connection as LentConnection
from webhookd.store.queries import queries

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_LEASE = 20.0


class Replica(Deliveries):
    """A replica's statements, on a session of its own."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(cast("Database", self))
        self._connection = connection
        self._in_use = asyncio.Lock()
        self.statements = 0

    async def one(self, query: Any, **parameters: Any) -> Any:
        self.statements += 1
        async with self._in_use:
            return await query(self._connection, **parameters)

    async def all(self, query: Any, **parameters: Any) -> list[asyncpg.Record]:
        self.statements += 1
        async with self._in_use:
            return [row async for row in query(self._connection, **parameters)]

    async def take(self, most: int = 8) -> list[Delivery]:
        return await self.claim("shop", most, lease=_LEASE) or []

    async def record(self, delivery: Delivery, *, down: bool | None = True, delay: float = 60.0, asked: float = 0.0) -> bool:
        """Records a failed attempt. Returns whether the circuit is open by it."""
        failure = Failure("HTTP status 500", 500, None, 0.1, down, asked)
        opened = await self.fail("shop", delivery, failure, delay=delay)
        assert opened is not None
        return opened

    async def accept(self, *deliveries: Delivery) -> None:
        await self.end([(delivery.event_id, "shop") for delivery in deliveries])

    async def circuit(self) -> Circuit | None:
        return (await self.circuits()).get("shop")


@pytest_asyncio.fixture
async def replicas(database_url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    connections = [await connect(database_url) for _ in range(2)]
    yield Replica(connections[0]), Replica(connections[1])
    for connection in connections:
        await connection.close()


async def add(connection: Connection, number: int, *, age: float = 0.0, status: str = "waiting") -> None:
    """Adds deliveries that have been due for `age` seconds."""
    await connection.execute(
        "WITH events AS (INSERT INTO ledger (id, notification_key, kind, notification_id, body_hash) "
        "SELECT gen_random_uuid(), gen_random_uuid(), $1, n, gen_random_uuid() FROM generate_series(1, $2::integer) AS n "
        "RETURNING id) "
        "INSERT INTO deliveries (event_id, destination, status, due) "
        "SELECT id, 'shop', $3, now() - make_interval(secs => $4) FROM events",
        await store_kind(connection),
        number,
        status,
        age,
    )


async def opened(replica: Replica, connection: Connection, *, waiting: int = 20) -> None:
    """Opens the circuit: five of the deliveries fail."""
    await add(connection, 5 + waiting, age=1)
    assert [await replica.record(delivery) for delivery in await replica.take(5)] == [False] * 4 + [True]


async def probe_is_due(connection: Connection) -> None:
    await connection.execute("UPDATE circuits SET probe_at = now()")


async def rows(connection: Connection) -> dict[UUID, tuple[str, str]]:
    """Returns the version of each row, with its place: whatever is written changes one of them."""
    found = await connection.fetch("SELECT event_id, ctid::text, xmin::text FROM deliveries")
    return {row["event_id"]: (row["ctid"], row["xmin"]) for row in found}


async def test_while_the_circuit_is_open_one_probe_goes_at_a_time_and_the_rest_is_not_touched(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, other = replicas
    await opened(one, connection)
    before = await rows(connection)
    assert await one.take() == []
    assert await other.take() == [], "before the time of the probe, nothing goes"
    assert await rows(connection) == before
    await probe_is_due(connection)
    assert await one.due(["shop"]) == {"shop": False}
    for _ in range(3):
        taken = await asyncio.gather(one.take(), other.take())
        probes = [delivery for deliveries in taken for delivery in deliveries]
        assert len(probes) == 1
        assert probes[0].probe
        assert await other.take() == [], "the probe is under way"
        assert await other.due(["shop"]) == {"shop": True}
        assert await one.record(probes[0])
        await probe_is_due(connection)
    after = await rows(connection)
    assert sum(before[event_id] != version for event_id, version in after.items()) == 3, "only the probes are written"
    assert await connection.fetchval("SELECT max(attempts) FROM deliveries") == 1, "each probe is another delivery"


async def test_a_lost_probe_is_followed_by_another_after_its_lease(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, other = replicas
    await opened(one, connection)
    await probe_is_due(connection)
    assert len(await one.take()) == 1
    left = await connection.fetchval("SELECT extract(epoch FROM probe_at - now())::float8 FROM circuits")
    assert 0 < left <= _LEASE
    await probe_is_due(connection)
    assert len(await other.take()) == 1


async def test_one_event_that_always_fails_opens_no_circuit(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, _ = replicas
    await add(connection, 1)
    for _ in range(8):
        (delivery,) = await one.take()
        assert not await one.record(delivery, delay=0.0)
    circuit = await one.circuit()
    assert circuit is not None
    assert (circuit.opened_at, circuit.failures) == (None, 1)


async def test_failures_in_two_replicas_at_once_all_count(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, other = replicas
    await add(connection, 5)
    taken = await one.take()
    opening = await asyncio.gather(*((one if n % 2 else other).record(delivery) for n, delivery in enumerate(taken)))
    assert sorted(opening) == [False] * 4 + [True]


async def test_the_wait_between_probes_doubles_up_to_five_minutes_and_keeps_retry_after(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    wait = "SELECT extract(epoch FROM probe_at - now())::float8 FROM circuits"
    await opened(one, connection)
    for seconds in (5, 10, 20, 40, 80, 160, 300, 300):
        left = await connection.fetchval(wait)
        assert seconds - 3 < left <= seconds
        await probe_is_due(connection)
        (probe,) = await one.take()
        await one.record(probe)
    await probe_is_due(connection)
    (probe,) = await one.take()
    await one.record(probe, asked=3600.0)
    assert 3500 < await connection.fetchval(wait) <= 3600


async def test_an_accepted_probe_closes_the_circuit_and_the_rate_then_grows(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, other = replicas
    await opened(one, connection, waiting=200)
    await probe_is_due(connection)
    (probe,) = await one.take()
    await one.accept(probe)
    bound = "SELECT 10 * 2 ^ (extract(epoch FROM now() - closed_at)::float8 / 5) FROM circuits"
    taken = [*await one.take(100), *await other.take(100), *await one.take(100)]
    assert 10 <= len(taken) <= await connection.fetchval(bound), "a burst, whatever the replicas ask for"
    assert not any(delivery.probe for delivery in taken)
    await connection.execute("UPDATE circuits SET closed_at = now() - interval '10 seconds'")
    taken += [*await one.take(100), *await other.take(100)]
    assert 40 <= len(taken) <= await connection.fetchval(bound)
    await connection.execute("UPDATE circuits SET closed_at = now() - interval '61 seconds'")
    assert len(await one.take(100)) == 100, "a minute later, the settings alone bound the rate"
    assert await one.circuits() == {}


async def test_a_claim_after_a_close_waits_for_no_lock_and_says_so(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, other = replicas
    await opened(one, connection)
    await probe_is_due(connection)
    await one.accept(*await one.take())
    async with connection.transaction():
        await connection.execute("SELECT FROM circuits FOR UPDATE")
        assert await other.claim("shop", 8, lease=_LEASE) is None
    assert len(await other.take()) == 8


async def test_of_two_claims_at_once_one_takes_the_probe(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, other = replicas
    await opened(one, connection)
    await probe_is_due(connection)
    async with connection.transaction():
        await connection.execute("SELECT FROM circuits FOR UPDATE")
        assert await one.claim("shop", 8, lease=_LEASE) is None
    taken = await asyncio.gather(*(replica.claim("shop", 8, lease=_LEASE) for replica in (one, other)))
    assert sum(len(found or ()) for found in taken) == 1


async def test_an_answer_about_one_event_closes_the_circuit(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, _ = replicas
    await opened(one, connection)
    await probe_is_due(connection)
    (probe,) = await one.take()
    assert not await one.record(probe, down=False)
    assert await one.circuits() == {}
    assert len(await one.take(5)) == 5


async def test_a_good_answer_ends_the_failures_in_a_row(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, _ = replicas
    await add(connection, 20)
    for accepted in (True, False, True):
        *taken, last = await one.take(5)
        for delivery in taken:
            assert not await one.record(delivery)
        if accepted:
            await one.accept(last)
        else:
            assert not await one.record(last, down=False)
        assert await one.circuits() == {}


async def test_a_failure_of_webhookd_itself_opens_no_circuit_and_closes_none(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await add(connection, 20)
    *taken, last = await one.take(5)
    for delivery in taken:
        await one.record(delivery)
    assert not await one.record(last, down=None)
    (last,) = await one.take(1)
    assert await one.record(last)
    await probe_is_due(connection)
    (probe,) = await one.take()
    assert await one.record(probe, down=None), "the probe showed nothing, so another one follows after the pause"
    assert await one.take() == []


async def test_the_late_failure_of_an_attempt_from_before_does_not_count_as_a_probe(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, other = replicas
    await add(connection, 9)
    taken = await one.take(9)
    for delivery in taken[:5]:
        await one.record(delivery)
    before = await one.circuit()
    for delivery in taken[5:]:
        assert not await other.record(delivery)
    assert await one.circuit() == before


async def test_a_destination_that_works_costs_no_statement_and_no_write_for_its_circuit(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await add(connection, 3)
    await one.accept(*await one.take())
    assert one.statements == 2, "one to take the deliveries, one to end them"
    assert await connection.fetchval("SELECT count(*) FROM circuits") == 0
    await connection.execute("INSERT INTO circuits (destination, closed_at) VALUES ('shop', now() - interval '1 hour')")
    version = await connection.fetchval("SELECT xmin::text FROM circuits")
    await add(connection, 3)
    await one.accept(*await one.take())
    assert await connection.fetchval("SELECT xmin::text FROM circuits") == version


async def test_what_waited_retries_and_fresh_events_take_turns(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await add(connection, 30, age=3600)
    await add(connection, 30, age=5)
    await add(connection, 30, age=3600, status="retrying")
    before = {row["event_id"]: row for row in await connection.fetch("SELECT * FROM deliveries")}
    taken = await one.take(9)
    assert len(taken) == 9
    kinds = [(before[one.event_id]["status"], (one.due - before[one.event_id]["due"]).total_seconds() > 1000) for one in taken]
    assert {kind: kinds.count(kind) for kind in kinds} == {("waiting", True): 3, ("waiting", False): 3, ("retrying", True): 3}


async def test_senders_that_take_one_at_a_time_share_their_turns_among_the_lanes(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await add(connection, 60, age=3600)
    await add(connection, 60, age=5)
    await add(connection, 60, age=3600, status="retrying")
    before = {row["event_id"]: row for row in await connection.fetch("SELECT * FROM deliveries")}
    taken = [delivery for _ in range(60) for delivery in await one.take(1)]
    assert len(taken) == 60
    kinds = [(before[one.event_id]["status"], (one.due - before[one.event_id]["due"]).total_seconds() > 1000) for one in taken]
    for kind in (("waiting", True), ("waiting", False), ("retrying", True)):
        assert kinds.count(kind) >= 5, f"{kind} has no share"


async def test_failed_probes_spend_no_attempts(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, _ = replicas
    await opened(one, connection, waiting=0)
    for down in (True, True, None, True):
        await probe_is_due(connection)
        (probe,) = await one.take()
        assert await one.record(probe, down=down)
    assert await connection.fetchval("SELECT array_agg(DISTINCT status || attempts) FROM deliveries") == ["retrying1"]
    await probe_is_due(connection)
    (probe,) = await one.take()
    assert not await one.record(probe, down=False)
    assert await connection.fetchval("SELECT max(attempts) FROM deliveries") == 2, "an answer about the event is an attempt"


async def test_what_was_not_sent_keeps_its_place_and_its_attempts(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await add(connection, 1)
    await connection.execute("UPDATE deliveries SET since = since - interval '1 hour', due = due - interval '1 hour'")
    before = dict(await connection.fetchrow("SELECT * FROM deliveries") or {})
    (taken,) = await one.take()
    await one.put_back("shop", taken)
    assert dict(await connection.fetchrow("SELECT * FROM deliveries") or {}) == before
    (again,) = await one.take()
    assert not again.repeated, "no earlier send may have reached the destination"
    await one.put_back("shop", taken)
    assert await one.take() == [], "another attempt has taken over"
    await one.record(again, delay=0.0)
    (retry,) = await one.take()
    await one.put_back("shop", retry)
    (retry,) = await one.take()
    assert (retry.attempts, retry.repeated) == (1, False)


async def test_a_probe_that_was_not_sent_is_followed_by_another_at_once(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, other = replicas
    await opened(one, connection)
    await probe_is_due(connection)
    (probe,) = await one.take()
    assert await other.take() == []
    await one.put_back("shop", probe)
    (again,) = await other.take()
    assert (again.probe, again.attempts) == (True, 0)
    await one.put_back("shop", again._replace(due=probe.due))
    assert await one.take() == [], "the probe of another replica is under way"


@pytest.mark.parametrize("down", [True, None])
async def test_a_failed_probe_leaves_its_delivery_the_time_of_its_retry(
    replicas: tuple[Replica, Replica], connection: Connection, down: bool | None
) -> None:
    one, _ = replicas
    await opened(one, connection, waiting=0)
    await connection.execute("UPDATE deliveries SET due = now() + random() * interval '10 hours' + interval '1 hour'")
    due = {row["event_id"]: row["due"] for row in await connection.fetch("SELECT event_id, due FROM deliveries")}
    for _ in range(6):  # one of the five is a probe twice
        await probe_is_due(connection)
        (probe,) = await one.take()
        assert await one.record(probe, down=down, delay=36_000.0)
    assert {row["event_id"]: row["due"] for row in await connection.fetch("SELECT event_id, due FROM deliveries")} == due
    await probe_is_due(connection)
    (probe,) = await one.take()
    await one.record(probe, down=False, delay=36_000.0)
    left = "SELECT extract(epoch FROM due - now())::float8 FROM deliveries WHERE event_id = $1"
    assert 35_900 < await connection.fetchval(left, probe.event_id) <= 36_000, "an attempt that counts has its delay"


@pytest.mark.parametrize("status", ["waiting", "retrying"])
async def test_a_delivery_that_is_due_is_due_at_once_after_it_failed_as_a_probe(
    replicas: tuple[Replica, Replica], connection: Connection, status: str
) -> None:
    one, _ = replicas
    await opened(one, connection, waiting=0)
    await connection.execute("UPDATE deliveries SET status = 'dead'")
    await add(connection, 1, age=3600, status=status)
    await probe_is_due(connection)
    (probe,) = await one.take()
    assert await one.record(probe, delay=36_000.0)
    await connection.execute("DELETE FROM circuits")
    assert [delivery.event_id for delivery in await one.take()] == [probe.event_id]


async def test_probes_reach_each_retry_though_those_that_failed_keep_their_places(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await opened(one, connection, waiting=0)
    await add(connection, 30, age=-3600, status="retrying")
    await connection.execute("UPDATE deliveries SET due = due + random() * interval '1 hour'")  # no two have one place
    probes = []
    for _ in range(30):
        await probe_is_due(connection)
        (probe,) = await one.take()
        probes.append(probe.event_id)
        await one.record(probe)
    assert len(set(probes)) == 30


async def test_a_probe_goes_though_no_delivery_is_due(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, other = replicas
    await opened(one, connection, waiting=0)
    await connection.execute("UPDATE deliveries SET due = now() + interval '10 hours'")
    assert await other.due(["shop"]) == {"shop": True}
    await probe_is_due(connection)
    assert await other.due(["shop"]) == {"shop": False}
    (probe,) = await one.take()
    await probe_is_due(connection)
    (second,) = await one.take()
    assert second.event_id != probe.event_id, "a delivery under way is no probe"
    await one.accept(probe)
    assert await one.take() == [], "the others wait for their time"
    await connection.execute("UPDATE deliveries SET status = 'dead'")
    assert await one.due(["shop"]) == {}


async def test_events_that_the_destination_never_accepts_do_not_keep_the_circuit_open(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await add(connection, 5, age=3600)
    for delivery in await one.take(5):
        await one.record(delivery, delay=0.0)
    await add(connection, 5, age=1)
    for number in range(5):
        await probe_is_due(connection)
        (probe,) = await one.take()
        assert probe.attempts == 0, f"probe {number} is an event that has failed already"
        await one.record(probe, delay=0.0)


async def test_the_circuit_survives_a_clock_that_is_put_back(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, _ = replicas
    await opened(one, connection, waiting=50)
    await connection.execute(
        "UPDATE circuits SET opened_at = opened_at + interval '2 days', probe_at = probe_at + interval '2 days'"
    )
    assert await one.due(["shop"]) == {"shop": False}
    (probe,) = await one.take()
    await one.accept(probe)
    for ahead in ("30 seconds", "2 days"):
        await connection.execute(f"UPDATE circuits SET released = 1000, closed_at = now() + interval '{ahead}'")
        assert len(await one.take(20)) == 20
    await connection.execute("UPDATE circuits SET closed_at = now() + interval '1 day'")
    await add(connection, 1)
    assert len(await one.take(20)) > 0


async def test_a_circuit_that_opens_again_within_a_minute_counts_as_open_since_it_opened_first(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await opened(one, connection, waiting=40)
    await connection.execute("UPDATE circuits SET opened_at = now() - interval '10 minutes', probes = 2, probe_at = now()")
    (probe,) = await one.take()
    await one.accept(probe)
    lent = cast("LentConnection", connection)
    assert 590 < (await read_facts(lent, largest=None)).failing["shop"] < 620, "it may open again"
    for delivery in await one.take(5):
        last = await one.record(delivery)
    assert last
    row = await connection.fetchrow(
        "SELECT extract(epoch FROM now() - opened_at)::float8 AS since, extract(epoch FROM probe_at - now())::float8 AS wait "
        "FROM circuits"
    )
    assert row is not None
    assert row["since"] > 590
    assert 37 < row["wait"] <= 40, "the waits go on growing"
    await probe_is_due(connection)
    (probe,) = await one.take()
    await one.accept(probe)
    await connection.execute("UPDATE circuits SET closed_at = now() - interval '61 seconds'")
    for delivery in await one.take(5):
        last = await one.record(delivery)
    assert last
    assert await connection.fetchval("SELECT opened_at > now() - interval '1 minute' AND probes = 0 FROM circuits")


async def test_the_first_probe_keeps_what_an_earlier_failure_asked(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await add(connection, 5)
    for delivery, asked in zip(await one.take(5), (0.0, 0.0, 3600.0, 0.0, 0.0), strict=True):
        await one.record(delivery, asked=asked)
    assert await connection.fetchval("SELECT extract(epoch FROM probe_at - now())::float8 FROM circuits") > 3500


async def test_a_circuit_counts_each_failure_once(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, _ = replicas
    await opened(one, connection)
    for failures in (5, 6, 7):
        circuit = await one.circuit()
        assert circuit is not None
        assert circuit.failures == failures
        await probe_is_due(connection)
        (probe,) = await one.take()
        await one.record(probe)


async def test_a_circuit_is_shown_only_if_somebody_probes(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, _ = replicas
    lent = cast("LentConnection", connection)

    async def shown() -> tuple[bool, bool]:
        return await one.circuit() is not None, "shop" in (await read_facts(lent, largest=None)).failing

    await opened(one, connection)
    assert await shown() == (True, True)
    await connection.execute("INSERT INTO paused_destinations (destination, paused_by) VALUES ('shop', 'ann')")
    assert await shown() == (False, False)
    await connection.execute("DELETE FROM paused_destinations")
    await connection.execute("UPDATE circuits SET probe_at = now() - interval '11 minutes'")
    assert await shown() == (True, False), "a destination that was removed gets no probe"
    await connection.execute("UPDATE circuits SET probe_at = now()")
    await connection.execute("UPDATE deliveries SET status = 'dead'")
    assert await shown() == (False, False)


async def test_an_alert_looks_at_a_circuit_as_long_as_deliveries_wait(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await opened(one, connection)
    lent = cast("LentConnection", connection)
    failing = (await read_facts(lent, largest=None)).failing
    assert list(failing) == ["shop"]
    assert 0 <= failing["shop"] < 60
    await connection.execute("DELETE FROM deliveries")
    assert (await read_facts(lent, largest=None)).failing == {}, "a destination that was removed"


async def test_a_retry_under_way_is_not_hastened(replicas: tuple[Replica, Replica], connection: Connection) -> None:
    one, other = replicas
    await add(connection, 3)
    for delivery in await one.take():
        await one.record(delivery, down=False, delay=3600.0)
    await connection.execute(
        "UPDATE deliveries SET due = now() WHERE event_id = (SELECT min(event_id::text)::uuid FROM deliveries)"
    )
    (under_way,) = await one.take()
    assert await other.one(queries.hasten_retries, destination="shop", most=1) == 1
    assert await other.one(queries.hasten_retries, destination="shop", most=9) == 1
    assert under_way.event_id not in {delivery.event_id for delivery in await other.take()}
    await one.accept(under_way)
    assert await connection.fetchval("SELECT count(*) FROM deliveries") == 2


async def test_an_open_circuit_probes_at_once_when_an_operator_resumes_the_destination(
    replicas: tuple[Replica, Replica], connection: Connection
) -> None:
    one, _ = replicas
    await opened(one, connection)
    assert await one.take() == []
    assert await one.one(queries.resume_destination, destination="shop") == "shop"
    assert len(await one.take()) == 1
    assert await one.one(queries.resume_destination, destination="shop") == "shop"
    assert await one.take() == [], "one probe is under way"
