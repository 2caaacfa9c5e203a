"""Reads a notification's body as JSON. Loses nothing that was written, and mends bodies that are not quite JSON.

Only the bytes of a body decide how it is mended, so that every reader, at whatever time, reads the same.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_DIGITS = 4300  # int() refuses more
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# An escape sequence: a whole surrogate pair, half of a pair (the group), or any other escape.
_ESCAPES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


class Text(NamedTuple):
    """A body as text. `mended` reports what was not as JSON demands, and its replacement; it is empty if all was."""

    text: str
    mended: tuple[str, ...] = ()


def read(raw: bytes) -> Text:
    """Returns the text of a body, whatever its bytes are. The text need not be JSON; `load` finds that out."""
    mended: list[str] = []
    text = _decoded(raw, mended)
    if _SURROGATE.search(text):
        text, halves = _whole_pairs(text)
        if halves:
            mended.append(f"{halves} of half a surrogate pair became U+FFFD")
    return Text(text, tuple(mended))


def load(text: str) -> Any:
    """Returns the value of a JSON text, with each number that is written with a fraction or an exponent as Decimal.

    A number that Decimal cannot hold is NaN. Raises ValueError if `text` is not JSON, or is nested too deeply for Python.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def why_unreadable(raw: bytes, error: Exception) -> str:
    """Returns why and where orjson could not read a body; `error` is orjson's. Quotes at most one byte of the body."""
    encoding = json.detect_encoding(raw)
    if not encoding.startswith("utf-8"):
        return f"the body is {encoding[:6].upper()}, and JSON is UTF-8"
    try:
        raw.decode()
    except UnicodeDecodeError as found:
        return f"the body is not UTF-8: byte 0x{raw[found.start]:02x} at offset {found.start}"
    if isinstance(error, json.JSONDecodeError):
        offset = len(error.doc[: error.pos].encode()) + (len(_BYTE_ORDER_MARK) if encoding == "utf-8-sig" else 0)
        return f"the body is not JSON that can be read: {error.msg}, at offset {offset}"
    return "the body is not JSON that can be read: nested too deeply"


def _decoded(raw: bytes, mended: list[str]) -> str:
    encoding = json.detect_encoding(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        pass
    else:
        if not encoding.startswith("utf-8"):
            mended.append(f"{encoding[:6].upper()} was read as such")
        return text
    if not encoding.startswith("utf-8"):
        mended.append(f"{encoding[:6].upper()} was read as such, and what is none became U+FFFD")
        return raw.decode(encoding, "replace")
    if _has_no_utf_8(raw):
        mended.append("Latin-1 was read as such")
        return raw.decode("latin-1")
    text = raw.decode(encoding, "replace")
    mended.append("what is not UTF-8 became U+FFFD")
    return text


def _has_no_utf_8(raw: bytes) -> bool:
    """Returns whether no character beyond ASCII is written in UTF-8, so that all of them are in another encoding."""
    return raw.decode("utf-8", "ignore").isascii()


def _whole_pairs(text: str) -> tuple[str, int]:
    halves = 0

    def whole(match: re.Match[str]) -> str:
        nonlocal halves
        if match[1] is None:
            return match[0]
        halves += 1
        return "\ufffd"

    return _ESCAPES.sub(whole, text), halves


def _integer(text: str) -> int | Decimal:
    # A number with so many digits is odd, but no reason to fail the whole body.
    return int(text) if len(text) <= _MOST_DIGITS else _fraction(text)


def _fraction(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # for example, an exponent of twenty digits is JSON, but Decimal cannot hold such a number
        return Decimal("NaN")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_fraction, parse_int=_integer, parse_constant=_no_constant)
