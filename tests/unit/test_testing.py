"""Events for tests have the provider's payloads, take a test's own values, and refuse what no event of the provider has."""

from __future__ import annotations

import json
import subprocess
import sys
import typing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, get_type_hints

import pytest

from webhookd.authorizenet.notification import EVENT_TYPES, PREFIX
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.shapes import FIELDS, SHAPES, Kind, fields_of
from webhookd.testing import MisuseError, event
from webhookd.testing.events import Fields

make: Callable[..., Any] = event  # for values that mypy refuses
# The payloads of captured notifications in the project's notes: the fields of each, in the provider's order.
CAPTURED = {
    "payment.authcapture.created": "responseCode authCode avsResponse authAmount entityName id",
    "payment.priorAuthCapture.created": "responseCode authCode avsResponse authAmount entityName id",
    "payment.void.created": "responseCode avsResponse authAmount entityName id",
    "payment.refund.created": "responseCode avsResponse authAmount entityName id",
    "payment.fraud.held": (
        "responseCode authCode avsResponse authAmount fraudList merchantReferenceId invoiceNumber entityName id"
    ),
    "customer.created": "paymentProfiles merchantCustomerId entityName id",
    "customer.deleted": "entityName id",
    "customer.paymentProfile.created": "customerProfileId customerType entityName id",
    "customer.paymentProfile.deleted": "customerProfileId entityName id",
    "customer.subscription.created": "name amount status profile entityName id",
    "customer.subscription.failed": "name amount status profile entityName id transactionDetails",
}
VALUES: dict[Kind, list[object]] = {
    Kind.MONEY: ["7.10", Decimal("7.10"), 7, "0", "1000000.00"],
    Kind.NUMBER: [2],
    Kind.TEXT: ["4711", "Ann"],
    Kind.LIST: [[{"fraudFilter": "x", "fraudAction": "report"}], []],
}


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_an_event_is_a_sample_of_trigger_with_an_entity_of_its_own(event_type: str) -> None:
    short = event_type.removeprefix(PREFIX)
    one, other = event(short), event(event_type)
    assert one.event_type == other.event_type == event_type
    assert one.payload["id"] != other.payload["id"]
    assert len({one.id, other.id, one.notification_id, other.notification_id}) == 4
    assert (one.account, one.attempt) == ("default", 1)
    assert _shape(one.payload) == _shape(json.loads(sample(event_type, 1).body)["payload"])
    if short in CAPTURED:
        assert list(one.payload) == CAPTURED[short].split()


def test_a_declined_payment_and_a_refund_have_the_codes_of_their_kind() -> None:
    codes = {
        name: event(f"payment.{name}").payload["responseCode"]
        for name in ("authcapture.created", "fraud.held", "fraud.declined")
    }
    assert codes == {"authcapture.created": 1, "fraud.held": 4, "fraud.declined": 2}
    checks = [event(f"payment.{name}.created").payload["avsResponse"] for name in ("authcapture", "refund")]
    assert checks == ["Y", "P"]


def _shape(payload: Any) -> Any:
    if isinstance(payload, dict):
        return {name: _shape(value) for name, value in payload.items()}
    return [_shape(value) for value in payload] if isinstance(payload, list) else None


def test_each_known_type_has_a_shape_whose_fields_are_described() -> None:
    assert [PREFIX + name for name in SHAPES] == list(EVENT_TYPES)
    for name, shape in SHAPES.items():
        described = [field.path for field in FIELDS[shape.entity]]
        assert set(shape.possible) <= set(described), name
        assert len(shape.possible) == len(set(shape.possible)), name
        assert {"entityName", "id"} <= set(shape.fields), name
    used = {(shape.entity, path) for shape in SHAPES.values() for path in shape.possible}
    assert {(entity, field.path) for entity, fields in FIELDS.items() for field in fields if "[]" not in field.path} == used


@pytest.mark.parametrize("event_type", SHAPES)
def test_each_field_of_a_type_can_be_set_and_taken_out(event_type: str) -> None:
    for field in fields_of(event_type):
        if field.keyword is None:
            continue
        for value in VALUES[field.kind]:
            made = make(event_type, **{field.keyword: value})
            found = _at(made.payload, field.path)
            expected = Decimal(str(value)) if field.kind is Kind.MONEY else value
            assert (found, type(found)) == (expected, type(expected)), field.path
            if field.kind is Kind.MONEY:
                assert f'"{field.name}":{value}'.encode() in made.raw
        assert _at(make(event_type, **{field.keyword: None}).payload, field.path) is None


