"""systemd's own tools accept the units, the units fit webhookd, and a service runs as they say."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.conftest import Servers
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.running import KEY
from tests.helpers.unit import Manager, Unit
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.signature import fingerprint
from webhookd.cli.main import app
from webhookd.dev import traffic
from webhookd.dev.servers import free_port
from webhookd.settings import Settings

FOLDER = Path("deploy/systemd")
UNITS = ["webhookd.service", "webhookd-migrate.service"]
EXPOSURE = 1.5
NEW_KEY = "0123456789ABCDEF" * 8
TOKEN = "ann-has-a-token-of-32-characters"
BEN = "ben-has-another-of-34-characters"

systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze; apt install systemd")


def default(name: str) -> float:
    return float(Settings.model_fields[name].default)


def told(*command: str) -> tuple[int, str]:
    """Runs one of systemd's tools; returns its exit code and all its output."""
    plain = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=plain)
    return done.returncode, done.stdout


@systemd
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_hardened(name: str) -> None:
    threshold = f"--threshold={EXPOSURE * 10:g}"
    code, said = told("systemd-analyze", "security", "--offline=yes", threshold, str((FOLDER / name).absolute()))
    assert code == 0, said
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None
    assert float(found[1]) <= EXPOSURE


@systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    for unit in UNITS:  # each unit names other units, which must be there, too
        (tmp_path / unit).write_text((FOLDER / unit).read_text().replace("/opt/webhookd/bin/webhookd", "/bin/true"))
    assert told("systemd-analyze", "verify", "--man=no", str(tmp_path / name)) == (0, "")


@systemd
def test_the_user_can_be_made_and_is_the_units() -> None:
    code, said = told("systemd-sysusers", "--dry-run", str((FOLDER / "webhookd.sysusers").absolute()))
    assert code == 0, said
    assert "Creating user 'webhookd'" in said or not said  # without output, the user exists already
    for name in UNITS:
        assert Unit(FOLDER / name).one("User") == Unit(FOLDER / name).one("Group") == "webhookd"


def test_the_units_fit_the_settings() -> None:
    unit = Unit(FOLDER / "webhookd.service")
    assert float(unit.one("TimeoutStopSec")) >= default("shutdown_grace") + 2 + 5, "a stop is cut short"
    assert int(unit.one("LimitNOFILE")) >= default("max_connections") * 1.5
    assert int(unit.one("WatchdogSec")) > default("commit_timeout")
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for name in UNITS:
        program, command = Unit(FOLDER / name).one("ExecStart").split()
        assert program == "/opt/webhookd/bin/webhookd"
        assert command in commands
    assert "webhookd-migrate.service" in unit.one("After", "Unit").split()
    assert "webhookd-migrate.service" in unit.one("Wants", "Unit").split()


def test_both_units_are_in_the_same_sandbox() -> None:
    def sandbox(name: str) -> list[str]:
        text = (FOLDER / name).read_text()
        return text[text.index("CapabilityBoundingSet=") :].partition("\n\n")[0].splitlines()

    assert sandbox(UNITS[0]) == sandbox(UNITS[1])


def test_the_environment_names_settings() -> None:
    lines = [line.removeprefix("#") for line in (FOLDER / "webhookd.env").read_text().splitlines()]
    names = [line.partition("=")[0] for line in lines if re.fullmatch(r"[A-Z_]+=.*", line)]
    assert {"WEBHOOKD_SIGNATURE_KEYS_FILE", "WEBHOOKD_SQS_QUEUE"} <= set(names)
    for name in names:
        setting = name.removeprefix("WEBHOOKD_").removesuffix("_FILE").lower()
        assert setting in Settings.model_fields or name in ("AWS_REGION", "AWS_SHARED_CREDENTIALS_FILE", "PYTHONPATH"), name
    kept = Unit(FOLDER / "webhookd-migrate.service").one("UnsetEnvironment").split()
    files = {name for name in names if name.startswith("WEBHOOKD_") and name.endswith("_FILE")}
    assert files < set(kept), "migrating needs no such file"


@pytest_asyncio.fixture
async def manager(servers: Servers, tmp_path: Path) -> AsyncIterator[Manager]:
    manager = Manager(Unit(FOLDER / "webhookd.service"), tmp_path)
    manager.write("webhookd.env", (FOLDER / "webhookd.env").read_text())
    manager.write("credentials/database_url", servers.database_url + "\n")
    manager.write("credentials/redis_url", servers.redis_url + "\n")
    manager.write("renewable/signature_keys", f"{KEY}\n")
    manager.write("renewable/admin_tokens", f"ann:{TOKEN}\n")
    manager.write("renewable/read_tokens", f"eve:{TOKEN}\n")
    yield manager
    manager.close()


