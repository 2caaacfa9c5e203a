"""Every control of every view can be reached and used by the keyboard alone, and the screen shows where the focus is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.conftest import Start
from tests.dashboard.conftest import Visit
from tests.dashboard.shop import Shop, deliver, notification
from tests.dashboard.test_looks import furnish
from tests.helpers.operator import ANN, Connection, come_to
from webhookd.errors import Permanent

# Keeps the elements that listen to clicks, so that a test can ask whether the keyboard reaches each of them.
_CLICKABLE = """window.clickable = [];
    const listen = EventTarget.prototype.addEventListener;
    EventTarget.prototype.addEventListener = function (type, ...rest) {
        if (type === "click" && this instanceof Element) window.clickable.push(this);
        return listen.call(this, type, ...rest);
    };"""

Opened = Callable[[str], Awaitable[Page]]
_FOCUS = (Path(__file__).parent / "focus.js").read_text()
_MOST = 200  # controls of a view


async def walk(page: Page) -> list[str]:
    """Presses Tab from the start of the page to its end; returns what is wrong."""
    await page.evaluate(f"window.stops = {_FOCUS}")
    names = await page.evaluate("stops.begin()")
    assert len(names) > 3
    reached: list[int] = []
    seen: set[int] = set()
    for _ in range(_MOST):
        await page.keyboard.press("Tab")
        now = await page.evaluate("stops.now()")
        if now == []:
            continue
        if now is None or (reached and now[0] == reached[0]):  # after the last control, the focus leaves the page
            break
        number, different = now
        if reached[-1:] != [number]:  # a field for a time has several stops
            reached.append(number)
        if different:
            seen.add(number)
        if number == len(names) - 1:  # Firefox's Tab key goes on to the browser's own buttons, and a page does not get it back
            break
    wrong = [f"the focus is not seen: {names[number]}" for number in reached if number not in seen]
    wrong += [f"not reached: {name}" for number, name in enumerate(names) if number not in reached]
    if reached != sorted(reached):
        wrong.append(f"not in the order of the page: {[names[number] for number in reached]}")
    return wrong + [f"a click only: {name}" for name in await page.evaluate("stops.deaf(window.clickable)")]


@pytest.mark.parametrize(
    ("width", "every"),
    [(1440, False), pytest.param(1440, True, marks=pytest.mark.long), pytest.param(390, True, marks=pytest.mark.long)],
)
async def test_the_tab_key_reaches_each_control_in_order_and_the_focus_is_seen(
    start: Start, visit: Visit, shop: Shop, connection: Connection, width: int, every: bool
) -> None:
    daemon, views = await furnish(start, shop, connection)
    visitor = await visit(daemon, width=width)
    visitor.expected.add((404, "/webhooks/.*"))
    await visitor.context.add_init_script(_CLICKABLE)
    page = await visitor.sign_in(ANN["ann"])
    wrong = {}
    for place, text in views if every else [view for view in views if view[0] in ("#/dead-letters", "#/")]:
        await visitor.open(place, text)
        if found := await walk(page):
            wrong[place] = found
    for path in ("guide", "guide/settings") if every else ():
        await visitor.go(path)
        if found := await walk(page):
            wrong[path] = found
    assert wrong == {}


@dataclass(slots=True, frozen=True)
class Case:
    """A dialog: the view that has it, the button that opens it, and the dialog's last button."""

    place: str
    button: str
    last: str


DIALOGS = [
    Case("#/", "Shortcuts ?", "Close"),
    Case("#/events/{dead}", "Retry", "Retry"),
    Case("#/events/{dead}", "Discard", "Discard"),
    Case("#/dead-letters", "Redrive all …", "Redrive 1 event"),
    Case("#/dead-letters", "Discard all …", "Discard 1 event"),
    Case("#/quarantine/{kept}", "Discard", "Discard"),
]


@pytest.fixture
async def opened(start: Start, visit: Visit, shop: Shop, connection: Connection) -> Opened:
    """Opens views of a daemon with a dead event and a body in quarantine."""
    shop.failure = Permanent("the shop is closed")
    daemon = await start(shop.registry, admin_tokens=ANN)
    dead, kept = await deliver(daemon, notification(), b"not JSON")
    await come_to(connection, {"dead": 1})
    visitor = await visit(daemon)
    await visitor.sign_in(ANN["ann"])

    async def go(place: str) -> Page:
        await visitor.go(place.format(dead=dead, kept=kept))
        return visitor.page

    return go


@pytest.mark.parametrize("key", ["Enter", "Space"])
async def test_a_dialog_holds_the_focus_and_escape_closes_it_and_returns_the_focus(opened: Opened, key: str) -> None:
    for case in DIALOGS:
        page = await opened(case.place)
        opener = page.get_by_role("button", name=case.button, exact=True)
        await opener.focus()
        await page.keyboard.press(key)
        dialog = page.get_by_role("dialog")
        last = dialog.get_by_role("button", name=case.last, exact=True)
        await expect(last).to_be_visible()
        for _ in range(8):
            if await last.evaluate("node => node === document.activeElement"):
                break
            await page.keyboard.press("Tab")
            assert await page.evaluate("!document.activeElement.closest('#app')"), f"{case}: the focus left the dialog"
        await expect(last).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(dialog).to_have_count(0)
        await expect(opener).to_be_focused()


async def test_the_menu_opens_at_enter_and_escape_closes_it_and_returns_the_focus(opened: Opened) -> None:
    page = await opened("#/")
    summary = page.get_by_label("Signed in as ann")
    await summary.focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Theme")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_label("Theme")).to_be_hidden()
    await expect(summary).to_be_focused()


async def test_rows_are_chosen_by_space_and_what_a_dialog_did_leaves_the_focus_in_the_view(opened: Opened) -> None:
    page = await opened("#/dead-letters")
    await page.get_by_label("Choose event").focus()
    await page.keyboard.press("Space")
    await page.locator(".selection-bar").get_by_role("button", name="Discard").focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("Reason")).to_be_focused()
    await page.keyboard.type("by keyboard")
    await page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("1 of 1 done")
    await dialog.get_by_role("button", name="Close").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="No dead events")).to_be_visible()
    await expect(page.locator("main#main")).to_be_focused()
