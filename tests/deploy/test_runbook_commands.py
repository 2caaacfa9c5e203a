"""The runbook's commands work as they stand, on a machine with systemd and in Kubernetes.

With systemd, each command runs by deploy/systemd/webhookd-command, in the sandbox that the script asks for. In Kubernetes, each
command runs by the function that the runbook defines, with the environment of the Deployment's pod. Stand-ins take the places
of systemd-run and `kubectl exec`, since neither systemd nor a cluster runs here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.conftest import Servers, Start
from tests.deploy.manifests import build, one
from tests.deploy.test_kubernetes_running import settings
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.running import KEY
from tests.helpers.secrets import note
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.errors import Permanent
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.simulate import Simulator

RUNBOOK = (GUIDE / "runbook.md").read_text()
SCRIPT = Path("deploy/systemd/webhookd-command")
TOKEN = "ann-has-a-token-of-32-characters"
SECTIONS = (
    ("runbook", "Runbook"),
    ("runbook-storage", "WebhookdPostgreSQLDown"),
    ("runbook-keys", "WebhookdSignaturesRefused"),
    ("runbook-handlers", "WebhookdEventsStuck"),
    ("runbook-dead", "WebhookdDeadEvents"),
    ("runbook-queue", "WebhookdUnknownMessages"),
    ("runbook-surroundings", "WebhookdUnreachable"),
    ("runbook-destinations", "WebhookdDeliveriesDead"),
)
OF_THE_PROVIDER = (
    ("runbook-provider", "WebhookdCredentialsRefused"),
    ("runbook-provider", "WebhookdWebhookNotOk"),
    ("runbook-provider", "WebhookdWebhookDoubled"),
    ("runbook-provider", "WebhookdDayNotWhole"),
    ("runbook-provider", "WebhookdProviderUnreachable"),
)
# The long suite tries both pages in both ways. `make test` tries each page once and each way once: a case takes a minute.
_LONG = pytest.mark.long
WITH_SYSTEMD = pytest.mark.parametrize(
    "sections", [pytest.param(SECTIONS, id="own"), pytest.param(OF_THE_PROVIDER, id="provider", marks=_LONG)]
)
IN_KUBERNETES = pytest.mark.parametrize(
    "sections", [pytest.param(SECTIONS, id="own", marks=_LONG), pytest.param(OF_THE_PROVIDER, id="provider")]
)
PAYMENT = "net.authorize.payment.authcapture.created"
PUBLIC_URL = "https://hooks.example.com/webhooks/authorize-net"


def section(page: str, title: str) -> str:
    text = (GUIDE / f"{page}.md").read_text()
    return re.split(r"^#+ ", text.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def lines(page: str, title: str) -> list[str]:
    text = section(page, title)
    found = [line for block in blocks(text, "sh") for line in block.splitlines()]
    told = re.findall(r"`(webhookd [a-z-][^`]*)`", text)
    return found + [words for words in told if " ID" in words] if found else told


def test_no_command_of_the_runbook_needs_a_program_that_the_image_lacks() -> None:
    for page in GUIDE.glob("runbook*.md"):
        for line in (line for block in blocks(page.read_text(), "sh") for line in block.splitlines()):
            assert line.startswith(("webhookd ", "webhookd() { kubectl ")), f"{page.name}: {line}"


@pytest.fixture
def receivers() -> dict[str, str]:
    """Returns the addresses to which the provider's deliveries go, by the URLs of its webhooks."""
    return {}


@pytest.fixture
async def simulator(receivers: dict[str, str]) -> AsyncIterator[Simulator]:
    """Starts a provider. The account's webhook is inactive."""

    async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
        async with aiohttp.ClientSession() as session, session.post(receivers[url], data=body, headers=headers) as answer:
            return answer.status

    async with Simulator(post=post) as simulator:
        note([simulator.account(signature_key=KEY).transaction_key])
        simulator.register(PUBLIC_URL).status = "inactive"
        yield simulator


@pytest.fixture
async def daemon(start: Start, connection: asyncpg.Connection[Any], simulator: Simulator, receivers: dict[str, str]) -> Daemon:
    """Starts a daemon that has a dead event, an event that waits, and a body in quarantine, and asks the provider."""
    registry = Registry()

    async def refuse(_: Event, __: Any) -> None:
        raise Permanent("the order is unknown")

    registry.add("*", refuse)
    shop = {
        "url": "http://127.0.0.1:9/hooks",
        "secrets": f"whsec_{base64.b64encode(bytes(32)).decode()}",
        "allow_private": True,
    }
    own = simulator.account()
    provider = {
        "provider": simulator.url,
        "api_login_id": own.login_id,
        "transaction_key": own.transaction_key,
        "public_url": PUBLIC_URL,
        "gap_grace": 0,
    }
    daemon = await start(registry, admin_tokens={"ann": TOKEN}, destinations={"shop": shop}, **provider)
    url = receivers[PUBLIC_URL] = f"{daemon.public_url}/webhooks/authorize-net"
    await traffic.send([sampling.sample(PAYMENT, 1), sampling.Sample("unusable", "", "", b"no JSON")], url, KEY)

    async def settled() -> bool:
        dead = await connection.fetchval("SELECT count(*) FROM events WHERE status = 'dead'")
        compared = await connection.fetchval("SELECT count(*) FROM provider_accounts WHERE compared_at IS NOT NULL")
        return bool(dead and compared and await connection.fetchval("SELECT count(*) FROM quarantine"))

    await until(settled, "an event is dead, a body in quarantine, and a comparison has ended")
    return daemon


