"""An event is found, understood and retried. The list of events stays current, and its filters are in the address."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.shop import TRANSACTION, Shop, deliver, notification
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Connection, come_to
from webhookd.errors import Permanent

MARKUP = "<img src=x onerror=\"window.hurt=1;fetch('/hurt')\">"


async def test_a_stranger_finds_by_invoice_number_why_a_payment_was_not_booked_and_has_it_booked(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    shop.failure = Permanent("the order 4711 is unknown")
    daemon = await start(shop.registry, admin_tokens=ANN)
    await deliver(daemon, notification(invoiceNumber="INV-4711"), notification(invoiceNumber="INV-4712", id="60155504712"))
    await come_to(connection, {"dead": 2})
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"])

    await page.get_by_role("searchbox").fill("INV-4711")
    await page.keyboard.press("Enter")
    await expect(page.locator(".rows tbody tr")).to_have_count(1)
    await page.get_by_role("link", name="payment.authcapture.created").click()
    story = page.locator(".story")
    await expect(story.get_by_role("heading")).to_have_text("Given up after 1 attempt")
    await expect(story.locator(".reason")).to_have_text("The order 4711 is unknown")
    await expect(story).to_contain_text("invoice INV-4711")

    shop.failure = None  # the handler works again
    await story.get_by_role("button", name="Retry").click()
    await page.get_by_label("Reason").fill("the order is there now")
    await page.locator("dialog").get_by_role("button", name="Retry").click()
    await expect(story.get_by_role("heading")).to_contain_text("Processed")
    await expect(story).to_contain_text("Its effects are in the database.")
    await expect(page.locator(".trail")).to_contain_text("by operator (ann)")
    await expect(page.locator(".trail")).to_contain_text("the order is there now")
    await come_to(connection, {"dead": 1, "processed": 1})


async def test_the_history_names_consumers_only_if_there_is_another_than_the_handlers(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    (event_id,) = await deliver(daemon, notification())
    await come_to(connection, {"processed": 1})
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"])
    await visitor.go(f"#/events/{event_id}")
    texts = page.locator(".trail .trail-text")
    await expect(texts).to_have_text(["by receiver", "by worker, attempt 1"])
    await connection.execute("INSERT INTO audit VALUES ($1, now(), 'queued', 'retrying', 'sender', 2, NULL, 'mail')", event_id)
    await page.reload()
    await expect(texts).to_have_text(["by receiver", "by worker for handlers, attempt 1", "by sender for mail, attempt 2"])


@pytest.mark.long
async def test_all_of_it_works_by_keyboard_alone(start: Start, visit: Visit, shop: Shop, connection: Connection) -> None:
    shop.failure = Permanent("the order 4711 is unknown")
    daemon = await start(shop.registry, admin_tokens=ANN)
    await deliver(daemon, notification(invoiceNumber="INV-4711"))
    await come_to(connection, {"dead": 1})
    shop.failure = None
    visitor = await visit(daemon)
    page, keys = visitor.page, visitor.page.keyboard
    await visitor.go()
    await expect(page.get_by_label("Token")).to_be_focused()
    await keys.type(ANN["ann"])
    await keys.press("Enter")
    await expect(page.locator("main#main")).to_be_focused()
    await keys.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await keys.type("INV-4711")
    await keys.press("Enter")
    await expect(page.locator(".rows tbody tr")).to_have_count(1)
    await page.locator("main#main").focus()
    await keys.press("j")
    await expect(page.locator(".row-link")).to_be_focused()
    await keys.press("Enter")
    await expect(page.get_by_role("heading", name="Given up after 1 attempt")).to_be_visible()
    await keys.press("r")
    await expect(page.get_by_label("Reason")).to_be_focused()
    await keys.type("by keyboard")
    await keys.press("Enter")
    await expect(page.locator(".story h1")).to_contain_text("Processed")
    await keys.press("g")
    await keys.press("d")
    await expect(page.get_by_role("heading", name="Dead letters", exact=True)).to_be_visible()
    await keys.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    await keys.press("Escape")
    await expect(page.locator("dialog")).to_have_count(0)


@pytest.mark.long
async def test_filters_are_in_the_address_and_back_and_forward_go_through_them(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    shop.failures[REFUND] = Permanent("there is nothing to refund")
    daemon = await start(shop.registry, admin_tokens=ANN)
    await deliver(daemon, notification(REFUND), notification(REFUND), notification(AUTHCAPTURE))
    await come_to(connection, {"dead": 2, "processed": 1})
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], "#/events")
    rows = page.locator(".rows tbody tr")
    await expect(rows).to_have_count(3)
    await page.get_by_label("Dead", exact=True).check()
    await expect(rows).to_have_count(2)
    assert page.url.endswith("#/events?status=dead")
    await page.get_by_label("Type").fill("payment.authcapture.*")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("No event matches these filters")).to_be_visible()
    assert page.url.endswith("#/events?status=dead&event_type=payment.authcapture.*")
    await page.go_back()
    await expect(rows).to_have_count(2)
    await expect(page.get_by_label("Type")).to_have_value("")
    await page.go_back()
    await expect(rows).to_have_count(3)
    await expect(page.get_by_label("Dead", exact=True)).not_to_be_checked()
    await page.go_forward()
    await expect(rows).to_have_count(2)
    await page.reload()
    await expect(page.get_by_label("Dead", exact=True)).to_be_checked()
    await expect(rows).to_have_count(2)
    await page.get_by_role("button", name="Clear filters").click()
    await expect(rows).to_have_count(3)
    assert page.url.endswith("#/events")


@pytest.mark.long
async def test_on_a_narrow_screen_filters_are_folded_and_their_number_is_told(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    await deliver(daemon, notification())
    await come_to(connection, {"processed": 1})
    visitor = await visit(daemon, width=390, height=844)
    page = await visitor.sign_in(ANN["ann"], "#/events")
    row = page.locator(".rows tbody tr")
    await expect(row).to_be_in_viewport(ratio=1)
    await expect(page.get_by_label("Type")).to_be_hidden()
    fold = page.get_by_role("button", name="Filters", expanded=False)
    await fold.click()
    await page.get_by_label("Type").fill("payment.*")
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Type")).to_be_visible()
    await page.get_by_role("button", name="Filters 1 active", expanded=True).click()
    await expect(page.get_by_label("Type")).to_be_hidden()
    await expect(row).to_have_count(1)


@pytest.mark.long
async def test_the_list_of_events_refreshes_itself_but_not_under_ones_hands(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    await deliver(daemon, notification())
    await come_to(connection, {"processed": 1})
    visitor = await visit(daemon)
    await visitor.page.clock.install()
    page = await visitor.sign_in(ANN["ann"], "#/events")
    rows = page.locator(".rows tbody tr")
    await expect(rows).to_have_count(1)
    await expect(page.locator(".rows tr.fresh")).to_have_count(0)
    shop.failure = Permanent("no")
    (dead,) = await deliver(daemon, notification())
    await come_to(connection, {"processed": 1, "dead": 1})
    await page.clock.fast_forward(11_000)
    await expect(rows).to_have_count(2)
    await expect(page.locator(".rows tr.fresh")).to_have_attribute("data-id", dead)

    shop.failure = None
    await deliver(daemon, notification())
    await come_to(connection, {"processed": 2, "dead": 1})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.keyboard.press("j")
    for _ in range(3):
        async with page.expect_response("**/webhooks/stats*"):  # the figures in the frame are still refreshed
            await page.clock.fast_forward(16_000)
    assert not [url for url in asked if "/webhooks/events" in url]
    await expect(rows).to_have_count(2)
    await page.locator("main#main").focus()
    await page.clock.fast_forward(11_000)
    await expect(rows).to_have_count(3)


async def test_markup_in_a_webhook_or_in_an_error_stays_text(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    shop.failure = Permanent(f"the handler met {MARKUP}")
    daemon = await start(shop.registry, admin_tokens=ANN)
    fields = ("invoiceNumber", "merchantReferenceId", "id", "authCode", "avsResponse", "name")
    hurtful = notification(f"net.authorize.{MARKUP}", **dict.fromkeys(fields, MARKUP))
    hurtful |= {"notificationId": MARKUP, "webhookId": MARKUP}
    odd = notification(AUTHCAPTURE, **{"entityName": MARKUP, MARKUP: MARKUP})
    kept = b'{"notificationId": 1, "eventType": "<img src=x onerror=window.hurt=1>"}'
    dead, other, quarantined = await deliver(daemon, hurtful, odd, kept)
    await come_to(connection, {"dead": 2})
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"])
    places = ["events", "dead-letters", f"events/{other}", f"quarantine/{quarantined}", f"events/{dead}"]
    for place in places:
        await visitor.open(f"#/{place}", "onerror=")
    await expect(page.locator(".story .reason")).to_have_text(f"The handler met {MARKUP}")
    await page.get_by_role("link", name="Timeline of the transaction").click()
    await expect(page.locator(".timeline")).to_contain_text("onerror=")
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Transaction {MARKUP}")
    await visitor.open("#/dead-letters", "onerror=")
    await page.get_by_role("button", name="Redrive all …").click()
    await expect(page.locator("dialog .breakdown")).to_contain_text(f"the handler met {MARKUP}")
    await visitor.open("#/operations", "dry run")
    await page.get_by_role("link", name="Redrive").click()
    await expect(page.locator("main .breakdown")).to_contain_text(f"the handler met {MARKUP}")
    assert await page.evaluate("[window.hurt, document.querySelectorAll('main img, dialog img').length]") == [None, 0]


@pytest.mark.long
async def test_a_timeline_draws_one_mark_for_each_event(start: Start, visit: Visit, shop: Shop, connection: Connection) -> None:
    shop.failures[REFUND] = Permanent("there is nothing to refund")
    daemon = await start(shop.registry, admin_tokens=ANN)
    kinds = ("authorization", "capture", "refund")
    ids = await deliver(daemon, *(notification(f"net.authorize.payment.{kind}.created") for kind in kinds))
    await come_to(connection, {"processed": 2, "dead": 1})
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], f"#/transactions/default/{TRANSACTION}")
    marks = page.locator(".timeline a.mark")
    await expect(marks).to_have_count(3)
    assert await marks.evaluate_all("all => all.map((mark) => mark.getAttribute('href'))") == [f"#/events/{one}" for one in ids]
    await expect(page.locator(".timeline a.mark.bad")).to_have_count(1)
    await expect(page.locator(".story")).to_contain_text("One event is dead")
    await page.set_viewport_size({"width": 390, "height": 844})
    await expect(marks).to_have_count(3)
    await marks.last.click()
    await expect(page.locator(".story .reason")).to_have_text("There is nothing to refund")
