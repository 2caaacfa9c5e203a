"""Refusals without an HTTP library, where parsing would cost as much as the work that is refused."""

from __future__ import annotations

import re
from http import HTTPStatus

import orjson

HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?:\r\n|\Z)")
_UNCLEAR = (b"transfer-encoding", b"expect", b"upgrade", b"\n ", b"\n\t")


def is_one_request(data: bytes) -> bool:
    """Whether `data` is beyond doubt one whole request, so that its connection can serve on after a refusal unparsed.

    Any doubt is no harm: the connection is closed then.
    """
    head, end, body = data.partition(HEAD_END)
    head = head.lower()
    first, _, fields = head.partition(b"\r\n")
    breaks = head.count(b"\r\n")
    return (
        bool(end)
        and first.startswith(b"post /")
        and first.endswith(b" http/1.1")
        and head.count(b"\n") == head.count(b"\r") == breaks
        and head.count(b"content-length") == 1
        and not any(word in head for word in _UNCLEAR)
        and fields.count(b"connection:") == fields.count(b"connection: keep-alive")
        and (length := _LENGTH.search(head)) is not None
        and int(length[1]) == len(body)
    )


def raw(status: HTTPStatus, detail: str, retry_after: int | None = None, *, close: bool = True) -> bytes:
    """An application/problem+json answer as it goes over the wire; `close` says that the connection ends with it."""
    body = orjson.dumps({"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail})
    retry = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}Server: webhookd\r\n"
    )
    return head.encode() + (b"Connection: close\r\n\r\n" if close else b"\r\n") + body
