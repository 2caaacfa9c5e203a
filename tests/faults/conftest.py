"""The fault suite's rigs, its long part, and the table that it prints."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import pytest_asyncio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.conftest import Servers, make_queues, temporary
from tests.helpers.rig import Rig, Row
from webhookd.dev.servers import Stack
from webhookd.store.migrations import migrate

_ROW = "row of the fault suite"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Reads the rows from the reports: when tests run in parallel, the reports of other processes arrive here, too.
    reports = [report for of in terminalreporter.stats.values() for report in of if getattr(report, "when", "") == "call"]
    rows = [Row(**value) for report in reports for name, value in report.user_properties if name == _ROW]
    if not rows:
        return
    table = Table("case", "rounds", "sent", "acknowledged", "lost", "doubled", "seconds to recover")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in sorted(rows, key=lambda row: row.case):
        recovery = "" if row.recovery is None else f"{row.recovery:.1f}"
        counts = (row.rounds, row.sent, row.acknowledged, row.lost, row.doubled)
        table.add_row(escape(row.case), *map(str, counts), recovery)
    total = [sum(getattr(row, name) for row in rows) for name in ("rounds", "sent", "acknowledged", "lost", "doubled")]
    table.add_section()
    table.add_row(f"{len(rows)} cases", *map(str, total), "")
    terminalreporter.section("faults")
    Console(width=140).print(table)


def _case(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).removeprefix("test_").replace("_", " ")


def _rig(request: pytest.FixtureRequest, servers: Servers, stack: Stack) -> Rig:
    def record(row: Row) -> None:
        request.node.user_properties.append((_ROW, asdict(row)))

    return Rig(_case(request), servers, stack, bool(request.config.getoption("--faults-long")), record)


@pytest_asyncio.fixture
async def rig(request: pytest.FixtureRequest, servers: Servers, stack: Stack) -> AsyncIterator[Rig]:
    """Yields a rig on the session's servers, with a database and queues of its own."""
    made = _rig(request, servers, stack)
    await made.open()
    yield made
    await made.close()


@pytest.fixture(scope="session")
def migrated(_own_environment: None) -> Iterator[Path]:
    """Makes the folder of a PostgreSQL whose database is migrated, and stops PostgreSQL."""
    with temporary() as folder:
        stack = Stack(folder, redis_url="redis://a.invalid", sqs_endpoint_url="http://a.invalid", durable=False)
        stack.start()
        asyncio.run(migrate(stack.database_url))
        stack.stop()
        yield stack.postgresql.folder


@pytest_asyncio.fixture
async def own_rig(request: pytest.FixtureRequest, migrated: Path, server_folder: Path, tmp_path: Path) -> AsyncIterator[Rig]:
    """Yields a rig with servers of its own, which the case may stop and kill."""
    stack = Stack(server_folder, durable=False)
    shutil.copytree(migrated, stack.postgresql.folder)  # initdb and the migrations take a second of a processor
    await asyncio.to_thread(stack.start)
    try:
        servers = Servers(stack.database_url, stack.redis_url, stack.sqs_endpoint_url, "main", "main-dead", tmp_path)
        await make_queues(servers)
        made = _rig(request, servers, stack)
        await made.open()
        yield made
        await made.close()
    finally:
        await asyncio.to_thread(stack.stop)
