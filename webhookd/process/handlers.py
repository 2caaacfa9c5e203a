"""The registry of handlers: the coroutine functions for each event type, in registration order."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from webhookd.authorizenet.details import can_have_details
from webhookd.authorizenet.notification import EVENT_TYPES, nearest_type, whole_pattern
from webhookd.errors import HandlerError, SettingsError
from webhookd.event import Event
from webhookd.process.callables import check_handler, module_of, name_of, place_of, told
from webhookd.process.hooks import Hook, make_hook
from webhookd.process.retry import USUAL, Policy, Retry
from webhookd.settings.synthetic_types import SyntheticType

# The connection is `Any`: users' annotations for it differ (webhookd.Connection, asyncpg.Connection, a protocol of their own).
Handler = Callable[[Event, Any], Coroutine[Any, Any, None]]
H = TypeVar("H", bound=Handler)
T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Registration:
    """One handler, the pattern of its event types (`*` matches any characters, dots too), and its retry policy.

    details: whether the handler waits for the details of the event's transaction.
    """

    pattern: str
    handler: Handler
    retry: Retry = USUAL
    details: bool = False

    @property
    def name(self) -> str:
        """Returns the handler's module and name, for logs."""
        return name_of(self.handler)

    @property
    def package(self) -> str:
        """Returns the top-level package of the handler's module."""
        return module_of(self.handler).partition(".")[0]


@dataclass(slots=True, frozen=True)
class Listed:
    """One handler with all its patterns, for people."""

    name: str
    patterns: tuple[str, ...]
    module: str
    path: str
    line: int


class Registry:
    """Handlers in registration order."""

    def __init__(self, registrations: Iterable[Registration] = ()) -> None:
        self._registrations = list(registrations)
        self.hooks: list[Hook[Any]] = []  # in the order of their registration
        self.modules: set[str] = set()  # modules that WEBHOOKD_HANDLERS named and that brought handlers
        self._matching = functools.lru_cache(maxsize=1024)(self._match)

    def add(
        self, pattern: str, handler: Handler, retry: Retry = USUAL, *, unknown: bool = False, details: bool = False
    ) -> None:
        """Adds `handler` for the event types that match `pattern`. Raises HandlerError for a handler that could never work.

        `unknown`: whether `pattern` may match none of the types that webhookd knows.
        `details`: whether `handler` waits for the details of the event's transaction.
        """
        check_handler(handler)
        if not isinstance(retry, Retry):
            raise HandlerError(f"the handler {told(handler)}: retry must be a webhookd.Retry, not {retry!r}")
        if not isinstance(pattern, str):
            raise HandlerError(f"the handler {told(handler)}: @on takes an event type as text, and got {pattern!r}")
        whole = whole_pattern(pattern)
        if not unknown and not any(fnmatch.fnmatchcase(name, whole) for name in (*EVENT_TYPES, *SyntheticType)):
            raise HandlerError(
                f'the handler {told(handler)}: @on("{pattern}") matches no event type that webhookd knows, so the handler '
                f'would never run; the nearest known type is "{nearest_type(pattern, synthetic=True)}". For a type that '
                f'webhookd does not know yet, write @on("{pattern}", unknown=True)'
            )
        if details:
            _check_details(pattern, whole, handler)
        self._registrations.append(Registration(whole, handler, retry, details))
        self._matching.cache_clear()

    def replace(self, registrations: Iterable[Registration], hooks: Iterable[Hook[Any]]) -> None:
        """Replaces all handlers and hooks. A run that has begun keeps the handlers that it began with."""
        self._registrations, self.hooks = list(registrations), list(hooks)
        self._matching.cache_clear()

    def matching(self, event_type: str) -> tuple[Registration, ...]:
        """Returns the handlers for `event_type`."""
        return self._matching(event_type)

    def wants_details(self, event_type: str) -> bool:
        """Returns whether a handler for `event_type` waits for the details of the event's transaction."""
        return any(one.details for one in self._matching(event_type))

    def check(self, usual: Policy) -> None:
        """Raises SettingsError if a handler's retry policy cannot work; the error names the handler."""
        for registration in self._registrations:
            try:
                registration.retry.check(usual)
            except SettingsError as error:
                raise SettingsError(f"the handler {registration.name}: {error}") from None

    def listed(self) -> list[Listed]:
        """Returns each handler once, with its patterns and its place, in registration order."""
        found: dict[int, tuple[Handler, list[str]]] = {}  # by identity: a callable object need not have a hash
        for registration in self._registrations:
            found.setdefault(id(registration.handler), (registration.handler, []))[1].append(registration.pattern)
        return [
            Listed(name_of(handler), tuple(patterns), module_of(handler), *place_of(handler))
            for handler, patterns in found.values()
        ]

    def _match(self, event_type: str) -> tuple[Registration, ...]:
        return tuple(r for r in self._registrations if fnmatch.fnmatchcase(event_type, r.pattern))

    def __iter__(self) -> Iterator[Registration]:
        return iter(self._registrations)

    def __len__(self) -> int:
        return len(self._registrations)


def _check_details(pattern: str, whole: str, handler: Handler) -> None:
    known = (*EVENT_TYPES, *SyntheticType)
    without = [name for name in known if fnmatch.fnmatchcase(name, whole) and not can_have_details(name)]
    if without:
        raise HandlerError(
            f'the handler {told(handler)}: @on("{pattern}", details=True) matches the type "{without[0]}", whose events '
            "are not about a transaction, so they have no details; take details=True out, or name types of transactions, "
            'such as "payment.*"'
        )


# `@on` and `@lifespan` in users' modules add their handlers and hooks here.
registered = Registry()


def on(pattern: str, *, retry: Retry = USUAL, unknown: bool = False, details: bool = False) -> Callable[[H], H]:
    """Registers a coroutine function `handler(event, connection)` for the event types that match `pattern`.

    The handler's writes through `connection` (asyncpg) commit together with the event's `processed` status, exactly once.
    The handler may raise Retryable or Permanent. After any other exception, the event is retried.
    `pattern`: `*` matches any characters; `net.authorize.` at the beginning may be left out.
    `retry`: the retry policy for this handler's failures; without it, the settings decide.
    `unknown`: True for a pattern that matches none of the event types that webhookd knows.
    `details`: True to run the handlers of an event only when `event.details()` has the details of its transaction.

    Raises HandlerError for a handler that could never work: its pattern matches no known type, or webhookd cannot call it.
    """
    if callable(pattern):
        raise HandlerError(
            f'the handler {told(pattern)}: @on stands without an event type; write @on("payment.authcapture.created"), '
            'or @on("*") for all events'
        )

    def register(handler: H) -> H:
        registered.add(pattern, handler, retry, unknown=unknown, details=details)
        return handler

    return register


def lifespan(function: Callable[[], AsyncIterator[T]]) -> Hook[T]:
    """Registers a hook: an async function with one `yield`, for what handlers share. Handlers read the yielded `value`.

    The code before the `yield` runs once in each process that runs handlers, before the first event. The code after it runs
    when the last event has ended. If the hook fails at the start, the daemon does not start.

    Raises HandlerError if the function is no such hook.
    """
    hook = make_hook(function)
    registered.hooks.append(hook)
    return hook
