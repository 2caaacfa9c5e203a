"""The API and the command line show the timeline of each kind of entity, and name the related entities."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.dashboard.shop import deliver, notification
from tests.helpers.operator import ANN, Connection, Operator, come_to
from tests.helpers.settlement_rows import store_settlement
from webhookd.cli.operator.failures import Exit

CUSTOMER = {
    "entityName": "customerProfile", "id": " 1811525852 ", "merchantCustomerId": "SUB_001",
    "paymentProfiles": [{"customerType": "individual", "id": "1806085692"}, {"id": "1806085693"}],
}  # fmt: skip
PROFILE = {
    "entityName": "customerPaymentProfile", "id": "1806085692", "customerProfileId": 1811525852, "customerType": "individual",
}  # fmt: skip
SUBSCRIPTION = {
    "entityName": "subscription", "id": "4415473", "name": "Magazine", "amount": 11.5, "status": "suspended",
    "profile": {"customerProfileId": 1811525852, "customerPaymentProfileId": 1806085692},
    "transactionDetails": {"transId": 60022194830, "error": "This transaction has been declined."},
}  # fmt: skip
FAILED = "net.authorize.customer.subscription.failed"


def of(event_type: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Returns a notification whose payload has exactly these fields."""
    return notification(event_type) | {"payload": payload}


@pytest.fixture
async def ann(start: Start, connection: Connection) -> Operator:
    """Returns an operator of a daemon that has processed an event of each kind of entity, but not of the failed transaction."""
    daemon = await start(admin_tokens=ANN)
    await deliver(
        daemon,
        of("net.authorize.customer.created", CUSTOMER),
        of("net.authorize.customer.paymentProfile.created", PROFILE),
        of(FAILED, SUBSCRIPTION),
        notification("net.authorize.payment.authcapture.created", responseCode=21, id="245"),
    )
    await come_to(connection, {"processed": 4})
    return Operator(daemon.admin_url)


async def shown(ann: Operator, path: str) -> dict[str, Any]:
    status, found = await ann.get(path)
    assert status == 200, found
    (event,) = found.pop("events")
    assert found.pop("last_event_type") == event["event_type"]
    return {name: value for name, value in found.items() if value is not None and not name.endswith("_event_at")}


async def test_each_kind_of_entity_has_a_timeline_and_names_only_those_that_have_one_too(ann: Operator) -> None:
    customer = {"entity_name": "customerProfile", "entity_id": "1811525852"}
    profile = {"entity_name": "customerPaymentProfile", "entity_id": "1806085692"}
    assert await shown(ann, "customers/1811525852") == {
        "account": "default",
        "customer_profile_id": "1811525852",
        "state": "active",
        "merchant_customer_id": "SUB_001",
        "payment_profile_ids": ["1806085692", "1806085693"],
        "related": [profile],  # no event is about the other payment profile
    }
    assert await shown(ann, "payment-profiles/1806085692") == {
        "account": "default",
        "payment_profile_id": "1806085692",
        "state": "active",
        "customer_profile_id": "1811525852",
        "customer_type": "individual",
        "related": [customer],
    }
    subscription = await shown(ann, "subscriptions/4415473")
    assert (subscription["amount"], subscription["last_failure_transaction_id"]) == ("11.5", "60022194830")
    assert subscription["related"] == [customer, profile]
    for one in (customer, profile):
        folder = {"customerProfile": "customers", "customerPaymentProfile": "payment-profiles"}[one["entity_name"]]
        assert (await ann.get(f"{folder}/{one['entity_id']}"))[0] == 200


async def test_a_transaction_that_a_subscription_names_is_linked_once_it_is_known(
    start: Start, connection: Connection, ann: Operator
) -> None:
    daemon = await start(admin_tokens=ANN)
    assert (await ann.get("transactions/60022194830"))[0] == 404
    await deliver(daemon, notification("net.authorize.payment.authcapture.created", responseCode=2, id="60022194830"))
    await come_to(connection, {"processed": 5})
    assert (await ann.get("transactions/60022194830"))[0] == 200
    related = (await shown(ann, "subscriptions/4415473"))["related"]
    assert {"entity_name": "transaction", "entity_id": "60022194830"} in related


