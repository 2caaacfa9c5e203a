"""`webhookd provider` as a user runs it, against the simulated provider, and the commands of its page in the guide."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Servers, Start
from tests.helpers.command import shell, webhookd
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.running import KEY
from tests.helpers.secrets import note
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CredentialsRefusedError
from webhookd.daemon import Daemon
from webhookd.simulate import Simulator
from webhookd.store.provider_refusals import ProviderRefusals

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PAGE = (GUIDE / "provider.md").read_text()


@pytest_asyncio.fixture
async def daemon(start: Start) -> Daemon:
    return await start(roles="receive")


@pytest_asyncio.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as one:
        note([one.account(signature_key=KEY).transaction_key])
        yield one


@pytest.fixture
def environment(servers: Servers, simulator: Simulator, daemon: Daemon) -> dict[str, str]:
    own = simulator.account()
    return {
        **servers.settings,
        "WEBHOOKD_PROVIDER": simulator.url,
        "WEBHOOKD_API_LOGIN_ID": own.login_id,
        "WEBHOOKD_TRANSACTION_KEY": own.transaction_key,
        "WEBHOOKD_PUBLIC_URL": daemon.public_url,
    }


async def run(servers: Servers, environment: dict[str, str], *arguments: str, code: int = 0) -> tuple[str, str]:
    """Runs a command of `webhookd provider`. Returns its outputs."""
    found, out, err = await webhookd("provider", *arguments, folder=servers.folder, **environment)
    assert found == code, out + err
    return out, err


def webhooks(simulator: Simulator) -> list[Any]:
    return list(simulator.account().webhooks.values())


async def test_the_commands_of_the_page_do_as_it_says(
    simulator: Simulator, environment: dict[str, str], servers: Servers, daemon: Daemon
) -> None:
    settings, set_up, look = blocks(PAGE, "sh")
    names = [line.removeprefix("export ").partition("=")[0] for line in settings.splitlines()]
    assert set(names) <= environment.keys()
    check, dry, real = set_up.splitlines()
    assert "credentials are good" in await shell(check, servers.folder, **environment)
    said = await shell(dry, servers.folder, **environment)
    assert "would change:" in said
    assert webhooks(simulator) == []
    said = await shell(real, servers.folder, **environment)
    (webhook,) = webhooks(simulator)
    assert (webhook.status, webhook.url) == ("active", f"{daemon.public_url}/webhooks/authorize-net")
    assert "verified it" in said
    assert "there is nothing to change" in await shell(real, servers.folder, **environment)
    found = [await shell(line, servers.folder, **environment) for line in look.splitlines()]
    assert webhook.id in found[0]
    assert "net.authorize.payment.void.created" in found[1]
    assert "0 notifications" in found[2]
    (listed,) = json.loads(found[3])["webhooks"]
    assert (listed["id"], listed["ours"], listed["status"]) == (webhook.id, True, "active")


async def test_each_change_has_its_command_its_dry_run_and_its_json(
    simulator: Simulator, environment: dict[str, str], servers: Servers, connection: Connection
) -> None:
    arguments = ("webhooks", "create", "--event-type", "payment.void.*", "--name", "shop", "--json")
    dry = json.loads((await run(servers, environment, *arguments, "--dry-run"))[0])
    assert dry["dry_run"] is True
    assert {one["field"] for one in dry["changes"]} == {"url", "name", "event type", "status"}
    assert webhooks(simulator) == []
    made = json.loads((await run(servers, environment, *arguments))[0])
    (webhook,) = webhooks(simulator)
    assert made["webhook"] == {
        "id": webhook.id,
        "url": environment["WEBHOOKD_PUBLIC_URL"] + "/webhooks/authorize-net",
        "status": "inactive",
        "name": "shop",
        "event_types": ["net.authorize.payment.void.created"],
        "problem": None,
    }
    _, err = await run(servers, environment, "webhooks", "create", code=1)
    assert "each event would come twice" in err
    await run(servers, environment, "webhooks", "update", webhook.id[:8], "--event-type", "payment.*")
    assert len(webhook.event_types) == 9
    pinged = json.loads((await run(servers, environment, "webhooks", "ping", webhook.id, "--json"))[0])
    assert pinged["ping"]["webhook_id"] == webhook.id
    await run(servers, environment, "webhooks", "activate", webhook.id)
    assert webhook.status == "active"
    await run(servers, environment, "webhooks", "deactivate", webhook.id)
    assert webhook.status == "inactive"
    _, err = await run(servers, environment, "webhooks", "delete", webhook.id, code=2)
    assert "give --yes" in err
    await run(servers, environment, "webhooks", "delete", webhook.id, "--yes")
    assert webhooks(simulator) == []
    rows = await connection.fetch("SELECT change, actor FROM provider_changes ORDER BY at, id")
    assert [row["change"] for row in rows] == ["create", "update", "ping", "activate", "deactivate", "delete"]
    assert all(row["actor"].endswith("(command line)") for row in rows)
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 0


async def test_setup_without_the_setting_of_the_url_says_that_it_is_missing(
    environment: dict[str, str], servers: Servers, daemon: Daemon
) -> None:
    url = environment.pop("WEBHOOKD_PUBLIC_URL") + "/webhooks/authorize-net"
    said, _ = await run(servers, environment, "setup", "--url", url, "--dry-run")
    assert "set WEBHOOKD_PUBLIC_URL to this URL" in said


async def test_what_cannot_work_is_refused_with_the_remedy(
    simulator: Simulator, environment: dict[str, str], servers: Servers
) -> None:
    _, err = await run(servers, environment, "webhooks", "create", "--event-type", "payment.viod.created", code=2)
    assert "did you mean payment.void.created?" in err
    real = environment | {"WEBHOOKD_PROVIDER": "sandbox", "WEBHOOKD_PUBLIC_URL": ""}
    for url, reason in (("http://8.8.8.8/x", "https only"), ("https://10.0.0.1/x", "is private")):
        _, err = await run(servers, real, "setup", "--url", url, code=2)
        assert reason in err
    out, err = await run(servers, environment, "setup", "--url", "http://ann:t0ps3cret@127.0.0.1/x", "--dry-run", code=2)
    assert "without a user" in err
    assert "t0ps3cret" not in out + err
    without = {name: value for name, value in environment.items() if name != "WEBHOOKD_TRANSACTION_KEY"}
    without.pop("WEBHOOKD_API_LOGIN_ID")
    _, err = await run(servers, without, "webhooks", "list", code=2)
    assert "WEBHOOKD_API_LOGIN_ID and WEBHOOKD_TRANSACTION_KEY are not set" in err
    _, err = await run(servers, environment, "webhooks", "activate", "nothing", code=1)
    assert "webhookd provider webhooks list" in err
    assert webhooks(simulator) == []


async def test_commands_send_refused_credentials_once_in_15_minutes_and_once_more_if_a_person_asks(
    simulator: Simulator, environment: dict[str, str], servers: Servers, daemon: Daemon
) -> None:
    own = simulator.account()
    own.active = False  # the user of the account
    for _ in range(2):
        said, _ = await run(servers, environment, "check", code=1)
        assert "E00008" in said
        assert re.search(r"before \d\d:\d\d:\d\d UTC", said)
        assert "webhookd provider check --now`" in said
    for arguments in (("event-types",), ("webhooks", "list"), ("setup",)):
        _, err = await run(servers, environment, *arguments, code=1)
        assert "webhookd provider check --now`" in err
    code, said, _ = await webhookd("doctor", folder=servers.folder, **environment)
    assert code == 1
    assert "webhookd provider check --now`" in said
    async with ProviderClient(simulator.access(), refusals=ProviderRefusals(daemon.database)) as client:
        with pytest.raises(CredentialsRefusedError):  # nor does the daemon
            await client.webhooks()
    assert len(simulator.calls) == 1
    await run(servers, environment, "check", "--now", code=1)
    assert len(simulator.calls) == 2
    await run(servers, environment, "check", code=1)
    assert len(simulator.calls) == 2
    new = environment | {"WEBHOOKD_TRANSACTION_KEY": own.rotate_transaction_key(simulator.clock.now())}
    note([new["WEBHOOKD_TRANSACTION_KEY"]])
    own.active = True
    assert "credentials are good" in (await run(servers, new, "check"))[0], "other credentials are tried at once"
    await run(servers, environment, "check", code=1)
    assert "credentials are good" in (await run(servers, environment, "check", "--now"))[0]
    await run(servers, environment, "webhooks", "list")


async def test_without_postgresql_a_command_that_only_looks_asks_nevertheless(
    simulator: Simulator, environment: dict[str, str], servers: Servers
) -> None:
    away = environment | {"WEBHOOKD_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    assert "0 webhooks" in (await run(servers, away, "webhooks", "list"))[0]
    simulator.account().active = False
    said, _ = await run(servers, away, "check", code=1)
    assert "E00008" in said
    assert "--now" not in said, "nobody remembers it"
