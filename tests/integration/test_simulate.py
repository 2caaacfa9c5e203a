"""`webhookd simulate` as a user runs it, and the commands and the code of its page in the guide."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.helpers.command import shell, webhookd
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.receivers import Receiver, receiving
from tests.helpers.running import KEY
from webhookd.authorizenet.notification import EVENT_TYPES, parse
from webhookd.authorizenet.signature import Verifier
from webhookd.simulate import Faults, Simulator

PAGE = (GUIDE / "simulate.md").read_text()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        one.answer = lambda _: web.Response(status=200)
        yield one


class Session:
    """A running `webhookd simulate --json`, with its first line."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, str]) -> None:
        self.process = process
        self.facts = facts

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(await self.process.stdout.readline()))


@asynccontextmanager
async def simulating(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[Session]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhookd", "simulate", "--json", "--port", "0", *arguments),
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    session = Session(process, {})
    try:
        session.facts = await session.line()
        yield session
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_commands_of_the_page_do_as_it_says(tmp_path: Path, receiver: Receiver) -> None:
    start, settings, *asked, registering = blocks(PAGE, "sh")
    assert start.count("webhookd simulate") == 1
    words = start.removeprefix("webhookd simulate").split()
    words[words.index("--to") + 1] = receiver.url
    async with simulating(tmp_path, *words, "--count", "2") as session:
        url = session.facts["WEBHOOKD_PROVIDER"]
        exported = dict(line.removeprefix("export ").split("=") for line in settings.splitlines())
        assert exported | {"WEBHOOKD_PROVIDER": url} == {name: session.facts[name] for name in exported}
        *also, command = registering.splitlines()
        names = {line.removeprefix("export ").split("=")[0] for line in also} | exported.keys()
        assert names == session.facts.keys() | {"WEBHOOKD_PUBLIC_URL"}
        assert command == "webhookd provider setup"
        assert [(await session.line())["status"] for _ in range(2)] == [200, 200]
        environment = {**exported, "WEBHOOKD_PROVIDER": url}
        lines = [line for block in asked for line in block.splitlines()]
        found = [json.loads(await shell(line, tmp_path, **environment)) for line in lines]
    webhooks, made, clock, notifications, calls = found
    assert webhooks[0]["url"] == receiver.url
    assert made[0]["deliveryStatus"] == "Delivered"
    assert "now" in clock
    assert len(notifications) == 3
    assert notifications[-1]["attempts"] == []
    assert [call["name"] for call in calls] == ["GET webhooks"]


async def test_the_code_of_the_page_runs(receiver: Receiver) -> None:
    (code,) = blocks(PAGE, "python")
    answers = iter([503, 503])
    receiver.answer = lambda _: web.Response(status=next(answers, 200))
    names: dict[str, Any] = {}
    exec(code, names)
    await names["retries"](receiver.url)
    assert len(receiver.got) >= 3


async def test_events_of_all_types_come_signed_and_in_turn(tmp_path: Path, receiver: Receiver) -> None:
    count = str(len(EVENT_TYPES))
    async with simulating(tmp_path, "--to", receiver.url, "--every", "0.01", "--count", count) as session:
        lines = [await session.line() for _ in EVENT_TYPES]
        key = session.facts["WEBHOOKD_SIGNATURE_KEYS"]
    assert {line["eventType"] for line in lines} == set(EVENT_TYPES)
    for got in receiver.got:
        assert Verifier([key]).verify(got.body, got.headers["X-ANET-Signature"])


async def test_the_key_of_the_settings_signs_and_is_not_shown(tmp_path: Path, receiver: Receiver) -> None:
    async with simulating(tmp_path, "--to", receiver.url, "--count", "1", WEBHOOKD_SIGNATURE_KEYS=KEY) as session:
        assert session.facts.keys() == {"WEBHOOKD_PROVIDER", "WEBHOOKD_API_LOGIN_ID", "WEBHOOKD_TRANSACTION_KEY"}
        await session.line()
    assert Verifier([KEY]).verify(receiver.got[0].body, receiver.got[0].headers["X-ANET-Signature"])


async def test_a_fast_clock_that_begins_in_the_past_retries_in_seconds(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _: web.Response(status=503)
    options = ("--to", receiver.url, "--count", "1", "--speed", "100000", "--ago", "10")
    async with simulating(tmp_path, *options) as session:
        lines = [await session.line() for _ in range(11)]
    assert [line["attempt"] for line in lines] == list(range(1, 12))
    assert lines[-1]["at"] > lines[0]["at"]
    assert len({parse(got.body, "").notification_id for got in receiver.got}) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--fault", "drup=0.1"), "write NAME=VALUE, with one of the names drop,"),
        (("--fault", "drop=2"), "drop=2: must be notifications that are never sent"),
        (("--fault", "day_zone=Mars"), "the time zone of the history's days"),
        (("--to", "127.0.0.1:8080"), "--to: give the full URL"),
    ],
)
async def test_a_wrong_argument_is_explained(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    code, _, err = await webhookd("simulate", *arguments, folder=tmp_path)
    assert code == 2
    assert text in err.replace("\n", " ")


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with Simulator() as other:
        port = other.url.rpartition(":")[2]
        code, _, err = await webhookd("simulate", "--port", port, folder=tmp_path)
    assert code == 2
    assert f"--port {port}: the port cannot be used" in err


async def test_no_web_page_makes_events_that_the_users_key_signs() -> None:
    async with Simulator() as simulator, aiohttp.ClientSession(headers={"Origin": "https://evil.example"}) as page:
        simulator.register("http://127.0.0.1:9/hooks")
        async with page.post(f"{simulator.url}/_sim/notifications", data="{}") as answer:
            assert answer.status == 403
        assert simulator.account().notifications == {}


async def test_the_list_of_faults_names_each(tmp_path: Path) -> None:
    code, out, _ = await webhookd("simulate", "--list-faults", "--json", folder=tmp_path)
    assert code == 0
    assert {row["name"] for row in json.loads(out)} == set(Faults.__dataclass_fields__)


async def test_the_same_seed_makes_the_same_ids_and_faults(receiver: Receiver) -> None:
    seen = []
    for _ in range(2):
        async with Simulator(5, faults=Faults(drop=0.5)) as simulator:
            simulator.register(receiver.url)
            made = [one for _ in range(20) for one in simulator.make()]
            await simulator.idle()
            assert {one.status for one in made} == {"Delivered"}
            seen.append([(one.id, bool(one.attempts)) for one in made])
    assert seen[0] == seen[1]
    assert len({attempted for _, attempted in seen[0]}) == 2
