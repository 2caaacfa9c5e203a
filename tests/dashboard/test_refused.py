"""Refused webhooks are shown with their likely fault, and none of their content becomes markup."""

from __future__ import annotations

from playwright.async_api import expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.shop import refuse
from tests.helpers.operator import LEO, Connection
from tests.helpers.wait import until

PATH = "/webhooks/authorize-net"
MARKUP = "<img src=x onerror=window.hurt=1>"


async def test_refused_webhooks_are_shown_with_what_is_likely_wrong(start: Start, visit: Visit, connection: Connection) -> None:
    daemon = await start(read_tokens=LEO)
    hurtful = {"X-ANET-Signature": MARKUP, "X-Forwarded-For": MARKUP, "Content-Type": MARKUP}
    await refuse(daemon, f"{PATH}/nobody", {"X-ANET-Signature": "sha512=" + "0" * 128})
    # The newest sample stands first, and a sample's time is only as exact as its write.
    await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM refused_webhooks"), "the first sample is written")
    await refuse(daemon, PATH, hurtful, MARKUP.encode())
    await until(lambda: connection.fetchval("SELECT count(*) = 2 FROM refused_webhooks"), "both samples are written")
    visitor = await visit(daemon)
    page = await visitor.sign_in(LEO["leo"])
    await page.get_by_role("link", name="Refused").click()
    samples = page.locator(".samples > section")
    await expect(samples).to_have_count(2)
    await expect(samples.first.get_by_role("heading")).to_have_text("401: Malformed signature")
    await expect(samples.first).to_contain_text("The header is not written as Authorize.Net writes it")
    await expect(samples.first).to_contain_text(MARKUP)
    await page.get_by_label("Why").select_option("No such account")
    await expect(samples).to_have_count(1)
    await expect(samples).to_contain_text("/webhooks/authorize-net/nobody")
    assert await page.evaluate("[window.hurt, document.querySelectorAll('main img').length]") == [None, 0]
