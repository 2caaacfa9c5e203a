"""The guide can be read and searched in a browser: without a token, by the keyboard alone, and without other servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Page, expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.looks import Looks
from tests.helpers.operator import ANN
from webhookd.admin.guide import Guide, build

TEXT = "Text that fills the screen, so that a link to a section must scroll. " * 60
LATE = "A refund waits for `<img src=x onerror=alert(1)>` the bank."
SEVERAL = ["/guide", "/guide/settings", "/guide/runbook"]  # with long tables, wide code and many links
PORT = "| setting | meaning |\n|---|---|\n| `SHOP_PORT` | where the shop listens |"
SOURCES = {
    "index": "# Start\n\n- [Money](money.md): what is paid\n- [Settings](settings.md)\n",
    "money": f"# Money\n\n{TEXT}\n\n## Refunds are late\n\n{LATE}\n\n{TEXT}\n",
    "settings": f"# Settings\n\n{TEXT}\n\n{PORT}\n\n{TEXT}\n",
}


@pytest.fixture
def small_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a guide of three pages in the place of webhookd's."""
    for name, source in SOURCES.items():
        (tmp_path / f"{name}.md").write_text(source)
    monkeypatch.setattr("webhookd.admin.app.Guide", lambda: Guide(tmp_path))


async def search(page: Page, words: str) -> None:
    await page.keyboard.press("/")
    await expect(page.get_by_label("Search the guide")).to_be_focused()
    await page.keyboard.type(words)


@pytest.mark.usefixtures("small_guide")
async def test_the_search_finds_a_section_by_the_keyboard_alone_and_marks_the_words(start: Start, visit: Visit) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    page = visitor.page
    await visitor.go("guide")
    await search(page, "BANK refund")
    await expect(page.get_by_role("status")).to_have_text("1 section")
    hit = page.locator(".hits a")
    await expect(hit).to_have_count(1)
    assert [text.lower() for text in await hit.locator("mark").all_text_contents()] == ["refund", "refund", "bank"]
    await expect(hit).to_contain_text("waits for <img src=x onerror=alert(1)> the bank")
    await expect(page.locator(".hits img")).to_have_count(0)
    await page.keyboard.press("ArrowDown")
    await expect(hit).to_be_focused()
    await page.keyboard.press("ArrowUp")
    await expect(page.get_by_label("Search the guide")).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Refunds are late")).to_be_in_viewport()
    assert page.url.endswith("/guide/money#refunds-are-late")
    await expect(page.locator(".hits")).to_be_hidden()


@pytest.mark.usefixtures("small_guide")
async def test_the_search_finds_a_row_of_a_table_on_the_same_page(start: Start, visit: Visit) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    page = visitor.page
    await visitor.go("guide/settings")
    await search(page, "shop_p")
    await expect(page.locator(".hits a")).to_have_text(re.compile("^SHOP_PORT"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("cell", name="SHOP_PORT")).to_be_in_viewport()
    assert page.url.endswith("/guide/settings#shop_port")


@pytest.mark.usefixtures("small_guide")
async def test_the_search_reports_that_nothing_is_found_and_escape_closes_it(start: Start, visit: Visit) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    page = visitor.page
    await visitor.go("guide")
    await search(page, "refund (*")  # no pattern of a regular expression
    await expect(page.get_by_role("status")).to_have_text("No section has all these words.")
    await page.keyboard.press("Escape")
    await expect(page.locator(".hits")).to_be_hidden()
    await page.get_by_label("Search the guide").fill("refund")
    await page.locator(".hits a").click()
    await expect(page.get_by_role("heading", name="Refunds are late")).to_be_in_viewport()


async def test_the_sign_in_and_the_dashboard_lead_to_the_guide_and_the_guide_back(start: Start, visit: Visit) -> None:
    visitor = await visit(await start(admin_tokens=ANN))
    page = visitor.page
    await visitor.go()
    await page.get_by_role("link", name="the guide").click()
    await expect(page.locator(".prose h1")).to_be_visible()
    await page.get_by_role("link", name="Dashboard").click()
    await expect(page.get_by_label("Token")).to_be_visible()
    await visitor.sign_in(ANN["ann"])
    await page.reload()
    await page.get_by_role("navigation", name="Views").get_by_role("link", name="Guide").click()
    await expect(page.locator(".prose h1")).to_be_visible()


async def test_a_narrow_screen_has_the_guide_in_the_menu_and_the_pages_in_a_fold(
    start: Start, visit: Visit, small_guide: None
) -> None:
    visitor = await visit(await start(admin_tokens=ANN), width=390, height=844)
    page = await visitor.sign_in(ANN["ann"])
    await page.get_by_label("Signed in as ann").click()
    await page.get_by_role("link", name="Guide").click()
    pages = page.get_by_role("navigation", name="Pages of the guide")
    await expect(pages).to_be_hidden()
    await page.get_by_text("Pages of the guide").click()
    await pages.get_by_role("link", name="Money").click()
    await expect(page.get_by_role("heading", name="Money")).to_be_visible()
    await page.get_by_role("link", name="Settings").filter(visible=True).click()
    await expect(page.get_by_role("heading", name="Settings")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), pytest.param(1440, "dark", marks=pytest.mark.long)])
async def test_every_page_fits_its_screen_and_can_be_read(
    start: Start, visit: Visit, width: int, scheme: Literal["light", "dark"]
) -> None:
    visitor = await visit(await start(admin_tokens=ANN), width=width, height=844, scheme=scheme)
    page = visitor.page
    look = Looks(page)
    for path in build().keys() - {"/guide/search.json"}:
        await visitor.go(path.removeprefix("/"))
        await look.at(path)
    await search(page, "e")
    await expect(page.locator(".hits a").first).to_be_visible()
    await look.at("the search")
    assert look.faults == {}


@pytest.mark.one_browser  # axe-core needs minutes for all pages
@pytest.mark.parametrize(
    ("paths", "width", "scheme"),
    [
        pytest.param(SEVERAL, 390, "light", id="several"),
        *(
            pytest.param([], width, scheme, id=f"all-{width}-{scheme}", marks=pytest.mark.long)
            for width in (390, 1440)
            for scheme in ("light", "dark")
        ),
    ],
)
async def test_axe_finds_nothing_on_the_pages(
    start: Start, visit: Visit, axe: str, paths: list[str], width: int, scheme: Literal["light", "dark"]
) -> None:
    visitor = await visit(await start(admin_tokens=ANN), width=width, height=844, scheme=scheme)
    look = Looks(visitor.page, axe)
    for path in paths or sorted(build().keys() - {"/guide/search.json"}):
        await visitor.go(path.removeprefix("/"))
        await search(visitor.page, "e")
        await expect(visitor.page.locator(".hits a").first).to_be_visible()
        await look.at(path)
    assert look.faults == {}
