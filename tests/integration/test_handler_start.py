"""The daemon starts with handlers that can run, and lists them; it does not start with a handler that can never run."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Servers
from tests.helpers.command import webhookd
from tests.helpers.running import Process

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
