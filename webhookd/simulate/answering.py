"""How the simulator answers: JSON as the provider writes it, its errors, and the faults of a connection."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import orjson
from aiohttp import web

from webhookd.simulate.faults import Dice, Faults

_MARK = b"\xef\xbb\xbf"
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>"


def _as_written(value: Any) -> Any:
    if not isinstance(value, Decimal):
        raise TypeError(f"{value!r} is no JSON")
    return orjson.Fragment(format(value, "f"))


def written(value: Any) -> bytes:
    """Returns the JSON of a value. A Decimal keeps its digits."""
    return orjson.dumps(value, default=_as_written)


def json(value: Any, status: int = 200, *, mark: bool = False) -> web.Response:
    """Returns an answer in JSON. `mark`: with the byte order mark that the JSON API puts before each answer."""
    body = written(value)
    return web.Response(body=(_MARK if mark else b"") + body, status=status, content_type="application/json")


def rest_error(status: int, reason: str, message: str, *details: str) -> web.Response:
    """Returns an error of the REST API."""
    body: dict[str, Any] = {"status": status, "reason": reason, "message": message, "correlationId": "37a4b1d8"}
    if details:
        body["details"] = [{"message": one} for one in details]
    return json(body, status)


def report(fields: dict[str, Any], code: str = "I00001", text: str = "Successful.", result: str = "Ok") -> web.Response:
    """Returns an answer of the JSON API."""
    return json(fields | {"messages": {"resultCode": result, "message": [{"code": code, "text": text}]}}, mark=True)


def report_error(code: str, text: str) -> web.Response:
    """Returns an error of the JSON API: its HTTP status is 200."""
    return report({}, code, text, "Error")


_BUSY = (
    ("E00001", "An error occurred during processing. Please try again."),
    ("E00053", "The server is currently too busy, please try again later."),
    ("E00104", "The server is in maintenance, so the requested method is unavailable, please try again later."),
)


def _bad_gateway() -> web.Response:
    return web.Response(status=502, body=_HTML, content_type="text/html")


class Spoiler:
    """Spoils answers by the faults of a seed."""

    def __init__(self, faults: Faults, dice: Dice) -> None:
        self._faults = faults
        self._dice = dice
        self._refused = 0

    def before(self, *, reports: bool) -> web.Response | None:
        """Returns the answer to a call that does not get through; None if the call gets through."""
        if self._dice.hit("too_many", self._faults.too_many):
            self._refused += 1
            headers = {"Retry-After": "7"} if self._refused % 2 else {}
            return web.Response(status=429, headers=headers, text="Too Many Requests")
        if self._dice.hit("gateway", self._faults.gateway):
            return _bad_gateway()
        if reports and self._dice.hit("busy", self._faults.busy):
            return report_error(*self._dice.of("busy code").choice(_BUSY))
        return None

    async def after(self, request: web.Request, answer: web.Response) -> web.StreamResponse:
        """Returns the answer to a call that was carried out, or what arrives of it."""
        if self._dice.hit("lost", self._faults.lost):
            return _bad_gateway()
        if self._dice.hit("hang", self._faults.hang):
            await asyncio.sleep(self._faults.hang_seconds)
            if request.transport is not None:
                request.transport.abort()
            return answer
        body = answer.body if isinstance(answer.body, bytes) else b""
        if len(body) > 1 and self._dice.hit("cut", self._faults.cut):
            part = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            part.content_length = len(body)
            await part.prepare(request)
            await part.write(body[: len(body) // 2])
            if request.transport is not None:
                request.transport.abort()
            return part
        if len(body) > 1 and self._dice.hit("truncated", self._faults.truncated):
            return web.Response(status=answer.status, body=body[: len(body) // 2], content_type="application/json")
        return answer
