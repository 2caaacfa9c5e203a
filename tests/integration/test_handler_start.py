"""The daemon starts with handlers and hooks that can run; it does not start with a handler that can never run."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Servers
from tests.helpers.command import webhookd
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.dev import traffic

REFUND = "net.authorize.payment.refund.created"

_TYPO = 'the handler shop.book ({path}:4): @on("payment.refnd.created") matches no event type that webhookd knows'


@pytest.mark.parametrize(
    ("decorator", "function", "problem"),
    [
        ('@on("payment.refnd.created")', "async def book(event, connection)", _TYPO),
        ("@on", "async def book(event, connection)", "the handler shop.book ({path}:4): @on stands without an event type"),
        ("", "async def book(event, connection)", "'shop' registers no handler"),
        ('@on("*")', "def book(event, connection)", "the handler shop.book ({path}:4): it is no coroutine function"),
        ('@on("*")', "async def book(event)", "and its parameters are (event); write `async def book(event, connection)`"),
    ],
    ids=["typo", "bare", "none", "not async", "parameters"],
)
async def test_serve_refuses_a_handler_that_can_never_run(
    servers: Servers, decorator: str, function: str, problem: str
) -> None:
    path = servers.folder / "shop.py"
    path.write_text(f"from webhookd import on\n\n\n{decorator}\n{function}: ...\n")
    settings = {**servers.settings, "WEBHOOKD_HANDLERS": "shop"}  # `python -m` finds the modules of its folder
    code, out, err = await webhookd("serve", folder=servers.folder, **settings)
    assert (code, out) == (2, "")
    assert err.startswith("webhookd: WEBHOOKD_HANDLERS: ")
    assert problem.format(path=path) in err


async def test_the_log_of_the_start_lists_each_handler(servers: Servers) -> None:
    path = servers.folder / "shop.py"
    path.write_text(
        'from webhookd import on\n\n\n@on("payment.refund.created")\n@on("net.authorize.fresh.*", unknown=True)\n'
        "async def book(event, connection): ...\n"
    )
    settings = {**servers.settings, "WEBHOOKD_HANDLERS": "shop", "PYTHONPATH": str(servers.folder)}
    async with Process(settings, servers.folder) as daemon:
        assert await daemon.stop() == 0
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        (line,) = [line for line in lines if line["message"] == "a handler is registered"]
        assert line["patterns"] == ["net.authorize.fresh.*", "net.authorize.payment.refund.created"]
        assert (line["name"], line["module"], line["path"], line["line"]) == ("shop.book", "shop", str(path), 4)
        await daemon.start(roles="receive,relay")  # this process runs no handlers
        assert await daemon.stop() == 0
        assert daemon.log.read_text().count("a handler is registered") == 1


_HOOK = """
import asyncio
import os
from webhookd import lifespan, on


def note(text):
    with open("notes", "a") as notes:
        notes.write(f"{text}\\n")


@lifespan
async def client():
    note("hook begins")
    yield "the client"
    note("hook ends")
    await asyncio.sleep(float(os.environ.get("SLOW", "0")))


@on("*")
async def book(event, connection):
    note("event begins")
    await asyncio.sleep(1)
    note(f"event ends with {client.value}")
"""


async def test_hooks_run_once_before_the_first_event_and_after_the_last(servers: Servers) -> None:
    (servers.folder / "shop.py").write_text(_HOOK)
    settings = {**servers.settings, "WEBHOOKD_HANDLERS": "shop", "PYTHONPATH": str(servers.folder)}
    notes = servers.folder / "notes"
    async with Process(settings, servers.folder) as daemon:
        assert notes.read_text() == "hook begins\n", "the hook has started when the daemon is ready"
        samples = [sampling.sample(REFUND, number) for number in (1, 2)]
        assert (await traffic.send(samples, daemon.webhook_url, KEY)).failed == 0
        await until(lambda: notes.read_text().count("event begins") == 2, "both handlers run", deadline=60)
        assert await daemon.stop() == 0
        lines = notes.read_text().splitlines()
        assert lines[0] == "hook begins"
        assert lines.count("event ends with the client") == 2, "the stop waits for the handlers"
        assert lines[-1] == "hook ends"
        assert len(lines) == 6
        notes.unlink()
        await daemon.start(roles="receive,relay")  # this process runs no handlers
        assert await daemon.stop() == 0
        assert not notes.exists()


async def test_a_slow_hook_does_not_hold_up_the_stop(servers: Servers) -> None:
    (servers.folder / "shop.py").write_text(_HOOK)
    settings = {**servers.settings, "WEBHOOKD_HANDLERS": "shop", "PYTHONPATH": str(servers.folder), "SLOW": "3600"}
    async with Process({**settings, "WEBHOOKD_COMMIT_TIMEOUT": "2", "WEBHOOKD_SHUTDOWN_GRACE": "5"}, servers.folder) as daemon:
        assert await daemon.stop() == 0
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        (line,) = [line for line in lines if line["message"] == "a hook did not stop within WEBHOOKD_SHUTDOWN_GRACE"]
        assert line["hook"] == "shop.client"
        assert lines[-1]["message"] == "stopped", "what comes after the hooks has its time"


async def test_the_daemon_does_not_start_if_a_hook_fails(servers: Servers) -> None:
    path = servers.folder / "shop.py"
    path.write_text(
        "from webhookd import lifespan\n\n\n@lifespan\nasync def client():\n"
        "    raise ConnectionError('redis://:hunter2@cache')\n    yield\n"
    )
    code, out, err = await webhookd("serve", folder=servers.folder, **{**servers.settings, "WEBHOOKD_HANDLERS": "shop"})
    assert (code, out) == (1, "")
    message = f"webhookd: the hook shop.client ({path}:4) failed, so the daemon does not start: ConnectionError at {path}:6 in"
    assert message in err.replace("\n", " ")
    assert "hunter2" not in err
