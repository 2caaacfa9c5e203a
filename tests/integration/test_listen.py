"""`webhookd listen`: events reach a program on this machine as a destination would send them, and webhookd changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from tests.conftest import Start
from tests.helpers.admin_api import Asked, Ran, event, event_id, problem, ran, serving
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.operator import ANN, LEO, REFUND, Connection, Operator, come_to
from tests.helpers.receivers import SECRET, receiving
from tests.helpers.running import KEY
from tests.helpers.wait import until
from tests.integration.test_destinations import CUSTOMER, destination, send, until_none_is_left
from webhookd.authorizenet import sampling
from webhookd.authorizenet.signature import Verifier
from webhookd.cli.operator import tail
from webhookd.daemon import Daemon

FULL = {"origin": "webhook", "body": {"encoding": "utf-8", "text": "{}"}}  # what an event's own page has beside its row
TABLES = ("ledger", "work", "deliveries", "audit", "bodies", "operations", "quarantine", "paused_destinations", "timeline")


@contextlib.asynccontextmanager
async def listening(
    url: str, *arguments: str, stdin: int, stdout: int, folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs `webhookd listen` with a token that may only look."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhookd", "listen", *arguments),
        env={
            **inherited,
            **Operator(url, LEO["leo"]).environment,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TERM": "xterm",
            "COLUMNS": "160",
            "LINES": "60",
        },
        cwd=folder,
        stdin=stdin,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE if stdout == asyncio.subprocess.PIPE else stdout,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def contents(connection: Connection) -> dict[str, list[str]]:
    """Returns the rows of all tables of events, as text."""
    return {
        table: [row["text"] for row in await connection.fetch(f"SELECT t::text AS text FROM webhookd.{table} t ORDER BY 1")]
        for table in TABLES
    }


async def test_a_program_gets_events_as_from_a_destination_and_webhookd_changes_nothing(
    start: Start, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "key").write_text(f"{KEY}\n")
    async with receiving() as program, receiving() as shop:
        daemon = await start(destinations={"shop": destination(shop.url)}, admin_tokens=ANN, read_tokens=LEO)
        samples = [sampling.sample(REFUND, 1), sampling.sample(CUSTOMER, 2), sampling.sample(REFUND, 3)]
        await send(daemon, *samples)
        await come_to(connection, {"processed": 3})
        await until_none_is_left(connection)
        before = await contents(connection)
        program.answer = lambda _: web.Response(status=500 if len(program.got) == 1 else 200, text="not yet")
        line = blocks((GUIDE / "destination-tools.md").read_text(), "sh")[0].splitlines()[-1]
        options = [*shlex.split(line.replace("http://localhost:3000/hooks", program.url))[2:], "--json"]
        assert options[0] == "--to"
        files = ("--secret-file", "secret", "--key-file", "key")
        pipe = asyncio.subprocess.PIPE
        async with listening(
            daemon.admin_url, *options, *files, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, folder=tmp_path
        ) as process:
            assert process.stdout is not None
            lines = [json.loads(await asyncio.wait_for(process.stdout.readline(), 60)) for _ in range(2)]
            assert await contents(connection) == before, "nothing is spent, stored or counted"
            await send(daemon, sampling.sample(REFUND, 4))
            lines.append(json.loads(await asyncio.wait_for(process.stdout.readline(), 60)))
        assert process.stderr is not None
        assert SECRET not in (await process.stderr.read()).decode()
    assert [(line["status"], line["accepted"], line["attempt"]) for line in lines] == [
        (500, False, 1),
        (200, True, 1),
        (200, True, 1),
    ]
    assert lines[0]["answer"] == "not yet"
    assert [one.headers["webhook-id"] for one in program.got] == [line["id"] for line in lines]
    for got in program.got:
        Webhook(SECRET).verify(got.body, got.headers)
        Verifier([KEY]).verify(got.body, got.headers["X-ANET-Signature"])
    assert program.got[0].body == samples[0].body
    assert program.got[0].headers["webhookd-event-type"] == REFUND


async def test_the_keys_of_the_live_table_send_again_show_and_quit(
    start: Start, connection: Connection, tmp_path: Path
) -> None:
    async with receiving() as program:
        program.answer = lambda _: web.Response(status=418, text="a teapot")
        daemon = await start(read_tokens=LEO, admin_tokens=ANN)
        await send(daemon, sampling.sample(REFUND, 1))
        await come_to(connection, {"processed": 1})
        master, terminal = pty.openpty()
        shown = bytearray()

        def read() -> None:
            with contextlib.suppress(OSError):
                shown.extend(os.read(master, 65_536))

        loop = asyncio.get_running_loop()
        loop.add_reader(master, read)
        options = ("--to", program.url, "--since", "1h")
        try:
            async with listening(daemon.admin_url, *options, stdin=terminal, stdout=terminal, folder=tmp_path) as process:
                await until(lambda: b"HTTP status 418" in shown, "the answer is in the table", deadline=60)
                assert b"secret of this session: whsec_" in shown
                os.write(master, b"r")
                await until(lambda: len(program.got) == 2, "it is sent again")
                await until(lambda: b"(attempt 2)" in shown, "the table shows it")
                assert b"webhook-timestamp" not in shown
                os.write(master, b"d")
                await until(lambda: b"webhook-timestamp" in shown and b"a teapot" in shown, "the details are shown")
                os.write(master, b"q")
                assert await asyncio.wait_for(process.wait(), 30) == 0
        finally:
            loop.remove_reader(master)
            os.close(master)
            os.close(terminal)
    assert len(set(program.ids)) == 1
    assert [one.headers["webhookd-attempt"] for one in program.got] == ["1", "2"]
    secret = bytes(shown).split(b"secret of this session: ")[1].split()[0].decode()
    Webhook(secret).verify(program.got[0].body, program.got[0].headers)


async def test_the_condition_chooses_and_an_absent_body_is_reported(
    start: Start, connection: Connection, tmp_path: Path
) -> None:
    async with receiving() as program:
        daemon: Daemon = await start(read_tokens=LEO, admin_tokens=ANN)
        await send(daemon, *(sampling.sample(REFUND, number) for number in range(3)))
        await come_to(connection, {"processed": 3})
        rows = await connection.fetch("SELECT event_id FROM webhookd.bodies ORDER BY event_id")
        await connection.execute("DELETE FROM webhookd.bodies WHERE event_id = $1", rows[0]["event_id"])
        small = b'{"eventType": "x", "payload": {"authAmount": 1}}'
        await connection.execute("UPDATE webhookd.bodies SET body = $2 WHERE event_id = $1", rows[1]["event_id"], small)
        large = small.replace(b"1}", b"101}")
        await connection.execute("UPDATE webhookd.bodies SET body = $2 WHERE event_id = $1", rows[2]["event_id"], large)
        options = ("--to", program.url, "--since", "1h", "--filter", "authAmount > `100`")
        pipe = asyncio.subprocess.PIPE
        async with listening(
            daemon.admin_url, *options, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, folder=tmp_path
        ) as process:
            assert process.stdout is not None
            lines = [(await asyncio.wait_for(process.stdout.readline(), 60)).decode() for _ in range(2)]
    assert "the body is no longer kept" in lines[0]
    assert "HTTP status 204" in lines[1]
    assert program.ids == [str(rows[2]["event_id"])]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "ftp://x/"), "--to: must be a URL"),
        (("--to", "http://x/", "--filter", "contain(a, 'x')"), "--filter: is no JMESPath expression"),
        (("--to", "http://x/", "--body", "half"), "--body: "),
        (("--to", "http://x/", "--since", "soon"), "--since: 'soon' is neither an age"),
    ],
)
async def test_an_option_that_cannot_be_meant_is_named(arguments: tuple[str, ...], said: str) -> None:
    found = await ran("http://127.0.0.1:9", "listen", *arguments)
    assert (found.code, said in found.err) == (2, True), found.err


async def test_key_r_counts_also_while_a_request_is_under_way(start: Start, connection: Connection, tmp_path: Path) -> None:
    answered = asyncio.Event()

    async def answer(_: Any) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiving() as program:
        program.answer = answer
        daemon = await start(read_tokens=LEO, admin_tokens=ANN)
        await send(daemon, sampling.sample(REFUND, 1))
        await come_to(connection, {"processed": 1})
        master, terminal = pty.openpty()
        shown = bytearray()

        def read() -> None:
            with contextlib.suppress(OSError):
                shown.extend(os.read(master, 65_536))

        loop = asyncio.get_running_loop()
        loop.add_reader(master, read)
        options = ("--to", program.url, "--since", "1h")
        try:
            async with listening(daemon.admin_url, *options, stdin=terminal, stdout=terminal, folder=tmp_path):
                await until(lambda: len(program.got) == 1, "a request is under way", deadline=60)
                os.write(master, b"rrr")
                os.write(master, b"d")
                await until(lambda: b"webhook-timestamp" in shown, "the keys were read")
                answered.set()
                await until(lambda: len(program.got) == 4, "the event is sent again for each key")
        finally:
            answered.set()
            loop.remove_reader(master)
            os.close(master)
            os.close(terminal)


async def test_since_looks_through_all_events_and_says_if_it_leaves_some_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may have few events of a rare kind, or none."""
    number = 2 * tail.MOST_PAGES
    async with serving() as api, receiving() as program:
        api.events = [event(one, f"2026-01-31T12:00:{one:02}Z") for one in range(number)]  # two on every other page
        for row in api.events:
            api.answer("GET", f"events/{row['id']}", row | FULL)

        async def listened(count: int) -> Ran:
            program.got.clear()
            api.routes.pop(("GET", "events"), None)
            done = asyncio.ensure_future(ran(api.url, "listen", "--to", program.url, "--since", "3650d", "--json"))
            try:
                await until(lambda: len(program.got) == count, "the events arrive", deadline=60)
            finally:
                api.answer("GET", "events", problem(401, "the test ends"))
            return await asyncio.wait_for(done, 30)

        found = await listened(number)
        assert program.ids == [event_id(one) for one in range(number)]
        assert "leaves out" not in found.err
        monkeypatch.setattr("webhookd.cli.operator.listen.MOST", 3)
        found = await listened(3)
        assert program.ids == [event_id(one) for one in range(number - 3, number)]
        assert "begins with the newest 3 events that match, and leaves out older ones" in found.err


