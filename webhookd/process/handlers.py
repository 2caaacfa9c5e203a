"""The registry of handlers: the coroutine functions for each event type, in registration order."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from webhookd.authorizenet.notification import whole_pattern
from webhookd.errors import SettingsError
from webhookd.event import Event
from webhookd.process.retry import USUAL, Policy, Retry

Handler = Callable[[Event, Any], Awaitable[None]]
H = TypeVar("H", bound=Handler)


@dataclass(slots=True, frozen=True)
class Registration:
    """One handler, the pattern of its event types (`*` matches any characters, dots too), and its retry policy."""

    pattern: str
    handler: Handler
    retry: Retry = USUAL

    @property
    def name(self) -> str:
        """Returns the handler's module and name, for logs."""
        return f"{self.handler.__module__}.{self.handler.__qualname__}"


class Registry:
    """Handlers in registration order."""

    def __init__(self, registrations: Iterable[Registration] = ()) -> None:
        self._registrations = list(registrations)
        self._matching = functools.lru_cache(maxsize=1024)(self._match)

    def add(self, pattern: str, handler: Handler, retry: Retry = USUAL) -> None:
        """Adds `handler` for the event types that match `pattern`."""
        if not inspect.iscoroutinefunction(handler):
            raise TypeError(f"a handler must be a coroutine function (async def), not {handler!r}")
        if not isinstance(retry, Retry):
            raise TypeError(f"retry must be a webhookd.Retry, not {retry!r}")
        self._registrations.append(Registration(whole_pattern(pattern), handler, retry))
        self._matching.cache_clear()

    def replace(self, registrations: Iterable[Registration] = ()) -> list[Registration]:
        """Replaces all handlers; returns the handlers from before. A run that has begun keeps those that it began with."""
        before, self._registrations = self._registrations, list(registrations)
        self._matching.cache_clear()
        return before

    def matching(self, event_type: str) -> tuple[Registration, ...]:
        """Returns the handlers for `event_type`."""
        return self._matching(event_type)

    def check(self, usual: Policy) -> None:
        """Raises SettingsError if a handler's retry policy cannot work; the error names the handler."""
        for registration in self._registrations:
            try:
                registration.retry.check(usual)
            except SettingsError as error:
                raise SettingsError(f"the handler {registration.name}: {error}") from None

    def _match(self, event_type: str) -> tuple[Registration, ...]:
        return tuple(r for r in self._registrations if fnmatch.fnmatchcase(event_type, r.pattern))

    def __iter__(self) -> Any:
        return iter(self._registrations)

    def __len__(self) -> int:
        return len(self._registrations)


# `@on` in users' modules adds their handlers here.
registered = Registry()


def on(pattern: str, *, retry: Retry = USUAL) -> Callable[[H], H]:
    """Registers a coroutine function `handler(event, connection)` for the event types that match `pattern`.

    The handler's writes through `connection` (asyncpg) commit together with the event's `processed` status, exactly once.
    The handler may raise Retryable or Permanent. After any other exception, the event is retried.
    `pattern`: `*` matches any characters; `net.authorize.` at the beginning may be left out.
    `retry`: the retry policy for this handler's failures; without it, the settings decide.
    """

    def register(handler: H) -> H:
        registered.add(pattern, handler, retry)
        return handler

    return register


def load(modules: Iterable[str], usual: Policy) -> None:
    """Imports users' modules, which register their handlers. Raises SettingsError, which names the wrong module or handler.

    `usual`: the retry policy of handlers that have no policy of their own.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except SettingsError as error:  # the module has a `Retry(…)` whose values cannot work
            raise SettingsError(f"WEBHOOKD_HANDLERS: {module!r}: {error}") from error
        except Exception as error:
            raise SettingsError(
                f"WEBHOOKD_HANDLERS: importing {module!r} failed with {type(error).__name__}: {error}; "
                "name importable modules, comma-separated, and check that they are on PYTHONPATH"
            ) from error
    registered.check(usual)


def load_again(modules: Iterable[str], usual: Policy, *, forget: Mapping[str, ModuleType]) -> None:
    """Imports users' modules anew, and the modules `forget` that these import. Raises what `load` raises, and changes nothing.

    No event can see the state between: this function does not leave the event loop.
    """
    for name in forget:
        del sys.modules[name]
    importlib.invalidate_caches()  # Python may not know yet of a file that was made a moment ago
    before = registered.replace()
    try:
        load(modules, usual)
    except BaseException:
        sys.modules.update(forget)
        registered.replace(before)
        raise
