"""A body that is not quite JSON is still read, and its fault and the fault's place are reported."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet import body
from webhookd.authorizenet.notification import parse, parse_mended
from webhookd.authorizenet.payload import load_payload
from webhookd.errors import UnusableError

TEXT = '{"notificationId":"A","eventType":"t","payload":{"name":"%s","amount":%s}}'


def why(raw: bytes) -> str:
    with pytest.raises(UnusableError) as unusable:
        parse(raw, "default")
    assert unusable.value.reason == "not_json"
    return unusable.value.detail


PLACE = TEXT.index("%s")


@pytest.mark.parametrize(
    ("raw", "said", "mended", "name", "amount"),
    [
        ((TEXT % ("José", 7)).encode("latin-1"), f"byte 0xe9 at offset {PLACE + 3}", ("Latin-1 was read as such",), "José", 7),
        (
            (TEXT % ("José €", 7)).encode().replace("é".encode(), b"\xe9"),
            f"byte 0xe9 at offset {PLACE + 3}",
            ("what is not UTF-8 became U+FFFD",),
            "Jos\ufffd €",
            7,
        ),
        ((TEXT % ("José", 7)).encode("utf-16"), "UTF-16", ("UTF-16 was read as such",), "José", 7),
        ((TEXT % ("José", 7)).encode("utf-16-le"), "UTF-16", ("UTF-16 was read as such",), "José", 7),
        ((TEXT % ("José", 7)).encode("utf-16-be"), "UTF-16", ("UTF-16 was read as such",), "José", 7),
        ((TEXT % ("José", 7)).encode("utf-32"), "UTF-32", ("UTF-32 was read as such",), "José", 7),
        (
            (TEXT % (r"a\ud83d", 7)).encode(),
            "surrogate",
            ("1 of half a surrogate pair became U+FFFD",),
            "a\ufffd",
            7,
        ),
        (
            (TEXT % (r"\uDE00\\ud83d\ud83d\ude00\ud83d", 7)).encode(),
            "surrogate",
            ("2 of half a surrogate pair became U+FFFD",),
            "\ufffd\\ud83d\U0001f600\ufffd",
            7,
        ),
        ((TEXT % ("a", "1e400")).encode(), f"offset {TEXT.rindex('%s') - 1}", (), "a", Decimal("1e400")),
        ((TEXT % ("é", "1e400")).encode("utf-8-sig"), f"offset {TEXT.rindex('%s') + 3}", (), "é", Decimal("1e400")),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_it_is_read_all_the_same(
    raw: bytes, said: str, mended: tuple[str, ...], name: str, amount: Any
) -> None:
    assert said in why(raw)
    notification, how = parse_mended(raw, "default")
    assert (notification.notification_id, notification.event_type) == ("a", "t")
    assert how == mended == body.read(raw).mended
    payload = load_payload(raw)
    assert payload == {"name": name, "amount": amount}
    assert type(payload["amount"]) is Decimal, "no float, and not infinity"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "offset 0"),
        (b'{"a":1,}', "offset 6"),
        (b'{"a":"\xc3\xa9",}', "offset 9"),
        (b'{"a":NaN}', "offset 5"),
        (b"[" * 100_000, ""),
        (b'{"a":"\xff', "byte 0xff at offset 6"),
    ],
)
def test_what_is_no_json_in_any_encoding_stays_where_it_is(raw: bytes, said: str) -> None:
    assert said in why(raw)
    with pytest.raises(UnusableError) as unusable:
        parse_mended(raw, "default")
    assert unusable.value.reason == "not_json"


def test_what_is_json_needs_no_mending() -> None:
    for text in (TEXT % ("José \U0001f600", "7.67"), TEXT % (r"\ud83d\ude00 \\ud83d", "0")):
        assert body.read(text.encode()) == body.Text(text)
        assert body.read(text.encode("utf-8-sig")) == body.Text(text)


@given(
    st.binary() | st.text().map(lambda text: text.encode("utf-16")) | st.from_regex(rb'\{"a":"(\\u[dD][0-9a-f]{3}|.){0,9}"\}')
)
def test_any_bytes_are_read_as_text_that_postgresql_can_hold(raw: bytes) -> None:
    text, _ = body.read(raw)
    text.encode()  # raises if the text holds half of a surrogate pair
    try:
        value = body.load(text)
    except ValueError:
        return
    str(value).encode()


@given(st.binary())
def test_no_bytes_raise_anything_but_an_unusable_error(raw: bytes) -> None:
    with contextlib.suppress(UnusableError):
        parse_mended(raw, "default")
