"""Text of strangers, made safe to store and to show: cut, escaped, and without possible data of customers."""

from __future__ import annotations

import re

_FIRST = 200  # bytes of a body that are kept
_BEYOND = 64  # further bytes that are examined, so that no number is cut before it is masked
_CARD = re.compile(rb"(?<!\d)\d(?:[ -]?\d){12,}")
_ADDRESS = re.compile(rb"[^\s\"'&=<>:;,]+(?:@|%40)[^\s\"'&=<>:;,]+")
_FORM = re.compile(rb"[\w.%\[\]-]+=[^&]*(?:&|\Z)", re.DOTALL)
_VALUE = re.compile(rb"=[^&]*")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def printable(text: str, most: int) -> str:
    """Returns the first `most` characters, all but printable ASCII as escapes: no terminal and no reader obeys such a text."""
    return text[:most].encode("ascii", "backslashreplace").decode().translate(_CONTROL)


def first_bytes(body: bytes) -> str:
    """Returns the first 200 bytes as text, escaped.

    The body is not authentic, so it may hold anything. Text that looks like a card number or an e-mail address is masked, and
    so is each value of a form.
    """
    begin = body[: _FIRST + _BEYOND]
    if _FORM.match(begin):
        begin = _VALUE.sub(b"=*", begin)
    begin = _CARD.sub(lambda found: b"*" * len(found[0]), begin)
    begin = _ADDRESS.sub(lambda found: b"*" * len(found[0]), begin)
    text = begin[:_FIRST].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
