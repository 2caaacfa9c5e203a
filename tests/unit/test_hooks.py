"""Hooks start in their order before the first event, end in the reverse order, and never keep the daemon from ending."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import settings_of
from tests.helpers.running import base_settings
from webhookd import lifespan
from webhookd.errors import HandlerError, HookError, SettingsError
from webhookd.process import handlers, hooks, loading
from webhookd.process.handlers import Registry
from webhookd.process.hooks import Hooks
from webhookd.process.retry import Policy
from webhookd.runtime.loops import Watch

_SETTINGS = base_settings() | {"WEBHOOKD_DATABASE_URL": "postgresql://u@h/d", "WEBHOOKD_REDIS_URL": "redis://h"}
_SECRET = "redis://:hunter2@cache"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(handlers, "registered", registry)
    return registry


def _part(registry: Registry, watch: Watch | None = None) -> Hooks:
    return Hooks(registry.hooks, watch or Watch())


async def test_a_value_is_there_between_start_and_stop_and_the_order_is_reversed(registry: Registry) -> None:
    done: list[str] = []

    @lifespan
    async def settings() -> AsyncIterator[dict[str, int]]:
        done.append("settings begins")
        yield {"size": 3}
        done.append("settings ends")

    @lifespan
    async def cache() -> AsyncIterator[list[int]]:
        done.append("cache begins")
        yield [settings.value["size"]]  # a later hook uses an earlier one
        done.append(f"cache ends with {settings.value}")

    assert done == []
    with pytest.raises(HookError, match=r"cache \(.*test_hooks\.py:\d+\) is not running; .*`async with cache:`"):
        _ = cache.value
    part = _part(registry)
    await part.stop()  # before the start: nothing
    await part.start()
    await part.start()
    assert cache.value == [3]
    await part.stop()
    await part.stop()
    assert done == ["settings begins", "cache begins", "cache ends with {'size': 3}", "settings ends"]
    with pytest.raises(HookError, match="is not running"):
        _ = cache.value


async def test_a_user_can_start_a_hook_in_a_test_of_their_own() -> None:
    @lifespan
    async def cache() -> AsyncIterator[list[int]]:
        yield [1]

    async with cache as value:
        assert value is cache.value
    with pytest.raises(HookError):
        _ = cache.value


async def test_a_hook_that_fails_is_named_with_its_line_and_without_its_message_and_the_earlier_ones_end(
    registry: Registry,
) -> None:
    ended: list[str] = []

    @lifespan
    async def first() -> AsyncIterator[None]:
        try:
            yield
        finally:
            ended.append("first")

    @lifespan
    async def second() -> AsyncIterator[None]:
        if ended == []:
            raise ConnectionError(_SECRET)
        yield

    @lifespan
    async def third() -> AsyncIterator[None]:
        ended.append("third began")
        yield

    part = _part(registry)
    with pytest.raises(HookError) as failed:
        await part.start()
    message = str(failed.value)
    line = second.function.__code__.co_firstlineno
    assert (
        f"second ({__file__}:{line}) failed, so the daemon does not start: ConnectionError at {__file__}:{line + 3} in"
        in message
    )
    assert _SECRET not in message
    assert ended == ["first"]
    await part.stop()


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_hook_that_does_not_start_in_time_is_refused(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, swallows: bool
) -> None:
    monkeypatch.setattr(hooks, "_START", 0.05)
    monkeypatch.setattr(hooks, "_CANCELLED", 0.05)
    ends = asyncio.Event()

    @lifespan
    async def slow() -> AsyncIterator[None]:
        while not ends.is_set():
            with contextlib.suppress(asyncio.CancelledError if swallows else ZeroDivisionError):
                await ends.wait()
        yield

    part = _part(registry)
    try:
        with pytest.raises(
            HookError, match=r"slow \(.*\) took longer than 0.05 s, so the daemon does not start; give each call"
        ):
            await part.start()
    finally:
        ends.set()
    await part.stop()


async def test_a_slow_hook_does_not_hold_up_the_stop_and_the_earlier_ones_end(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hooks, "_LEAST_STOP", 0.05)
    ended = []

    @lifespan
    async def first() -> AsyncIterator[None]:
        try:
            yield
        finally:
            ended.append("first")

    @lifespan
    async def slow() -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    watch = Watch()
    part = _part(registry, watch)
    await part.start()
    part.stop_by(time.monotonic() + 0.05)
    async with asyncio.timeout(30):
        await part.stop()
    assert ended == ["first"]
    assert not watch.broken.is_set()
    out = capsys.readouterr().out
    assert "a hook did not stop within WEBHOOKD_SHUTDOWN_GRACE" in out
    assert "slow" in out


async def test_a_hook_that_fails_at_the_stop_is_logged_without_its_message_and_the_earlier_ones_end(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = []

    @lifespan
    async def first() -> AsyncIterator[None]:
        yield
        ended.append("first")

    @lifespan
    async def failing() -> AsyncIterator[None]:
        yield
        raise ValueError(_SECRET)

    watch = Watch()
    part = _part(registry, watch)
    await part.start()
    await part.stop()
    assert ended == ["first"]
    assert not watch.broken.is_set()
    out = capsys.readouterr().out
    assert "a hook failed at the stop" in out
    assert "ValueError at " in out
    assert _SECRET not in out


async def test_a_task_group_works_in_a_hook_and_its_failure_stops_the_daemon(registry: Registry) -> None:
    go_on, ended = asyncio.Event(), []

    async def send() -> None:
        await go_on.wait()
        raise ValueError(_SECRET)

    @lifespan
    async def sender() -> AsyncIterator[None]:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send())
                yield
        finally:
            ended.append("sender")

    watch = Watch()
    part = _part(registry, watch)
    await part.start()
    await asyncio.sleep(0)
    assert not watch.broken.is_set()
    go_on.set()
    async with asyncio.timeout(30):
        await watch.broken.wait()
    assert ended == ["sender"]
    await part.stop()


async def _coroutine() -> None: ...


def _generator() -> Iterator[None]:
    yield


async def _needs(client: Any) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            _coroutine,
            r"_coroutine \(.*\): @lifespan needs an async function with one `yield`; write `async def",
        ),
        (_generator, "@lifespan needs an async function with one `yield`"),
        (_needs, "webhookd calls it without arguments; give each parameter a default"),
    ],
)
def test_what_is_no_hook_is_refused_at_once(registry: Registry, function: Callable[..., Any], message: str) -> None:
    with pytest.raises(HandlerError, match=message):
        lifespan(function)
    assert registry.hooks == []


async def test_a_hook_without_a_yield_at_run_time_is_refused(registry: Registry) -> None:
    @lifespan
    async def empty() -> AsyncIterator[None]:
        if registry.modules:
            yield

    with pytest.raises(HookError, match=r"empty \(.*\) failed, so the daemon does not start: RuntimeError"):
        await _part(registry).start()


_SHOP = """
from webhookd import lifespan, on


