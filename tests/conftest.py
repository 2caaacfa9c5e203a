"""The servers of a test session, and what each test gets of them: a fresh database, queues of its own.

Where WEBHOOKD_TEST_DATABASE_URL, WEBHOOKD_TEST_REDIS_URL or WEBHOOKD_TEST_SQS_ENDPOINT_URL is set, that server is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import botocore.loaders
import hypothesis
import pytest
import pytest_asyncio
import structlog

from tests.helpers.database import connect
from tests.helpers.running import base_settings
from tests.helpers.secrets import note_settings
from tests.model.spin import NO_SPIN
from webhookd.daemon import Daemon, make_sqs
from webhookd.dev.servers import Stack
from webhookd.lifecycle import Watch
from webhookd.metrics import Metrics
from webhookd.process.handlers import Registry
from webhookd.settings import Settings, load
from webhookd.store.migrations import migrate

pytest_plugins = ["pytester", "tests.helpers.groups"]

NO_CHROMIUM = "no chromium; apt install chromium"

# Commands under test are sent SIGINT, which they would ignore if they inherited that, as from a background job of a shell.
signal.signal(signal.SIGINT, signal.default_int_handler)


# A busy machine makes examples slowly, and runs a test slowly at one of them: neither says anything of the code.
hypothesis.settings.register_profile("webhookd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("webhookd")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults-long", action="store_true", help="also the fault suite's long cases, and many rounds of the others"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "/faults/" in str(item.path):
            # A client whose connection is reset in the middle of its request: aiohttp leaves a task's exception unread.
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.timeout(900))
    if config.getoption("--faults-long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tests that were skipped for want of a program are not lost among the others."""
    skipped = terminalreporter.stats.get("skipped", [])
    for what, reason in (("dashboard", NO_CHROMIUM), ("model", NO_SPIN)):
        if any(reason in str(report.longrepr) for report in skipped):
            terminalreporter.write_line(f"the {what} was NOT tested: {reason}", red=True, bold=True)


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """No setting of the developer's shell reaches a test, and no AWS call real credentials."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("WEBHOOKD_") and not name.startswith("WEBHOOKD_TEST_")]:
        patch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        patch.delenv(name, raising=False)
    # A daemon in the test's process logs by structlog's defaults, which show an exception with what the variables held.
    *processors, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, plain])
    # Each daemon under test would read botocore's data files anew, a tenth of a second of its own.
    patch.setattr("botocore.session.create_loader", functools.cache(botocore.loaders.create_loader))
    yield
    patch.undo()


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for servers.

    Not in pytest's own folder: each session that begins closes that one to other users, and PostgreSQL does not run as root.
    """
    folder = Path(tempfile.mkdtemp(prefix="webhookd-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder for a test's own servers."""
    with _temporary() as folder:
        yield folder


@pytest.fixture(scope="session")
def stack(_own_environment: None) -> Iterator[Stack]:
    """The servers of the session."""
    with _temporary() as folder:
        servers = Stack(
            folder,
            database_url=os.environ.get("WEBHOOKD_TEST_DATABASE_URL"),
            redis_url=os.environ.get("WEBHOOKD_TEST_REDIS_URL"),
            sqs_endpoint_url=os.environ.get("WEBHOOKD_TEST_SQS_ENDPOINT_URL"),
            durable=False,
        )
        servers.start()
        yield servers
        servers.stop()


def _named(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()


@pytest.fixture(scope="session")
def template(stack: Stack) -> Iterator[str]:
    """The name of a migrated database that each test's database is a copy of."""
    name = f"webhookd_template_{uuid.uuid4().hex[:8]}"

    async def make() -> None:
        server = await connect(stack.database_url)
        await server.execute(f"CREATE DATABASE {name}")
        await server.close()
        await migrate(_named(stack.database_url, name))

    async def drop() -> None:
        server = await connect(stack.database_url)
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()

    asyncio.run(make())
    yield name
    asyncio.run(drop())


@pytest_asyncio.fixture
async def database_url(stack: Stack, template: str) -> AsyncIterator[str]:
    """A fresh, migrated database."""
    name = f"webhookd_{uuid.uuid4().hex[:12]}"
    server = await connect(stack.database_url)
    # Copied as files where that can be chosen: through the WAL, it takes a third longer.
    copy = " STRATEGY file_copy" if server.get_server_version() >= (15,) else ""
    await server.execute(f"CREATE DATABASE {name} TEMPLATE {template}{copy}")
    url = _named(stack.database_url, name)
    connection = await connect(url)
    # The copy would share its template's identity, and with it the Redis keys of every other test.
    await connection.execute("UPDATE instance SET id = gen_random_uuid()")
    await connection.close()
    yield url
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest_asyncio.fixture
async def empty_url(stack: Stack) -> AsyncIterator[str]:
    """A database with nothing in it."""
    name = f"webhookd_{uuid.uuid4().hex[:12]}"
    server = await connect(stack.database_url)
    await server.execute(f"CREATE DATABASE {name}")
    yield _named(stack.database_url, name)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to the test's database."""
    connection = await connect(database_url)
    yield connection
    await connection.close()


@dataclass(slots=True, frozen=True)
class Servers:
    """What a daemon under test connects to: its own database and queues."""

    database_url: str
    redis_url: str
    sqs_endpoint_url: str
    queue: str
    dead_letter_queue: str
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        """As environment variables' names and values, with the rest of what a test's daemon needs."""
        return {
            **base_settings(),
            "WEBHOOKD_DATABASE_URL": self.database_url,
            "WEBHOOKD_REDIS_URL": self.redis_url,
            "WEBHOOKD_SQS_ENDPOINT_URL": self.sqs_endpoint_url,
            "WEBHOOKD_SQS_QUEUE": self.queue,
            "WEBHOOKD_SQS_DEAD_LETTER_QUEUE": self.dead_letter_queue,
        }


def settings_of(values: dict[str, str], **overrides: Any) -> Settings:
    """Settings from environment variables' names and values, with `overrides` by field."""
    settings = load(**{name.removeprefix("WEBHOOKD_").lower(): value for name, value in values.items()} | overrides)
    note_settings(settings)
    return settings


Start = Callable[..., Awaitable[Daemon]]


@pytest_asyncio.fixture
async def start(servers: Servers) -> AsyncIterator[Start]:
    """Starts daemons inside the test's process; takes settings by field, and `registry` with users' handlers."""
    daemons = []

    async def begin(registry: Registry | None = None, **overrides: Any) -> Daemon:
        daemon = Daemon(settings_of(servers.settings, **overrides), registry or Registry())
        daemons.append(daemon)
        await daemon.start()
        return daemon

    yield begin
    for daemon in daemons:
        await daemon.stop()


@pytest_asyncio.fixture
async def servers(stack: Stack, database_url: str, tmp_path: Path) -> Servers:
    """A database of its own, and a queue with its dead-letter queue."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    found = Servers(
        database_url=database_url,
        redis_url=stack.redis_url,
        sqs_endpoint_url=stack.sqs_endpoint_url,
        queue=name,
        dead_letter_queue=f"{name}-dead",
        folder=tmp_path,
    )
    await make_queues(found)
    return found


async def make_queues(servers: Servers) -> None:
    """Makes the queue and its dead-letter queue; finding them made is fine."""
    settings = settings_of(servers.settings)
    sqs = make_sqs(settings, Metrics(), Watch())
    await sqs.start()
    try:
        await sqs.create_queues()
    finally:
        await sqs.stop()
