"""The page of a transaction, subscription, customer or payment profile shows what its events say. Its links lead to pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.shop import deliver, notification
from tests.helpers.operator import ANN, AUTHCAPTURE, Connection, come_to
from tests.helpers.settlement_rows import store_settlement

HELD = "net.authorize.payment.fraud.held"
VOID = "net.authorize.payment.void.created"
FAILED = "net.authorize.customer.subscription.failed"
CUSTOMER = {"entityName": "customerProfile", "id": "18", "paymentProfiles": [{"id": "7"}, {"id": "8"}]}
PROFILE = {"entityName": "customerPaymentProfile", "id": "7", "customerProfileId": 18, "customerType": "individual"}
SUBSCRIPTION = {
    "entityName": "subscription", "id": "4415473", "amount": 11, "status": "suspended", "profile": {"customerProfileId": 18},
    "transactionDetails": {"transId": 901, "error": "This transaction has been declined."},
}  # fmt: skip

# For each story: the events received, then the texts that the page shows, does not show, and draws beside the marks.
STORIES: dict[str, tuple[list[dict[str, Any]], list[str], list[str], list[str]]] = {
    "a void that failed": (
        [notification(AUTHCAPTURE, id="100"), notification(VOID, id="100", responseCode=3)],
        [
            "Now captured. The last event that counts: Sale,",
            "The last attempt to change this transaction failed: Void, response code 3, error,",
            "The transaction stays as it was.",
            "Captured12.50",
        ],
        ["counts: Void"],
        ["12.50", "failed"],
    ),
    "held": (
        [notification(HELD, id="101", responseCode=4, authAmount=139.9)],
        ["Now held.", "Requested139.90"],
        ["Authorised", "failed"],
        ["139.90 requested"],
    ),
    "declined": (
        [notification(AUTHCAPTURE, id="102", responseCode=2, authAmount=5)],
        ["Now declined.", "Requested5.00"],
        ["Captured"],
        ["5.00 requested"],
    ),
    "voided": (
        [notification(AUTHCAPTURE, id="103", authAmount="7.255"), notification(VOID, id="103", authAmount="7.255")],
        ["Now voided. The last event that counts: Void,", "Requested7.255"],
        ["Captured7", "failed"],
        ["7.255 requested", "processed"],
    ),
    "the test button": (
        [notification(AUTHCAPTURE, id="245", responseCode=21)],
        ["has the response code 21, which reports no state", "“Test Webhook” button", "Requested12.50"],
        ["Nothing is known", "none of its events is processed"],
        ["12.50 requested"],
    ),
    "a void that failed, of a transaction that is not known": (
        [notification(VOID, id="104", responseCode=2)],
        ["An attempt to change it failed", "Void, response code 2, declined,"],
        ["Nothing is known", "stays as it was"],
        ["failed"],
    ),
}


async def labels(page: Page) -> list[str]:
    return await page.locator(".timeline a.mark text:nth-last-child(2)").all_text_contents()


@pytest.fixture
async def page(start: Start, visit: Visit, connection: Connection) -> Page:
    """Opens the dashboard of a daemon that has processed every story's events. The events of a story are a second apart."""
    daemon = await start(admin_tokens=ANN)
    bodies = [body for story in STORIES.values() for body in story[0]]
    bodies += [notification(kind) | {"payload": of} for kind, of in (
        ("net.authorize.customer.created", CUSTOMER),
        ("net.authorize.customer.paymentProfile.created", PROFILE),
        (FAILED, SUBSCRIPTION),
    )]  # fmt: skip
    await deliver(daemon, *bodies)
    await come_to(connection, {"processed": len(bodies)})
    return await (await visit(daemon)).sign_in(ANN["ann"], "#/events")


async def open_timeline(page: Page, place: str) -> None:
    await page.evaluate(f"location.hash = '#/{place}'")
    await expect(page.locator(".timeline")).to_be_visible()


