"""Only a body that its account's key signed, byte for byte, verifies; an operator learns why another body does not."""

from __future__ import annotations

import hmac
import json
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.explain import Reading, explain
from webhookd.authorizenet.signature import Verifier, fingerprint, sign
from webhookd.errors import SignatureError

# The published vector: key, body and signature from the provider's own documentation and captures.
KEY = (
    "339E42F5D962293A925C244313E8C3546FD765AD202BFF3805F4C8459193E2AA"
    "1C106F476D6907C7A85714CCD69BB7BF184D17ECCDD546CED7EF69DB4C4AD723"
)
BODY = (
    b'{"notificationId":"701bf27d-d46f-4c3b-82f2-066448e2901e","eventType":"net.authorize.payment.authorization.created",'
    b'"eventDate":"2019-01-31T14:38:42.6937313Z","webhookId":"e6b3764d-5677-4fb1-a929-2e25a02f3073","payload":'
    b'{"responseCode":1,"authCode":"P1XHLC","avsResponse":"Y","authAmount":7.67,"entityName":"transaction",'
    b'"id":"60116007277"}}'
)
HEX = (
    "13151697A33C77CB102AAA060CD58FB2394696BAEA981047A31830A8A1853A4C"
    "8D454E696871A38A68B6940B8746FC096111334D584579F6792F568A622A0373"
)
HEADER = f"sha512={HEX}"
OTHER = "0" * 128


def outcome(verifier: Verifier, body: bytes, header: str | None) -> str:
    with pytest.raises(SignatureError) as refused:
        verifier.verify(body, header)
    return refused.value.outcome


def test_the_published_vector_verifies_and_names_the_key() -> None:
    assert len(BODY) == 340
    assert Verifier([KEY]).verify(BODY, HEADER) == fingerprint(KEY)


def test_sign_writes_the_header_as_the_provider_does() -> None:
    assert sign(BODY, KEY) == HEADER


@pytest.mark.parametrize(
    "header",
    [
        HEADER.lower(),
        HEADER.upper(),
        f"Sha512={HEX.lower()}",
        f"  {HEADER}\t",
    ],
)
def test_the_casing_of_prefix_and_digits_does_not_matter(header: str) -> None:
    assert Verifier([KEY]).verify(BODY, header) == fingerprint(KEY)


def test_the_body_serialised_again_does_not_verify() -> None:
    again = json.dumps(json.loads(BODY)).encode()
    assert outcome(Verifier([KEY]), again, HEADER) == "mismatch"


def test_the_key_decoded_from_hex_does_not_verify() -> None:
    wrong = hmac.digest(bytes.fromhex(KEY), BODY, "sha512").hex()
    assert outcome(Verifier([KEY]), BODY, f"sha512={wrong}") == "mismatch"


def test_the_case_of_the_key_matters() -> None:
    assert outcome(Verifier([KEY.lower()]), BODY, HEADER) == "mismatch"


@given(position=st.integers(0, len(BODY) - 1), flip=st.integers(1, 255))
def test_one_changed_byte_anywhere_does_not_verify(position: int, flip: int) -> None:
    changed = bytearray(BODY)
    changed[position] ^= flip
    assert outcome(Verifier([KEY]), bytes(changed), HEADER) == "mismatch"


def test_white_space_around_a_configured_key_does_not_matter() -> None:
    assert Verifier([f" {KEY}\n"]).verify(BODY, HEADER) == fingerprint(KEY) == fingerprint(f"{KEY}\r\n")


@pytest.mark.parametrize("keys", [[KEY, OTHER], [OTHER, KEY], ["1" * 128, KEY, OTHER]])
def test_any_of_several_keys_verifies_and_is_named(keys: list[str]) -> None:
    assert Verifier(keys).verify(BODY, HEADER) == fingerprint(KEY)


def test_every_key_is_tried_even_after_one_matched() -> None:
    verifier = Verifier([KEY, OTHER, "1" * 128])
    with patch("webhookd.authorizenet.signature.hmac.compare_digest", wraps=hmac.compare_digest) as compare:
        verifier.verify(BODY, HEADER)
    assert compare.call_count == 3


