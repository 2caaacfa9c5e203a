"""The timeline's fold, without a database: what an event says, and that no order of arrival changes the row."""

from __future__ import annotations

import functools
import itertools
import json
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.event import Event
from webhookd.process.timeline import Entry, Facts, facts_of, fold

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
# These stand for numbers that JSON can write and nothing, or not even Decimal, can hold.
HUGE, BEYOND = "@huge", "@beyond"


def event(name: str, payload: object, *, date: datetime | None = START, account: str = "default") -> Event:
    """An event of the type `net.authorize.{name}`, as the worker hands it out."""
    raw = json.dumps({"notificationId": "n", "eventType": name, "payload": payload})
    raw = raw.replace(f'"{HUGE}"', "1e99999").replace(f'"{BEYOND}"', "1e99999999999999999999")
    return Event(
        id=uuid.UUID(int=1),
        account=account,
        notification_id="n",
        event_type=f"net.authorize.{name}",
        event_date=date,
        received_at=START + timedelta(days=1),
        attempt=1,
        raw=raw.encode(),
    )


def after(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


def folded(events: Iterable[Event]) -> Facts:
    """The facts of one entity's events, folded in the order given."""
    return functools.reduce(fold, (entry.facts for e in events if (entry := facts_of(e))), {})


def values(events: Iterable[Event]) -> dict[str, str]:
    """The same without dates and ranks: what the row's columns show."""
    return {name: value for name, (_, _, value) in folded(events).items()}


def entry_of(e: Event) -> Entry:
    entry = facts_of(e)
    assert entry is not None
    return entry


FRAUD = [{"fraudFilter": "Shipping-Billing Mismatch Filter", "fraudAction": "authAndHold"}]
CHARGE = {"responseCode": 1, "authCode": "P1XHLC", "avsResponse": "Y", "authAmount": 7.25, "id": "60022194830"}
HELD = CHARGE | {"responseCode": 4, "fraudList": FRAUD, "merchantReferenceId": "m", "invoiceNumber": "i"}
VOID = {"responseCode": 1, "avsResponse": "Y", "authAmount": 7.25, "id": "60022194830"}
SUBSCRIPTION = {
    "name": "Magazine",
    "amount": 11.55,
    "status": "active",
    "profile": {"customerProfileId": 1811467160, "customerPaymentProfileId": 1806025108},
    "id": "4415473",
}
FAILURE = {"transId": 123, "error": "This transaction has been declined.", "submitTimeUTC": "2021-04-09T09:29:27.257"}
CUSTOMER = {"paymentProfiles": [{"customerType": "individual", "id": "7"}], "merchantCustomerId": "SUB_1", "id": "18"}
PROFILE = {"customerProfileId": 1811525852, "customerType": "individual", "id": "7"}

# The events of one entity each, in the order in which they happen.
STORIES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "held, approved, captured, voided": [
        ("payment.authorization.created", CHARGE),
        ("payment.fraud.held", HELD),
        ("payment.fraud.approved", CHARGE),
        ("payment.priorAuthCapture.created", CHARGE | {"authAmount": 5}),
        ("payment.void.created", VOID),
    ],
    "captured with a report of the filters, void refused": [
        ("payment.authcapture.created", CHARGE | {"fraudList": [{"fraudFilter": "Velocity", "fraudAction": "report"}]}),
        ("payment.void.created", VOID | {"responseCode": 3}),
        ("payment.fraud.declined", CHARGE | {"responseCode": 2}),
    ],
    "refund": [
        ("payment.refund.created", {"responseCode": 1, "avsResponse": "P", "authAmount": 0.72, "id": "60022194830"}),
        ("payment.void.created", VOID),
    ],
    "subscription": [
        ("customer.subscription.created", SUBSCRIPTION),
        ("customer.subscription.failed", SUBSCRIPTION | {"status": "suspended", "transactionDetails": FAILURE}),
        ("customer.subscription.suspended", SUBSCRIPTION | {"status": "suspended"}),
        ("customer.subscription.updated", SUBSCRIPTION | {"amount": 12}),
        ("customer.subscription.expiring", SUBSCRIPTION),
        ("customer.subscription.cancelled", SUBSCRIPTION | {"status": "cancelled"}),
    ],
    "customer": [
        ("customer.created", CUSTOMER),
        ("customer.updated", CUSTOMER | {"merchantCustomerId": "SUB_2", "paymentProfiles": []}),
        ("customer.deleted", {"id": "18"}),
    ],
    "payment profile": [
        ("customer.paymentProfile.created", PROFILE),
        ("customer.paymentProfile.updated", PROFILE | {"customerType": "business"}),
        ("customer.paymentProfile.deleted", {"customerProfileId": 1811525852, "id": "7"}),
    ],
}
ODD: list[Any] = [
    None, True, "", " ", "nul\x00", "half \ud800", "x" * 3000, "NaN", "²", "Cancelled", -1, 10**30, 10**4000, 0.1,
    HUGE, BEYOND, [], {}, [None], [{"id": []}, 7], [{"fraudFilter": 1}], {"customerProfileId": {"a": [1]}},
    "2021-04-09T09:29:27.257", "9999-12-31T23:59:59.999999", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00",
]  # fmt: skip