async def test_the_page_of_a_transaction_says_what_its_events_say(page: Page) -> None:
    for story, (bodies, says, never, marks) in STORIES.items():
        id_ = bodies[0]["payload"]["id"]
        await open_timeline(page, f"transactions/default/{id_}")
        await expect(page.get_by_role("heading", level=1)).to_have_text(f"Transaction {id_}")
        panel = page.locator(".story")
        for text in says:
            await expect(panel, story).to_contain_text(text)
        for text in never:
            await expect(panel, story).not_to_contain_text(text)
        await expect(page.locator(".timeline a.mark")).to_have_count(len(bodies))
        assert await labels(page) == marks, story


async def test_links_between_entities_lead_to_their_timelines(page: Page, start: Start, connection: Connection) -> None:
    await open_timeline(page, "subscriptions/default/4415473")
    await expect(page.locator(".amounts")).to_have_text("Amount11.00")
    failed = page.locator(".facts div", has_text="Failed transaction")
    await expect(failed.locator("dd")).to_have_text("901")
    await expect(failed.get_by_role("link")).to_have_count(0)  # no event of this transaction has been received
    await page.locator(".facts").get_by_role("link", name="18").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Customer profile 18")
    await expect(page.locator(".story")).to_contain_text("Now active.")
    profiles = page.locator(".facts div", has_text="Payment profiles")
    await expect(profiles.get_by_role("link")).to_have_text(["7"])
    await expect(profiles.first).to_contain_text("8")
    await profiles.get_by_role("link").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Payment profile 7")
    await page.locator(".facts").get_by_role("link", name="18").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Customer profile 18")
    await page.locator(".timeline a.mark").click()
    await page.get_by_role("link", name="Timeline of the customer profile").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Customer profile 18")

    before = await connection.fetchval("SELECT count(*) FROM events")
    await deliver(await start(admin_tokens=ANN), notification(AUTHCAPTURE, id="901", responseCode=2))
    await come_to(connection, {"processed": before + 1})
    await open_timeline(page, "subscriptions/default/4415473")
    await failed.get_by_role("link", name="901").click()
    await expect(page.locator(".story")).to_contain_text("Now declined.")


async def test_an_event_shows_the_duplicates_that_came_of_it(start: Start, visit: Visit, connection: Connection) -> None:
    daemon = await start(admin_tokens=ANN)
    first = notification() | {"eventDate": datetime.now(UTC).isoformat()}
    second = first | {"notificationId": "ffffffff-0000-4000-8000-000000000001", "webhookId": "another"}
    one, _ = await deliver(daemon, first, second)
    await come_to(connection, {"processed": 1})
    page = await (await visit(daemon)).sign_in(ANN["ann"], f"#/events/{one}")
    duplicates = page.locator(".facts div", has_text="Duplicates")
    await expect(duplicates.first).to_contain_text(f"{second['notificationId']} through another webhook")


async def test_the_pages_show_what_no_webhook_reports(page: Page, connection: Connection) -> None:
    await store_settlement(connection, "100", "4415473")
    await open_timeline(page, "transactions/default/100")
    await expect(page.locator(".amounts")).to_contain_text("Settled139.90")
    await expect(page.locator(".amounts")).to_contain_text("Refunds settled30.00")
    await expect(page.locator(".amounts")).to_contain_text("Left109.90")
    panel = page.locator(".panel", has=page.get_by_role("heading", name="Settlement"))
    for text in ("3990061", "Refunds on their way1, 9.90", "refund settled, 30.00", "Payment number3"):
        await expect(panel).to_contain_text(text)
    await panel.get_by_role("link", name="70001").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Transaction 70001")
    await expect(page.locator(".story")).to_contain_text("Authorize.Net reports: refund settled.")
    await page.get_by_role("link", name="100", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Transaction 100")
    await panel.get_by_role("link", name="4415473").click()
    await expect(page.locator(".warning")).to_contain_text("1 renewal did not come. Due on: 2026-10-31.")
    rows = page.get_by_role("table", name="Payments of this subscription").get_by_role("row")
    await expect(rows).to_have_count(3)
    await expect(rows.nth(1)).to_contain_text("settled")
    await expect(rows.nth(2)).to_contain_text("The credit card has expired.")
    await page.evaluate("location.hash = '#/transactions/default/70003'")
    await expect(page.locator(".story")).to_contain_text("Authorize.Net reports: returned.")
    await expect(panel).to_contain_text("R01")
