"""The pages of destinations: what is left to deliver and why, the buttons, and what one may do who may only look."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from playwright.async_api import Route, expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.shop import deliver, notification
from tests.helpers.operator import ANN, LEO, REFUND, Connection
from tests.helpers.receivers import SECRET, receiving
from tests.helpers.wait import until
from tests.integration.test_destinations import delivery, destination, left


async def test_an_operator_sees_why_a_destination_fails_and_mends_it(
    start: Start, visit: Visit, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhookd.operate.statistics._EVERY", 0.2)
    async with receiving() as shop:
        shop.answer = lambda _: web.Response(status=410, text="closed on <b>Sunday</b>")
        settings = {"shop": destination(shop.url, secrets=SECRET)}
        daemon = await start(destinations=settings, admin_tokens=ANN)
        first, _ = await deliver(daemon, notification(), notification(REFUND))

        async def both_dead() -> bool:
            return await left(connection, "dead") == 2

        await until(both_dead, "both are dead")
        visitor = await visit(daemon)
        page = await visitor.sign_in(ANN["ann"])
        await expect(page.get_by_text("2 deliveries to shop are dead.")).to_be_visible()
        await page.get_by_role("link", name="Destinations").click()
        row = page.locator("tbody tr", has_text="shop")
        await expect(row).to_contain_text("Active")
        await expect(row.locator("td[data-label=Dead]")).to_contain_text("2 (")
        await expect(row.locator("td[data-label=Failed]")).to_have_text("2")
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="shop")).to_be_visible()
        deliveries = page.locator("main tbody tr")
        await expect(deliveries).to_have_count(2)
        await expect(deliveries.first).to_contain_text("HTTP status 410")
        await expect(page.locator("main")).not_to_contain_text(SECRET)
        await expect(page.locator("main")).not_to_contain_text("/hooks")

        answer = deliveries.first.locator("pre")
        await expect(answer).not_to_be_visible()
        await deliveries.first.get_by_text("Last answer").focus()
        await page.keyboard.press("Enter")
        await expect(answer).to_be_visible()
        await expect(answer).to_have_text("closed on <b>Sunday</b>")  # markup of an answer is text
        await page.get_by_role("button", name="Send a test event").click()
        await expect(page.get_by_role("status").filter(has_text="not accepted")).to_contain_text("HTTP status 410")
        await expect(page.get_by_label("Answer to the test event")).to_have_text("closed on <b>Sunday</b>")
        await expect(answer).to_be_visible()  # also after the page was built anew
        shop.answer = lambda _: web.Response()
        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator(".story")).to_contain_text("by operator (ann). No replica sends")
        await page.get_by_role("button", name="Redrive dead …").click()
        await page.get_by_label("Reason").fill("open again")
        await page.get_by_role("button", name="Redrive", exact=True).click()
        await expect(page.locator("#toasts")).to_contain_text("Redriven: 2 deliveries.")
        assert await left(connection, "waiting") == 2
        await page.get_by_role("button", name="Resume").click()
        await expect(page.get_by_text("Nothing is left to deliver.")).to_be_visible()
        await visitor.go(f"#/events/{first}")
        consumers = page.locator(".consumers li")
        await expect(consumers).to_have_count(2)
        await expect(consumers.nth(1)).to_contain_text("Delivered")
        failed = page.locator("section", has=page.get_by_role("heading", name="Failed attempts"))
        await expect(failed).to_contain_text("Of shop")
        await consumers.nth(1).get_by_role("link", name="shop").click()
        await expect(page.get_by_role("heading", name="shop")).to_be_visible()


async def test_a_reason_is_hidden_only_if_the_same_attempt_of_the_same_consumer_shows_it(
    start: Start, visit: Visit, connection: Connection
) -> None:
    daemon = await start(admin_tokens=ANN, destinations={"shop": destination("http://127.0.0.1:9/hooks")})
    (event,) = await deliver(daemon, notification())
    await delivery(connection, "status = 'retrying'")
    await connection.execute(
        """INSERT INTO audit (event_id, from_status, to_status, actor, attempt, reason, consumer)
           VALUES ($1, 'dead', 'dropped', 'operator (ann)', 1, 'booked by hand', 'mail')""",
        event,
    )
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], f"#/events/{event}")
    trail = page.locator(".trail li")
    await expect(trail.filter(has_text="for mail")).to_contain_text("booked by hand")
    await expect(trail.filter(has_text="for shop").first).not_to_contain_text("no connection")


async def test_dropping_needs_a_confirmation_and_a_removed_destination_goes_with_its_last_delivery(
    start: Start, visit: Visit, connection: Connection
) -> None:
    daemon = await start(admin_tokens=ANN)
    await connection.execute("INSERT INTO deliveries (event_id, destination) VALUES (gen_random_uuid(), 'former')")
    visitor = await visit(daemon)
    visitor.expected.add((404, "/webhooks/destinations/former"))
    page = await visitor.sign_in(ANN["ann"], "#/destinations/former")
    await page.get_by_role("button", name="Drop everything …").click()
    await page.keyboard.press("Escape")
    assert await left(connection) == 1
    await page.get_by_role("button", name="Drop everything …").click()
    await page.get_by_role("button", name="Drop all").click()
    await expect(page.get_by_text("No destination is set")).to_be_visible()
    assert await left(connection) == 0


async def test_one_who_may_only_look_changes_no_destination(start: Start, visit: Visit, connection: Connection) -> None:
    daemon = await start(
        admin_tokens=ANN, read_tokens=LEO, destinations={"shop": destination("http://127.0.0.1:9/hooks")}, roles="receive"
    )
    await connection.execute(
        "INSERT INTO deliveries (event_id, destination, status) VALUES (gen_random_uuid(), 'shop', 'dead')"
    )
    visitor = await visit(daemon)
    page = await visitor.sign_in(LEO["leo"], "#/destinations/shop")
    for name in ("Send a test event", "Pause", "Redrive dead …", "Drop dead …"):
        button = page.get_by_role("button", name=name, exact=True)
        await expect(button).to_be_disabled()
        await button.click(force=True)
        await expect(page.locator("#toasts")).to_contain_text("Your token may only look")
        await expect(page.locator("dialog")).to_have_count(0)
    visitor.expected.add((403, "/webhooks/.*"))
    for action in ("test", "pause", "resume", "redrive", "drop", "replay"):
        path = f"/webhooks/destinations/shop/{action}"
        assert await visitor.fetch("POST", path, {"X-Webhookd": "dashboard"}) == 403, action


async def test_a_destination_whose_circuit_is_open_shows_its_next_probe(start: Start, visit: Visit) -> None:
    """The API of this release may not report circuits. The page shows what the API gives."""
    daemon = await start(admin_tokens=ANN, destinations={"shop": destination("http://127.0.0.1:9/hooks")})
    visitor = await visit(daemon)

    async def failing(route: object) -> None:
        answer = await route.fetch()  # type: ignore[attr-defined]
        found = await answer.json() | {
            "state": "failing",
            "opened_at": "2026-01-31T12:00:00Z",
            "probe_at": "2126-01-31T12:00:00Z",
            "failures": 5,
        }
        await route.fulfill(response=answer, json=found)  # type: ignore[attr-defined]

    await visitor.page.route("**/webhooks/destinations/shop", failing)
    page = await visitor.sign_in(ANN["ann"], "#/destinations/shop")
    await expect(page.locator(".story")).to_contain_text("The circuit is open after 5 failures")
    await expect(page.get_by_role("button", name="Probe now")).to_be_visible()


async def test_after_a_repair_retries_are_due_at_the_press_of_a_button(
    start: Start, visit: Visit, connection: Connection
) -> None:
    await connection.execute(
        "INSERT INTO deliveries (event_id, destination, status, due) "
        "SELECT gen_random_uuid(), 'shop', 'retrying', now() + interval '9 hours' FROM generate_series(1, 1001)"
    )
    daemon = await start(roles="receive", admin_tokens=ANN, destinations={"shop": destination("http://127.0.0.1:9/hooks")})
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"], "#/destinations/shop")
    await page.get_by_role("button", name="Retry now").click()
    await expect(page.locator("#toasts")).to_contain_text("shop is active now. Due now: 1,001 retries.")
    assert await connection.fetchval("SELECT max(due) <= now() FROM deliveries")


async def test_a_refresh_leaves_a_busy_button_in_its_place(start: Start, visit: Visit, connection: Connection) -> None:
    daemon = await start(roles="receive", admin_tokens=ANN, destinations={"shop": destination("http://127.0.0.1:9/hooks")})
    visitor = await visit(daemon)
    answered = asyncio.Event()

    async def slow(route: Route) -> None:
        await answered.wait()
        await route.fulfill(json={"event_id": "", "accepted": True, "status": 200, "seconds": 7, "error": None, "answer": None})

    await visitor.page.route("**/webhooks/destinations/shop/test", slow)
    page = await visitor.sign_in(ANN["ann"], "#/destinations/shop")
    button = await page.get_by_role("button", name="Send a test event").element_handle()
    assert button is not None
    await button.click()
    await connection.execute("INSERT INTO deliveries (event_id, destination) VALUES (gen_random_uuid(), 'shop')")
    for _ in range(2):  # the second look begins when the first one has been shown
        async with page.expect_response(lambda response: response.url.endswith("/webhooks/destinations/shop")):
            pass
    assert await button.evaluate("(node) => node.isConnected && node.getAttribute('aria-busy') === 'true'")
    answered.set()
    await expect(page.get_by_role("status").filter(has_text="Test event accepted")).to_be_visible()
    await expect(page.locator("main tbody tr")).to_have_count(1)


async def test_the_overview_says_that_a_destination_fails(start: Start, visit: Visit, connection: Connection) -> None:
    await connection.execute("INSERT INTO circuits (destination, opened_at, probe_at) VALUES ('shop', now(), now())")
    await connection.execute("INSERT INTO deliveries (event_id, destination) VALUES (gen_random_uuid(), 'shop')")
    daemon = await start(roles="receive", admin_tokens=ANN, destinations={"shop": destination("http://127.0.0.1:9/hooks")})
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"])
    verdict = page.locator(".verdict")
    await expect(verdict).to_contain_text("The destination shop fails, and gets only probes.")
    await expect(verdict).to_contain_text("Left to deliver: 1.")
    await verdict.get_by_role("link", name="See why").click()
    await expect(page.get_by_role("heading", name="shop")).to_be_visible()
