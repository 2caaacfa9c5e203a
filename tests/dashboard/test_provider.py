"""The pages of the provider's side: an account's webhook, its days, its calls; and the problems that the overview shows."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.helpers.operator import ANN, Connection
from tests.helpers.provider_rows import DETAIL, store_account, store_days, store_history, store_tests


async def test_an_inactive_webhook_and_days_that_are_not_whole_lead_from_the_overview_to_the_account(
    start: Start, visit: Visit, connection: Connection
) -> None:
    await store_account(connection, webhook_state="'inactive'", webhook_detail=f"'{DETAIL}'")
    await store_days(connection)
    await store_history(connection)
    visitor = await visit(await start(admin_tokens=ANN))
    page = await visitor.sign_in(ANN["ann"])
    await expect(page.get_by_text("The webhook of default is inactive, so Authorize.Net sends nothing.")).to_be_visible()
    await expect(page.get_by_text("3 days of default are not whole.")).to_be_visible()
    await page.keyboard.press("g")
    await page.keyboard.press("v")
    row = page.locator("tbody tr")
    await expect(row).to_contain_text("Inactive")
    await expect(row).to_contain_text("provider 4,812, webhookd 4,812, 3 recovered")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="default")).to_be_visible()
    story = page.locator(".story")
    await expect(story).to_contain_text("is inactive, so Authorize.Net sends nothing")
    await expect(story.locator("code")).to_have_text("webhookd provider setup")
    await expect(story.get_by_role("link", name="What to do").first).to_have_attribute(
        "href", "/guide/runbook-provider#webhookdwebhooknotok"
    )
    days = page.locator(".calendar li")
    await expect(days).to_have_count(28)
    await expect(days.last).to_contain_text("open")
    await expect(days.nth(26)).to_contain_text("provider 4,812, webhookd 4,812, 3 recovered. Whole")
    await expect(days.nth(25)).to_contain_text("2 missing. Missing")
    await expect(days.first).to_contain_text("not compared")
    await expect(page.get_by_text("<b>no answer</b> within 20 s")).to_be_visible()  # markup of an answer is text
    for text in (
        "inactive → active",
        "0123456789ab",
        "The answer has no payload.",
        "1 notification of the last seven days was kept",
    ):
        await expect(page.locator("main")).to_contain_text(text)
    await expect(page.locator("main")).not_to_contain_text("2fb6d2a5")  # another webhook's notification


async def test_an_account_in_test_mode_has_a_warning_that_its_notifications_may_become_no_events(
    start: Start, visit: Visit, connection: Connection
) -> None:
    await store_account(connection, test_mode="true")
    await store_tests(connection, count=2)
    visitor = await visit(await start(admin_tokens=ANN))
    page = await visitor.sign_in(ANN["ann"], "#/provider/default")
    await expect(page.locator(".story")).to_contain_text("payload id 0, they are kept as tests")
    await expect(page.locator("main")).to_contain_text("2 notifications of the last seven days were kept as tests")


async def test_a_refresh_keeps_the_focus_and_shows_what_has_changed(start: Start, visit: Visit, connection: Connection) -> None:
    await store_account(connection)
    await store_days(connection)
    visitor = await visit(await start(admin_tokens=ANN))
    page = await visitor.sign_in(ANN["ann"], "#/provider/default")
    link = page.get_by_role("link", name="3 recovered events")
    await link.focus()
    await connection.execute("UPDATE provider_accounts SET webhook_state = 'doubled'")
    await expect(page.locator(".story")).to_contain_text("Doubled")
    await expect(link).to_be_focused()


async def test_an_account_that_no_replica_asks_for_any_more_is_a_problem_of_the_overview(
    start: Start, visit: Visit, connection: Connection
) -> None:
    await store_account(connection, held_until="now() - interval '5 minutes'")
    visitor = await visit(await start(admin_tokens=ANN))
    page = await visitor.sign_in(ANN["ann"])
    await expect(page.get_by_text("No replica asks Authorize.Net for the account default.")).to_be_visible()
    await visitor.go("#/provider/default")
    await expect(page.locator(".story.warn").get_by_role("link", name="What to do")).to_have_attribute(
        "href", "/guide/runbook-provider#webhookdproviderunreachable"
    )


async def test_an_account_whose_credentials_were_removed_is_no_problem_of_the_overview(
    start: Start, visit: Visit, connection: Connection
) -> None:
    left = "now() - interval '73 hours'"
    await store_account(connection, held_until=left, webhook_state="'missing'", credentials="'good'")
    await store_days(connection)
    visitor = await visit(await start(admin_tokens=ANN))
    page = await visitor.sign_in(ANN["ann"])
    await expect(page.get_by_text("All is well")).to_be_visible()
    await visitor.go("#/provider/default")
    await expect(page.get_by_text("No replica asks Authorize.Net for this account now.")).to_be_visible()


@pytest.mark.parametrize("place", ["#/provider", "#/provider/nobody"])
async def test_without_credentials_the_pages_say_so(start: Start, visit: Visit, place: str) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    visitor.expected.add((404, "/webhooks/provider/.*"))
    page = await visitor.sign_in(ANN["ann"], place)
    await expect(page.locator("main")).to_contain_text("Not found" if "nobody" in place else "No account has API credentials")