@lifespan
async def cache():
    yield ["made once"]


@on("payment.*")
async def book(event, connection):
    return cache.value, {version}
"""


async def test_a_reload_keeps_what_the_hooks_made_and_the_handlers_of_other_modules(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, version in (("changing_shop", 1), ("installed_shop", 7)):
        (tmp_path / f"{name}.py").write_text(_SHOP.replace("{version}", str(version)))
    modules, policy = ("changing_shop", "installed_shop"), Policy.of(settings_of(_SETTINGS))

    async def answers() -> list[Any]:
        return [await one.handler(None, None) for one in registry.matching("net.authorize.payment.void.created")]  # type: ignore[arg-type, func-returns-value]

    def again() -> None:
        loading.load_again(modules, policy, forget={"changing_shop": sys.modules["changing_shop"]})

    loading.load(modules, policy)
    part = _part(registry)
    await part.start()
    assert await answers() == [(["made once"], 1), (["made once"], 7)]
    made = registry.hooks[0].value
    for version in (2, 3):
        (tmp_path / "changing_shop.py").write_text(_SHOP.replace("{version}", str(version)))
        again()
        assert sorted(await answers(), key=str) == [(["made once"], version), (["made once"], 7)]
        assert any(hook.value is made for hook in registry.hooks)
    (tmp_path / "changing_shop.py").write_text(_SHOP.replace("cache", "other").replace("{version}", "4"))
    with pytest.raises(SettingsError, match=r"the hook changing_shop\.other .* is new"):
        again()
    assert sorted(await answers(), key=str) == [(["made once"], 3), (["made once"], 7)]
    await part.stop()
    for name in modules:
        del sys.modules[name]


async def test_a_hook_that_ends_its_process_is_an_error_of_the_hook(registry: Registry) -> None:
    @lifespan
    async def quitting() -> AsyncIterator[None]:
        if registry.hooks:
            sys.exit(4)
        yield

    part = _part(registry)
    with pytest.raises(HookError, match=r"quitting.* failed, so the daemon does not start: SystemExit"):
        await part.start()
    registry.hooks.clear()

    @lifespan
    async def late() -> AsyncIterator[None]:
        yield
        sys.exit(4)

    part = _part(registry)
    await part.start()
    await part.stop()  # logs the hook, and goes on