async def test_a_response_code_that_reports_no_state_is_shown_as_it_is(ann: Operator) -> None:
    found = await shown(ann, "transactions/245")
    assert found == {
        "account": "default",
        "transaction_id": "245",
        "kind": "charge",
        "requested_amount": "12.5",
        "response_code": 21,
        "related": [],
    }


async def test_events_of_one_instant_are_shown_in_the_order_of_their_receipt(
    start: Start, connection: Connection, ann: Operator
) -> None:
    daemon = await start(admin_tokens=ANN)
    kinds = [f"net.authorize.payment.{kind}" for kind in ("authcapture.created", "fraud.held", "fraud.approved")]
    date = {"eventDate": datetime.now(UTC).isoformat()}
    await deliver(daemon, *(notification(kind, id="901") | date for kind in kinds))
    await come_to(connection, {"processed": 7})
    _, found = await ann.get("transactions/901")
    assert [event["event_type"] for event in found["events"]] == kinds


@pytest.mark.parametrize("path", ["customers", "payment-profiles", "transactions", "subscriptions"])
async def test_an_entity_that_no_event_names_is_not_found(ann: Operator, path: str) -> None:
    for question in (f"{path}/7", f"{path}/1811525852?account=acme"):
        status, problem = await ann.get(question)
        assert status == 404
        assert "no event of the account" in problem["detail"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["customer", "1811525852"], "payment_profile_ids: 1806085692, 1806085693"),
        (["payment-profile", "1806085692"], "see also: customerProfile 1811525852"),
        (["subscription", "4415473"], "amount: 11.50"),
        (["transaction", "245"], "requested_amount: 12.50"),
    ],
)
async def test_the_command_line_shows_a_timeline(servers: Servers, ann: Operator, words: list[str], told: str) -> None:
    code, out, err = await ann.command(servers, "timeline", *words)
    assert (code, err) == (0, "")
    assert told in out.splitlines()
    code, out, _ = await ann.command(servers, "timeline", *words, "--json")
    assert code == 0
    assert len(json.loads(out)["events"]) == 1


async def test_the_command_line_says_that_an_entity_is_not_known(servers: Servers, ann: Operator) -> None:
    code, out, err = await ann.command(servers, "timeline", "customer", "7")
    assert (code, out) == (Exit.NOT_FOUND, "")
    assert "names the customer profile '7'" in err


async def test_an_event_shows_the_duplicates_that_came_of_it(
    start: Start, servers: Servers, connection: Connection, ann: Operator
) -> None:
    daemon = await start(admin_tokens=ANN)
    first = notification() | {"eventDate": datetime.now(UTC).isoformat()}
    second = first | {"notificationId": "ffffffff-0000-4000-8000-000000000001", "webhookId": "another"}
    one, other = await deliver(daemon, first, second)
    assert one == other
    await come_to(connection, {"processed": 5})
    (alias,) = (await ann.get(f"events/{one}"))[1]["aliases"]
    assert alias["notification_id"] == second["notificationId"]
    _, out, _ = await ann.command(servers, "events", "show", one)
    assert f"as {second['notificationId']}" in out


async def test_amounts_are_written_with_all_their_digits(start: Start, connection: Connection) -> None:
    daemon = await start(admin_tokens=ANN)
    await deliver(daemon, *(notification(id=str(number), authAmount=amount) for number, amount in enumerate((1e-8, 20000), 1)))
    await come_to(connection, {"processed": 2})
    small, round_ = [(await Operator(daemon.admin_url).get(f"transactions/{number}"))[1] for number in (1, 2)]
    assert (small["captured_amount"], round_["captured_amount"]) == ("0.00000001", "20000")


async def test_without_an_answer_of_the_provider_the_settlement_is_null(ann: Operator) -> None:
    for path in ("transactions/245", "subscriptions/4415473"):
        _, found = await ann.get(path)
        assert found["settlement"] is None
    _, found = await ann.get("missed-renewals")
    assert found == {"renewals": []}


