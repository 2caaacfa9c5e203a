"""The overview shows the state and what is wrong. It reports when the daemon is away, and keeps the data shown."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, Page, expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.shop import Shop, deliver, notification
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Connection, Operator, come_to
from tests.helpers.wait import until
from webhookd.daemon import Daemon
from webhookd.dev.servers import free_port
from webhookd.errors import Permanent


def tile(page: Page, name: str, part: str) -> Locator:
    return page.locator(f".tile:has(dt:text-is('{name}')) .tile-{part}")


async def counted(daemon: Daemon, **totals: int) -> None:
    """Waits until the statistics have these totals. They are written every few seconds."""

    async def look() -> bool:
        _, stats = await Operator(daemon.admin_url).get("stats")
        return all(stats["totals"][name] == total for name, total in totals.items())

    await until(look, f"the statistics say {totals}")


async def test_the_overview_counts_what_came(start: Start, visit: Visit, shop: Shop, connection: Connection) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    first = notification()
    await deliver(daemon, first, first, *(notification(REFUND) for _ in range(3)))
    await come_to(connection, {"processed": 4})
    await counted(daemon, received=4, duplicates=1, processed=4)
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"])
    await expect(page.locator(".verdict-title")).to_have_text("All is well")
    for name in ("Received", "Processed"):
        await expect(tile(page, name, "note")).to_have_text("4 in 1 h")
    for name in ("Unfinished", "Dead", "Quarantine"):
        await expect(tile(page, name, "value")).to_have_text("0")
    await expect(tile(page, "End to end, p99", "value")).to_have_text(re.compile(r"\d+ m?s$"))
    await expect(page.get_by_role("row", name="payment.refund.created 3 3 0 0")).to_be_visible()
    await expect(page.get_by_role("row", name="payment.authcapture.created 1 1 0 0")).to_be_visible()
    await expect(page.locator(".chart").first.get_by_role("img")).to_have_attribute("aria-label", re.compile("highest 0[.]"))
    for window, note in (("15 min", "4 in 15 min"), ("7 d", "4 in 7 d")):
        await page.get_by_role("button", name=window).click()
        await expect(page.locator(".tile-note").first).to_have_text(note)
    assert page.url.endswith("#/?window=604800")


@pytest.mark.long
async def test_the_overview_says_that_an_event_is_dead_and_leads_to_why(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    shop.failure = Permanent("the order 4711 is unknown")
    daemon = await start(shop.registry, admin_tokens=ANN)
    visitor = await visit(daemon)
    await visitor.page.clock.install()
    page = await visitor.sign_in(ANN["ann"])
    await expect(page.locator(".verdict-title")).to_have_text("All is well")
    await deliver(daemon, notification(), b"not JSON")
    await come_to(connection, {"dead": 1})
    await page.clock.fast_forward(6_000)
    await expect(page.locator(".verdict-title")).to_have_text("2 things need attention")
    await expect(page.locator(".verdict")).to_contain_text("1 event is dead")
    await expect(page.locator(".verdict")).to_contain_text("1 body waits in quarantine")
    await expect(page.get_by_role("link", name="Dead letters 1")).to_be_visible()
    await expect(page.get_by_role("link", name="Quarantine 1")).to_be_visible()
    await page.get_by_role("link", name="See why").click()
    await expect(page.locator("tbody tr")).to_contain_text("the order 4711 is unknown")


@pytest.mark.long
async def test_the_overview_says_what_is_away_and_what_that_means(start: Start, visit: Visit) -> None:
    nobody = f"127.0.0.1:{free_port(0)}"
    daemon = await start(admin_tokens=ANN, redis_url=f"redis://{nobody}/0", sqs_endpoint_url=f"http://{nobody}")
    visitor = await visit(daemon)
    page = await visitor.sign_in(ANN["ann"])
    verdict = page.locator(".verdict")
    await expect(verdict.locator(".verdict-title")).to_have_text("2 things need attention")
    await expect(verdict).to_contain_text("Redis is away")
    await expect(verdict).to_contain_text("webhookd works with PostgreSQL alone")
    await expect(verdict).to_contain_text("SQS is away")
    await expect(verdict).to_contain_text("They wait in the outbox")
    await expect(verdict.get_by_role("list", name="Dependencies")).to_contain_text("PostgreSQLup")
    await verdict.get_by_role("listitem").filter(has_text="SQS is away").get_by_role("link", name="What to do").click()
    await expect(page.get_by_role("heading", name="WebhookdSQSDown")).to_be_in_viewport()


@pytest.mark.long
async def test_a_daemon_that_stops_is_told_and_the_data_stay_until_it_is_back(
    start: Start, visit: Visit, shop: Shop, connection: Connection
) -> None:
    daemon = await start(shop.registry, admin_tokens=ANN)
    await deliver(daemon, notification(AUTHCAPTURE), notification(AUTHCAPTURE))
    await come_to(connection, {"processed": 2})
    await counted(daemon, received=2)
    visitor = await visit(daemon)
    await visitor.page.clock.install()
    page = await visitor.sign_in(ANN["ann"])
    note = page.locator(".tile-note").first
    await expect(note).to_have_text("2 in 1 h")
    away = page.get_by_role("alert")
    await expect(away).to_be_hidden()
    visitor.daemon_is_away = True
    await daemon.stop()
    await page.clock.fast_forward(6_000)
    await expect(away).to_contain_text("The daemon has stopped answering. This page shows the state of")
    await expect(note).to_have_text("2 in 1 h")
    await page.get_by_role("link", name="Events").click()
    await expect(page.locator("main")).to_contain_text("The daemon does not answer.")
    await start(shop.registry, admin_tokens=ANN, admin_listen=visitor.url.removeprefix("http://"))
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator("tbody tr")).to_have_count(2)
    await page.clock.fast_forward(16_000)
    await expect(away).to_be_hidden()
