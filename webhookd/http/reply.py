"""Replies with ready bytes: the public listener's answers, and every answer that is sent before a request is parsed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

SERVER = "webhookd"


class Rendered(NamedTuple):
    """A rendered answer without `Date` and `Connection`, which differ each time."""

    status: int
    head: bytes  # the status line and the fields, each with its line break
    body: bytes

    def wire(self, *, close: bool, head_only: bool = False) -> bytes:
        """Returns the bytes to write. `close` announces the end of the connection."""
        ending = b"Connection: close\r\n\r\n" if close else b"\r\n"
        return self.head + _Clock.field() + ending + (b"" if head_only else self.body)


def render(status: int, content_type: str, body: bytes, fields: Mapping[str, str] | None = None) -> Rendered:
    """Renders an answer with further header `fields` by name."""
    return Rendered(status, _head(status, content_type, len(body), tuple((fields or {}).items())), body)


@lru_cache(maxsize=256)  # all texts are our own, and nearly every answer is a 200 of one of three lengths
def _head(status: int, content_type: str, length: int, fields: tuple[tuple[str, str], ...]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Type: {content_type}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in {"Server": SERVER, **dict(fields)}.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()


class _Clock:
    """The `Date` field, which is rendered once a second."""

    second = -1
    rendered = b""

    @classmethod
    def field(cls) -> bytes:
        now = int(time.time())
        if now != cls.second:
            cls.second, cls.rendered = now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
        return cls.rendered


class Reply(web.StreamResponse):
    """A rendered answer, as a handler returns it to aiohttp."""

    def __init__(self, rendered: Rendered, *, close: bool = False) -> None:
        super().__init__(status=rendered.status)
        self._rendered = rendered
        self._keeps: bool | None = False if close else None
        self._written = False

    @property
    def keep_alive(self) -> bool | None:
        """Returns whether the connection stays open; None until the request is known."""
        return self._keeps

    def force_close(self) -> None:
        """Ends the connection with this reply."""
        self._keeps = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes the reply, once. Raises ConnectionResetError if the connection is lost."""
        if self._written:
            return None
        if request.transport is None:
            raise ConnectionResetError
        self._written = True
        self._keeps = request.keep_alive if self._keeps is None else self._keeps
        request.transport.write(self._rendered.wire(close=not self._keeps, head_only=request.method == "HEAD"))
        if request.protocol.writing_paused:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing: `prepare` has written the whole reply."""