def with_an_odd_field(payload: dict[str, Any], odd: object) -> Iterator[dict[str, Any]]:
    """`payload` with each field but its id in turn, those of nested objects too, made odd; and with all of them."""
    for key, value in payload.items():
        if key != "id":
            yield payload | {key: odd}
        if isinstance(value, dict):
            yield from (payload | {key: value | {inner: odd}} for inner in value)
    yield dict.fromkeys(payload, odd) | {"id": payload["id"]}


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """One entity's events with fields missing or odd, and dates that are equal, out of order or missing."""
    story = draw(st.sampled_from(list(STORIES.values())))
    dates = st.none() | st.integers(0, len(story)).map(after)
    events = []
    for name, payload in story:
        fields = {key: value for key, value in payload.items() if key == "id" or draw(st.integers(0, 9))}
        odd = st.dictionaries(st.sampled_from([*(set(payload) - {"id"}), "unknown"]), st.sampled_from(ODD), max_size=2)
        events.append(event(name, fields | draw(odd), date=draw(dates)))
    return events


def with_duplicates(events: Sequence[Event], chance: random.Random) -> list[Event]:
    """`events` with some of them again, each anywhere after its first."""
    arrivals = list(events)
    for _ in range(chance.randint(0, len(events))):
        place = chance.randrange(len(arrivals))
        arrivals.insert(chance.randint(place + 1, len(arrivals)), arrivals[place])
    return arrivals


@settings(deadline=None, max_examples=60)
@given(stories(), st.randoms(use_true_random=False))
def test_every_order_of_arrival_with_duplicates_ends_in_the_same_row(story: list[Event], chance: random.Random) -> None:
    expected = folded(story)
    seed = random.Random(chance.random())
    for order in itertools.permutations(story):
        assert folded(with_duplicates(order, seed)) == expected


registers = st.tuples(st.integers(-5, 5) | st.integers(-(2**62), 2**62), st.integers(0, 8), st.text(max_size=3))
some_facts = st.dictionaries(st.sampled_from("abcdef"), registers)


@settings(max_examples=500)
@given(some_facts, some_facts, some_facts)
def test_the_fold_is_commutative_associative_and_idempotent(a: Facts, b: Facts, c: Facts) -> None:
    assert fold(a, b) == fold(b, a)
    assert fold(fold(a, b), c) == fold(a, fold(b, c))
    assert fold(a, a) == a
    assert fold(fold(a, b), b) == fold(a, b)


def test_a_late_event_does_not_overwrite_a_newer_state() -> None:
    captured = event("payment.priorAuthCapture.created", CHARGE, date=after(5))
    authorized = event("payment.authorization.created", CHARGE | {"authCode": "LATE"}, date=after(0))
    row = values([captured, authorized])
    assert row["state"] == "captured"
    assert row["auth_code"] == "P1XHLC"
    assert row["last_event_type"] == "net.authorize.payment.priorAuthCapture.created"
    assert int(row["last_event_at"]) - int(row["first_event_at"]) == 5 * 60 * 1_000_000


def test_events_of_one_instant_follow_the_life_of_a_transaction() -> None:
    names = ["payment.void.created", "payment.fraud.approved", "payment.authorization.created", "payment.fraud.held"]
    assert values(event(name, CHARGE) for name in names)["state"] == "voided"
    assert values(event(name, CHARGE) for name in names[1:])["state"] == "approved"


@pytest.mark.parametrize("verdict", ["approved", "declined"])
def test_a_held_transaction_takes_the_verdict(verdict: str) -> None:
    held = event("payment.fraud.held", HELD)
    assert values([held])["state"] == "held"
    row = values([event(f"payment.fraud.{verdict}", CHARGE | {"responseCode": 4}, date=after(9)), held])
    assert row["state"] == verdict
    assert row["held_at"] < row[f"{verdict}_at"]
    assert json.loads(row["fraud_filters"]) == FRAUD


def test_a_void_keeps_what_was_captured() -> None:
    row = values([event("payment.authcapture.created", CHARGE), event("payment.void.created", VOID, date=after(1))])
    assert row["state"] == "voided"
    assert row["captured_amount"] == row["authorized_amount"] == "7.25"
    assert row["auth_code"] == "P1XHLC"  # which the void did not carry


@pytest.mark.parametrize("name", ["payment.void.created", "payment.priorAuthCapture.created"])
@pytest.mark.parametrize("code", [2, 3, 4, 17, "2", True, []])
def test_a_void_or_later_capture_that_failed_leaves_the_transaction_as_it_was(name: str, code: object) -> None:
    authorized = event("payment.authorization.created", CHARGE)
    before = values([authorized])
    row = values([authorized, event(name, VOID | {"responseCode": code}, date=after(1))])
    assert {key for key in row if row[key] != before.get(key)} == {"last_event_at", "last_event_type"}


