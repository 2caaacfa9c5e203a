"""A destination that is down, over real sockets: two replicas probe it, operators see it, and it then gets all that waited."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from tests.conftest import Start
from tests.helpers.operator import ANN, Connection, Operator
from tests.helpers.receivers import Got, receiving
from tests.helpers.wait import until
from tests.integration.test_destination_commands import command, list_json
from tests.integration.test_destinations import CUSTOMER, destination, metric, send, until_none_is_left
from webhookd.authorizenet import sampling
from webhookd.deliver import role
from webhookd.store import deliveries

_OPEN = "SELECT opened_at IS NOT NULL FROM webhookd.circuits WHERE destination = 'shop'"
_CLOSED = "a destination works again: its circuit is closed"
_UNDER_WAY = "SELECT count(*) FROM webhookd.deliveries WHERE destination = 'shop' AND sends > 0"
_UNTOUCHED = "SELECT count(*) FROM webhookd.deliveries WHERE destination = 'shop' AND status = 'waiting' AND sends = 0"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the pauses between probes, polls and measurements short."""
    monkeypatch.setattr(deliveries, "_FIRST_PROBE", 0.2)
    monkeypatch.setattr(deliveries, "_LONGEST_PROBE", 0.4)
    monkeypatch.setattr(role, "_POLL", 0.1)
    monkeypatch.setattr(role, "_MEASURE", 0.2)


async def test_two_replicas_probe_a_destination_one_request_at_a_time_until_it_works(
    start: Start, connection: Connection, quick: None
) -> None:
    broken = True

    async def answer(_: Got) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(status=503 if broken else 200)

    async with receiving() as shop, receiving() as other:
        shop.answer = answer
        settings = {"shop": destination(shop.url), "other": destination(other.url)}
        one, _ = await start(destinations=settings), await start(destinations=settings)
        await send(one, *(sampling.sample(CUSTOMER, number) for number in range(60)))
        await until(lambda: connection.fetchval(_OPEN), "the circuit is open", deadline=60)

        async def earlier_attempts_have_ended() -> bool:
            return bool(await connection.fetchval(_UNDER_WAY) == 0)

        await until(earlier_attempts_have_ended, "the attempts from before have ended", deadline=60)
        begun, shop.most_at_once = len(shop.got), 0
        await until(lambda: len(shop.got) >= begun + 5, "probes go", deadline=60)
        assert shop.most_at_once == 1
        assert len(other.got) == 60, "the other destination does not wait"

        async def the_rest_is_untouched() -> bool:
            return bool(await connection.fetchval(_UNTOUCHED) == 60 - len(set(shop.ids)))

        await until(the_rest_is_untouched, "nothing but probes is taken")
        await until(lambda: metric(one, "webhookd_circuit_open", destination="shop") == 1, "the gauge shows it")
        assert metric(one, "webhookd_circuit_open", destination="other") == 0
        broken = False
        await connection.execute("UPDATE webhookd.deliveries SET due = now() WHERE status = 'retrying'")
        await until_none_is_left(connection)
        assert len(set(shop.ids)) == 60
        await until(lambda: metric(one, "webhookd_circuit_open", destination="shop") == 0, "the gauge shows that it works")


async def test_a_new_event_costs_no_statement_while_the_circuit_is_open(
    start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[str] = []
    claim = deliveries.Deliveries.claim

    async def counted(self: deliveries.Deliveries, name: str, most: int, *, lease: float) -> list[deliveries.Delivery] | None:
        claims.append(name)
        return await claim(self, name, most, lease=lease)

    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=500)
        daemon = await start(destinations={"shop": destination(shop.url)})
        await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(20)))
        await until(lambda: connection.fetchval(_OPEN), "the circuit is open", deadline=60)
        await connection.execute("UPDATE webhookd.circuits SET probe_at = now() + interval '1 hour'")

        async def held() -> bool:
            (sender,) = daemon.deliver._senders.values()
            return sender.held

        await until(held, "the sender knows it")
        monkeypatch.setattr(deliveries.Deliveries, "claim", counted)
        await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(20, 60)))
        assert claims == []


async def test_operators_see_a_failing_destination_and_have_it_probed_at_once(
    start: Start, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=500)
        daemon = await start(destinations={"shop": destination(shop.url)}, admin_tokens=ANN)
        await send(daemon, *(sampling.sample(CUSTOMER, number) for number in range(20)))
        await until(lambda: connection.fetchval(_OPEN), "the circuit is open", deadline=60)
        await connection.execute("UPDATE webhookd.circuits SET probe_at = now() + interval '1 hour'")
        (row,) = await list_json(daemon)
        assert row["state"] == "failing"
        assert row["failures"] >= 5
        assert row["opened_at"] < row["probe_at"]
        for shown in (await command(daemon, "list"), await command(daemon, "show", "shop")):
            assert "failing" in shown
            assert "next probe" in shown
        _, stats = await Operator(daemon.admin_url).get("stats")
        assert [(one["name"], one["opened_at"]) for one in stats["now"]["destinations"]] == [("shop", row["opened_at"])]
        logged = capsys.readouterr().out
        assert "a destination fails: its circuit is open" in logged
        assert _CLOSED not in logged
        shop.answer = lambda _: web.Response()
        await command(daemon, "resume", "shop")
        await until_none_is_left(connection)
        (row,) = await list_json(daemon)
        assert (row["state"], row["opened_at"], row["probe_at"], row["failures"]) == ("active", None, None, 0)
        assert capsys.readouterr().out.count(_CLOSED) == 1


async def test_the_circuit_of_a_removed_destination_is_shown_nowhere(start: Start, connection: Connection, quick: None) -> None:
    """Nobody probes it. A gauge that showed an open circuit would raise an alert without an end."""
    await connection.execute("INSERT INTO webhookd.circuits (destination, opened_at, probe_at) VALUES ('former', now(), now())")
    await connection.execute("INSERT INTO webhookd.deliveries (event_id, destination) VALUES (gen_random_uuid(), 'former')")
    daemon = await start(destinations={"shop": destination("http://127.0.0.1:9/hooks")}, admin_tokens=ANN)
    await until(lambda: metric(daemon, "webhookd_deliveries_waiting", destination="former") == 1, "it is measured")
    assert metric(daemon, "webhookd_circuit_open", destination="former") == 0
    (row,) = [row for row in await list_json(daemon) if row["name"] == "former"]
    assert (row["state"], row["waiting"], row["opened_at"], row["probe_at"]) == ("removed", 1, None, None)
    assert "next probe" not in await command(daemon, "show", "former")
    _, stats = await Operator(daemon.admin_url).get("stats")
    assert [one["opened_at"] for one in stats["now"]["destinations"]] == [None]
