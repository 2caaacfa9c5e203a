"""The doctor's findings about the provider: the credentials and the webhook of each account, each with its remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Servers, settings_of
from tests.helpers.operator import Connection
from tests.helpers.provider_rows import store_account
from tests.helpers.secrets import note
from webhookd.doctor import Finding, Verdict, examine, provider
from webhookd.doctor.stored import stored
from webhookd.settings.provider import ProviderAccess
from webhookd.simulate import Faults, Simulator

URL = "https://hooks.example.com/webhooks/authorize-net"


def access(simulator: Simulator, **changes: Any) -> ProviderAccess:
    found = replace(simulator.access(), public_url=URL)
    note([found.login_id.get_secret_value(), *(key.get_secret_value() for key in found.keys)])
    return replace(found, **changes)


async def findings(given: ProviderAccess) -> dict[str, Finding]:
    return {one.check: one for one in await provider.examine_account(given)}


@pytest_asyncio.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as one:
        yield one


async def test_good_credentials_are_proved_and_the_account_is_named(simulator: Simulator, servers: Servers) -> None:
    simulator.register(URL)
    own = access(simulator)
    found = await findings(own)
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert set(found) == {"provider default", "provider default reports", "provider default webhook"}
    assert "gateway id" in found["provider default"].detail
    assert len(simulator.calls) == 4
    assert all(not call.name.startswith(("POST ", "PUT ", "DELETE ")) for call in simulator.calls)
    settings = {
        "api_login_id": own.login_id.get_secret_value(),
        "transaction_key": own.keys[0].get_secret_value(),
        "provider": simulator.url,
    }
    whole = {one.check: one async for one in examine(settings_of(servers.settings, **settings, public_url=URL))}
    assert whole["provider default"] == found["provider default"]


async def test_without_credentials_the_provider_is_not_asked(servers: Servers) -> None:
    assert [one async for one in examine(settings_of(servers.settings)) if one.check.startswith("provider")] == []


async def test_test_mode_and_a_part_of_the_api_that_is_off_are_warned_of() -> None:
    async with Simulator(faults=Faults(reports_off=True)) as simulator:
        simulator.account().test_mode = True
        found = await findings(access(simulator))
    assert found["provider default"].verdict is Verdict.WARNING
    assert "switch the test mode off" in found["provider default"].detail
    assert "become no events" in found["provider default"].detail
    assert found["provider default reports"].verdict is Verdict.WARNING
    assert "Transaction Details API" in found["provider default reports"].detail


@pytest.mark.parametrize(
    ("url", "status", "setting", "said"),
    [
        (URL, "inactive", URL, "webhookd provider setup"),
        ("https://old.example.com/x", "active", URL, "https://old.example.com/x (active)"),
        (None, "", URL, "webhookd provider setup"),
        (URL, "active", None, "set WEBHOOKD_PUBLIC_URL"),
    ],
)
async def test_a_webhook_that_does_not_work_is_warned_of(
    url: str | None, status: str, setting: str | None, said: str, simulator: Simulator
) -> None:
    if url is not None:
        simulator.register(url).status = status
    found = await findings(access(simulator, public_url=setting))
    assert found["provider default webhook"].verdict is Verdict.WARNING
    assert said in found["provider default webhook"].detail


async def test_a_webhook_that_cannot_be_read_is_named(simulator: Simulator) -> None:
    simulator.register(URL)
    simulator.register("https://other.example.com/x").status = ""
    found = (await findings(access(simulator, public_url=URL)))["provider default webhook"]
    assert found.verdict is Verdict.WARNING
    assert f"{URL} is active" in found.detail
    assert "cannot read" in found.detail
    assert "lacks `status`" in found.detail


async def test_event_types_that_the_webhook_has_lost_are_named(
    simulator: Simulator, servers: Servers, connection: Connection
) -> None:
    webhook = simulator.register(URL)
    types = sorted(webhook.event_types)
    await store_account(connection, webhook_id=f"'{webhook.id}'", webhook_event_types=f"ARRAY{types}")
    webhook.event_types = tuple(types[1:])
    own = access(simulator)
    async with stored(settings_of(servers.settings)) as memory:
        known = await memory.webhooks(["default", "other"])
    assert (known["default"].webhook_id, known["other"].webhook_id) == (webhook.id, None)
    found = {one.check: one for one in await provider.examine_account(own, known["default"])}
    assert found["provider default webhook"].verdict is Verdict.WARNING
    assert (
        f"no longer has the event types {types[0]}: run `webhookd provider webhooks update"
        in found["provider default webhook"].detail
    )


async def test_without_postgresql_the_webhook_is_checked_as_far_as_possible(servers: Servers) -> None:
    settings = settings_of(servers.settings, database_url="postgresql://nobody@127.0.0.1:9/none")
    async with stored(settings) as memory:
        assert await memory.webhooks(["default"]) == {}
        assert memory.refusals is None


async def test_credentials_of_the_sandbox_at_production_are_found_by_one_more_call(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulator(seed=1) as production:
        production.account()
        monkeypatch.setattr(provider, "_OTHER", {production.url: simulator.url, simulator.url: production.url})
        monkeypatch.setattr(provider, "_NAMES", {production.url: "production", simulator.url: "sandbox"})
        own = access(simulator, url=production.url)
        (found,) = (await findings(own)).values()
        assert found.verdict is Verdict.FAILED
        assert "set WEBHOOKD_PROVIDER=sandbox" in found.detail
        assert (len(production.calls), len(simulator.calls)) == (1, 1)
        # If the other host refuses them, too, nothing more is tried.
        simulator.account().active = False
        (found,) = (await findings(own)).values()
        assert "check the API Login ID and the Transaction Key" in found.detail
        assert (len(production.calls), len(simulator.calls)) == (2, 2)


async def test_credentials_go_to_no_other_host_than_the_providers_own(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.account().active = False
    (found,) = (await findings(access(simulator))).values()
    assert found.verdict is Verdict.FAILED
    assert len(simulator.calls) == 1


async def test_a_provider_that_does_not_answer_is_a_failed_check() -> None:
    async with Simulator() as simulator:
        own = access(simulator)
    (found,) = (await findings(own)).values()
    assert found.verdict is Verdict.FAILED
    assert "check the network" in found.detail