@pytest.mark.parametrize("kind", ["authorization", "authcapture", "capture", "refund"])
@pytest.mark.parametrize(("code", "state"), [(2, "declined"), (3, "error"), (4, "held"), ("2", "declined"), (9, None)])
def test_the_response_code_of_a_new_transaction_tells_its_state(kind: str, code: object, state: str | None) -> None:
    row = values([event(f"payment.{kind}.created", CHARGE | {"responseCode": code})])
    assert row.get("state") == state
    assert not {"authorized_amount", "captured_amount", "refunded_amount", "captured_at", "refunded_at"} & row.keys()


def test_a_refund_stands_under_its_own_id() -> None:
    entry = entry_of(event("payment.refund.created", {"responseCode": 1, "authAmount": 0.72, "id": "60022194896"}))
    row = {name: value for name, (_, _, value) in entry.facts.items()}
    assert (entry.table, entry.id) == ("transactions", "60022194896")
    assert (row["kind"], row["state"], row["refunded_amount"]) == ("refund", "refunded", "0.72")
    assert "captured_amount" not in row


def test_a_voided_refund_is_still_a_refund() -> None:
    events = [event(*step, date=after(n)) for n, step in enumerate(STORIES["refund"])]
    assert (values(events)["kind"], values(events)["state"]) == ("refund", "voided")


@pytest.mark.parametrize("status", ["cancelled", "Canceled", "CANCELLED", None, 5])
def test_cancelled_and_canceled_are_one_status(status: object) -> None:
    row = values([event("customer.subscription.cancelled", SUBSCRIPTION | {"status": status})])
    assert row["status"] == "canceled"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("created", "active"), ("suspended", "suspended"), ("terminated", "terminated"), ("cancelled", "canceled"),
        ("expired", "expired"), ("failed", "suspended"), ("expiring", None), ("updated", None),
    ],
)  # fmt: skip
def test_without_a_status_the_type_of_the_event_tells_it(kind: str, status: str | None) -> None:
    assert values([event(f"customer.subscription.{kind}", {"id": 4415473})]).get("status") == status


def test_a_failed_payment_of_a_subscription_is_remembered() -> None:
    events = [event(*step, date=after(n)) for n, step in enumerate(STORIES["subscription"])]
    row = values(events)
    assert row["status"] == "canceled"
    assert row["amount"] == "11.55"  # of the newest event, in spite of the update between
    assert row["last_failure_transaction_id"] == "123"
    assert row["last_failure_error"] == "This transaction has been declined."
    assert row["last_failure_at"] == "1617960567257000"
    assert row["customer_profile_id"] == "1811467160"


def test_a_failure_without_a_time_has_the_date_of_its_event() -> None:
    row = values([event("customer.subscription.failed", {"id": "1"})])
    assert row["last_failure_at"] == row["last_event_at"]


def test_a_deleted_customer_keeps_its_ids() -> None:
    row = values(event(*step, date=after(n)) for n, step in enumerate(STORIES["customer"]))
    assert (row["state"], row["merchant_customer_id"], row["payment_profile_ids"]) == ("deleted", "SUB_2", "[]")


def test_a_missing_date_is_the_time_of_receipt() -> None:
    entry = entry_of(event("payment.authcapture.created", CHARGE, date=None))
    assert entry.facts["state"][0] == (START + timedelta(days=1)).timestamp() * 1_000_000


@pytest.mark.parametrize("identity", ["0", 0, "", None, [], "nul\x00", "x" * 501])
def test_a_transaction_without_a_usable_id_is_no_entity(identity: object) -> None:
    assert facts_of(event("payment.authcapture.created", CHARGE | {"id": identity})) is None


def test_every_type_of_the_provider_is_on_the_timeline_and_no_other() -> None:
    for name in EVENT_TYPES:
        assert facts_of(event(name.removeprefix("net.authorize."), {"id": "1"})) is not None
    assert facts_of(event("payment.unheardOf.created", CHARGE)) is None
    assert facts_of(event("payment", CHARGE)) is None


@pytest.mark.parametrize("name", [name.removeprefix("net.authorize.") for name in EVENT_TYPES])
@pytest.mark.parametrize("payload", [None, [], "text", 7, {}, {"id": {}}])
def test_a_payload_of_any_shape_is_no_reason_to_fail(name: str, payload: object) -> None:
    assert facts_of(event(name, payload)) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 100_000], ids=["empty", "cut off", "too deep"])
def test_a_body_that_cannot_be_read_is_no_entity(raw: bytes) -> None:
    unreadable = Event(uuid.UUID(int=1), "default", "n", "net.authorize.customer.created", START, START, 1, raw)
    assert facts_of(unreadable) is None


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_odd_field_is_no_fact_that_postgresql_cannot_hold(odd: object) -> None:
    for name, payload in itertools.chain.from_iterable(STORIES.values()):
        for fields in with_an_odd_field(payload, odd):
            for _, _, value in entry_of(event(name, fields)).facts.values():
                assert "\x00" not in value
                assert "\\u0000" not in value
                value.encode()
