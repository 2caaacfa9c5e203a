"""Dead letters are redriven by hand or by a filter; bodies in quarantine are released or discarded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.shop import Shop, deliver, notification
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Connection, come_to
from webhookd.errors import Permanent


async def test_several_dead_letters_are_chosen_and_redriven(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    shop.failure = Permanent("the shop is closed")
    daemon = await start(shop.registry, admin_tokens=ANN)
    await deliver(daemon, *(notification(id=str(n)) for n in range(1, 7)))
    await come_to(connection, {"dead": 6})
    shop.failure = None
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], "#/dead-letters")
    boxes = page.locator("tbody input[type=checkbox]")
    await expect(boxes).to_have_count(6)
    shown = await page.locator("tbody tr").evaluate_all("all => all.map((row) => row.dataset.id)")
    deaths = await connection.fetch("SELECT id FROM events ORDER BY finished_at DESC, id DESC")
    assert shown == [str(row["id"]) for row in deaths], "the newest death first"
    await boxes.nth(0).check()
    await boxes.nth(2).click()
    await boxes.nth(4).click(modifiers=["Shift"])
    bar = page.locator(".selection-bar")
    await expect(bar).to_contain_text("4 chosen")
    await bar.get_by_role("button", name="Redrive").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("4 events chosen.")
    await dialog.get_by_label("Reason").fill("reopened")
    await dialog.get_by_role("button", name="Redrive 4 events").click()
    await expect(dialog).to_contain_text("4 of 4 done")
    await dialog.get_by_role("button", name="Close").click()
    await expect(boxes).to_have_count(2)
    await come_to(connection, {"dead": 2, "processed": 4})
    left = {str(row["id"]) for row in await connection.fetch("SELECT id FROM events WHERE status = 'dead'")}
    assert left == {shown[1], shown[5]}, "those between, with both ends, and no others"
    assert await page.locator("tbody tr").evaluate_all("all => all.map((row) => row.dataset.id)") == [shown[1], shown[5]]


@pytest.mark.long
async def test_a_redrive_of_all_that_match_shows_first_what_it_would_take(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    shop.failures[REFUND] = Permanent("there is nothing to refund")
    shop.failure = Permanent("the order is unknown")
    daemon = await start(shop.registry, admin_tokens=ANN)
    types = (REFUND, REFUND, AUTHCAPTURE, REFUND)
    await deliver(daemon, *(notification(event_type, id=str(n)) for n, event_type in enumerate(types, 1)))
    await come_to(connection, {"dead": 4})
    shop.failures, shop.failure = {}, None
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], "#/dead-letters")
    await page.get_by_label("Type").fill("payment.refund.*")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(3)
    await page.get_by_role("button", name="Redrive all that match …").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("3 events match.")
    await expect(dialog.get_by_role("row", name="payment.refund.created 3")).to_be_visible()
    await expect(dialog.get_by_role("row", name="there is nothing to refund 3")).to_be_visible()
    await come_to(connection, {"dead": 4})  # nothing is done yet
    await dialog.get_by_role("button", name="Redrive 3 events").click()
    await expect(dialog).to_contain_text("3 of 3 done")
    await come_to(connection, {"dead": 1, "processed": 3})
    await dialog.get_by_role("link", name="See this redrive").click()
    await expect(page.locator(".story")).to_contain_text("3 of 3 done")
    await page.get_by_role("link", name="Operations").first.click()
    await expect(page.locator("tbody tr")).to_have_count(2)  # one row is the dry run
    await expect(page.locator("tbody tr").last).to_contain_text("dry run")


@pytest.mark.long
async def test_a_dead_letter_is_discarded_and_can_still_be_found(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    shop.failure = Permanent("the order 4711 is unknown")
    daemon = await start(shop.registry, admin_tokens=ANN)
    (dead,) = await deliver(daemon, notification())
    await come_to(connection, {"dead": 1})
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], f"#/events/{dead}")
    await page.get_by_role("button", name="Discard").click()
    await page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Discarded after 1 attempt")
    await visitor.go("#/dead-letters")
    await expect(page.get_by_role("heading", name="No dead events")).to_be_visible()
    await page.get_by_label("Show").select_option("Discarded")
    await expect(page.locator("tbody tr")).to_have_attribute("data-id", dead)


@pytest.mark.long
async def test_a_body_in_quarantine_is_released_and_another_is_discarded(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    long_ago = notification(id="60155504799") | {"eventDate": (datetime.now(UTC) - timedelta(days=60)).isoformat()}
    _, broken = await deliver(daemon, long_ago, b'{"not": JSON}')
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], "#/quarantine")
    await expect(page.locator("tbody tr")).to_have_count(2)
    await page.get_by_role("link", name="The event is too old").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("The event is too old, so it waits here")
    await page.get_by_role("button", name="Release").click()
    await page.get_by_role("dialog").get_by_role("button", name="Release").click()
    await expect(page.locator(".story")).to_contain_text("Released: it became an event")
    await page.locator(".story").get_by_role("link", name="Open the event").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Processed")
    await expect(page.locator(".story")).to_contain_text("Transaction 60155504799")
    await come_to(connection, {"processed": 1})

    await visitor.go(f"#/quarantine/{broken}")
    await expect(page.get_by_label("Body", exact=True)).to_have_text('{"not": JSON}')
    await expect(page.get_by_role("button", name="Release")).to_be_disabled()
    await page.get_by_role("button", name="Discard").click()
    await page.get_by_role("dialog").get_by_label("Reason").fill("a test of ours")
    await page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Discarded")
    await expect(page.locator(".facts")).to_contain_text("a test of ours")
    await visitor.go("#/quarantine")
    await expect(page.get_by_role("heading", name="The quarantine is empty")).to_be_visible()
    await come_to(connection, {"processed": 1})
