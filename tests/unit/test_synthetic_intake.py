"""A synthetic event has the form of a notification, and its amounts to the last digit; a setting turns each type on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from webhookd.authorizenet.notification import parse, whole_pattern
from webhookd.authorizenet.payload import load_payload
from webhookd.authorizenet.synthetic import SyntheticEvent
from webhookd.errors import RefusedError
from webhookd.event import SYNTHETIC, origin_of
from webhookd.process.handlers import Registry
from webhookd.settings.synthetic_types import SyntheticType, check_patterns, wanted_types
from webhookd.store.receipts import Accepted, Arrival
from webhookd.sync.synthetic_intake import SyntheticIntake, body_of
from webhookd.telemetry.provider_metrics import ProviderMetrics

ID = UUID("ed6d12cc-e4bb-55d7-affa-9f6bb2a3c17d")
AT = datetime(2026, 11, 27, 8, 3, 11, 500_000, timezone(-timedelta(hours=8)))


def event(kind: SyntheticType = SyntheticType.SETTLED, account: str = "default", **payload: Any) -> SyntheticEvent:
    given = {"id": "60020981676", "entityName": "transaction"} | payload
    return SyntheticEvent(ID, kind, account, "60020981676", AT, given)


class Ledger:
    """Takes the place of Receipts: keeps what it gets, and gives the answers that a test wants."""

    def __init__(self, *answers: Any) -> None:
        self.got: list[Arrival] = []
        self.answers = answers

    async def accept(self, arrivals: list[Arrival], **_: Any) -> list[Any]:
        """Keeps arrivals."""
        self.got += arrivals
        return list(self.answers or [Accepted(one.id) for one in arrivals])


def intake(ledger: Ledger, *wanted: SyntheticType) -> tuple[SyntheticIntake, CollectorRegistry]:
    registry = CollectorRegistry()
    metrics = ProviderMetrics(registry)
    return SyntheticIntake("default", ledger, wanted, metrics), registry  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", ["19.99", "5.00", "50000", "0.1", "1E+3", "123456789012.3456"])
def test_an_amount_stands_in_the_body_with_all_its_digits_and_comes_back_as_the_same_decimal(amount: str) -> None:
    body = body_of(event(settleAmount=Decimal(amount)))
    assert f'"settleAmount":{Decimal(amount):f}'.encode() in body
    found = load_payload(body)["settleAmount"]
    assert isinstance(found, Decimal)
    assert found == Decimal(amount)


def test_the_body_is_a_notification_whose_id_is_the_events_own() -> None:
    body = body_of(event(invoiceNumber="INV-1"))
    said = parse(body, "default")
    assert (said.notification_id, said.event_type) == (str(ID), "webhookd.transaction.settled")
    assert said.event_date == datetime(2026, 11, 27, 16, 3, 11, 500_000, UTC)
    assert (said.entity_name, said.entity_id, said.invoice_number) == ("transaction", "60020981676", "INV-1")
    assert json.loads(body).keys() == {"notificationId", "eventType", "eventDate", "payload"}


def test_an_event_without_a_date_has_none() -> None:
    undated = SyntheticEvent(ID, SyntheticType.EXPIRED, "default", "1", None, {"id": "1", "entityName": "transaction"})
    assert "eventDate" not in json.loads(body_of(undated))


async def test_only_types_that_are_wanted_are_taken() -> None:
    ledger = Ledger()
    taker, registry = intake(ledger, SyntheticType.RETURNED)
    assert await taker.take([event(SyntheticType.SETTLED), event(SyntheticType.RETURNED)]) == 1
    (arrival,) = ledger.got
    assert arrival.notification.event_type == "webhookd.transaction.returned"
    assert (arrival.key_fingerprint, origin_of(arrival.key_fingerprint)) == (SYNTHETIC, "synthetic")
    assert arrival.notification.content_key is None, "an event with the same content is another event"
    labels = {"account": "default", "event_type": "webhookd.transaction.returned"}
    assert registry.get_sample_value("webhookd_provider_synthetic_events_total", labels) == 1


async def test_without_a_setting_nothing_is_taken() -> None:
    ledger = Ledger()
    assert await intake(ledger)[0].take([event(kind) for kind in SyntheticType]) == 0
    assert ledger.got == []


async def test_a_duplicate_is_not_counted() -> None:
    taker, registry = intake(Ledger(Accepted(ID, "notification_id")), SyntheticType.SETTLED)
    assert await taker.take([event()]) == 0
    labels = {"account": "default", "event_type": "webhookd.transaction.settled"}
    assert not registry.get_sample_value("webhookd_provider_synthetic_events_total", labels)


async def test_an_event_that_postgresql_does_not_take_is_an_error_so_that_no_facts_follow() -> None:
    taker, _ = intake(Ledger(ValueError("odd")), SyntheticType.SETTLED)
    with pytest.raises(RefusedError):
        await taker.take([event()])


async def test_an_event_of_another_account_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="another account"):
        await intake(Ledger(), SyntheticType.SETTLED)[0].take([event(account="other")])


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        ((), set()),
        (("webhookd.transaction.settled",), {SyntheticType.SETTLED}),
        (("webhookd.subscription.*",), {one for one in SyntheticType if ".subscription." in one}),
        (("*",), set(SyntheticType)),
    ],
)
def test_a_pattern_names_types(patterns: tuple[str, ...], wanted: set[SyntheticType]) -> None:
    assert wanted_types(check_patterns(patterns)) == wanted


@pytest.mark.parametrize("pattern", ["webhookd.transaction.setled", "transaction.settled", "net.authorize.*", ""])
def test_a_pattern_that_matches_no_type_is_refused_with_the_types(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"matches none: the types are webhookd\.transaction\.settled, "):
        check_patterns(("webhookd.transaction.*", pattern))


@pytest.mark.parametrize("pattern", [*SyntheticType, "webhookd.transaction.*", "webhookd.*"])
def test_a_handler_takes_synthetic_types_by_their_names(pattern: str) -> None:
    async def handler(event: Any, connection: Any) -> None:
        """Does nothing."""

    registry = Registry()
    registry.add(pattern, handler)
    name = next(one for one in SyntheticType if pattern in (one, "webhookd.*") or one.startswith(pattern[:-1]))
    assert registry.matching(name)
    assert whole_pattern(pattern) == pattern
