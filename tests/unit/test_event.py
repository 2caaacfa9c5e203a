"""An event gives its handler exact money and a payload for any body, and gives the logs no customer data."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.payload import load_payload, money
from webhookd.event import Event


def event(raw: bytes) -> Event:
    return Event(
        id=UUID(int=7),
        account="default",
        notification_id="n",
        event_type="net.authorize.payment.void.created",
        event_date=None,
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
        attempt=1,
        raw=raw,
    )


@pytest.mark.parametrize(
    ("written", "amount"),
    [("1.10", "1.10"), ("300.00", "300.00"), ("7", "7"), ("0.1", "0.1"), ("1234567890.12345678", "1234567890.12345678")],
)
@pytest.mark.parametrize("field", ["authAmount", "amount"])
def test_an_amount_is_the_decimal_that_was_written(field: str, written: str, amount: str) -> None:
    value = load_payload(f'{{"payload":{{"{field}":{written}}}}}'.encode())[field]
    assert isinstance(value, Decimal)
    assert str(value) == amount


def test_what_is_no_amount_stays_as_it_is() -> None:
    payload = load_payload(b'{"payload":{"responseCode":1,"id":"0042","authAmount":true,"amount":null}}')
    assert payload == {"responseCode": 1, "id": "0042", "authAmount": True, "amount": None}
    assert isinstance(payload["responseCode"], int)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"payload":null}', b'{"payload":[1]}'])
def test_a_payload_that_is_missing_or_odd_is_empty(body: bytes) -> None:
    assert load_payload(body) == {}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_cannot_be_read_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the parser has several messages
        load_payload(body)


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "1e400", "1e99999999999999999999", "-1e-9999999999999999999"])
def test_one_absurd_number_does_not_cost_the_rest_of_the_payload(number: str) -> None:
    payload = load_payload(f'{{"payload":{{"authAmount":{number},"id":"1"}}}}'.encode())
    assert payload["id"] == "1"
    assert money(payload["authAmount"]) is None


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (Decimal("7.25"), "7.25"),
        (7, "7"),
        ("11.55", "11.55"),
        (Decimal("-0.72"), "-0.72"),
        (Decimal("999999999999999.99999999"), "999999999999999.99999999"),
    ],
)
def test_an_amount_that_a_ledger_holds_is_kept(value: object, amount: str) -> None:
    assert str(money(value)) == amount


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1.1,  # a float has lost the written digits
        "",
        "seven",
        "NaN",
        "Infinity",
        Decimal("sNaN"),
        10**15,
        Decimal("0.000000001"),
        Decimal("1e9999999"),
        Decimal("-1e-9999999"),
        [],
        {},
    ],
)
def test_what_no_ledger_holds_is_no_amount(value: object) -> None:
    assert money(value) is None


@given(st.integers() | st.text() | st.decimals() | st.from_regex(r"[0-9]{1,20}(e[0-9]{1,30})?", fullmatch=True))
def test_money_takes_anything(value: object) -> None:
    amount = money(value)
    assert amount is None or abs(amount) < 10**15


def test_the_payload_is_parsed_once_and_only_when_asked_for() -> None:
    broken = event(b"{")
    with pytest.raises(ValueError, match="Expecting"):
        _ = broken.payload
    good = event(b'{"payload":{"id":"1"}}')
    assert good.payload == {"id": "1"}
    assert good.payload is good.payload


def test_an_event_shows_no_customer_data_and_cannot_be_changed() -> None:
    one = event(b'{"payload":{"id":"customer-42"}}')
    assert one.payload
    assert "customer-42" not in repr(one)
    with pytest.raises(FrozenInstanceError):
        one.attempt = 2  # type: ignore[misc]
