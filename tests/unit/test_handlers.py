"""An event reaches the handlers that match its type, and a wrong registration is refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from webhookd.errors import SettingsError
from webhookd.event import Event
from webhookd.process import handlers
from webhookd.process.handlers import Registry, load
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


def test_a_module_that_fails_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_shop.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="WEBHOOKD_HANDLERS: importing 'broken_shop' failed with ZeroDivisionError"):
        load(["broken_shop"], USUAL_POLICY)
    with pytest.raises(SettingsError, match="PYTHONPATH"):
        load(["no_such_shop"], USUAL_POLICY)


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
