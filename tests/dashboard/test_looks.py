"""Every view, narrow and wide, dark and light, needs no sideways scrolling, and its text is readable. The API's pages, too."""

from __future__ import annotations

import uuid
from typing import Any, Literal

import pytest
from playwright.async_api import expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.looks import Looks
from tests.dashboard.shop import TRANSACTION, Shop, deliver, notification, refuse
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Connection, Operator, come_to
from tests.helpers.provider_rows import DETAIL, store_account, store_days, store_history
from tests.helpers.settlement_rows import store_settlement
from tests.helpers.wait import until
from webhookd.errors import Permanent, Retryable

SUBSCRIPTION = "net.authorize.customer.subscription.failed"
HELD = "net.authorize.payment.fraud.held"
VOID = "net.authorize.payment.void.created"
NOBODYS = "0190f000-0000-7000-8000-000000000000"  # the id of no event
PROFILE = "net.authorize.customer.paymentProfile.created"


async def furnish(start: Start, shop: Shop, connection: Connection) -> tuple[Any, list[tuple[str, str]]]:
    """Starts a daemon with data for every view; returns its views, each with a text that shows that the data is there."""
    long = "x" * 300
    shop.failures = {
        REFUND: Permanent(f"the order 4711 is unknown, and so is {long}"),
        SUBSCRIPTION: Retryable("the ledger is locked", after=600),
    }
    nobody = {"url": "http://127.0.0.1:9/hooks", "allow_private": True, "headers": f"X-Long: {long}"}
    daemon = await start(shop.registry, admin_tokens=ANN, destinations={"shop": nobody})
    processed, dead, retrying, _, kept, *_ = await deliver(
        daemon,
        notification(AUTHCAPTURE, invoiceNumber="INV-4711", merchantReferenceId="order-4711"),
        notification(REFUND, invoiceNumber="INV-4711"),
        notification(SUBSCRIPTION, entityName="subscription", id="4415001", name="Monthly", status="suspended"),
        notification(HELD, fraudList=[{"fraudFilter": "Amount Filter", "fraudAction": "authAndHold"}]),
        b"not JSON",
        notification("net.authorize.customer.created", entityName="customerProfile", id="18", paymentProfiles=[{"id": "7"}]),
        notification(PROFILE, entityName="customerPaymentProfile", id="7", customerProfileId=18, customerType="individual"),
        notification(VOID, responseCode=3),
    )
    await come_to(connection, {"processed": 5, "dead": 1, "retrying": 1})
    retried = "SELECT count(*) >= 5 FROM deliveries WHERE status = 'retrying'"
    await until(lambda: connection.fetchval(retried), "the destination counts as down, so only probes follow")
    await connection.execute(
        "UPDATE deliveries SET status = 'dead', last_error = $2, last_answer = $2 WHERE event_id = $1", uuid.UUID(dead), long
    )
    await connection.execute("INSERT INTO deliveries (event_id, destination) VALUES (gen_random_uuid(), 'former')")
    await store_account(connection, webhook_state="'inactive'", webhook_detail=f"'{DETAIL}, {long}'", test_mode="true")
    await store_account(connection, "eu", credentials="'refused'")
    await store_days(connection)
    await store_history(connection)
    await store_settlement(connection, TRANSACTION, "4415001")
    await refuse(daemon, f"/webhooks/authorize-net/{'long' * 50}", {"X-ANET-Signature": f"sha512={'0' * 128}"})
    ann = Operator(daemon.admin_url)
    operation = await ann.ended(await ann.order("dead-letters/redrive", all=True, reason="only counted"))
    return daemon, [
        ("#/events", "7 shown"),
        ("#/events?q=INV-4711&status=dead&account=default", "1 shown"),
        ("#/events?q=nothing", "The search is exact"),
        (f"#/events/{processed}", "Its effects are in the database"),
        (f"#/events/{dead}", "Given up after 1 attempt"),
        (f"#/events/{retrying}", "Waits for its next attempt"),
        ("#/dead-letters", "1 shown"),
        ("#/quarantine", "1 shown"),
        (f"#/quarantine/{kept}", "it waits here"),
        (f"#/transactions/default/{TRANSACTION}", "Timeline"),
        ("#/subscriptions/default/4415001", "Timeline"),
        ("#/transactions/default/70003", "No event of this transaction is stored"),
        ("#/customers/default/18", "Timeline"),
        ("#/payment-profiles/default/7", "Timeline"),
        ("#/refused", "1 shown"),
        ("#/destinations", "former"),
        ("#/destinations/shop", "Redrive dead …"),
        ("#/destinations/former", "The settings of this process do not name it"),
        ("#/provider", "Credentials refused"),
        ("#/provider/default", "Unreadable notifications"),
        ("#/provider/eu", "No day is compared yet"),
        ("#/operations", "1 shown"),
        (f"#/operations/{operation['id']}", "1 event would be chosen"),
        ("#/replay?status=processed", "Count them first"),
        ("#/nowhere", "There is no such page"),
        (f"#/events/{NOBODYS}", "Not found"),
        (f"#/operations/{NOBODYS}", "Not found"),
        ("#/transactions/default/1", "Not found"),
        ("#/", "things need attention"),
    ]


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        pytest.param(1440, "dark", marks=pytest.mark.long),
        pytest.param(390, "dark", marks=pytest.mark.long),
        pytest.param(1440, "light", marks=pytest.mark.long),
    ],
)
async def test_every_view_fits_its_screen_and_can_be_read(
    start: Start, visit: Visit, shop: Shop, connection: Connection, axe: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    daemon, views = await furnish(start, shop, connection)
    visitor = await visit(daemon, width=width, height=844, scheme=scheme)
    page = visitor.page
    look = Looks(page, axe)
    visitor.expected.add((404, "/webhooks/.*"))
    await visitor.go()
    await expect(page.get_by_label("Token")).to_be_visible()
    await look.at("sign in")
    await visitor.sign_in(ANN["ann"])
    await page.reload()  # loads the page again: the session's cookie alone changes nothing in an open page
    for place, text in views:
        await visitor.open(place, text)
        await look.at(place)
    await page.locator(".who summary").click()
    await expect(page.get_by_label("Theme")).to_be_visible()
    await look.at("the menu")
    await page.keyboard.press("Escape")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Next and previous row")
    await look.at("the shortcuts")
    await page.keyboard.press("Escape")
    await visitor.open("#/replay?status=dead&event_type=payment.*", "Count them first")
    await page.get_by_label("Reason").fill("only looked at")
    await page.get_by_role("button", name="Count them first").click()
    await expect(page.get_by_role("dialog")).to_contain_text("1 event match")
    await look.at("a replay, counted")
    await page.keyboard.press("Escape")
    await visitor.open("#/dead-letters", "1 shown")
    await page.locator("tbody input[type=checkbox]").check()
    await expect(page.locator(".selection-bar")).to_be_in_viewport(ratio=1)
    await look.at("dead letters, one chosen")
    await page.get_by_role("button", name="Redrive all …").click()
    await expect(page.get_by_role("dialog")).to_contain_text("1 event match")
    await look.at("a dialog")
    assert look.faults == {}


async def test_the_api_reference_needs_nothing_from_outside(start: Start, visit: Visit) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    page = await visitor.sign_in(ANN["ann"], "docs")
    await expect(page.get_by_role("heading", name="webhookd")).to_be_visible()
    route = page.locator(".opblock", has=page.locator('[data-path="/webhooks/health"]'))
    await route.get_by_role("button").first.click()
    await route.get_by_role("button", name="Try it out").click()
    await route.get_by_role("button", name="Execute").click()
    await expect(route.locator(".responses-table.live-responses-table")).to_contain_text('"postgresql"')
