"""Any authentic body becomes a notification that PostgreSQL can store, or has a reason for quarantine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.notification import EVENT_TYPES, Notification, check_age, label, parse
from webhookd.errors import UnusableError

HELD: dict[str, Any] = {
    "notificationId": "701BF27D-d46f-4c3b-82f2-066448e2901e",
    "eventType": "net.authorize.payment.fraud.held",
    "eventDate": "2019-01-31T14:38:42.6937313Z",
    "webhookId": "e6b3764d-5677-4fb1-a929-2e25a02f3073",
    "payload": {
        "responseCode": 4,
        "authAmount": 139.99,
        "merchantReferenceId": "336638",
        "invoiceNumber": "INV-1",
        "entityName": "transaction",
        "id": "64378428711",
    },
}


def parsed(account: str = "default", **changes: Any) -> Notification:
    return parse(json.dumps(HELD | changes).encode(), account)


def with_payload(**changes: Any) -> Notification:
    return parsed(payload=HELD["payload"] | changes)


def reason(body: bytes) -> str:
    with pytest.raises(UnusableError) as unusable:
        parse(body, "default")
    return unusable.value.reason


def test_every_column_is_read_from_the_envelope() -> None:
    assert parsed()._replace(content_key=None) == Notification(
        notification_id="701bf27d-d46f-4c3b-82f2-066448e2901e",
        event_type="net.authorize.payment.fraud.held",
        event_date=datetime(2019, 1, 31, 14, 38, 42, 693731, tzinfo=UTC),
        entity_name="transaction",
        entity_id="64378428711",
        invoice_number="INV-1",
        merchant_reference="336638",
        content_key=None,
    )


def test_an_id_and_a_type_are_enough() -> None:
    body = b'{"notificationId":" A ","eventType":"net.authorize.new.kind"}'
    assert parse(body, "default") == Notification("a", "net.authorize.new.kind", *[None] * 6)


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse(b'\xef\xbb\xbf{"notificationId":"a","eventType":"t"}', "default").notification_id == "a"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"\xff", "not_json"),
        (b'{"notificationId":NaN}', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[]", "not_object"),
        (b"null", "not_object"),
        (b"{}", "no_notification_id"),
        (b'{"notificationId":" ","eventType":"t"}', "no_notification_id"),
        (b'{"notificationId":{},"eventType":"t"}', "no_notification_id"),
        (b'{"notificationId":"a"}', "no_event_type"),
        (b'{"notificationId":"a","eventType":7}', "no_event_type"),
        (b'{"notificationId":"a\\u0000","eventType":"t"}', "unstorable"),
        (b'{"notificationId":"a","eventType":"t\\u0000"}', "unstorable"),
        (b'{"notificationId":"%s","eventType":"t"}' % (b"a" * 201), "unstorable"),
        (b'{"notificationId":"a","eventType":"a\\u001fb"}', "unstorable"),
        (b'{"notificationId":"a","eventType":"%s"}' % (b"t" * 201), "unstorable"),
        # 200 characters, but 400 in lower case
        (b'{"notificationId":"%s","eventType":"t"}' % ("\u0130" * 200).encode(), "unstorable"),
    ],
)
def test_what_cannot_become_an_event_has_a_reason(body: bytes, expected: str) -> None:
    assert reason(body) == expected


@pytest.mark.parametrize("odd", [None, True, 1.5, [], {}, "", "a\x00b", "a\x1fb", "x" * 201])
def test_a_field_that_is_no_usable_text_counts_as_missing(odd: object) -> None:
    notification = with_payload(entityName=odd, id=odd, invoiceNumber=odd, merchantReferenceId=odd)
    assert (notification.entity_name, notification.entity_id) == (None, None)
    assert (notification.invoice_number, notification.merchant_reference) == (None, None)


@pytest.mark.parametrize("written", [" 64378428711 ", "\t64378428711\n", 64378428711, 64378428711.0])
def test_an_id_means_the_same_however_it_is_written(written: object) -> None:
    assert with_payload(id=written).entity_id == "64378428711"


@pytest.mark.parametrize("name", ["CUSTOMERPROFILE", " customerprofile ", "CustomerProfile"])
def test_an_entitys_name_in_another_case_is_spelled_as_the_provider_spells_it(name: str) -> None:
    assert with_payload(entityName=name).entity_name == "customerProfile"


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_an_event_type_in_another_case_is_spelled_as_the_provider_spells_it(name: str) -> None:
    for written in (name.upper(), name.lower(), f" {name.title()} "):
        assert parsed(eventType=written).event_type == name
    assert parsed(eventType="net.authorize.New.kind").event_type == "net.authorize.New.kind"


@pytest.mark.parametrize("payload", [None, [], "text", 7, {}])
def test_an_odd_payload_counts_as_missing(payload: object) -> None:
    notification = parsed(payload=payload)
    assert notification.entity_id is None
    assert notification.content_key is None


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2019-01-31T14:38:42Z", 0),
        ("2019-01-31T14:38:42.1Z", 100_000),
        ("2019-01-31T14:38:42.167", 167_000),  # the form of the provider's history: no zone, read as UTC
        ("2019-01-31T14:38:42.69373Z", 693_730),
        ("2019-01-31T14:38:42.693731Z", 693_731),
        ("2019-01-31T14:38:42.6937313Z", 693_731),
        ("2019-01-31T14:38:42.693731349999999Z", 693_731),
        ("2019-01-31T16:38:42+02:00", 0),
        ("2019-01-31T09:08:42-05:30", 0),
    ],
)
def test_a_date_is_utc_whatever_its_zone_and_digits(text: str, microsecond: int) -> None:
    date = parsed(eventDate=text).event_date
    assert date == datetime(2019, 1, 31, 14, 38, 42, microsecond, tzinfo=UTC)
    assert date.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "odd",
    [
        "20000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "2019-02-30T00:00:00Z",
        "2019-01-31T14:38:42+99:00",
        "yesterday",
        "",
        None,
        1548945522,
        {},
    ],
)
def test_a_date_that_is_none_counts_as_missing(odd: object) -> None:
    assert parsed(eventDate=odd).event_date is None


def test_the_same_content_has_the_same_hash_whatever_its_form_and_ids() -> None:
    twin = {
        "webhookId": "another",
        "notificationId": "another",
        "payload": dict(reversed(HELD["payload"].items())),
        "eventDate": HELD["eventDate"],
        "eventType": HELD["eventType"],
    }
    expected = parsed().content_key
    assert expected is not None
    assert len(expected) == 16
    assert parse(json.dumps(twin, indent=2).encode(), "default").content_key == expected


def test_another_account_type_date_or_payload_has_another_hash() -> None:
    hashes = [
        parsed().content_key,
        parsed(account="other").content_key,
        parsed(eventType="net.authorize.payment.fraud.approved").content_key,
        parsed(eventDate="2019-01-31T14:38:42.6937314Z").content_key,  # one digit more than a column keeps
        with_payload(id="64378428712").content_key,
        with_payload(authAmount=139.98).content_key,
    ]
    assert None not in hashes
    assert len(set(hashes)) == len(hashes)


def test_a_later_event_has_a_greater_hash() -> None:
    dates = ["0001-01-01T00:00:00Z", "2019-01-31T14:38:42.69Z", "2019-01-31T14:38:43.01Z", "9999-12-31T23:59:59Z"]
    hashes = [parsed(eventDate=date).content_key or b"" for date in dates]
    assert hashes == sorted(hashes)
    assert len({content_key[:4] for content_key in hashes}) == len(dates)


@pytest.mark.parametrize("between", ["", '","', "\n", " "])
def test_the_end_of_one_field_cannot_pass_for_the_beginning_of_the_next(between: str) -> None:
    one = parsed(account=f"a{between}b", eventType="c").content_key
    other = parsed(account="a", eventType=f"b{between}c").content_key
    assert one != other


@pytest.mark.parametrize("changes", [{"eventDate": None}, {"eventDate": ""}, {"eventDate": 7}, {"payload": None}])
def test_without_date_or_payload_two_events_cannot_be_told_apart(changes: dict[str, Any]) -> None:
    assert parsed(**changes).content_key is None


def test_a_payload_nested_deeper_than_can_be_hashed_is_still_an_event() -> None:
    nested = b'{"notificationId":"a","eventType":"t","eventDate":"d","payload":{"x":' + b"[" * 900 + b"]" * 900 + b"}}"
    assert parse(nested, "default").content_key is None


WRITTEN = (
    b'{"notificationId":"%s","eventType":"net.authorize.payment.capture.created","eventDate":"2019-01-31T14:38:42.6937313Z",'
    b'"webhookId":"%s","payload":{"responseCode":1,"authAmount":%s,"entityName":"transaction","id":"60116007277"}}'
)


def hashed(body: bytes) -> bytes | None:
    return parse(body, "default").content_key


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(b"45.99", "5c53087295ee5fdc3949804d996ad9f0"), (b"45.00", "5c53087207a29e63ec43f295b8edfb35")],
)
def test_the_hash_is_the_same_in_every_release(amount: bytes, expected: str) -> None:
    """Two releases run side by side during an upgrade, and each release may receive one of two twins."""
    content_key = hashed(WRITTEN % (b"a", b"w", amount))
    assert content_key is not None
    assert content_key.hex() == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"0.1", b"0.1000000000000000055511151231257827"),
        (b"0.1000000000000000055511151231257827", b"0.1000000000000000055511151231257828"),
        (b"9007199254740993.0", b"9007199254740992.0"),
        (b"12345678901234567890123", b"12345678901234567890124"),
        (b"-9223372036854775809", b"-9223372036854775810"),
        (b"1e-400", b"0"),
        (b"1e-400", b"1e-401"),
        (b'45.99,"authAmount":1', b'46.99,"authAmount":1'),
        (b'1,"lines":[{"a":1,"a":2}]', b'1,"lines":[{"a":2}]'),
        (b'{"number":"1e-400"}', b"1e-400"),
    ],
)
def test_what_parsing_would_lose_tells_two_notifications_apart(one: bytes, other: bytes) -> None:
    hashes = {hashed(WRITTEN % (b"a", b"w", amount)) for amount in (one, other)}
    assert None not in hashes
    assert len(hashes) == 2


def test_an_envelopes_field_that_another_of_its_name_follows_tells_two_notifications_apart() -> None:
    bodies = [
        b'{"eventType":"x","eventDate":"%s","payload":{"a":1},%s' % (date, (WRITTEN % (b"a", b"w", b"1"))[1:])
        for date in (b"2019-01-31T14:38:42Z", b"2019-01-31T14:38:43Z")
    ]
    hashes = {hashed(body) for body in bodies}
    assert None not in hashes
    assert len(hashes) == 2


@pytest.mark.parametrize(
    "amount", [b"45.99", b"45.00", b"0.1000000000000000055511151231257827", b'1,"authAmount":2', b"1e-400"]
)
def test_the_twin_through_another_webhook_has_the_same_hash_however_its_numbers_are_written(amount: bytes) -> None:
    spaced = (WRITTEN % (b"c", b"y", amount)).replace(b'":', b'" : ')
    hashes = {hashed(body) for body in (WRITTEN % (b"a", b"w", amount), WRITTEN % (b"b", b"x", amount), spaced)}
    assert None not in hashes
    assert len(hashes) == 1


def check_storable(body: bytes) -> None:
    """Checks that parsing raises UnusableError with a known reason, or returns values that PostgreSQL can store."""
    try:
        notification = parse(body, "default")
    except UnusableError as error:
        reasons = {"not_json", "not_object", "no_notification_id", "no_event_type", "unstorable"}
        assert error.reason in reasons  # noqa: PT017  parsing may also succeed, so `raises` does not fit
        return
    for value in tuple(notification):
        if isinstance(value, str):
            assert 0 < len(value.encode()) <= 800
            assert len(value) <= 200
            assert not {"\x00", "\x1f"} & set(value)
    date = notification.event_date
    assert date is None or date.utcoffset() == timedelta(0)


@given(st.binary())
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    check_storable(body)


any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.text()
    | st.datetimes(timezones=st.timezones() | st.none()).map(datetime.isoformat),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
text_or_json = st.text(max_size=250) | any_json
envelopes = st.fixed_dictionaries(
    {"notificationId": text_or_json, "eventType": text_or_json},
    optional={
        "eventDate": any_json,
        "webhookId": any_json,
        "payload": any_json
        | st.fixed_dictionaries({}, optional={"entityName": any_json, "id": any_json, "invoiceNumber": any_json}),
    },
)


@given(any_json | envelopes, st.booleans())
def test_no_json_raises_anything_else(value: object, ascii_only: bool) -> None:
    check_storable(json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass"))


@pytest.mark.parametrize("depth", [200, 253, 255, 900, 1023, 1025, 50_000])
@pytest.mark.parametrize("number", ["1", "9" * 5000, "-1e-99999999999999999999", "1e400"])
def test_neither_depth_nor_a_huge_number_raises_anything_else(depth: int, number: str) -> None:
    nested = "[" * depth + number + "]" * depth
    check_storable(f'{{"notificationId":"a","eventType":"t","eventDate":"d","payload":{{"x":{nested}}}}}'.encode())


def test_a_known_type_labels_itself_and_all_others_share_one_label() -> None:
    assert len(EVENT_TYPES) == len(set(EVENT_TYPES)) == 23
    assert all(label(event_type) == event_type for event_type in EVENT_TYPES)
    assert {label("net.authorize.new.kind"), label("")} == {"other"}


NOW = datetime(2026, 1, 15, tzinfo=UTC)


@pytest.mark.parametrize("age", [0, 100, -10])
def test_an_event_inside_the_window_has_the_right_age(age: float) -> None:
    check_age(NOW - timedelta(seconds=age), NOW, max_age=100, max_skew=10)


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        (NOW - timedelta(seconds=101), "too_old"),
        (NOW + timedelta(seconds=11), "in_the_future"),
        (datetime.min.replace(tzinfo=UTC), "too_old"),
        (datetime.max.replace(tzinfo=UTC), "in_the_future"),
    ],
)
def test_an_event_outside_the_window_has_a_reason(date: datetime, expected: str) -> None:
    with pytest.raises(UnusableError) as unusable:
        check_age(date, NOW, max_age=100, max_skew=10)
    assert unusable.value.reason == expected


def test_an_event_without_a_date_is_inside_any_window() -> None:
    check_age(None, NOW, max_age=1, max_skew=0)