def test_without_a_key_nothing_verifies() -> None:
    assert outcome(Verifier([]), BODY, HEADER) == "mismatch"


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_key_is_refused_since_anyone_could_sign_with_it(blank: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        Verifier([KEY, blank])


def test_a_missing_header_is_told_from_a_malformed_and_a_wrong_one() -> None:
    verifier = Verifier([KEY])
    assert outcome(verifier, BODY, None) == "missing"
    assert outcome(verifier, BODY, "") == "malformed"
    assert outcome(verifier, BODY, f"sha512={OTHER}") == "mismatch"


@pytest.mark.parametrize(
    "header",
    [
        HEX,
        f"sha256={HEX}",
        f"sha512={HEX[:-1]}",
        f"sha512={HEX}0",
        f"sha512= {HEX}",
        f"sha512={HEX[:-1]}g",
        f"{HEADER}, {HEADER}",
        "sha512=" + "\uff11" * 128,  # digits for str.isdigit, but not in this header
    ],
)
def test_what_is_not_the_scheme_and_128_hex_digits_is_malformed(header: str) -> None:
    assert outcome(Verifier([KEY]), BODY, header) == "malformed"


@given(st.text() | st.text(alphabet="0123456789abcdefABCDEFg= ,", max_size=200).map("sha512=".__add__))
def test_no_header_is_answered_but_with_a_signature_error(header: str) -> None:
    assert outcome(Verifier([KEY]), BODY, header) in {"malformed", "mismatch"}


@given(body=st.binary(), key=st.text(st.characters(codec="ascii"), min_size=1).filter(str.strip))
def test_what_sign_signs_verifies(body: bytes, key: str) -> None:
    assert Verifier([key]).verify(body, sign(body, key)) == fingerprint(key)


def test_no_key_shows_in_a_repr_or_an_error() -> None:
    verifier = Verifier([KEY])
    assert KEY not in repr(verifier)
    assert repr(verifier) == f"Verifier({fingerprint(KEY)})"
    with pytest.raises(SignatureError) as refused:
        verifier.verify(BODY, f"sha512={OTHER}")
    assert KEY not in repr(refused.value)


def matching(body: bytes, header: str | None, *keys: str) -> list[Reading]:
    return [reading for reading in explain(body, header, keys) if reading.matches]


def test_explain_names_the_key_that_matches_read_as_text() -> None:
    assert matching(BODY, HEADER, OTHER, KEY) == [Reading(fingerprint(KEY), "as text", "as it is", matches=True)]


def test_explain_tells_a_key_that_was_decoded_from_hex() -> None:
    header = "sha512=" + hmac.digest(bytes.fromhex(KEY), BODY, "sha512").hex()
    assert matching(BODY, header, KEY) == [Reading(fingerprint(KEY), "hex-decoded", "as it is", matches=True)]


SIGNED_BY_US = b'{"amount":1.10,"name":"Zo\xc3\xab said \\"a  b\\""}'


@pytest.mark.parametrize(
    ("signed", "captured", "variant"),
    [
        (BODY, BODY + b"\r\n", "without white space at its end"),
        (BODY + b"\n", BODY, "with a newline at its end"),
        (b"{\n}", b"{\r\n}", "with LF for CRLF"),
        (b"{\r\n}", b"{\n}", "with CRLF for LF"),
        (BODY, b"\xef\xbb\xbf" + BODY, "without a byte order mark"),
        (SIGNED_BY_US, SIGNED_BY_US.replace(b":", b" : "), "without white space between its parts"),
        (b'{"a":"\xc3\xab","b":1}', b'{"a": "\\u00eb", "b": 1}', "serialised again, compact"),
        (b'{"a": 1, "b": 2}', b'{"a":1,"b":2}', "serialised again, with spaces"),
        (b'{"a":"\\u00eb"}', b'{"a":"\xc3\xab"}', "serialised again, compact and ASCII only"),
    ],
)
def test_explain_tells_what_changed_the_body(signed: bytes, captured: bytes, variant: str) -> None:
    assert matching(captured, sign(signed, KEY), KEY) == [
        Reading(fingerprint(KEY), "as text", variant, matches=True),
    ]


def test_explain_lists_every_key_where_none_matches() -> None:
    assert explain(BODY, f"sha512={OTHER}", [KEY, "not hex"]) == [
        Reading(fingerprint(KEY), "as text", "as it is", matches=False),
        Reading(fingerprint(KEY), "hex-decoded", "as it is", matches=False),
        Reading(fingerprint("not hex"), "as text", "as it is", matches=False),
    ]


@given(body=st.binary() | st.just(b"[" * 5000) | st.just(b'"\\ud800"'), header=st.none() | st.text())
def test_explain_takes_whatever_was_captured(body: bytes, header: str | None) -> None:
    assert not any(reading.matches for reading in explain(body, header, [KEY]))