@pytest.mark.parametrize("origin", ["webhook", "history", "import", "synthetic"])
async def test_an_event_keeps_its_origin(origin: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    async with serving() as api, receiving() as program:
        api.events = [event(1)]
        api.answer("GET", f"events/{event_id(1)}", event(1) | FULL | {"origin": origin})
        options = ("--to", program.url, "--since", "3650d", "--json", "--key-file", str(tmp_path / "key"))
        done = asyncio.ensure_future(ran(api.url, "listen", *options))
        try:
            await until(lambda: program.got, "the event arrives", deadline=60)
        finally:
            api.answer("GET", "events", problem(401, "the test ends"))
        await asyncio.wait_for(done, 30)
    headers = program.got[0].headers
    assert headers["webhookd-origin"] == origin
    assert ("X-ANET-Signature" in headers) == (origin != "synthetic"), "the provider has not sent what webhookd made"


async def test_a_token_that_may_not_look_is_a_clear_error() -> None:
    async with serving() as api:
        found = await ran(api.url, "listen", "--to", "http://127.0.0.1:9/", token="wrong")
    assert found.code == 5
    assert "refused the token: set WEBHOOKD_API_TOKEN" in found.err


async def test_an_api_that_is_away_for_a_while_loses_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhookd.cli.operator.tail.PAUSE", 0.02)
    calls = {"list": 0, "body": 0}

    def every_other(kind: str, answer: Any) -> Callable[[Any, Any], Any]:
        def answered(*_: Any) -> Any:
            calls[kind] += 1
            return problem(503, "restarting") if calls[kind] % 2 == 0 else answer

        return answered

    async with serving() as api, receiving() as program:
        row = event(1)
        api.events = [row]
        api.answer("GET", f"events/{event_id(1)}", every_other("body", row | FULL))
        calls["body"] = 1  # the first look at the body fails
        done = asyncio.ensure_future(ran(api.url, "listen", "--to", program.url, "--since", "3650d", "--json"))
        api.answer("POST", f"events/{event_id(1)}/retry", {"event": row})
        try:
            await until(lambda: program.got, "it arrives", deadline=30)
        finally:
            api.answer("GET", "events", problem(401, "the test ends"))
        found = await asyncio.wait_for(done, 30)
        asked: list[Asked] = api.asked
    assert found.code == 5
    assert program.ids == [event_id(1)]
    assert calls["body"] == 3
    assert {one.method for one in asked} == {"GET"}, "listen only looks"
