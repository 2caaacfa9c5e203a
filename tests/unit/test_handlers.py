"""An event reaches the handlers that match its type, and a wrong registration is refused with its reason."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from webhookd import on
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.errors import HandlerError, SettingsError
from webhookd.event import Event
from webhookd.process import handlers
from webhookd.process.handlers import Registry
from webhookd.process.loading import load
from webhookd.process.retry import Policy, Retry

USUAL_POLICY = Policy(attempts=10, base=2, cap=3600)


async def _one(_: Event, __: Any) -> None: ...


async def _two(_: Event, __: Any) -> None: ...


def test_patterns_match_in_registration_order() -> None:
    registry = Registry()
    registry.add("net.authorize.payment.*", _one)
    registry.add("*", _two)
    registry.add("net.authorize.payment.fraud.held", _one)
    names = [r.handler for r in registry.matching("net.authorize.payment.fraud.held")]
    assert names == [_one, _two, _one]
    assert [r.handler for r in registry.matching("net.authorize.customer.created")] == [_two]
    registry.add("net.authorize.customer.created", _one)
    assert [r.handler for r in registry.matching("net.authorize.customer.created")] == [_two, _one]


@pytest.mark.parametrize("pattern", ["payment.refund.*", "net.authorize.payment.refund.*", "*.refund.*", "net*.refund.*"])
def test_a_pattern_matches_with_and_without_the_providers_prefix(pattern: str) -> None:
    registry = Registry()
    registry.add(pattern, _one)
    assert [r.handler for r in registry.matching("net.authorize.payment.refund.created")] == [_one]
    assert registry.matching("net.authorize.payment.void.created") == ()


def test_a_handler_that_is_no_coroutine_function_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="async def"):
        Registry().add("*", lambda event, connection: None)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_known_type_has_a_handler_with_and_without_the_prefix(event_type: str) -> None:
    for pattern in (event_type, event_type.removeprefix("net.authorize.")):
        registry = Registry()
        registry.add(pattern, _one)
        assert [r.handler for r in registry.matching(event_type)] == [_one]


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("payment.refnd.created", "payment.refund.created"),
        ("net.authorize.payment.refunds.created", "net.authorize.payment.refund.created"),
        ("net.authorise.payment.refund.created", "payment.refund.created"),
        ("payment.priorauthcapture.created", "payment.priorAuthCapture.created"),
        ("payments.*", "payment.*"),
        ("net.authorize.payments.refund.*", "net.authorize.payment.refund.*"),
        ("*.refunded", "payment.refund.*"),
        ("refund", "payment.refund.created"),
        ("", "payment.void.created"),
    ],
)
def test_a_pattern_that_matches_no_known_type_is_refused_with_the_nearest(pattern: str, nearest: str) -> None:
    registry = Registry()
    with pytest.raises(HandlerError) as refused:
        registry.add(pattern, _one)
    message = str(refused.value)
    assert message.startswith(f'the handler {__name__}._one ({__file__}:{_one.__code__.co_firstlineno}): @on("{pattern}") ')
    assert f'the nearest known type is "{nearest}"' in message
    assert f'write @on("{pattern}", unknown=True)' in message
    assert len(registry) == 0
    registry.add(pattern, _one, unknown=True)
    assert len(registry) == 1


def test_an_unknown_type_that_is_said_to_be_one_reaches_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "registered", Registry())
    on("net.authorize.x.y", unknown=True)(_one)
    on("fresh.*", unknown=True)(_two)
    assert [r.handler for r in handlers.registered.matching("net.authorize.x.y")] == [_one]
    assert [r.handler for r in handlers.registered.matching("net.authorize.fresh.created")] == [_two]


def test_on_without_parentheses_is_refused() -> None:
    with pytest.raises(HandlerError, match=r'_one \(.*: @on stands without an event type; write @on\("payment\.') as refused:
        on(_one)  # type: ignore[arg-type]
    assert f"{__file__}:" in str(refused.value)
    with pytest.raises(HandlerError, match="@on takes an event type as text, and got 5"):
        on(5)(_one)  # type: ignore[arg-type]


def _no_coroutine(event: Event, connection: Any) -> None: ...


def _generator(event: Event, connection: Any) -> Any:
    yield


async def _async_generator(event: Event, connection: Any) -> AsyncIterator[None]:
    yield


async def _one_parameter(event: Event) -> None: ...


async def _three_parameters(event: Event, connection: Any, client: Any) -> None: ...


async def _keyword_only(event: Event, connection: Any, *, client: Any) -> None: ...


async def _ready(event: Event, connection: Any, *rest: Any, client: Any = None, **more: Any) -> None: ...


async def _any(*arguments: Any) -> None: ...


class Shop:
    async def book(self, event: Event, connection: Any) -> None: ...

    async def short(self, event: Event) -> None: ...

    @classmethod
    async def of_the_class(cls, event: Event, connection: Any) -> None: ...

    @staticmethod
    async def of_no_object(event: Event, connection: Any) -> None: ...

    async def __call__(self, event: Event, connection: Any) -> None: ...


class Still:
    def __call__(self, event: Event, connection: Any) -> None: ...


def _wrapping(inner: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(inner)
    async def outer(event: Event, connection: Any) -> None:
        await inner(event, connection, None)

    return outer


_WRITE = r"write `async def {}\(event, connection\)`"


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (_no_coroutine, r"it is no coroutine function \(async def\); " + _WRITE.format("_no_coroutine")),
        (lambda event, connection: None, "it is no coroutine function"),
        (_generator, "it has a `yield`, so a call of it runs nothing; take the `yield` out"),
        (_async_generator, "it has a `yield`, so a call of it runs nothing; take the `yield` out"),
        (_one_parameter, r"its parameters are \(event: .*\) -> .*; " + _WRITE.format("_one_parameter")),
        (_three_parameters, r"webhookd calls it with two arguments, and its parameters are \(event"),
        (_keyword_only, "webhookd gives no argument for `client`; give this keyword-only parameter a default, or bind it by"),
        (Shop.book, r"its first parameter is `self`.*register the bound method: `on\(…\)\(Shop\(\)\.book\)`"),
        (Shop.short, "its first parameter is `self`"),
        (Shop().short, "webhookd calls it with two arguments"),
        (Shop.__dict__["of_no_object"], "@on stands above @staticmethod; write"),
        (Shop.__dict__["of_the_class"], "@on stands above @classmethod; write"),
        (Shop, "a handler is a coroutine function, and this is a class"),
        (Still(), "it is no coroutine function"),
        (SimpleNamespace(), "a handler is a coroutine function, and this is an object of the type SimpleNamespace"),
        (functools.partial(_no_coroutine), "it is no coroutine function"),
        (functools.partial(cast(Any, _one), None), "webhookd calls it with two arguments"),
        (functools.partial(_three_parameters), "webhookd calls it with two arguments"),
        (_wrapping(_no_coroutine), None),
        (_wrapping(_three_parameters), None),
        (_ready, None),
        (_any, None),
        (Shop().book, None),
        (Shop.of_the_class, None),
        (Shop.of_no_object, None),
        (Shop(), None),
        (functools.partial(_three_parameters, client=None), None),
        (functools.partial(_keyword_only, client=None), None),
        (functools.partial(Shop().book), None),
        (functools.partial(Shop()), None),
    ],
)
def test_a_handler_that_webhookd_cannot_call_is_refused_with_the_remedy(handler: Any, message: str | None) -> None:
    registry = Registry()
    if message is None:
        registry.add("*", handler)
        assert [r.handler for r in registry.matching("net.authorize.payment.void.created")] == [handler]
        assert registry.listed()[0].line > 0
        return
    with pytest.raises(HandlerError, match=rf"^the handler .*: .*{message}"):
        registry.add("*", handler)
    assert len(registry) == 0


def test_handlers_are_listed_with_all_their_patterns_and_their_places() -> None:
    registry = Registry()
    shop = Shop()
    registry.add("payment.*", _one)
    registry.add("*", functools.partial(shop))
    registry.add("customer.created", _one)
    first, second = registry.listed()
    assert first.patterns == ("net.authorize.payment.*", "net.authorize.customer.created")
    assert (first.name, first.module, first.path) == (f"{__name__}._one", __name__, __file__)
    assert first.line == _one.__code__.co_firstlineno
    assert (second.name, second.line) == (f"{__name__}.Shop.__call__", Shop.__call__.__code__.co_firstlineno)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "x = 1\n1 / 0",
            r"importing '{name}' failed with ZeroDivisionError: division by zero \({path}:2\); correct the module",
        ),
        ("\ndef f(:\n", r"importing '{name}' failed with SyntaxError: .* \({path}:2\); correct this line"),
        (
            "import os\nimport nothing_such.within",
            r"importing '{name}' failed with ModuleNotFoundError: .*nothing_such' \({path}:2\); install the library",
        ),
        (
            "import json\njson.loads('{{')",
            r"importing '{name}' failed with JSONDecodeError: .* \({path}:2\); correct the module",
        ),
        (
            "import sys\nsys.exit()",
            r"importing '{name}' .* SystemExit: the module ends its process \({path}:2\); put this code below `if __name__",
        ),
        ("x = 1", r"'{name}' registers no handler; decorate a handler there with @on\(\"…\"\)"),
        (
            "from webhookd import on\n\n@on('payment.refnd.*')\nasync def book(event, connection): ...",
            r"'{name}': the handler {name}\.book \({path}:3\): @on\(\"payment\.refnd\.\*\"\) .* is \"payment\.refund\.\*\"",
        ),
        (
            "from webhookd import on\n\n@on\nasync def book(event, connection): ...",
            r"'{name}': the handler {name}\.book \({path}:3\): @on stands without an event type",
        ),
        (
            "from webhookd import on\n\n@on('*')\ndef book(event, connection): ...",
            r"'{name}': the handler {name}\.book \({path}:3\): it is no coroutine function",
        ),
        ("from webhookd import Retry\nRetry(attempts=0)", r"'{name}': Retry\(attempts=0\): .* \({path}:2\)$"),
    ],
)
def test_a_module_that_fails_is_named_with_its_file_its_line_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    monkeypatch.setattr(handlers, "registered", Registry())
    name = f"broken_{abs(hash(code))}"
    path = tmp_path / f"{name}.py"
    path.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="^WEBHOOKD_HANDLERS: " + message.format(name=name, path=path)):
        load([name], USUAL_POLICY)


@pytest.mark.parametrize("name", ["no_such_shop", "no.such.shop", "json.shop", ".shop"])
def test_a_module_that_is_not_there_is_named_with_the_remedy(name: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^WEBHOOKD_HANDLERS: importing '{name}' failed with .*; name importable.*PYTHONPATH"
    ):
        load([name], USUAL_POLICY)


@pytest.mark.parametrize(("name", "right"), [("no_shop.py", "no_shop"), ("./no/shop.py", "no.shop"), ("no/shop", "no.shop")])
def test_the_name_of_a_file_is_refused_with_the_name_of_the_module(name: str, right: str) -> None:
    with pytest.raises(SettingsError, match=f"write the name of the module: WEBHOOKD_HANDLERS={right}$"):
        load([name], USUAL_POLICY)


def test_a_module_counts_if_it_or_a_module_that_it_imports_registers_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "registered", Registry())
    monkeypatch.syspath_prepend(tmp_path)
    book = "from webhookd import on\n@on('*')\nasync def book(event, connection): ...\n"
    (tmp_path / "store_front").mkdir()
    (tmp_path / "store_front" / "__init__.py").write_text("import store_front.orders")
    (tmp_path / "store_front" / "orders.py").write_text(book)
    (tmp_path / "store_back.py").write_text(book)
    (tmp_path / "store_all.py").write_text("import store_back")
    for _ in range(2):  # `webhookd dev` loads them twice
        load(["store_front.orders", "store_front", "store_all", "store_back"], USUAL_POLICY)
    assert len(handlers.registered) == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Retry(attempts=0)", "Retry.attempts=0.: give a whole number from 1 to 1000"),
        ("Retry(attempts=True)", "Retry.attempts=True.: give a whole number"),
        ("Retry(attempts=2.5)", "Retry.attempts=2.5.: give a whole number"),
        ("Retry(attempts=1001)", "Retry.attempts=1001.: give a whole number"),
        ("Retry(base=0)", "Retry.base=0.: give seconds from 0.01 to 43200"),
        ("Retry(base=float('nan'))", "Retry.base=nan.: give seconds"),
        ("Retry(cap=43_201)", "Retry.cap=43201.: give seconds from 0.01 to 43200"),
        ("Retry(cap='1 h')", "Retry.cap='1 h'.: give seconds"),
    ],
)
def test_a_retry_that_cannot_work_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    name = f"shop_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(f"from webhookd import Retry\n{code}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=f"^WEBHOOKD_HANDLERS: '{name}': {message}"):
        load([name], USUAL_POLICY)


@pytest.mark.parametrize(
    ("retry", "usual", "message"),
    [
        (Retry(base=60, cap=30), USUAL_POLICY, "the base of 60 s is above its cap of 30 s; give a lower base or a higher cap"),
        (Retry(base=7200), USUAL_POLICY, r"the base of 7200 s is above WEBHOOKD_RETRY_CAP \(3600 s\)"),
        (Retry(cap=1), USUAL_POLICY, r"the base, WEBHOOKD_RETRY_BASE \(2 s\), is above its cap of 1 s"),
    ],
)
def test_a_retry_that_does_not_fit_the_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, retry: Retry, usual: Policy, message: str
) -> None:
    registry = Registry()
    monkeypatch.setattr(handlers, "registered", registry)
    registry.add("*", _one)
    load([], usual)
    registry.add("*", _two, retry)
    with pytest.raises(SettingsError, match=rf"^the handler .*\._two: Retry\(.*\): {message}"):
        load([], usual)


def test_a_retry_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"webhookd\.Retry"):
        Registry().add("*", _one, {"attempts": 3})  # type: ignore[arg-type]
