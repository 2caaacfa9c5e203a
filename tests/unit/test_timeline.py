"""The timeline's fold, without a database, reads an event's facts, and no order of arrival changes the row."""

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

from webhookd.authorizenet.facts import Entry, Facts, fold, settle
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.authorizenet.timeline import facts_of
from webhookd.event import Event

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
# These texts stand for two JSON numbers. No float can hold either number, and no Decimal can hold the second one.
HUGE, BEYOND = "@huge", "@beyond"


def event(name: str, payload: object, *, date: datetime | None = START, account: str = "default") -> Event:
    """Returns an event of the type `net.authorize.{name}`, as the worker gives it to a handler."""
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
    """Returns the facts of one entity's events, folded in the given order."""
    return functools.reduce(fold, (entry.facts for e in events if (entry := facts_of(e))), {})


def values(events: Iterable[Event]) -> dict[str, str]:
    """Returns the values of the folded facts, without erased values: the row's columns show them."""
    return {name: value for name, (_, _, value) in folded(events).items() if value is not None}


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

# Each story is the events of one entity, in the order in which they happen.
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
    "sale held, approved": [
        ("payment.authcapture.created", HELD),
        ("payment.fraud.held", HELD),
        ("payment.fraud.approved", CHARGE | {"authAmount": 139.99}),
        ("payment.void.created", VOID | {"responseCode": 3}),
    ],
    "sale held, approved, refused by the bank, in odd spellings": [
        ("payment.AuthCapture.created", HELD | {"responseCode": "4"}),
        ("payment.fraud.APPROVED", CHARGE | {"responseCode": 2.0, "id": " 60022194830 "}),
        ("payment.fraud.declined", CHARGE | {"responseCode": 21}),
    ],
    "test button": [
        ("payment.authcapture.created", CHARGE | {"responseCode": 21}),
        ("payment.priorAuthCapture.created", CHARGE | {"responseCode": 0}),
        ("payment.fraud.approved", CHARGE | {"responseCode": 0}),
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
    """Yields `payload` with each field in turn made odd, except the id; nested fields too; at last with all fields odd."""
    for key, value in payload.items():
        if key != "id":
            yield payload | {key: odd}
        if isinstance(value, dict):
            yield from (payload | {key: value | {inner: odd}} for inner in value)
    yield dict.fromkeys(payload, odd) | {"id": payload["id"]}


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """Draws one entity's events with missing or odd fields, and with dates that are equal, out of order or missing."""
    story = draw(st.sampled_from(list(STORIES.values())))
    dates = st.none() | st.integers(0, len(story)).map(after)
    events = []
    for name, payload in story:
        fields = {key: value for key, value in payload.items() if key == "id" or draw(st.integers(0, 9))}
        odd = st.dictionaries(st.sampled_from([*(set(payload) - {"id"}), "unknown"]), st.sampled_from(ODD), max_size=2)
        events.append(event(name, fields | draw(odd), date=draw(dates)))
    return events


def with_duplicates(events: Sequence[Event], chance: random.Random) -> list[Event]:
    """Returns `events` with some events repeated, each repeat anywhere after the event's first place."""
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


registers = st.tuples(st.integers(-5, 5) | st.integers(-(2**62), 2**62), st.integers(0, 8), st.none() | st.text(max_size=3))
_SETTLED = ("state", "captured_at", "captured_amount", "approved_amount", "captures_when_approved")
some_facts = st.dictionaries(st.sampled_from(["a", "b", "c", *_SETTLED]), registers)


@settings(max_examples=500)
@given(some_facts, some_facts, some_facts)
def test_the_fold_is_commutative_associative_and_idempotent(a: Facts, b: Facts, c: Facts) -> None:
    assert fold(a, b) == fold(b, a)
    assert fold(fold(a, b), c) == fold(a, fold(b, c))
    assert fold(a, a) == settle(a) == settle(settle(a))
    assert fold(fold(a, b), b) == fold(a, b)
    assert fold(settle(a), b) == fold(a, b)


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


# Each story with the expected columns of its row; None stands for an empty column.
SALE = CHARGE | {"authAmount": 139.99}
HELD_SALE = HELD | {"authAmount": 139.99}
STARTED = ("payment.authorization.created", CHARGE)
ROWS: dict[str, tuple[list[tuple[str, dict[str, Any]]], dict[str, str | None]]] = {
    **{
        f"the bank refuses at the approval, {code}, {first}": (
            [(first, HELD_SALE), ("payment.fraud.held", HELD_SALE), ("payment.fraud.approved", SALE | {"responseCode": code})],
            {
                "state": state, "approved_at": None, "authorized_amount": None, "captured_amount": None, "captured_at": None,
                "requested_amount": "139.99", "response_code": str(code), "declined_at": declined,
            },
        )
        for first in ("payment.authorization.created", "payment.authcapture.created")
        for code, state, declined in ((2, "declined", "2"), (3, "error", None), (8, "declined", "2"))
    },
    "a held sale is captured by its approval": (
        [
            ("payment.authcapture.created", HELD_SALE),
            ("payment.fraud.held", HELD_SALE),
            ("payment.fraud.approved", SALE),
        ],
        {
            "state": "captured", "held_at": "1", "approved_at": "2", "captured_at": "2", "captured_amount": "139.99",
            "authorized_amount": "139.99", "requested_amount": "139.99", "last_event_at": "2",
        },
    ),
    "a held sale, approved by an event whose code repeats that of the review": (
        [("payment.authcapture.created", HELD_SALE), ("payment.fraud.approved", HELD_SALE)],
        {"state": "approved", "captured_amount": None, "captured_at": None, "authorized_amount": None},
    ),
    "a held sale, captured by its approval, then voided": (
        [
            ("payment.authcapture.created", HELD_SALE),
            ("payment.fraud.approved", SALE),
            ("payment.void.created", SALE),
        ],
        {"state": "voided", "captured_at": "1", "captured_amount": None, "authorized_amount": None, "voided_at": "2"},
    ),
    "held and approved alone": (
        [("payment.fraud.held", HELD_SALE), ("payment.fraud.approved", SALE)],
        {"state": "approved", "authorized_amount": "139.99", "captured_amount": None, "captured_at": None},
    ),
    "held": (
        [("payment.fraud.held", HELD_SALE)],
        {"state": "held", "requested_amount": "139.99", "authorized_amount": None, "captured_amount": None},
    ),
    "authorised, then held": (
        [("payment.authorization.created", SALE), ("payment.fraud.held", HELD_SALE)],
        {"state": "held", "requested_amount": "139.99", "authorized_amount": None},
    ),
    "declined": (
        [("payment.authcapture.created", SALE | {"responseCode": 2})],
        {"state": "declined", "requested_amount": "139.99", "authorized_amount": None, "captured_amount": None},
    ),
    "a recurring charge that failed": (
        [("payment.authcapture.created", SALE | {"responseCode": 8})],
        {"state": "declined", "requested_amount": "139.99", "captured_amount": None, "response_code": "8"},
    ),
    "authorised, then declined by the review": (
        [("payment.authorization.created", SALE), ("payment.fraud.declined", SALE | {"responseCode": 4})],
        {"state": "declined", "requested_amount": "139.99", "authorized_amount": None},
    ),
    "voided": (
        [("payment.authcapture.created", CHARGE), ("payment.void.created", VOID)],
        {
            "state": "voided", "requested_amount": "7.25", "authorized_amount": None, "captured_amount": None,
            "auth_code": "P1XHLC", "captured_at": "0", "voided_at": "1",
        },
    ),
    "a voided refund": (
        [("payment.refund.created", CHARGE), ("payment.void.created", VOID)],
        {"state": "voided", "kind": "refund", "requested_amount": "7.25", "refunded_amount": None},
    ),
    **{
        f"a follow-up that fails, {name}, {code!r}": (
            [STARTED, (name, VOID | {"responseCode": code, "authAmount": 5})],
            {
                "state": "authorized", "authorized_amount": "7.25", "requested_amount": "7.25", "captured_amount": None,
                "response_code": "1", "last_event_type": "net.authorize.payment.authorization.created", "last_event_at": "0",
                "last_failure_type": f"net.authorize.{name}", "last_failure_at": "1", "last_failure_code": told,
            },
        )
        for name in ("payment.void.created", "payment.priorAuthCapture.created")
        for code, told in ((2, "2"), (3, "3"), ("2", "2"), (3.0, "3"), (4, "4"), (17, "17"), (0, "0"), (True, None), ([], None))
    },
    "a follow-up that fails without a code, after one with a code": (
        [("payment.void.created", VOID | {"responseCode": 3}), ("payment.void.created", VOID | {"responseCode": "?"})],
        {"last_failure_at": "1", "last_failure_code": None, "state": None, "last_event_type": None},
    ),
    **{
        f"a code that reports no state, {code!r}, {name}": (
            [(f"payment.{name}", CHARGE | {"responseCode": code, "authAmount": 12.5, "id": "245"})],
            {
                "state": None, "response_code": told, "requested_amount": "12.5", "captured_amount": None, "approved_at": None,
                "last_event_type": f"net.authorize.payment.{name}",
            },
        )
        for name in ("authcapture.created", "authorization.created", "refund.created", "fraud.approved")
        for code, told in ((0, "0"), (21, "21"), ("21", "21"), (-1, None), (1.5, None), (10**30, None))
    },
    **{
        f"the code 1, written {code!r}": (
            [("payment.authcapture.created", CHARGE | {"responseCode": code})],
            {"state": "captured", "captured_amount": "7.25", "response_code": "1"},
        )
        for code in (1, 1.0, "1", " 1 ", "1.0")
    },
    **{
        f"the type in another case: {name}": (
            [(name, CHARGE)],
            {"state": "captured", "captured_amount": "7.25", "last_event_type": "net.authorize.payment.authcapture.created"},
        )
        for name in ("payment.AuthCapture.Created", "PAYMENT.AUTHCAPTURE.CREATED")
    },
    **{
        f"a subscription that is {kind}, whose payload says {status!r}": (
            [(f"customer.subscription.{kind}", SUBSCRIPTION | {"status": status})],
            {"status": expected},
        )
        for kind, expected in (
            ("suspended", "suspended"), ("cancelled", "canceled"), ("terminated", "terminated"), ("expired", "expired"),
        )
        for status in ("active", "suspended", "cancelled", "Canceled", "CANCELLED", expected, None, 5)
    },
    "a failed charge without a status reports none": (
        [("customer.subscription.failed", {"id": "4415473"})], {"status": None},
    ),
    "a failed charge without a status leaves the status": (
        [("customer.subscription.created", SUBSCRIPTION), ("customer.subscription.failed", {"id": "4415473"})],
        {"status": "active", "last_event_type": "net.authorize.customer.subscription.failed"},
    ),
    "a failed charge with a status reports it": (
        [("customer.subscription.failed", SUBSCRIPTION | {"status": "suspended"})], {"status": "suspended"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("story", ROWS)
def test_a_story_ends_in_the_row_that_is_expected_of_it(story: str) -> None:
    steps, expected = ROWS[story]
    row = values(event(name, payload, date=after(n)) for n, (name, payload) in enumerate(steps))
    minutes = {str(round(after(n).timestamp() * 1_000_000)): str(n) for n in range(len(steps))}
    shown = {name: minutes.get(row.get(name, ""), row.get(name)) for name in expected}
    assert shown == expected


@pytest.mark.parametrize("story", ROWS)
def test_the_row_of_a_story_does_not_depend_on_the_order_of_arrival(story: str) -> None:
    steps = [event(name, payload, date=after(n)) for n, (name, payload) in enumerate(ROWS[story][0])]
    for order in itertools.permutations(steps + steps[:1]):
        assert folded(order) == folded(steps)


def test_a_sale_and_a_hold_of_one_instant_are_a_held_sale() -> None:
    row = values([event("payment.authcapture.created", CHARGE), event("payment.fraud.held", HELD)])
    assert row["state"] == "held"


@pytest.mark.parametrize("written", [" 60022194830", "60022194830\n", 60022194830, 60022194830.0])
def test_an_id_means_the_same_however_it_is_written(written: object) -> None:
    assert entry_of(event("payment.void.created", VOID | {"id": written})).id == "60022194830"


@pytest.mark.parametrize("kind", ["authorization", "authcapture", "capture", "refund"])
@pytest.mark.parametrize(("code", "state"), [(2, "declined"), (3, "error"), (4, "held"), ("2", "declined"), (9, None)])
def test_the_response_code_of_a_new_transaction_tells_its_state(kind: str, code: object, state: str | None) -> None:
    row = values([event(f"payment.{kind}.created", CHARGE | {"responseCode": code})])
    assert row.get("state") == state
    assert row["requested_amount"] == "7.25"
    assert not {"authorized_amount", "captured_amount", "refunded_amount", "captured_at", "refunded_at"} & row.keys()


def test_a_refund_stands_under_its_own_id() -> None:
    entry = entry_of(event("payment.refund.created", {"responseCode": 1, "authAmount": 0.72, "id": "60022194896"}))
    row = {name: value for name, (_, _, value) in entry.facts.items()}
    assert (entry.name, entry.id) == ("transaction", "60022194896")
    assert (row["kind"], row["state"], row["refunded_amount"]) == ("refund", "refunded", "0.72")
    assert "captured_amount" not in row


def test_a_voided_refund_is_still_a_refund() -> None:
    events = [event(*step, date=after(n)) for n, step in enumerate(STORIES["refund"])]
    assert (values(events)["kind"], values(events)["state"]) == ("refund", "voided")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("created", "active"), ("suspended", "suspended"), ("terminated", "terminated"), ("cancelled", "canceled"),
        ("expired", "expired"), ("failed", None), ("expiring", None), ("updated", None),
    ],
)  # fmt: skip
def test_without_a_status_the_type_of_the_event_tells_it(kind: str, status: str | None) -> None:
    assert values([event(f"customer.subscription.{kind}", {"id": 4415473})]).get("status") == status


def test_a_failed_payment_of_a_subscription_is_remembered() -> None:
    events = [event(*step, date=after(n)) for n, step in enumerate(STORIES["subscription"])]
    row = values(events)
    assert row["status"] == "canceled"
    assert row["amount"] == "11.55"  # the newest event's amount, in spite of the update between
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
                if value is None:
                    continue
                assert "\x00" not in value
                assert "\\u0000" not in value
                value.encode()
