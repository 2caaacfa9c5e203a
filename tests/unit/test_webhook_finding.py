"""The list of webhooks tells the state of ours. URLs are compared, and those that nobody can reach are refused."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from webhookd.authorizenet.api.results import Webhook
from webhookd.errors import SettingsError
from webhookd.sync.finding import WebhookState, find
from webhookd.sync.registration import differences
from webhookd.sync.webhook_url import check_url, same_url

URL = "https://hooks.example.com/webhooks/authorize-net"
SALE, REFUND = "net.authorize.payment.authcapture.created", "net.authorize.payment.refund.created"


def webhook(identifier: str, url: str = URL, status: str = "active", types: tuple[str, ...] = (SALE,)) -> Webhook:
    return Webhook(identifier, url, status, types)


@pytest.mark.parametrize(
    "other",
    [
        "HTTPS://Hooks.Example.COM/webhooks/authorize-net",
        "https://hooks.example.com:443/webhooks/authorize-net",
        "https://hooks.example.com./webhooks/authorize-net/",
        "https://hooks.example.com/webhooks/authorize%2Dnet",
    ],
)
def test_one_place_can_be_written_in_several_ways(other: str) -> None:
    assert same_url(URL, other)


@pytest.mark.parametrize(
    "other",
    [
        "http://hooks.example.com/webhooks/authorize-net",
        "https://hooks.example.com:8443/webhooks/authorize-net",
        "https://hooks.example.com/webhooks/Authorize-Net",
        "https://hooks.example.com/webhooks/authorize-net/eu",
        "https://example.com/webhooks/authorize-net",
        "https://hooks.example.com/webhooks/authorize-net?a=1",
        "https://[hooks/",
    ],
)
def test_another_scheme_host_port_or_path_is_another_place(other: str) -> None:
    assert not same_url(URL, other)


def test_our_webhook_is_found_by_its_url_and_else_by_its_id() -> None:
    others = webhook("b", "https://other.example.com/x")
    assert find([others, webhook("a")], URL).webhook == webhook("a")
    moved = webhook("a", "https://old.example.com/x")
    found = find([others, moved], URL, "a")
    assert (found.state, found.webhook, found.others) == (WebhookState.URL, moved, (others,))
    assert "old.example.com" in str(found.detail)
    # Somebody has registered the URL anew: this webhook is ours from now on.
    assert find([moved, webhook("c")], URL, "a").webhook == webhook("c")
    assert find([webhook("a", status="inactive"), webhook("c")], URL, "a").webhook == webhook("c")
    assert find([moved], None, "a").state is WebhookState.OK


@pytest.mark.parametrize(
    ("webhooks", "state"),
    [
        ([webhook("a")], WebhookState.OK),
        ([webhook("a", status="inactive")], WebhookState.INACTIVE),
        ([webhook("a", status="paused")], WebhookState.INACTIVE),
        ([], WebhookState.MISSING),
        ([webhook("b", "https://other.example.com/x")], WebhookState.MISSING),
        ([webhook("a"), webhook("b", URL + "/")], WebhookState.DOUBLED),
        ([webhook("a"), webhook("b", status="inactive")], WebhookState.OK),
        ([webhook("a", types=(REFUND,))], WebhookState.EVENT_TYPES),
        ([webhook("a", types=(SALE, REFUND))], WebhookState.OK),
        ([webhook("a", types=())], WebhookState.OK),
    ],
)
def test_each_state_has_a_remedy(webhooks: list[Webhook], state: WebhookState) -> None:
    found = find(webhooks, URL, None, {SALE})
    assert found.state is state
    assert (found.detail is None) == (state is WebhookState.OK)
    if found.detail is not None:
        assert "webhookd provider" in found.detail


def test_a_difference_names_what_changes_and_nothing_else() -> None:
    now = webhook("a", types=(SALE,))
    assert differences(now, url=URL, event_types=(SALE,), status="active") == []
    changes = differences(now, url="https://b.example.com/x", event_types=(REFUND,), status="inactive", name="shop")
    assert [str(one) for one in changes] == [
        f"url: {URL} → https://b.example.com/x",
        "name: none → shop",
        f"event type: {SALE} → removed",
        f"event type: none → {REFUND}",
        "status: active → inactive",
    ]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example.com/x", "https only"),
        ("https://10.1.2.3/x", "private"),
        ("https://127.0.0.1/x", "private"),
        ("https://[::1]/x", "private"),
        ("https://169.254.169.254/x", "private"),
        ("https://2130706433/x", "private"),
        ("https://user@8.8.8.8/x", "without a user"),
        ("https://8.8.8.8", "must be as"),
        ("ftp://8.8.8.8/x", "must be as"),
        ("https://[8.8.8.8/x", "must be as"),
    ],
)
async def test_a_url_that_the_provider_cannot_reach_is_refused(url: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        await check_url(url)


async def test_a_name_that_leads_to_a_private_address_too_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(SettingsError, match=r"leads to 10\.0\.0\.1"):
        await check_url(URL)
    await check_url(URL, private=True)


async def test_a_public_address_passes() -> None:
    await check_url("https://8.8.8.8/x")
