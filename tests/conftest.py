"""The servers of a test session, with a fresh database and fresh queues for each test.

If WEBHOOKD_TEST_DATABASE_URL, WEBHOOKD_TEST_REDIS_URL or WEBHOOKD_TEST_SQS_ENDPOINT_URL is set, the tests use that server.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
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
import botocore.session
import hypothesis
import psutil
import pytest
import pytest_asyncio
import structlog

from tests.helpers.database import connect
from tests.helpers.running import base_settings
from tests.helpers.secrets import note_settings
from tests.model.spin import NO_SPIN
from webhookd.daemon import Daemon
from webhookd.dev.servers import Stack
from webhookd.process.handlers import Registry
from webhookd.settings import Settings, load
from webhookd.store.migrations import migrate

pytest_plugins = ["pytester", "tests.helpers.groups", "tests.helpers.rerun", "tests.helpers.slices"]

# A copy of the example runs as a project of its own (tests/integration/test_testing_fixtures.py).
collect_ignore = ["example_shop"]

# The tests of these folders run last, in this order. They are short, so all processes of pytest end at about the same time.
_LAST = ("contract", "integration", "unit")

NO_CHROMIUM = "no chromium; apt install chromium"
NO_FIREFOX = "no Firefox; apt install firefox-esr"

# Tests send SIGINT to commands. A shell's background job ignores SIGINT, and the commands would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)


# A busy machine makes examples slowly, and runs a test slowly with some of them. Neither is a fault of the code.
hypothesis.settings.register_profile("webhookd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("webhookd")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults-long", action="store_true", help="also the fault suite's long cases, and many rounds of the others"
    )


def pytest_collection() -> None:
    gc.disable()  # thousands of tests and modules are made now, and none of them goes


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "/faults/" in str(item.path):
            # If a client's connection is reset in the middle of a request, aiohttp leaves a task's exception unread.
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.timeout(900))
    items.sort(key=lambda item: next((turn for turn, name in enumerate(_LAST) if name in item.path.parts), -1))
    if config.getoption("--faults-long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Reports tests that were skipped because a program is missing, so that they are not lost among the other tests."""
    skipped = terminalreporter.stats.get("skipped", [])
    for what, reason in (("dashboard", NO_CHROMIUM), ("dashboard in Firefox", NO_FIREFOX), ("model", NO_SPIN)):
        if any(reason in str(report.longrepr) for report in skipped):
            terminalreporter.write_line(f"the {what} was NOT tested: {reason}", red=True, bold=True)


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """Keeps settings of the developer's shell out of the tests, and real credentials out of AWS calls."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("WEBHOOKD_") and not name.startswith("WEBHOOKD_TEST_")]:
        patch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        patch.delenv(name, raising=False)
    # A daemon in the test's process logs with structlog's defaults, which show an exception with the values of variables.
    *processors, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, plain])
    # Keep botocore's data files: each daemon under test would read them again, which takes a tenth of a second.
    patch.setattr("botocore.session.create_loader", functools.cache(botocore.loaders.create_loader))
    yield
    patch.undo()


_MEMORY = Path("/dev/shm")  # Linux's file system in memory
_ROOM = 4 << 30  # bytes. The servers of a process of pytest take 80 MB at the start, and at most 128 MB of WAL more


def _fits_in_memory() -> bool:
    try:
        room = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
    except OSError:
        return False
    return room > _ROOM and os.access(_MEMORY, os.W_OK)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """Makes a folder for servers, and removes it at the end.

    The folder is not in pytest's: each new session closes pytest's folder to other users, and PostgreSQL does not run as root.
    It is in memory if there is room: on a disk, a copy of the template takes 180 ms of a processor, in memory 14 ms.
    """
    folder = Path(tempfile.mkdtemp(prefix="webhookd-tests-", dir=_MEMORY if _fits_in_memory() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """Makes a folder for a test's own servers."""
    with temporary() as folder:
        yield folder


@pytest.fixture(scope="session")
def stack(_own_environment: None) -> Iterator[Stack]:
    """Starts the servers of the session."""
    with temporary() as folder:
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
    """Makes a migrated database, and returns its name. Each test's database is a copy of this database."""
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
    """Makes a fresh, migrated database, and returns its URL."""
    name = f"webhookd_{uuid.uuid4().hex[:12]}"
    server = await connect(stack.database_url)
    # Copy files if PostgreSQL offers this choice: a copy through the WAL takes a third longer.
    copy = " STRATEGY file_copy" if server.get_server_version() >= (15,) else ""
    await server.execute(f"CREATE DATABASE {name} TEMPLATE {template}{copy}")
    url = _named(stack.database_url, name)
    connection = await connect(url)
    # Give the copy its own identity: with the template's identity, it would share the Redis keys of every other test.
    await connection.execute("UPDATE instance SET id = gen_random_uuid()")
    await connection.close()
    yield url
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest_asyncio.fixture
async def empty_url(stack: Stack) -> AsyncIterator[str]:
    """Makes an empty database, and returns its URL."""
    name = f"webhookd_{uuid.uuid4().hex[:12]}"
    server = await connect(stack.database_url)
    await server.execute(f"CREATE DATABASE {name}")
    yield _named(stack.database_url, name)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Opens a connection to the test's database."""
    connection = await connect(database_url)
    yield connection
    await connection.close()


@dataclass(slots=True, frozen=True)
class Servers:
    """The servers that a daemon under test connects to, with a database and queues of its own."""

    database_url: str
    redis_url: str
    sqs_endpoint_url: str
    queue: str
    dead_letter_queue: str
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        """Returns every setting that a test's daemon needs, as names and values of environment variables."""
        return {
            **base_settings(),
            "WEBHOOKD_DATABASE_URL": self.database_url,
            "WEBHOOKD_REDIS_URL": self.redis_url,
            "WEBHOOKD_SQS_ENDPOINT_URL": self.sqs_endpoint_url,
            "WEBHOOKD_SQS_QUEUE": self.queue,
            "WEBHOOKD_SQS_DEAD_LETTER_QUEUE": self.dead_letter_queue,
        }


def settings_of(values: dict[str, str], **overrides: Any) -> Settings:
    """Returns settings from names and values of environment variables; `overrides` replace fields by name."""
    settings = load(**{name.removeprefix("WEBHOOKD_").lower(): value for name, value in values.items()} | overrides)
    note_settings(settings)
    return settings


Start = Callable[..., Awaitable[Daemon]]


@pytest_asyncio.fixture
async def start(servers: Servers) -> AsyncIterator[Start]:
    """Returns a function that starts a daemon in the test's process. `registry` has users' handlers; settings go by field."""
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
    """Returns the servers, with a database, a queue and a dead-letter queue of the test's own."""
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
    """Makes the queue and its dead-letter queue as `Sqs.create_queues` does, unless they exist already.

    All tests of a process share the client: a daemon's clients take 80 ms of a processor.
    """
    sqs = _client(servers.sqs_endpoint_url)

    def make() -> None:
        kept = {"MessageRetentionPeriod": "1209600"}
        dead = sqs.create_queue(QueueName=servers.dead_letter_queue, Attributes=kept)["QueueUrl"]
        target = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": 20})
        hidden = str(settings_of(servers.settings).visibility_timeout)
        sqs.create_queue(QueueName=servers.queue, Attributes={**kept, "RedrivePolicy": policy, "VisibilityTimeout": hidden})

    await asyncio.to_thread(make)  # the server may be a gateway in this process


@functools.cache
def _client(endpoint_url: str) -> Any:
    return botocore.session.get_session().create_client("sqs", endpoint_url=endpoint_url)
