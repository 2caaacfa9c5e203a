"""SIGHUP reloads the settings: during the start, after any error, and if an account is added or removed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Servers, settings_of
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd import service
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.settings import Settings, load

NEW_KEY = "0123456789ABCDEF" * 8
TYPE = "net.authorize.customer.created"


@pytest.fixture(autouse=True)
def collector_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the garbage collector as it is: the daemon would change it for the whole process, which runs the tests too."""
    monkeypatch.setattr(service, "_spare_the_collector", lambda: None)


async def serving(settings: Settings, read: Callable[[], Settings]) -> tuple[Daemon, asyncio.Task[int]]:
    """Serves in this process as `webhookd serve` does; returns the daemon, and the task that ends when the daemon ends."""
    daemons: list[Daemon] = []
    ending = asyncio.create_task(service.serve(settings, reload=read, started=daemons.append))
    await until(lambda: daemons or ending.done(), "it serves")
    if ending.done():
        await ending
    return daemons[0], ending


def reloads(daemon: Daemon, outcome: str) -> float:
    return daemon.metrics.registry.get_sample_value("webhookd_reloads_total", {"outcome": outcome}) or 0.0


async def status(daemon: Daemon, key: str, account: str = "") -> int:
    url = f"{daemon.public_url}/webhooks/authorize-net{account and f'/{account}'}"
    async with aiohttp.ClientSession() as http:
        return (await traffic.post(http, url, sampling.sample(TYPE, 1), key=key)).status


async def end(ending: asyncio.Task[int]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(ending, 20) == 0


async def test_whatever_a_reload_meets_the_next_one_is_done(servers: Servers) -> None:
    settings = settings_of(servers.settings, roles="receive")
    fresh = settings_of(servers.settings, roles="receive", signature_keys=NEW_KEY, accounts={"eu": {"signature_keys": NEW_KEY}})
    errors: list[Exception] = [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"), OSError(24, "too many open files")]

    def read() -> Settings:
        if errors:
            raise errors.pop()
        return fresh

    daemon, ending = await serving(settings, read)
    for failed in (1, 2):
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda failed=failed: reloads(daemon, "failed") == failed, "it has failed")  # type: ignore[misc]
        assert await status(daemon, KEY) == 200
    assert await status(daemon, NEW_KEY, "eu") == 404
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: reloads(daemon, "done") == 1, "it is done")
    assert await status(daemon, NEW_KEY) == 200
    assert await status(daemon, NEW_KEY, "eu") == 200
    assert await status(daemon, KEY) == 401
    await end(ending)


@pytest.mark.parametrize("key", ["x", NEW_KEY[:-1], f"{NEW_KEY},{NEW_KEY[1:]}"])
async def test_a_key_that_cannot_be_one_leaves_all_as_it_was(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    given = servers.settings | {"WEBHOOKD_ROLES": "receive", "WEBHOOKD_SIGNATURE_KEYS_FILE": str(keys)}
    del given["WEBHOOKD_SIGNATURE_KEYS"]
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    daemon, ending = await serving(load(), load)
    keys.write_text(key)
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: reloads(daemon, "failed") == 1, "it has failed")
    assert [await status(daemon, KEY), await status(daemon, NEW_KEY)] == [200, 401]
    keys.write_text(NEW_KEY)
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: reloads(daemon, "done") == 1, "it is done")
    assert [await status(daemon, KEY), await status(daemon, NEW_KEY)] == [401, 200]
    await end(ending)


async def test_a_sighup_while_it_starts_has_its_turn_when_it_serves(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(servers.settings, roles="receive")
    fresh = settings_of(servers.settings, roles="receive", signature_keys=NEW_KEY)
    start = Daemon.start

    async def hung_up(self: Daemon) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.2)  # longer than reading the settings takes
        await start(self)

    monkeypatch.setattr(Daemon, "start", hung_up)
    daemon, ending = await serving(settings, lambda: fresh)
    await until(lambda: reloads(daemon, "done") == 1, "it is done")
    answers: list[Any] = [await status(daemon, key) for key in (NEW_KEY, KEY)]
    assert answers == [200, 401]
    await end(ending)
