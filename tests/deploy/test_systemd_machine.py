"""Under systemd itself, the units work as the guide says: sandbox, credentials, readiness, reload, watchdog, stop."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.conftest import Servers
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.machine import Machine
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.dev import traffic
from webhookd.dev.servers import free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
INSTALL, USE, *_ = blocks((GUIDE / "systemd.md").read_text(), "sh")
NEW_KEY = "0123456789ABCDEF" * 8
TYPE = "net.authorize.customer.created"


@pytest_asyncio.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = await asyncio.to_thread(Machine, tmp_path / "root")
    try:
        await asyncio.to_thread(machine.install, INSTALL)
        yield machine
    finally:
        await asyncio.to_thread(machine.close)


def secret(root: Path, path: str, value: str) -> None:
    file = root / "etc/webhookd" / path
    file.touch(mode=0o600)
    file.write_text(f"{value}\n")


def set_up(root: Path, servers: Servers, public: int, admin: int) -> None:
    """Writes the settings and secrets that the guide leaves to the operator."""
    secret(root, "credentials/database_url", servers.database_url)
    secret(root, "credentials/redis_url", servers.redis_url)
    secret(root, "renewable/signature_keys", KEY)
    secret(root, "renewable/admin_tokens", "ann:0123456789abcdef-ann")
    own = {
        "WEBHOOKD_SQS_QUEUE": servers.queue,
        "WEBHOOKD_SQS_DEAD_LETTER_QUEUE": servers.dead_letter_queue,
        "WEBHOOKD_SQS_ENDPOINT_URL": servers.sqs_endpoint_url,
        "WEBHOOKD_LISTEN": f"127.0.0.1:{public}",
        "WEBHOOKD_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    lines = "".join(f"{name}={value}\n" for name, value in own.items())
    with (root / "etc/webhookd/webhookd.env").open("a") as settings:
        settings.write(lines)


async def test_systemd_starts_reloads_watches_and_stops_it(machine: Machine, servers: Servers) -> None:
    public, admin = free_port(0), free_port(0)
    await asyncio.to_thread(set_up, machine.root, servers, public, admin)
    await machine.boot()
    url = f"http://127.0.0.1:{public}/webhooks/authorize-net"

    async def answered(key: str, number: int) -> int:
        async with aiohttp.ClientSession() as http:
            return (await traffic.post(http, url, sampling.sample(TYPE, number), key=key)).status

    start, status, reload = re.findall(r"^(systemctl [^#]+?) *#", USE, re.MULTILINE)
    await machine.run(*start.split())
    assert await machine.shown("webhookd-migrate", "Result") == "success"
    assert "taking webhooks" in await machine.run(*status.split())
    assert await answered(KEY, 1) == 200
    assert await answered(NEW_KEY, 2) == 401
    pid = await machine.shown("webhookd", "MainPID")
    secrets = await machine.run("sh", "-c", f"stat -c '%U %a' /run/webhookd/signature_keys; cat /proc/{pid}/environ")
    assert secrets.startswith("webhookd 400")
    assert KEY not in secrets
    assert servers.database_url not in secrets

    secret(machine.root, "renewable/signature_keys", f"{KEY},{NEW_KEY}")
    await machine.run(*reload.split())
    await until(lambda: answers(answered, NEW_KEY), "the new key is in use")
    assert await machine.shown("webhookd", "NRestarts") == "0"
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{admin}/metrics") as response:
        assert "process_start_time_seconds" in await response.text(), "an alert on restarts would never fire"

    # The watchdog restarts a process that hangs.
    await machine.run("sh", "-c", f"kill -{signal.SIGSTOP.name.removeprefix('SIG')} {pid}")
    await until(lambda: restarted(machine, pid), "the watchdog ends it, and it is started again", deadline=90, every=1)
    await until(lambda: answers(answered, NEW_KEY), "webhookd serves again")

    await machine.run("systemctl", "stop", "webhookd")
    assert await machine.shown("webhookd", "Result") == "success"
    journal = await machine.run("journalctl", "--unit=webhookd", "--output=cat", "--no-pager")
    assert '"message":"stopped"' in journal
    assert not [one for one in (KEY, NEW_KEY, "0123456789abcdef-ann") if one in journal]


async def answers(answered: object, key: str) -> bool:
    return bool(await answered(key, 3) == 200)  # type: ignore[operator]


async def restarted(machine: Machine, pid: str) -> bool:
    return await machine.shown("webhookd", "MainPID") not in (pid, "0")
