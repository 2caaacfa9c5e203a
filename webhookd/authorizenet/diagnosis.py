"""Diagnosis of a refused webhook: the shape of its signature header, and the likely mistake.

No text that is made here holds a key, a signature or a stranger's text. All words are our own: they can be shown anywhere.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import orjson

from webhookd.authorizenet.explain import AS_IT_IS, AS_TEXT, HEX_DECODED, cut_by, digest_of, explain
from webhookd.authorizenet.signature import HEADER, Verifier, fingerprint
from webhookd.errors import SignatureError
from webhookd.settings.values import likely_kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PREFIX = re.compile(r"([^=\s]{1,32})=(.+)", re.DOTALL)
_KNOWN_PREFIXES = ("sha1", "sha256", "sha384", "sha-512", "hmac-sha512", "signature")
_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}", re.ASCII)
_SILENT_POST = re.compile(rb"(?:^|&)x_(?:trans_id|response_code|amount|type)=")
_KEY_DIGITS = re.compile(r"[0-9A-Fa-f]{128}", re.ASCII)
_LONGEST = 1024  # characters of a header that are examined
_MOST_KEYS = 8  # most keys of an account that are tried


class Finding(StrEnum):
    """The likely mistake of a refused webhook."""

    VERIFIES_NOW = "verifies_now"
    HEX_DECODED_KEY = "hex_decoded_key"
    KEY_CASE = "key_case"
    BODY_CHANGED = "body_changed"
    OTHER_ACCOUNT = "other_account"
    SILENT_POST = "silent_post"
    NO_HEADER = "no_header"
    HEADER_FORM = "header_form"
    CUT_SIGNATURE = "cut_signature"
    EMPTY_BODY = "empty_body"
    BASE64_BODY = "base64_body"
    JSON_STRING = "json_string"
    NOT_JSON = "not_json"
    NOT_A_NOTIFICATION = "not_a_notification"
    KEYS_SORTED = "keys_sorted"
    PRETTY_PRINTED = "pretty_printed"
    ODD_KEY = "odd_key"
    UNKNOWN_KEY = "unknown_key"
    NOT_EXAMINED = "not_examined"


_WORDS = {
    Finding.SILENT_POST: "A Silent Post form: an older interface of Authorize.Net, which signs nothing. Remove the Silent Post "
    "URL in the Merchant Interface, or give it another address.",
    Finding.NO_HEADER: "The X-ANET-Signature header is missing. A proxy or gateway removed it, or the sender is not "
    "Authorize.Net.",
    Finding.HEADER_FORM: "The header is not written as Authorize.Net writes it (sha512= and 128 hexadecimal digits). Something "
    "on the way changed it, or the sender is not Authorize.Net.",
    Finding.EMPTY_BODY: "The body is empty. Something on the way read it before (a middleware), or a redirect dropped it.",
    Finding.BASE64_BODY: "The body is base64, as some API gateways pass it on. Let the gateway pass the bytes on unchanged.",
    Finding.JSON_STRING: "The body is a JSON string that holds JSON. Something on the way encoded it a second time.",
    Finding.NOT_JSON: "The body is no JSON, so something on the way changed it, or the sender is not Authorize.Net.",
    Finding.NOT_A_NOTIFICATION: "The body is JSON, but no notification of Authorize.Net. The sender is likely another one.",
    Finding.KEYS_SORTED: "The body's names are sorted, and those of Authorize.Net begin with notificationId. A program on the "
    "way parsed the body and wrote a new one. Let the program pass the bytes on unchanged.",
    Finding.PRETTY_PRINTED: "The body has several lines, and Authorize.Net writes one. A program on the way parsed the body "
    "and wrote a new one. Let the program pass the bytes on unchanged.",
    Finding.UNKNOWN_KEY: "No key that is set here made this signature. Either the Signature Key was renewed in the Merchant "
    "Interface and not here, or it is another account's, or something on the way changed the body, or the sender is not "
    "Authorize.Net.",
    Finding.NOT_EXAMINED: "The body was not read to its end, or is too long to be examined.",
}


class Diagnosis(NamedTuple):
    """A finding, and its meaning for an operator in sentences."""

    finding: str  # the value of a Finding, or the outcome of a refusal that needs no diagnosis
    likely: str


def header_shape(header: str | None) -> str:
    """Describes the form of an X-ANET-Signature header without its value: "sha512=, 128 hexadecimal digits in upper case"."""
    if header is None:
        return "no header"
    text = header[:_LONGEST].strip()
    if not text:
        return "an empty header"
    match = _PREFIX.fullmatch(text)
    # A base64 value without a prefix may end with "=".
    prefix, value = (match[1], match[2]) if match and match[2].strip("=") else (None, text)
    parts = ["no prefix" if prefix is None else _prefix_shape(prefix), _value_shape(value)]
    if len(header) > _LONGEST:
        parts.append("longer than any signature")
    return ", ".join(parts)


def _prefix_shape(prefix: str) -> str:
    if prefix.lower() == "sha512":
        return "sha512="
    return f"{prefix.lower()}=" if prefix.lower() in _KNOWN_PREFIXES else "an unknown prefix"


def _value_shape(value: str) -> str:
    count = len(value)
    if _HEX.fullmatch(value):
        case = "upper" if value == value.upper() else "lower" if value == value.lower() else "mixed"
        return f"{count} hexadecimal digits in {case} case"
    if _BASE64.fullmatch(value):
        return f"{count} characters of base64"
    signs = {
        "white space": any(map(str.isspace, value)),
        "quotation marks": '"' in value or "'" in value,
        "commas": "," in value,
    }
    held = " and ".join(name for name, there in signs.items() if there)
    return f"{count} characters" + (f" with {held}" if held else "")


def diagnose(body: bytes, header: str | None, account: str | None, keys: Mapping[str, Sequence[str]]) -> Diagnosis:
    """Returns the likely mistake of a refused webhook.

    `account`: the account of its path, None if unknown. `keys`: the keys of every account. The body's length and eight keys
    for each account bound the work.
    """
    return (
        _by_signature(body, header, account, keys)
        or _by_form(body, header)
        or _by_keys(keys.get(account or "", ()))
        or Diagnosis(Finding.UNKNOWN_KEY, _WORDS[Finding.UNKNOWN_KEY])
    )


def not_examined() -> Diagnosis:
    """Returns the diagnosis of a webhook whose body cannot be examined."""
    return Diagnosis(Finding.NOT_EXAMINED, _WORDS[Finding.NOT_EXAMINED])


def _by_signature(body: bytes, header: str | None, account: str | None, keys: Mapping[str, Sequence[str]]) -> Diagnosis | None:
    own = keys.get(account or "", ())[:_MOST_KEYS]
    if (cut := _by_cut(body, header, own)) is not None:
        return cut
    digest = digest_of(header)
    if digest is None:
        return None
    for reading in explain(body, header, own):
        if not reading.matches:
            continue
        key = f"the key {reading.fingerprint}"
        if reading.body_variant != AS_IT_IS:
            how = "" if reading.reading == AS_TEXT else f", read {reading.reading}"
            return Diagnosis(
                Finding.BODY_CHANGED,
                f"Something on the way changed the body: {key}{how} signed it {reading.body_variant}. Have the bytes passed "
                "on unchanged.",
            )
        if reading.reading == HEX_DECODED:
            return Diagnosis(
                Finding.HEX_DECODED_KEY,
                f"Made with {key} hex-decoded. Authorize.Net uses the key as text, so the sender is a program of your own: "
                "have it use the key's 128 characters as they are.",
            )
        if reading.reading != AS_TEXT:
            return Diagnosis(
                Finding.KEY_CASE,
                f"Made with {key} {reading.reading}. Set the key exactly as the Merchant Interface shows it.",
            )
        if not HEADER.fullmatch(header or ""):
            return Diagnosis(Finding.HEADER_FORM, f"{key.capitalize()} made this signature. {_WORDS[Finding.HEADER_FORM]}")
        return Diagnosis(Finding.VERIFIES_NOW, f"It verifies now, with {key}: the key was set after this request.")
    return _by_another_account(body, digest, account, keys)


def _by_cut(body: bytes, header: str | None, keys: Sequence[str]) -> Diagnosis | None:
    cut = cut_by(body, header, keys)
    if cut is None:
        return None
    return Diagnosis(
        Finding.CUT_SIGNATURE,
        f"The key {cut[0]} made this signature, and the header holds only {cut[1]} of its 128 digits. Something on the way cut "
        "the header. Let it pass the whole header on.",
    )


def _by_another_account(body: bytes, digest: bytes, account: str | None, keys: Mapping[str, Sequence[str]]) -> Diagnosis | None:
    for other, own in keys.items():
        if other == account:
            continue
        setting = "WEBHOOKD_SIGNATURE_KEYS" if account == "default" else "WEBHOOKD_ACCOUNTS__<NAME>__SIGNATURE_KEYS"
        with contextlib.suppress(SignatureError):
            key = Verifier(own[:_MOST_KEYS]).verify(body, f"sha512={digest.hex()}")
            return Diagnosis(
                Finding.OTHER_ACCOUNT,
                f"The key {key} of the account {other} made this signature. In the Merchant Interface, let the webhook's URL "
                f"end with /{other}, or add the key to {setting}, for the account of this path.",
            )
    return None


def _by_form(body: bytes, header: str | None) -> Diagnosis | None:
    finding = None
    if _SILENT_POST.search(body):
        finding = Finding.SILENT_POST
    elif header is None:
        finding = Finding.NO_HEADER
    elif not HEADER.fullmatch(header):
        finding = Finding.HEADER_FORM
    elif not body.strip():
        finding = Finding.EMPTY_BODY
    else:
        finding = _by_body(body)
    return None if finding is None else Diagnosis(finding, _WORDS[finding])


def _by_body(body: bytes) -> Finding | None:
    try:
        parsed = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        with contextlib.suppress(binascii.Error, ValueError):
            return Finding.BASE64_BODY if base64.b64decode(body.strip(), validate=True)[:1] == b"{" else Finding.NOT_JSON
        return Finding.NOT_JSON
    if isinstance(parsed, str):
        return Finding.JSON_STRING
    if not isinstance(parsed, dict) or not {"notificationId", "eventType"} <= parsed.keys():
        return Finding.NOT_A_NOTIFICATION
    names = list(parsed)
    if names == sorted(names):  # no notification of Authorize.Net is: notificationId is the first, eventType the second
        return Finding.KEYS_SORTED
    return Finding.PRETTY_PRINTED if b"\n" in body.strip() else None


def _by_keys(keys: Sequence[str]) -> Diagnosis | None:
    odd = [key for key in keys if not _KEY_DIGITS.fullmatch(key)]
    if not odd or len(odd) < len(keys):
        return None
    return Diagnosis(
        Finding.ODD_KEY,
        f"The key {fingerprint(odd[0])} is no Signature Key: it has {len(odd[0])} characters, and a Signature Key has 128 "
        f"hexadecimal digits. {likely_kind(odd[0])} Set the Signature Key.",
    )
