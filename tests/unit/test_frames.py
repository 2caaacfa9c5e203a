"""The place of an error is the user's own, wherever the error was raised; and no message of an exception is in it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from webhookd.errors import Permanent
from webhookd.process.failure import Failure
from webhookd.process.handlers import Registration
from webhookd.telemetry.frames import origin

_SECRET = "Jane Doe"
_SHOP = """import asyncio, json
from webhookd import Retryable


async def direct(event, connection):
    raise ValueError("Jane Doe")

async def library(event, connection):
    json.loads("Jane Doe")

async def of_webhookd(event, connection):
    Retryable(after="Jane Doe")

async def chained(event, connection):
    try:
        {}["Jane Doe"]
    except KeyError as error:
        try:
            raise LookupError("Jane Doe") from error
        except LookupError:
            raise ValueError("Jane Doe")

async def hidden(event, connection):
    try:
        {}["Jane Doe"]
    except KeyError:
        raise ValueError("Jane Doe") from None

async def circle(event, connection):
    first, second = ValueError("Jane Doe"), KeyError("Jane Doe")
    first.__cause__, second.__cause__ = second, first
    raise first

def helper():
    raise ValueError("Jane Doe")

async def deeper(event, connection):
    helper()

async def cancelled(event, connection):
    await asyncio.wait_for(asyncio.sleep(10), 0.001)
"""


@pytest.fixture(params=["shop_of_frames", "site-packages/shop_installed"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imports users' handlers from a folder of their own, or from where installed packages are."""
    path = tmp_path / f"{request.param}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(_SHOP)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return importlib.import_module(path.stem)


async def _failure(handler: Any) -> Failure:
    try:
        await handler(None, None)
    except BaseException as error:
        return Failure.of(error, by=Registration("*", handler))
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    ("name", "kind", "line", "frame", "rest"),
    [
        ("direct", "ValueError", 6, "direct", ""),
        ("library", "JSONDecodeError", 9, "library", r", raised at decoder.py:\d+ in raw_decode"),
        ("of_webhookd", "TypeError", 12, "of_webhookd", r", raised at errors.py:\d+ in __init__"),
        ("chained", "ValueError", 21, "chained", ", from LookupError, from KeyError"),
        ("hidden", "ValueError", 27, "hidden", ""),
        ("circle", "ValueError", 32, "circle", ", from KeyError"),
        ("deeper", "ValueError", 35, "helper", ""),
        ("cancelled", "TimeoutError", 41, "cancelled", r", raised at \w+.py:\d+ in \w+, from CancelledError"),
    ],
)
async def test_a_failure_names_the_handler_and_the_users_own_line(
    shop: ModuleType, name: str, kind: str, line: int, frame: str, rest: str
) -> None:
    failure = await _failure(getattr(shop, name))
    place = f" at {shop.__file__}:{line} in {shop.__name__}.{frame}"
    assert re.fullmatch(re.escape(f"{kind}{place}") + rest, failure.error), failure.error
    assert failure.handler == f"{shop.__name__}.{name}"
    assert _SECRET not in failure.error
    assert failure.detail.endswith(f" [handler {shop.__name__}.{name}{failure.origin}]")
    assert failure.detail.startswith(f"{kind}: ") or failure.detail.startswith(f"{kind} [")


async def test_the_place_stands_behind_a_message_of_any_length() -> None:
    async def endless(_: Any, __: Any) -> None:
        raise Permanent("x" * 100_000)

    detail = (await _failure(endless)).detail
    assert len(detail) < 2000 - len(" (next try in 43200.00 s)")
    assert f"{__file__}:" in detail


async def test_an_exception_that_raises_when_it_is_looked_at_is_a_failure_like_any_other() -> None:
    class OddError(Exception):
        @property
        def __cause__(self) -> Any:  # type: ignore[override]
            raise RuntimeError

    async def odd(_: Any, __: Any) -> None:
        raise OddError

    failure = await _failure(odd)
    assert failure.kind.endswith("OddError")
    assert failure.handler == f"{__name__}.{odd.__qualname__}"


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert origin(ValueError(_SECRET), "shop") == ""
