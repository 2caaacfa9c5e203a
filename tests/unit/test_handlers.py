"""Which handlers an event reaches, and what a wrong registration says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from webhookd.errors import SettingsError
from webhookd.event import Event
from webhookd.process.handlers import Registry, load


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
        load(["broken_shop"])
    with pytest.raises(SettingsError, match="PYTHONPATH"):
        load(["no_such_shop"])
