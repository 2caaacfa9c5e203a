"""The page of an account's reconciliation: its days, its differences with links, and why a day is not known."""

from __future__ import annotations

from playwright.async_api import expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.looks import Looks
from tests.helpers.operator import ANN, Connection
from tests.integration.test_reconcile_command import MISSING, QUERY, SALES, SHOP, keep_two_days

SPAN = "from=2026-06-01&to=2026-06-03"


async def test_the_page_shows_each_day_with_its_differences_and_can_be_read(
    start: Start, visit: Visit, connection: Connection, axe: str
) -> None:
    daemon = await start(admin_tokens=ANN)
    await keep_two_days(daemon, connection, SALES)
    await connection.execute("UPDATE provider_batches SET reasons = '{the list of <b>b2</b> moved}' WHERE batch_id = 'b2'")
    await connection.execute("UPDATE provider_sweeps SET subscriptions_at = now()")
    await connection.execute(
        """INSERT INTO provider_missed_renewals (account, subscription_id, expected_on)
           VALUES ('default', '4415473', current_date - 5)"""
    )
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], "#/provider/default")
    await page.get_by_role("link", name="Reconciliation of the settlement days").click()
    await expect(page.get_by_role("heading", name="Reconciliation")).to_be_visible()
    await page.get_by_label("From").fill("2026-06-01")
    await page.get_by_label("To").fill("2026-06-03")
    await page.get_by_role("button", name="Show").click()
    await expect(page).to_have_url(f"{daemon.admin_url}/#/reconciliation/default?{SPAN}")
    sections = page.locator("section.panel")
    await expect(sections).to_have_count(4)
    await expect(sections.first).to_contain_text("renewal did not come")
    link = sections.first.get_by_role("link", name="4415473")
    await expect(link).to_have_attribute("href", "#/subscriptions/default/4415473")
    panels = page.locator("section.panel:not(:first-of-type)")
    await expect(panels).to_have_count(3)
    await expect(panels.nth(0)).to_contain_text("at the provider and not here")
    await expect(panels.nth(0).get_by_role("link", name=MISSING)).to_have_attribute("href", f"#/transactions/default/{MISSING}")
    await expect(panels.nth(0).locator("li code").last).to_have_text("webhookd provider check")
    await expect(panels.nth(1)).to_contain_text("The list of <b>b2</b> moved.")
    await expect(panels.nth(2).locator(".chip")).to_have_text("Green")
    await panels.nth(1).get_by_text("Sums by type of card").click()
    await expect(panels.nth(1)).to_contain_text("charge amount")
    look = Looks(page, axe)
    await look.at("reconciliation")
    assert look.faults == {}


async def test_a_transaction_that_only_the_shop_knows_has_no_link(start: Start, visit: Visit, connection: Connection) -> None:
    daemon = await start(admin_tokens=ANN, shop_query=QUERY)
    await keep_two_days(daemon, connection, SALES)
    await connection.execute(SHOP)
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], f"#/reconciliation/default?{SPAN}")
    row = page.locator("li", has_text="here and not at the provider")
    await expect(row.locator("code").first).to_have_text("77")
    await expect(row.get_by_role("link")).to_have_count(0)
    await expect(page.get_by_role("link", name="60000000030")).to_have_count(2)


async def test_days_that_the_api_refuses_are_named(start: Start, visit: Visit, connection: Connection) -> None:
    daemon = await start(admin_tokens=ANN)
    await keep_two_days(daemon, connection, SALES)
    visitor = await visit(daemon)
    visitor.expected.add((409, "/webhooks/provider/.*"))
    page = await visitor.sign_in(ANN["ann"], "#/reconciliation/default?from=2026-06-03&to=2026-06-01")
    await expect(page.get_by_role("alert")).to_contain_text("To: give a day that is not before")
