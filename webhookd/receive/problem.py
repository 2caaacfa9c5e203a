"""Problem details (RFC 9457) as answers."""

from __future__ import annotations

from http import HTTPStatus

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

SERVER = "webhookd"


def problem(status: int, detail: str, *, retry_after: int | None = None, close: bool = False) -> web.Response:
    """An application/problem+json answer; `close` ends the connection, where the request's body was left unread."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"Content-Type": "application/problem+json", "Server": SERVER}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    response = web.Response(status=status, body=orjson.dumps(body), headers=headers)
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
        answer = problem(error.status, error.reason, close=not request.content.is_eof())
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
