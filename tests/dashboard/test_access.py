"""Each person may do only what the person's token allows in the dashboard, and a session begins and ends as promised."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.shop import Shop, deliver, notification
from tests.helpers.operator import ANN, LEO, Connection, come_to
from webhookd.errors import Permanent

NEW_ANN = {"ann": "ann-has-a-new-token"}


async def test_a_token_signs_in_and_a_wrong_one_is_told(start: Start, visit: Visit) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    page = visitor.page
    await visitor.go()
    await page.get_by_label("Token").fill("ann-operates-nothing")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("The daemon does not know this token")
    assert await visitor.context.cookies() == []
    await page.get_by_label("Token").fill(f" {ANN['ann']}\n")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_text("All is well")).to_be_visible()
    await expect(page.locator(".who-name")).to_have_text("ann")


async def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites_and_holds_no_token(start: Start, visit: Visit) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    page = visitor.page
    await visitor.go()
    await page.get_by_label("Token").fill(ANN["ann"])
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("All is well")).to_be_visible()
    cookie = await visitor.cookie()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    kept = await page.evaluate("JSON.stringify([document.cookie, localStorage, sessionStorage, location.href])")
    for place in (cookie["value"], kept):
        assert ANN["ann"] not in place
    assert "webhookd_session" not in kept


async def test_one_who_may_only_look_can_change_nothing(start: Start, visit: Visit, shop: Shop, connection: Connection) -> None:
    shop.failure = Permanent("the shop is closed")
    daemon = await start(shop.registry, admin_tokens=ANN, read_tokens=LEO)
    (dead,) = await deliver(daemon, notification())
    (kept,) = await deliver(daemon, b"not JSON")
    await come_to(connection, {"dead": 1})
    visitor = await visit(daemon)
    page = await visitor.sign_in(LEO["leo"], f"#/events/{dead}")
    buttons = {
        f"#/events/{dead}": ["Retry", "Discard"],
        "#/dead-letters": ["Redrive all …", "Discard all …"],
        f"#/quarantine/{kept}": ["Release", "Discard"],
        "#/replay": ["Count them first (dry run)"],
    }
    for place, names in buttons.items():
        await visitor.go(place)
        for name in names:
            button = page.get_by_role("button", name=name, exact=True)
            await expect(button).to_be_disabled()
            await button.click(force=True)
            await expect(page.locator("#toasts")).to_contain_text("Your token may only look")
            await expect(page.locator("dialog")).to_have_count(0)

    visitor.expected.add((403, "/webhooks/.*"))
    routes = [f"events/{dead}/retry", "dead-letters/redrive", "dead-letters/discard", "events/replay"]
    for route in [*routes, f"quarantine/{kept}/release", f"quarantine/{kept}/discard"]:
        assert await visitor.fetch("POST", f"/webhooks/{route}", {"X-Webhookd": "dashboard"}) == 403, route
    await come_to(connection, {"dead": 1})


@pytest.mark.long
async def test_signing_out_ends_the_session(start: Start, visit: Visit) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    page = await visitor.sign_in(ANN["ann"])
    await page.get_by_label("Signed in as ann").click()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_text("You are signed out.")).to_be_visible()
    assert await visitor.context.cookies() == []
    await page.reload()
    await expect(page.get_by_label("Token")).to_be_visible()


@pytest.mark.long
async def test_a_session_ends_with_its_token_and_signing_in_returns_to_where_one_was(start: Start, visit: Visit) -> None:
    daemon = await start(admin_tokens=ANN)
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], "#/events?status=dead")
    await expect(page.get_by_role("heading", name="Events", exact=True)).to_be_visible()
    await daemon.stop()
    await start(admin_tokens=NEW_ANN, admin_listen=visitor.url.removeprefix("http://"))
    visitor.expected.add((401, "/webhooks/.*"))
    await page.get_by_role("button", name="Refresh").click()
    await expect(page.get_by_text("Your session has ended.")).to_be_visible()
    await page.get_by_label("Token").fill(NEW_ANN["ann"])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Events", exact=True)).to_be_visible()
    await expect(page.get_by_text("No event matches these filters")).to_be_visible()
    assert page.url.endswith("#/events?status=dead")


@pytest.mark.parametrize("header", [None, "X-Webhookd"])
async def test_a_change_by_cookie_needs_the_header_that_no_other_site_can_send(
    start: Start, visit: Visit, shop: Shop, connection: Connection, header: str | None
) -> None:
    shop.failure = Permanent("the shop is closed")
    daemon = await start(shop.registry, admin_tokens=ANN)
    (dead,) = await deliver(daemon, notification())
    await come_to(connection, {"dead": 1})
    shop.failure = None
    visitor = await visit(daemon)
    await visitor.sign_in(ANN["ann"])
    visitor.expected.add((403, "/webhooks/events/.*"))
    headers = {} if header is None else {header: "dashboard"}
    assert await visitor.fetch("POST", f"/webhooks/events/{dead}/retry", headers) == (403 if header is None else 202)
    await come_to(connection, {"dead" if header is None else "processed": 1})