async def test_a_sale_shows_its_settlement_with_its_refunds_and_links_them(ann: Operator, connection: Connection) -> None:
    await store_settlement(connection, "245", "4415473")
    _, found = await ann.get("transactions/245")
    settlement = found["settlement"]
    refunds = settlement.pop("refunds")
    assert refunds.pop("transactions") == [
        {"transaction_id": "70001", "state": "refund settled", "amount": "30", "settled_at": refunds_at(settlement, 23)},
        {"transaction_id": "70002", "state": "refund pending", "amount": "9.9", "settled_at": None},
    ]
    assert refunds == {"settled": 1, "settled_amount": "30", "pending": 1, "pending_amount": "9.9", "failed": 0}
    named = ("kind", "state", "batch_id", "settled_amount", "returned", "returned_amount", "left_amount", "payment_number")
    assert [settlement[name] for name in named] == ["charge", "settled", "3990061", "139.90", [], "0", "109.90", 3]
    assert [one["entity_id"] for one in found["related"]] == ["4415473", "70002", "70001"]
    _, refund = await ann.get("transactions/70001")
    assert (refund["settlement"]["ref_transaction_id"], refund["settlement"]["refunds"]) == ("245", None)
    assert refund["related"] == [{"entity_name": "transaction", "entity_id": "245"}]
    assert refund["events"] == []
    _, returned = await ann.get("transactions/70003")
    assert returned["settlement"]["returned"] == [{"id": "70004", "returned_at": "2026-11-20T10:00:00Z", "code": "R01"}]
    assert (returned["settlement"]["returned_amount"], returned["settlement"]["left_amount"]) == ("20", "0")
    assert (await ann.get("transactions/245?account=acme"))[0] == 404


def refunds_at(settlement: dict[str, Any], hours: int) -> str:
    """Returns the time that lies hours after a settlement, as the API writes it."""
    at = datetime.fromisoformat(settlement["settled_at"]) + timedelta(hours=hours)
    return at.isoformat().replace("+00:00", "Z")


async def test_a_subscription_shows_its_payments_by_number_and_the_renewals_that_did_not_come(
    servers: Servers, ann: Operator, connection: Connection
) -> None:
    await store_settlement(connection, "245", "4415473")
    _, found = await ann.get("subscriptions/4415473")
    settlement = found["settlement"]
    assert [(one["payment_number"], one["state"], one["attempts"], one["last_failure"]) for one in settlement["payments"]] == [
        (3, "settled", 1, None),
        (4, "failed", 1, "The credit card has expired."),
    ]
    assert (settlement["status"], settlement["card_expires"], settlement["interval_unit"]) == ("active", "2026-11", "months")
    assert [one["expected_on"] for one in settlement["missed"]] == ["2026-10-31", "2026-09-30"]
    assert {"entity_name": "transaction", "entity_id": "245"} in found["related"]
    _, listed = await ann.get("missed-renewals")
    (missed,) = listed["renewals"]
    assert (missed["subscription_id"], missed["expected_on"], missed["amount"]) == ("4415473", "2026-10-31", "139.9")
    assert (await ann.get("missed-renewals?account=acme"))[1] == {"renewals": []}
    code, out, _ = await ann.command(servers, "timeline", "missed-renewals")
    assert code == 0
    assert "2026-10-31" in out
    code, out, _ = await ann.command(servers, "timeline", "missed-renewals", "--json")
    assert json.loads(out) == listed
    code, out, _ = await ann.command(servers, "timeline", "subscription", "4415473")
    assert "renewal: payment 4, failed, The credit card has expired." in out.splitlines()
    assert "missed renewal: 2026-10-31" in out.splitlines()
    code, out, _ = await ann.command(servers, "timeline", "transaction", "245")
    shown = {"settlement: left_amount: 109.90", "refunds: pending_amount: 9.90", "refund: 70001 refund settled 30.00"}
    assert shown <= set(out.splitlines())
