"""Fixtures of the previous release: its unpacked code, and databases that its own `webhookd migrate` made."""

from __future__ import annotations

import asyncio
import compileall
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Servers, make_queues
from tests.helpers.command import webhookd
from tests.helpers.database import connect
from tests.upgrade import release
from webhookd.dev.servers import Stack


@pytest.fixture(scope="session")
def previous(_own_environment: None) -> Iterator[Path]:
    """Yields the folder that PYTHONPATH must name for `python -m webhookd` to be the previous release."""
    folder = Path(tempfile.mkdtemp(prefix="webhookd-previous-"))
    compileall.compile_dir(release.unpack(folder), quiet=1)  # once, rather than at each start of a process
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _named(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()


async def _on_server(stack: Stack, statement: str) -> None:
    server = await connect(stack.database_url)
    try:
        await server.execute(statement)
    finally:
        await server.close()


@pytest.fixture(scope="session")
def old_template(stack: Stack, previous: Path) -> Iterator[str]:
    """Yields the name of a database with the previous release's schema, made by that release."""
    name = f"webhookd_previous_{uuid.uuid4().hex[:8]}"
    environment = {"WEBHOOKD_DATABASE_URL": _named(stack.database_url, name), "PYTHONPATH": str(previous)}

    async def make() -> None:
        await _on_server(stack, f"CREATE DATABASE {name}")
        # Both settings must be set, but `migrate` uses neither.
        environment.update(WEBHOOKD_REDIS_URL=stack.redis_url, WEBHOOKD_SIGNATURE_KEYS="ab" * 64)
        code, out, err = await webhookd("migrate", folder=previous, **environment)
        assert code == 0, out + err

    asyncio.run(make())
    yield name
    asyncio.run(_on_server(stack, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest_asyncio.fixture
async def old_database_url(stack: Stack, old_template: str) -> AsyncIterator[str]:
    """Yields the URL of a new, empty database with the previous release's schema."""
    name = f"webhookd_{uuid.uuid4().hex[:12]}"
    await _on_server(stack, f"CREATE DATABASE {name} TEMPLATE {old_template}")
    url = _named(stack.database_url, name)
    connection = await connect(url)
    await connection.execute("UPDATE instance SET id = gen_random_uuid()")  # prefix of Redis keys, not to share with others
    await connection.close()
    yield url
    await _on_server(stack, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def old_connection(old_database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Yields a connection to the database of `old_database_url`."""
    connection = await connect(old_database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def old_servers(stack: Stack, old_database_url: str, tmp_path: Path) -> Servers:
    """Returns servers with the database of `old_database_url` and new queues."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    found = Servers(old_database_url, stack.redis_url, stack.sqs_endpoint_url, name, f"{name}-dead", tmp_path)
    await make_queues(found)
    return found
