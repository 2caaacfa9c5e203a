"""Problem details (RFC 9457) as answers."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from webhookd.http.reply import SERVER, Rendered, render

CONTENT_TYPE = "application/problem+json"


def _body(status: int, detail: str) -> bytes:
    return orjson.dumps({"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail})


@lru_cache(maxsize=128)  # all texts are our own, so there are few
def render_problem(status: int, detail: str, fields: tuple[tuple[str, str], ...] = ()) -> Rendered:
    """Renders an application/problem+json answer with further header `fields`. Equal answers are rendered once."""
    return render(status, CONTENT_TYPE, _body(status, detail), dict(fields))


def problem(status: int, detail: str, *, retry_after: int | None = None, close: bool = False) -> web.Response:
    """Returns a problem for an aiohttp application, whose middlewares add headers. `close` ends the connection."""
    headers = {"Content-Type": CONTENT_TYPE, "Server": SERVER}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    response = web.Response(status=status, body=_body(status, detail), headers=headers)
    if close:
        response.force_close()
    return response


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns aiohttp's own answers (no such path, method not allowed) into problem details."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = problem(error.status, error.reason)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
