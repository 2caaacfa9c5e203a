"""The types of what handlers' modules import are precise: mypy accepts a right handler, and finds a wrong one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.helpers.guide import ROOT

_EXAMPLE = ROOT / "tests" / "example_shop"
_RIGHT = """
from functools import partial
from typing import Any, AsyncIterator, Protocol

import asyncpg

from webhookd import Connection, Event, Permanent, Retry, Retryable, lifespan, on


@lifespan
async def sizes() -> AsyncIterator[dict[str, int]]:
    yield {"large": 3}


size: int = sizes.value["large"]
name: str = sizes.value["large"]  # wrong


@on("payment.refund.created", retry=Retry(attempts=3, base=60, cap=600))
@on("net.authorize.fresh.created", unknown=True)
async def refund(event: Event, connection: Connection) -> None:
    row: asyncpg.Record | None = await connection.fetchrow("SELECT 1")
    if row is None:
        raise Permanent("no such order")
    raise Retryable("later", after=60)


@on("*")
async def any_connection(event: Event, connection: Any) -> None: ...


@on("*")
async def connection_of_asyncpg(event: Event, connection: "asyncpg.Connection[asyncpg.Record]") -> None: ...


class Books(Protocol):
    async def execute(self, query: str, *args: Any) -> str: ...


@on("*")
async def connection_of_a_protocol(event: Event, connection: Books, *, client: int = 0) -> None: ...


class Shop:
    async def book(self, event: Event, connection: Connection) -> None: ...

    async def __call__(self, event: Event, connection: Connection) -> None: ...


on("*")(Shop().book)
on("*")(Shop())
on("*")(partial(connection_of_a_protocol, client=1))


async def other(connection: Connection, event: Event) -> None:
    await refund(event, connection)  # a handler keeps its type
    await refund(event)  # wrong
"""

_WRONG = """
from typing import Any, AsyncIterator

from webhookd import Event, Retryable, lifespan, on


@lifespan  # wrong
async def no_hook() -> int:
    return 1


@lifespan  # wrong
async def needs(client: Any) -> AsyncIterator[int]:
    yield 1


@on  # wrong
async def bare(event: Event, connection: Any) -> None: ...


@on(1)  # wrong
async def number(event: Event, connection: Any) -> None: ...


@on("*", retry={"attempts": 3})  # wrong
async def retry(event: Event, connection: Any) -> None: ...


@on("*")  # wrong
def still(event: Event, connection: Any) -> None: ...


@on("*")  # wrong
async def alone(event: Event) -> None: ...


@on("*")  # wrong
async def three(event: Event, connection: Any, client: Any) -> None: ...


@on("*")  # wrong
async def keyword(event: Event, connection: Any, *, client: Any) -> None: ...


@on("*")  # wrong
async def text(event: str, connection: Any) -> None: ...


@on("*")  # wrong
async def answer(event: Event, connection: Any) -> int:
    return 1


@on("*")  # wrong
async def generator(event: Event, connection: Any) -> AsyncIterator[None]:
    yield


class Shop:
    @on("*")  # wrong
    async def book(self, event: Event, connection: Any) -> None: ...


@on("*")
async def fields(event: Event, connection: Any) -> None:
    event.payload["id"].nothing
    event.payloads  # wrong
    raise Retryable(after=60, reason=None)  # wrong
"""

_TESTS = """
from decimal import Decimal

import webhookd
from webhookd import Connection, Event, lifespan, on
from webhookd.testing import Handlers, Status, Trial, event, trial
from typing import AsyncIterator


@lifespan
async def sizes() -> AsyncIterator[int]:
    yield 1


@on("*")
async def book(event: Event, connection: Connection) -> None: ...


handlers: Handlers = [webhookd, book]
no_handlers: Handlers = [1]  # wrong
sale: Event = event("payment.authcapture.created", amount="7.10", invoice_number="4711", auth_code=None)
event("payment.authcapture.created", amount=Decimal("7.10"), response_code=2, payload={"new": 1}, account="eu")
event("payment.authcapture.created", amount=7.1)  # wrong
event("payment.authcapture.created", invoice_number=4711)  # wrong
event("payment.authcapture.created", invoiceNumber="4711")  # wrong
event(1)  # wrong


async def test(begun: Trial) -> None:
    status: Status = await begun.deliver(sale, times=2)
    await begun.assert_once(sale, forced=False)
    await begun.connection.nothing()  # wrong
    begun.deliver("sale")  # wrong
    async with trial("postgresql://", handlers) as other:
        number: int = await other.deliver(sale)  # wrong
    with sizes.replaced_by(2), sizes.replaced_by("2"):  # wrong
        pass
"""


def test_mypy_accepts_what_webhookd_accepts_and_the_examples_and_finds_what_webhookd_refuses(tmp_path: Path) -> None:
    files = {"right.py": _RIGHT, "wrong.py": _WRONG, "trials.py": _TESTS}
    files |= {name: (_EXAMPLE / name).read_text() for name in ("shop.py", "conftest.py", "test_shop.py")}
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    # As a user of an installed webhookd runs it. One run for all: each reads the whole package.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", *files]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    errors = {(path, int(line)) for path, line in re.findall(r"^(.+?):(\d+): error:", result.stdout, re.MULTILINE)}
    wrong = {
        (name, number)
        for name, code in files.items()
        for number, line in enumerate(code.splitlines(), 1)
        if line.endswith("# wrong")
    }
    assert {name for name, _ in wrong} == {"right.py", "wrong.py", "trials.py"}
    assert errors == wrong, result.stdout