def own_settings(servers: Servers, daemon: Daemon) -> dict[str, str]:
    return {
        "WEBHOOKD_PROVIDER": daemon.settings.provider,
        "WEBHOOKD_PUBLIC_URL": PUBLIC_URL,
        "WEBHOOKD_SQS_QUEUE": servers.queue,
        "WEBHOOKD_SQS_DEAD_LETTER_QUEUE": servers.dead_letter_queue,
        "WEBHOOKD_SQS_ENDPOINT_URL": servers.sqs_endpoint_url,
        "WEBHOOKD_LISTEN": "127.0.0.1:0",
        "WEBHOOKD_ADMIN_LISTEN": daemon.admin_url.removeprefix("http://"),
    }


AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "PYTHONPATH": os.getcwd(), "COLUMNS": "200"}  # noqa: PTH109
Shell = Callable[[str], subprocess.CompletedProcess[str]]


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def with_systemd(servers: Servers, daemon: Daemon, simulator: Simulator, tmp_path: Path) -> Shell:
    """Returns a shell of root on a machine with systemd on which webhookd is installed as the guide says."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze; apt install systemd")
    etc, bin_ = tmp_path / "etc/webhookd", tmp_path / "bin"
    for path, secret in {
        "credentials/database_url": servers.database_url,
        "credentials/redis_url": servers.redis_url,
        "renewable/signature_keys": KEY,
        "renewable/admin_tokens": f"ann:{TOKEN}",
        "credentials/api_login_id": simulator.account().login_id,
        "credentials/transaction_key": simulator.account().transaction_key,
    }.items():
        (etc / path).parent.mkdir(parents=True, exist_ok=True)
        (etc / path).write_text(f"{secret}\n")
    own = "".join(f"{name}={value}\n" for name, value in own_settings(servers, daemon).items())
    (etc / "webhookd.env").write_text(Path("deploy/systemd/webhookd.env").read_text() + own)
    moved = SCRIPT.read_text().replace("/etc/webhookd", str(etc)).replace("/opt/webhookd/bin", str(Path(sys.executable).parent))
    program(bin_ / "webhookd", moved)
    stand_in = f'#!/bin/sh\nPYTHONPATH={os.getcwd()} exec {sys.executable} -m tests.helpers.systemd_run "$@"\n'  # noqa: PTH109
    program(bin_ / "systemd-run", stand_in)
    environment = {"PATH": f"{bin_}:/usr/bin:/bin", "TEST_ENVIRONMENT": json.dumps(AWS)}
    return lambda line: _run(line, tmp_path, environment)


@pytest.fixture
def in_kubernetes(servers: Servers, daemon: Daemon, simulator: Simulator, tmp_path: Path) -> Shell:
    """Returns a shell on a laptop with kubectl. The pod has the environment of the manifests."""
    objects, secrets = build("production"), tmp_path / "secrets"
    secrets.mkdir()
    for name, secret in {
        "database-url": servers.database_url,
        "redis-url": servers.redis_url,
        "signature-keys": KEY,
        "admin-tokens": f"ann:{TOKEN}",
        "api-login-id": simulator.account().login_id,
        "transaction-key": simulator.account().transaction_key,
    }.items():
        (secrets / name).write_text(f"{secret}\n")
    pod = settings(objects, one(objects, "Deployment"), servers, secrets) | own_settings(servers, daemon) | AWS
    for name in ("api-login-id", "transaction-key"):
        pod[f"WEBHOOKD_{name.upper().replace('-', '_')}_FILE"] = str(secrets / name)
    words = shlex.join(["env", "-i", *(f"{name}={value}" for name, value in pod.items()), sys.executable, "-m", "webhookd"])
    kubectl = f"""#!/bin/sh
