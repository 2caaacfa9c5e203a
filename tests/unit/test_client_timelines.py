"""`webhookd timeline` asks the API for the right timeline, and shows it exactly and safely."""

from __future__ import annotations

import json

import pytest

from tests.helpers.admin_api import event, ran, serving
from webhookd.cli.operator.screen import money

HOSTILE = "\x1b]0;owned\x07[bold]\x9b2J\u202e\ud800 end"
FOUND = {
    "account": "north",
    "transaction_id": HOSTILE,
    "state": HOSTILE,
    "requested_amount": "139.9",
    "captured_amount": None,
    "last_event_type": "net.authorize.payment.authcapture.created",
    "fraud_filters": [{"fraudFilter": HOSTILE, "fraudAction": None}],
    "related": [{"entity_name": "transaction", "entity_id": HOSTILE}],
    "events": [event(1, entity_id=HOSTILE)],
}


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("7", "7.00"),
        ("7.5", "7.50"),
        ("139.99", "139.99"),
        ("7.2500", "7.25"),
        ("7.255", "7.255"),
        ("-0.1", "-0.10"),
        ("999999999999999.1", "999999999999999.10"),
        ("a lot", "a lot"),
        ("1e5", "1e5"),
    ],
)
def test_an_amount_has_two_decimals_and_loses_none(amount: str, shown: str) -> None:
    assert money(amount) == shown


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("transaction", "transactions"),
        ("subscription", "subscriptions"),
        ("customer", "customers"),
        ("payment-profile", "payment-profiles"),
    ],
)
async def test_a_timeline_is_asked_for_by_id_and_account(command: str, place: str) -> None:
    async with serving() as api:
        api.answer("GET", f"{place}/6?x/0", FOUND)
        found = await ran(api.url, "timeline", command, "6?x/0", "--account", "north", "--json")
        assert json.loads(found.out) == FOUND
        assert [asked.query for asked in api.asked] == [{"account": ["north"]}]


async def test_no_escape_sequence_of_the_api_reaches_the_terminal() -> None:
    async with serving() as api:
        api.answer("GET", "transactions/60", FOUND)
        found = await ran(api.url, "timeline", "transaction", "60")
    assert found.code == 0, found.err
    assert not set("\x1b\x07\x9b\u202e\ud800") & set(found.out)
    lines = found.out.splitlines()
    assert "requested_amount: 139.90" in lines
    assert "last_event_type: payment.authcapture.created" in lines
    assert not any(line.startswith("captured_amount") for line in lines)


async def test_no_escape_sequence_of_a_settlement_reaches_the_terminal() -> None:
    refund = {"transaction_id": HOSTILE, "state": HOSTILE, "amount": "3", "settled_at": None}
    renewal = {"payment_number": 2, "state": HOSTILE, "transaction_id": None, "last_failure": HOSTILE}
    missed = {"expected_on": HOSTILE, "came_at": HOSTILE, "subscription_id": HOSTILE, "amount": HOSTILE, "status": HOSTILE}
    settlement = {
        "status": HOSTILE,
        "left_amount": "7.5",
        "returned": [{"code": HOSTILE, "returned_at": HOSTILE}],
        "refunds": {"settled": 1, "settled_amount": "3", "transactions": [refund]},
        "payments": [renewal],
        "missed": [missed],
    }
    async with serving() as api:
        api.answer("GET", "transactions/60", FOUND | {"settlement": settlement})
        api.answer("GET", "missed-renewals", {"renewals": [missed]})
        shown = await ran(api.url, "timeline", "transaction", "60")
        listed = await ran(api.url, "timeline", "missed-renewals")
    assert (shown.code, listed.code) == (0, 0), shown.err + listed.err
    assert not set("\x1b\x07\x9b\u202e\ud800") & set(shown.out + listed.out)
    assert {"settlement: left_amount: 7.50", "refunds: settled_amount: 3.00"} <= set(shown.out.splitlines())
    assert any(line.startswith("renewal: payment 2, ") for line in shown.out.splitlines())