@systemd
async def test_a_service_run_by_its_unit_rotates_its_keys_under_load_and_stops_in_order(
    manager: Manager, servers: Servers
) -> None:
    public, admin = free_port(0), free_port(0)
    await manager.start(
        {
            "WEBHOOKD_LISTEN": f"127.0.0.1:{public}",
            "WEBHOOKD_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "WEBHOOKD_SQS_QUEUE": servers.queue,
            "WEBHOOKD_SQS_DEAD_LETTER_QUEUE": servers.dead_letter_queue,
            "WEBHOOKD_SQS_ENDPOINT_URL": servers.sqs_endpoint_url,
            "WEBHOOKD_SQS_WAIT": "1",
            "WEBHOOKD_RELAY_WINDOW": "30",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
    )
    assert manager.times("STATUS=taking webhooks")
    await manager.hears("WATCHDOG=1")
    url = f"http://127.0.0.1:{public}/webhooks/authorize-net"
    numbers = iter(range(1, 1_000_000))
    going = {KEY: True, NEW_KEY: False}
    answers: list[traffic.Answer] = []

    async def load(http: aiohttp.ClientSession, key: str) -> None:
        while going[key]:
            answers.append(
                await traffic.post(http, url, sampling.sample("net.authorize.customer.created", next(numbers)), key=key)
            )

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as loads:

        async def answered_by(key: str) -> int:
            return (
                await traffic.post(http, url, sampling.sample("net.authorize.customer.created", next(numbers)), key=key)
            ).status

        async def known(token: str) -> bool:
            headers = {"Authorization": f"Bearer {token}"}
            async with http.get(f"http://127.0.0.1:{admin}/webhooks/events", headers=headers) as response:
                return response.status == 200

        loads.create_task(load(http, KEY))
        assert await answered_by(NEW_KEY) == 401

        # A mistake in a file changes nothing, and is logged.
        manager.write("renewable/signature_keys", f"{KEY},\n")
        await manager.reload()
        assert await answered_by(KEY) == 200
        assert "one of the keys is empty" in manager.log.read_text()

        manager.write("renewable/signature_keys", f"{KEY},{NEW_KEY}\n")
        manager.write("renewable/admin_tokens", f"ben:{BEN}\n")
        assert await known(TOKEN)
        await manager.reload()
        assert await answered_by(NEW_KEY) == 200
        assert (await known(BEN), await known(TOKEN)) == (True, False)

        going[NEW_KEY] = True
        loads.create_task(load(http, NEW_KEY))
        before = len(answers)
        await until(lambda: len(answers) > before + 50, "both keys are in use")
        going[KEY] = False
        manager.write("renewable/signature_keys", f"{NEW_KEY}\n")
        manager.remove("renewable/read_tokens")
        await asyncio.sleep(0.05)  # time for answers to webhooks that the old key signed
        await manager.reload()
        assert await answered_by(KEY) == 401
        assert manager.handed_over() == {"signature_keys", "admin_tokens"}, "what is taken away would stay valid"
        async with http.get(f"http://127.0.0.1:{admin}/metrics") as response:
            metrics = await response.text()
        going[NEW_KEY] = False

    assert {answer.status for answer in answers} == {200}, "a request was dropped"
    assert f'key="{fingerprint(NEW_KEY)}"' in metrics
    assert f'key="{fingerprint(KEY)}"' not in metrics, "a key that is gone would look like one that is not used"
    assert 'webhookd_reloads_total{outcome="done"} 2.0' in metrics
    assert 'webhookd_reloads_total{outcome="failed"} 1.0' in metrics
    assert await manager.stop() == 0
    assert manager.times("STOPPING=1") == 1
    logged = manager.log.read_text()
    assert not [secret for secret in (KEY, NEW_KEY, TOKEN, BEN) if secret in logged]


def test_the_guide_removes_each_file_that_the_guide_installs(tmp_path: Path) -> None:
    install = blocks((GUIDE / "systemd.md").read_text(), "sh")[0]
    (remove,) = [block for block in blocks((GUIDE / "upgrade.md").read_text(), "sh") if "userdel" in block]
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "userdel", "systemd-sysusers", "python3", "pip"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/ran\n')
        (programs / name).chmod(0o755)
    root = tmp_path / "root"
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}

    def run(text: str) -> None:
        moved = re.sub(r"(?<= )/(?=opt|etc|usr)", f"{root}/", text)
        moved = re.sub(r"^/opt/\S+/pip", "pip", moved, flags=re.MULTILINE)
        subprocess.run(["bash", "-euc", moved], check=True, env=environment)

    (root / "opt/webhookd").mkdir(parents=True)
    run(install)
    installed = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.name == "webhookd"}
    assert {"opt/webhookd", "etc/webhookd/webhookd.env", "etc/systemd/system/webhookd.service"} <= installed
    run(remove)
    assert [path for path in root.rglob("*") if path.is_file() or "webhookd" in path.name] == []
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran[-3:] == ["systemctl disable --now webhookd", "systemctl daemon-reload", "userdel webhookd"]