[ "$1 $2 $3 $4 $5 $6 $7" = "-n webhookd exec -i deploy/webhookd -- webhookd" ] || exit 9
shift 7
cd / && exec {words} "$@"
"""
    program(tmp_path / "bin/kubectl", kubectl)
    (define,) = [line for block in blocks(RUNBOOK, "sh") for line in block.splitlines() if line.startswith("webhookd()")]
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    return lambda line: _run(f"{define}\n{line}", tmp_path, environment)


def _run(text: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", text]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=120)


async def _run_all(
    sections: Iterable[tuple[str, str]],
    shell: Shell,
    folder: Path,
    connection: asyncpg.Connection[Any],
    simulator: Simulator,
) -> None:
    (folder / "body.json").write_bytes(sampling.sample(PAYMENT, 7).body)
    event = await connection.fetchval("SELECT id::text FROM events")
    ids = {"quarantine": await connection.fetchval("SELECT id::text FROM quarantine"), "events": event, "dead-letters": event}
    done = 0
    for page, title in sections:
        ids["provider"] = _prepare(title, simulator)
        for line in lines(page, title):
            if not line.startswith("webhookd "):
                continue  # the function's definition
            ran = await asyncio.to_thread(shell, re.sub(r"\bID\b", ids.get(line.split()[1], "ID"), line))
            # The signature in the guide's example does not fit the body, and the doctor reports this with 1.
            assert ran.returncode == ("--body" in line), f"{title}: {line}\n{ran.stdout}{ran.stderr}"
            assert "Traceback" not in ran.stderr
            secrets = (KEY, TOKEN, simulator.account().transaction_key)
            assert not [one for one in secrets if one in ran.stdout + ran.stderr]
            done += 1
    assert done >= 10


def _prepare(title: str, simulator: Simulator) -> str:
    """Makes the trouble that a section is about. Returns the id of the webhook in trouble."""
    if title == "WebhookdWebhookDoubled":
        return simulator.register(PUBLIC_URL).id
    if title == "WebhookdDayNotWhole":
        simulator.make(PAYMENT, number=8, withheld=True)
    return next(iter(simulator.account().webhooks))


async def _check_what_was_mended(
    sections: Iterable[tuple[str, str]], connection: asyncpg.Connection[Any], simulator: Simulator
) -> None:
    if sections is OF_THE_PROVIDER:
        assert [one.status for one in simulator.account().webhooks.values()] == ["active"]
        (missing,) = simulator.made
        found = "SELECT count(*) FROM events WHERE notification_id = $1"
        assert await connection.fetchval(found, missing.id) == 1


@WITH_SYSTEMD
async def test_each_command_of_these_sections_runs_as_it_stands_with_systemd(
    sections: Iterable[tuple[str, str]],
    with_systemd: Shell,
    tmp_path: Path,
    connection: asyncpg.Connection[Any],
    simulator: Simulator,
) -> None:
    await _run_all(sections, with_systemd, tmp_path, connection, simulator)
    await _check_what_was_mended(sections, connection, simulator)


@IN_KUBERNETES
async def test_each_command_of_these_sections_runs_as_it_stands_in_kubernetes(
    sections: Iterable[tuple[str, str]],
    in_kubernetes: Shell,
    tmp_path: Path,
    connection: asyncpg.Connection[Any],
    simulator: Simulator,
) -> None:
    await _run_all(sections, in_kubernetes, tmp_path, connection, simulator)
    await _check_what_was_mended(sections, connection, simulator)


async def test_the_script_gives_every_exit_code_back(with_systemd: Shell) -> None:
    assert (await asyncio.to_thread(with_systemd, "webhookd no-such-command")).returncode == 2


async def test_recovery_is_looked_at_by_the_same_script(with_systemd: Shell) -> None:
    ran = await asyncio.to_thread(with_systemd, "webhookd recover")
    assert ran.returncode == 0, ran.stderr
    assert "0 left to do" in ran.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze; apt install systemd")
def test_systemd_understands_the_properties_of_the_script(tmp_path: Path) -> None:
    properties = re.findall(r"--property=\"?([^\"\\\n]+?)\"?(?: \\)?$", SCRIPT.read_text(), re.MULTILINE)
    assert {one.partition("=")[0] for one in properties} >= {"User", "LoadCredential", "SystemCallFilter", "EnvironmentFile"}
    text = "\n".join(one.replace("$PWD", "/tmp") for one in properties)
    (tmp_path / "command.service").write_text(f"[Service]\nExecStart=/bin/true\n{text}\n")
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "command.service")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-run") is None, reason="no systemd-run; apt install systemd")
def test_systemd_run_has_the_options_of_the_script() -> None:
    helped = subprocess.run(["systemd-run", "--help"], check=True, capture_output=True, text=True).stdout
    for option in set(re.findall(r"--[a-z-]+", SCRIPT.read_text())):
        assert f"{option}" in helped, option


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
@pytest.mark.parametrize("line", dict.fromkeys(re.findall(r"`(kubectl -n [^`]+)`", RUNBOOK)))
def test_kubectl_understands_each_command_of_the_runbook(line: str, tmp_path: Path) -> None:
    """Without a cluster, a command that kubectl understands fails at the connection."""
    command = [*shlex.split(line), "--server=http://127.0.0.1:1", "--request-timeout=2s"]
    if "--" in command:  # what follows is the pod's command
        at = command.index("--")
        command = [*command[:at], *command[-2:], *command[at:-2]]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "connection to the server" in done.stderr or "connection refused" in done.stderr, done.stderr