def _at(payload: Any, path: str) -> Any:
    for name in path.split("."):
        payload = payload.get(name) if isinstance(payload, dict) else None
    return payload


def test_the_keywords_that_have_a_type_are_the_fields() -> None:
    fields = [field for name in SHAPES for field in fields_of(name) if field.keyword is not None]
    assert set(get_type_hints(Fields)) == {field.keyword for field in fields}
    for keyword, hint in get_type_hints(Fields).items():
        (kind,) = {field.kind for field in fields if field.keyword == keyword}
        (expected, *_) = typing.get_args(hint)
        assert {Kind.NUMBER: int, Kind.TEXT: str, Kind.MONEY: str}.get(kind, list) in (expected, typing.get_origin(expected)), (
            keyword
        )


def test_an_amount_keeps_its_text() -> None:
    sale = event("payment.authcapture.created", amount="7.10", invoice_number="4711")
    assert b'"authAmount":7.10,' in sale.raw
    assert b'"invoiceNumber":"4711"' in sale.raw
    assert str(sale.payload["authAmount"]) == "7.10"
    assert b'"amount":100,' in event("customer.subscription.created", amount=Decimal("1E+2")).raw


def test_the_envelope_can_be_set() -> None:
    date = datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=2)))
    sale = event("payment.authcapture.created", account="eu", date=date)
    assert sale.account == "eu"
    assert sale.event_date == datetime(2026, 3, 29, 0, 30, 0, 0, UTC)
    assert b'"eventDate":"2026-03-29T00:30:00.0000001Z"' in sale.raw
    assert event("payment.authcapture.created", date=datetime(2026, 1, 2)).event_date == datetime(2026, 1, 2, tzinfo=UTC)  # noqa: DTZ001


def test_fields_and_types_that_webhookd_does_not_know_can_be_made_on_purpose() -> None:
    made = event("payment.refund.created", payload={"new": {"a": [1]}, "authAmount": Decimal("1.50"), "avsResponse": None})
    assert (made.payload["new"], str(made.payload["authAmount"])) == ({"a": [1]}, "1.50")
    assert "avsResponse" not in made.payload
    assert event("net.authorize.payment.new.thing", unknown=True, amount="1.00").event_type == "net.authorize.payment.new.thing"
    assert event("customer.subscription.renewed", unknown=True).payload["entityName"] == "subscription"


@pytest.mark.parametrize(
    ("event_type", "fields", "named"),
    [
        ("payment.authcaptured", {}, 'nearest known type is "payment.authcapture.created"'),
        ("net.authorize.payment.voided", {}, 'nearest known type is "net.authorize.payment.void.created"'),
        ("payment.*", {}, '"payment.*" is a pattern, and an event has one type: name one type, such as "'),
        ("payment.*", {"unknown": True}, "is a pattern"),
        ("payment.refund.created", {"invoice": "1"}, "have no field invoice; the nearest is invoice_number"),
        ("payment.refund.created", {"invoiceNumber": "1"}, "the nearest is invoice_number"),
        ("payment.refund.created", {"authAmount": "1"}, "the nearest is amount"),
        ("payment.refund.created", {"entity_name": "x"}, "have no field entity_name"),
        ("customer.deleted", {"amount": "1.00"}, "have no field amount; the nearest is id, and all are: id."),
        ("payment.refund.created", {"amount": 7.1}, 'write it as text, for example amount="7.10"'),
        ("payment.refund.created", {"amount": "7,10"}, "amount is an amount"),
        ("payment.refund.created", {"amount": "007.10"}, "amount is an amount"),
        ("payment.refund.created", {"amount": True}, "amount is an amount"),
        ("payment.refund.created", {"invoice_number": 4711}, "invoice_number is text, also if it is a number"),
        ("payment.refund.created", {"response_code": "1"}, "response_code is a whole number"),
        ("payment.fraud.held", {"fraud_list": "report"}, "fraud_list is a list of objects"),
    ],
)
def test_what_no_event_has_is_refused_with_the_nearest(event_type: str, fields: dict[str, object], named: str) -> None:
    with pytest.raises(MisuseError) as refused:
        make(event_type, **fields)
    assert named in str(refused.value)


def test_neither_the_daemon_nor_an_import_of_the_package_needs_pytest() -> None:
    code = "import sys, webhookd.daemon, webhookd.testing; sys.exit('pytest' in sys.modules or 'moto' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
