"""`webhookd dev --reload` takes handlers anew when a file of theirs changes, and shows a file that cannot be imported."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance.test_dev import Dev
from tests.acceptance.test_dev import dev as dev  # noqa: PLC0414  a fixture is found by its name in this module
from tests.conftest import Servers
from tests.helpers.database import connect
from tests.helpers.wait import until

_HANDLER = """
import books

from webhookd import on


@on("payment.refund.*")
async def book(event, connection):
    await connection.execute("INSERT INTO refunds VALUES ($1)", books.NAME)
"""

_log = logging.getLogger(__name__)


class Shop:
    """A session with `--reload` on the servers of the tests, and a handler that imports a second module."""

    def __init__(self, dev: Dev, servers: Servers) -> None:
        self.dev = dev
        self._servers = servers
        aws = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        path = {"PYTHONPATH": f".:{os.environ.get('PYTHONPATH', '')}"}
        self._settings = servers.settings | dev.ports | aws | path
        self.handler, self.books = dev.folder / "shop.py", dev.folder / "books.py"

    async def start(self) -> None:
        """Writes the modules, makes the table, and starts the session. Python may write compiled files."""
        await self._query("CREATE TABLE refunds (book text)")
        self.handler.write_text(_HANDLER)
        self.books.write_text("NAME = 'one'\n")
        compiles = {"PYTHONDONTWRITEBYTECODE": ""}
        self.dev.start("--no-samples", "--reload", settings=self._settings | compiles | {"WEBHOOKD_HANDLERS": "shop"})
        await self.dev.prints("trigger all")

    async def change(self, path: Path, text: str, told: str, *, same_time: bool = False) -> None:
        """Writes `path` anew, on demand with its time from before, and waits until the session prints `told` once more."""
        before, began, stat = self.dev.printed.count(told), time.monotonic(), os.stat(path)  # noqa: PTH116  returns at once
        new = path.with_suffix(".new")  # as an editor saves
        new.write_text(text)
        if same_time:
            os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        new.replace(path)
        await until(lambda: self.dev.printed.count(told) > before, f"it prints {told!r}", deadline=60, every=0.01)
        _log.info("%s after %.2f s", told, time.monotonic() - began)

    async def book(self) -> list[str]:
        """Sends a refund, and returns what the handlers have booked, once the refund is processed."""
        before = len(await self._booked())
        code, told = await self.dev.webhookd("trigger", "payment.refund.created", settings=self._settings)
        assert code == 0, told

        async def booked() -> bool:
            return len(await self._booked()) > before

        await until(booked, "the refund is booked", deadline=60)
        return await self._booked()

    async def _booked(self) -> list[str]:
        return [row["book"] for row in await self._query("SELECT book FROM refunds ORDER BY ctid")]

    async def _query(self, statement: str) -> list[dict[str, str]]:
        connection = await connect(self._servers.database_url)
        try:
            return [dict(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()


@pytest.fixture
async def shop(dev: Dev, servers: Servers) -> Shop:
    shop = Shop(dev, servers)
    await shop.start()
    return shop


async def test_a_changed_handler_and_a_changed_module_of_its_own_are_used_for_the_next_webhook(shop: Shop) -> None:
    assert await shop.book() == ["one"]
    # The size and the time are those of the text before: a compiled file would be taken for current.
    await shop.change(shop.books, "NAME = 'two'\n", "reloaded books.py: 1 handler", same_time=True)
    assert await shop.book() == ["one", "two"]
    await shop.change(shop.handler, _HANDLER.replace("books.NAME", "'new'"), "reloaded shop.py: 1 handler")
    assert await shop.book() == ["one", "two", "new"], "the earlier handler is gone"
    assert await shop.dev.ends(signal.SIGINT) == 0
    assert "Traceback" not in shop.dev.printed


async def test_a_syntax_error_is_shown_with_its_line_and_the_session_goes_on_until_it_is_mended(shop: Shop) -> None:
    await shop.change(shop.books, "NAME = 'two'\nclass\n", f"{shop.books}:2: SyntaxError: ")
    assert "books.py changed, and cannot be used" in shop.dev.printed
    assert await shop.book() == ["one"], "the handlers from before are in use"
    await shop.change(shop.books, "NAME = {}['three']\n", f"{shop.books}:1: KeyError: 'three'")
    await shop.change(shop.books, "NAME = 'four'\n", "reloaded books.py: 1 handler")
    assert await shop.book() == ["one", "four"]
    assert await shop.dev.ends(signal.SIGTERM) == 0
    assert "Traceback" not in shop.dev.printed


async def test_a_session_without_handlers_has_nothing_to_reload(dev: Dev) -> None:
    dev.start("--reload")
    assert await dev.ends() == 2
    assert "WEBHOOKD_HANDLERS is not set: `--reload` has no module to watch" in dev.printed
    assert not (dev.folder / ".webhookd").exists()
