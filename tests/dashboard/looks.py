"""Faults of a page as a person meets them: parts beyond the edge of the screen, faint texts, and all that axe-core finds."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Page

_FOLDER = Path(__file__).parent
_CONTRAST = (_FOLDER / "contrast.js").read_text()
_WIDTH = (_FOLDER / "width.js").read_text()
_AXE = (_FOLDER / "axe.js").read_text()


class Looks:
    """Collects the faults of the pages that `page` shows. `axe` is axe-core's source; without it, its rules are left out."""

    def __init__(self, page: Page, axe: str | None = None) -> None:
        self.faults: dict[str, list[str]] = {}  # by the place where they were found
        self._page = page
        self._axe = axe

    async def at(self, place: str) -> None:
        """Looks at the page as it is now."""
        seen = await self._page.evaluate(_CONTRAST)
        assert seen["looked"] > 3, place
        found = [*await self._page.evaluate(_WIDTH), *seen["faint"]]
        if self._axe is not None:
            if not await self._page.evaluate("'axe' in window"):
                await self._page.evaluate(self._axe)
            found += await self._page.evaluate(_AXE)
        if found:
            self.faults[place] = found
