"""A refused webhook is described without its signature, and people's usual mistakes are recognised."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.diagnosis import Finding, diagnose, header_shape
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import fingerprint, sign

KEY = "339E42F5D962293A925C244313E8C3546FD765AD202BFF3805F4C8459193E2AA" * 2
OLD = "0A" * 64
EU = "1B" * 64
HEX = "0A" * 64
BODY = (
    b'{"notificationId":"701bf27d-d46f-4c3b-82f2-066448e2901e","eventType":"net.authorize.payment.authcapture.created",'
    b'"eventDate":"2019-01-31T14:38:42.6937313Z","payload":{"responseCode":1,"authAmount":300.00,"description":"Zo\xc3\xab",'
    b'"entityName":"transaction","id":"60116007277"}}'
)
KEYS = {"default": (KEY,), "eu": (EU,)}


@pytest.mark.parametrize(
    ("header", "shape"),
    [
        (None, "no header"),
        ("", "an empty header"),
        (f"sha512={HEX}", "sha512=, 128 hexadecimal digits in upper case"),
        (f" SHA512={HEX.lower()}\t", "sha512=, 128 hexadecimal digits in lower case"),
        (f"sha256={HEX[:64]}", "sha256=, 64 hexadecimal digits in upper case"),
        (f"4111111111111111={HEX}", "an unknown prefix, 128 hexadecimal digits in upper case"),
        (HEX[:63] + "a", "no prefix, 64 hexadecimal digits in mixed case"),
        (base64.b64encode(bytes(64)).decode(), "no prefix, 88 characters of base64"),
        (f"sha512={HEX}, sha512={HEX}", "sha512=, 265 characters with white space and commas"),
        (f'"{HEX}"', "no prefix, 130 characters with quotation marks"),
        ("sha512=", "no prefix, 7 characters"),
        ("x" * 5000, "no prefix, 1024 characters of base64, longer than any signature"),
    ],
)
def test_the_shape_of_a_header_tells_how_it_is_written(header: str | None, shape: str) -> None:
    assert header_shape(header) == shape


@given(
    st.text(st.characters(blacklist_characters="0123456789"), min_size=6) | st.binary(min_size=64, max_size=64).map(bytes.hex)
)
def test_the_shape_of_a_header_holds_nothing_of_its_value(value: str) -> None:
    shape = header_shape(f"sha512={value}")
    assert shape.isascii()
    assert shape.isprintable()
    assert len(shape) < 120
    assert not any(value[at : at + 16] in shape for at in range(max(len(value) - 16, 0)))


def found(body: bytes, header: str | None, account: str | None = "default") -> str:
    diagnosis = diagnose(body, header, account, KEYS)
    assert not any(key.lower() in diagnosis.likely.lower() for key in (KEY, EU)), "a key is shown"
    return diagnosis.finding


@pytest.mark.parametrize(
    ("body", "header", "finding"),
    [
        (BODY, sign(BODY, KEY), Finding.VERIFIES_NOW),
        (BODY, "sha512=" + hmac.digest(bytes.fromhex(KEY), BODY, "sha512").hex(), Finding.HEX_DECODED_KEY),
        (BODY, sign(BODY, KEY.lower()), Finding.KEY_CASE),
        (BODY, sign(BODY, EU), Finding.OTHER_ACCOUNT),
        (BODY, sign(BODY, OLD), Finding.UNKNOWN_KEY),
        (BODY, sign(BODY, KEY).removeprefix("sha512="), Finding.HEADER_FORM),
        (BODY, base64.b64encode(hmac.digest(KEY.encode(), BODY, "sha512")).decode(), Finding.HEADER_FORM),
        (BODY, "sha256=" + "0" * 64, Finding.HEADER_FORM),
        (BODY, None, Finding.NO_HEADER),
        (b"", sign(BODY, KEY), Finding.EMPTY_BODY),
        (b"x_response_code=1&x_first_name=Ann", None, Finding.SILENT_POST),
        (b"x_response_code=1&x_first_name=Ann", sign(BODY, OLD), Finding.SILENT_POST),
        (b"hello", sign(BODY, OLD), Finding.NOT_JSON),
        (b'{"event":"push"}', sign(BODY, OLD), Finding.NOT_A_NOTIFICATION),
        (json.dumps(json.loads(BODY)).encode(), sign(BODY, KEY), Finding.BODY_CHANGED),  # 300.00 became 300.0, ë became \u00eb
        (json.dumps(json.loads(BODY), ensure_ascii=False).encode(), sign(BODY, KEY), Finding.BODY_CHANGED),
        (BODY.replace(b"300.00", b"300"), sign(BODY, KEY), Finding.BODY_CHANGED),
        (BODY + b"\n", sign(BODY, KEY), Finding.BODY_CHANGED),
        (BODY.decode("latin-1").encode(), sign(BODY, KEY), Finding.BODY_CHANGED),
        (base64.b64encode(BODY), sign(BODY, KEY), Finding.BODY_CHANGED),
        (base64.b64encode(BODY), sign(BODY, OLD), Finding.BASE64_BODY),
        (json.dumps(BODY.decode()).encode(), sign(BODY, KEY), Finding.BODY_CHANGED),
        (json.dumps(BODY.decode()).encode(), sign(BODY, OLD), Finding.JSON_STRING),
    ],
)
def test_what_people_get_wrong_is_recognised(body: bytes, header: str | None, finding: Finding) -> None:
    assert found(body, header) == finding


def test_the_diagnosis_names_the_key_the_account_and_the_remedy() -> None:
    other = diagnose(BODY, sign(BODY, EU), None, KEYS)
    assert other.finding is Finding.OTHER_ACCOUNT
    assert f"key {fingerprint(EU)} of the account eu" in other.likely
    assert "end with /eu" in other.likely
    assert "add the key to WEBHOOKD_ACCOUNTS__<NAME>__SIGNATURE_KEYS" in other.likely
    assert "add the key to WEBHOOKD_SIGNATURE_KEYS" in diagnose(BODY, sign(BODY, EU), "default", KEYS).likely


def test_a_key_that_cannot_be_a_signature_key_is_named() -> None:
    odd = diagnose(BODY, sign(BODY, OLD), "default", {"default": ("6Zq9kV5T2hW3x8mB",)})
    assert odd.finding is Finding.ODD_KEY
    assert "16 characters" in odd.likely
    assert "6Zq9" not in odd.likely


@given(
    body=st.binary() | st.just(b"[" * 5000) | st.just(b'"\\ud800"'), header=st.none() | st.text(), account=st.none() | st.text()
)
def test_whatever_was_refused_has_a_diagnosis(body: bytes, header: str | None, account: str | None) -> None:
    assert diagnose(body, header, account, KEYS).likely


@pytest.mark.parametrize("event_type", EVENT_TYPES)
@pytest.mark.parametrize("written", [{"separators": (",", ":")}, {"indent": 2}, {}], ids=["compact", "pretty", "spaced"])
def test_a_body_whose_keys_were_sorted_is_recognised_by_its_signature(event_type: str, written: Any) -> None:
    body = sample(event_type, 7).body
    changed = json.dumps(json.loads(body), sort_keys=True, **written).encode()
    diagnosis = diagnose(changed, sign(body, KEY), "default", KEYS)
    assert diagnosis.finding == Finding.BODY_CHANGED
    assert f"the key {fingerprint(KEY)} signed it with" in diagnosis.likely
    assert found(changed, sign(body, OLD)) == Finding.KEYS_SORTED, "also without its key"


@pytest.mark.parametrize(
    ("body", "signed", "how"),
    [
        (BODY, b"\xef\xbb\xbf" + BODY, "with a byte order mark"),
        (b"\xef\xbb\xbf" + BODY, BODY, "without a byte order mark"),
        (BODY, BODY + b"\n", "with a newline at its end"),
        (BODY, BODY + b"\r\n", "with CRLF at its end"),
        (BODY + b"\r\n", BODY, "without white space at its end"),
        (json.dumps(json.loads(BODY), indent=4).encode(), BODY, "with two decimals in its amounts"),
        (BODY.replace(b"300.00", b"300.0"), BODY, "with two decimals in its amounts"),
        (BODY.decode("cp1252").encode(), BODY, "before its UTF-8 was read as another encoding"),
        (json.dumps(BODY.decode()).encode(), BODY, "taken out of a JSON string"),
        (base64.b64encode(BODY), BODY, "decoded from base64"),
    ],
)
def test_a_change_of_the_body_is_named(body: bytes, signed: bytes, how: str) -> None:
    assert f"signed it {how}" in diagnose(body, sign(signed, KEY), "default", KEYS).likely


def test_a_pretty_printed_body_is_recognised_without_its_key() -> None:
    assert found(json.dumps(json.loads(BODY), indent=2).encode(), sign(BODY, OLD)) == Finding.PRETTY_PRINTED


@pytest.mark.parametrize("length", [20, 64, 127])
@pytest.mark.parametrize("prefix", ["sha512=", ""])
def test_a_cut_signature_is_recognised_by_its_begin(length: int, prefix: str) -> None:
    digits = sign(BODY, KEY).removeprefix("sha512=")[:length]
    diagnosis = diagnose(BODY, prefix + digits, "default", KEYS)
    assert diagnosis.finding == Finding.CUT_SIGNATURE
    assert f"The key {fingerprint(KEY)} made this signature, and the header holds only {length} of its 128" in diagnosis.likely
    assert digits not in diagnosis.likely
    assert found(BODY, prefix + digits[:19]) == Finding.HEADER_FORM, "too few digits prove nothing"
    assert found(BODY, prefix + "0" * length) == Finding.HEADER_FORM


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("6Zq9kV5T2hW3x8mB", "the form of a Transaction Key"),
        ("5KP3u95bQpv", "the form of an API Login ID"),
        (KEY[:100], "a part of the key"),
    ],
)
def test_another_credential_in_the_keys_place_is_recognised_by_its_form(key: str, kind: str) -> None:
    odd = diagnose(BODY, sign(BODY, OLD), "default", {"default": (key,)})
    assert odd.finding is Finding.ODD_KEY
    assert kind in odd.likely
    assert key[:6] not in odd.likely
