"""A route of the API: its role, the shapes of what it takes and answers, and how a request becomes a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from webhookd.admin.access import CALLER, AccessLevel, Caller
from webhookd.errors import ConflictError, NotFoundError, OverloadedError, UnavailableError
from webhookd.http.problem import problem
from webhookd.telemetry.logs import logger, where

_RETRY_AFTER = 2  # seconds
_LARGEST_BODY = 131_072  # bytes; a thousand ids, or the longest filter with each character escaped, need less
_MOST_PARAMETERS = 100  # parameters that one query may have; the longest filter has about 70
_MOST_ERRORS = 10  # mistakes that one answer lists
_LONGEST_NAME = 60  # characters of a given parameter's name that an answer shows
_OWN_WORDS = {  # messages by the type of mistake that pydantic finds
    "extra_forbidden": "there is no such parameter",
    "uuid_parsing": "must be an id of webhookd, such as 01890a5d-ac96-774b-bcce-b302099a8057",
}
_LONGEST_MESSAGE = 500  # characters; one message names all choices


class Shape(BaseModel):
    """The base of every shape. Unknown names are refused: otherwise a misspelled filter would be left out unseen."""

    model_config = ConfigDict(extra="forbid", regex_engine="python-re", frozen=True)


class Nothing(Shape):
    """A shape without parameters."""


@dataclass(slots=True, frozen=True)
class Call:
    """A checked request. `path`, `query` and `body` have the route's shapes."""

    caller: Caller
    path: Any
    query: Any
    body: Any
    request: web.Request


@dataclass(slots=True, frozen=True)
class Route:
    """One method of one path. `handler` takes a Call; the first line of its docstring is the summary in OpenAPI."""

    method: str
    path: str
    role: AccessLevel
    handler: Callable[[Call], Awaitable[Any]]
    answers: type[BaseModel] | None
    status: int = 200
    takes: type[Shape] = Nothing  # the shape of the parameters in the path
    query: type[Shape] = Nothing
    body: type[Shape] | None = None
    body_required: bool = True
    largest_body: int = _LARGEST_BODY
    problems: tuple[int, ...] = ()  # HTTP statuses of this route's problems, beside the statuses that every route has

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answers a request whose caller is allowed."""
        path = _checked("path", self.takes, dict(request.match_info))
        query = _checked("query", self.query, _fields(self.query, request))
        body = await self._read(request)
        caller = request.get(CALLER) or Caller("nobody", AccessLevel.OPEN)
        answer = await self.handler(Call(caller, path, query, body, request))
        if isinstance(answer, web.StreamResponse):
            return answer
        if answer is None:
            return web.Response(status=self.status)
        return web.Response(
            status=self.status, body=answer.model_dump_json(by_alias=True).encode(), content_type="application/json"
        )

    async def _read(self, request: web.Request) -> Any:
        if self.body is None:
            return None
        raw = await _bounded(request, self.largest_body)
        if not raw and not self.body_required:
            return self.body()
        if request.content_type != "application/json":
            raise Refused(415, "the body must be JSON: Content-Type: application/json")
        try:
            return self.body.model_validate_json(raw, strict=True)
        except ValidationError as error:
            raise Refused.by("body", error) from error


class Refused(Exception):  # noqa: N818  an answer, not a mistake in webhookd
    """A refusal of a request, which is answered with a problem."""

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors

    @classmethod
    def by(cls, place: str, error: ValidationError) -> Refused:
        """Makes the refusal of input that does not fit its shape. It lists the first few mistakes, without the given values."""
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
        errors = [
            {
                "in": place,
                "name": ".".join(map(str, one["loc"]))[:_LONGEST_NAME],
                "message": _OWN_WORDS.get(one["type"]) or _message(one["msg"]),
            }
            for one in mistakes[:_MOST_ERRORS]
        ]
        first = errors[0]
        name = first["name"] or f"the {place}"
        more = f" (and {len(mistakes) - _MOST_ERRORS} more mistakes)" if len(mistakes) > _MOST_ERRORS else ""
        return cls(422, f"{name}: {first['message']}{more}", errors)


def _message(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:_LONGEST_MESSAGE]


async def _bounded(request: web.Request, largest: int) -> bytes:
    """Reads the body. Raises Refused as soon as the body is known to be larger than `largest` bytes, or if it is too slow."""
    refusal = Refused(413, f"the body is larger than {largest} bytes")
    if (request.content_length or 0) > largest:
        raise refusal
    raw = bytearray()
    try:
        async for chunk in request.content.iter_any():
            raw += chunk
            if len(raw) > largest:
                raise refusal
    except TimeoutError as error:
        raise Refused(408, "the body took too long") from error
    return bytes(raw)


def _checked(place: str, shape: type[Shape], given: dict[str, Any]) -> Any:
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        raise Refused.by(place, error) from error


def _fields(shape: type[Shape], request: web.Request) -> dict[str, Any]:
    given: dict[str, Any] = {}
    # Count the parameters before the query is parsed: a query may be 64 KB long.
    if request.query_string.count("&") >= _MOST_PARAMETERS:
        raise Refused(422, f"the query has more than {_MOST_PARAMETERS} parameters")
    for name in set(request.query):
        values = request.query.getall(name)
        field = shape.model_fields.get(name)
        if field is not None and _repeats(field.annotation):
            given[name] = values
        elif len(values) > 1:
            error = {"in": "query", "name": name[:_LONGEST_NAME], "message": "given more than once"}
            raise Refused(422, f"{error['name']}: given more than once", [error])
        else:
            given[name] = values[0]
    return given


def _repeats(annotation: Any) -> bool:
    return get_origin(annotation) in (list, tuple) or any(_repeats(part) for part in get_args(annotation))


@web.middleware
async def refusals(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """Turns webhookd's errors into problems."""
    try:
        return await handler(request)
    except Refused as error:
        return refused(error.status, error.detail, error.errors)
    except (web.RequestPayloadError, ConnectionError):
        return refused(400, "the body is incomplete or malformed")
    except OverloadedError as error:
        return problem(503, str(error), retry_after=_RETRY_AFTER)
    except NotFoundError as error:
        return refused(404, str(error))
    except ConflictError as error:
        return refused(409, str(error))
    except (UnavailableError, TimeoutError) as error:
        reason = str(error) or "PostgreSQL took too long"
        return problem(503, f"{reason}; try again, or narrow the search", retry_after=_RETRY_AFTER)
    except web.HTTPException:
        raise
    except Exception as error:  # noqa: BLE001  a mistake in webhookd: logged without the text that the exception may quote
        resource = request.match_info.route.resource
        logger.error("an admin request failed", path=resource.canonical if resource else None, error=where(error))
        return refused(500, "webhookd made a mistake; its log shows where")


def refused(status: int, detail: str, errors: list[dict[str, str]] | None = None) -> web.Response:
    """Returns a problem (RFC 9457). `errors`: the mistakes in single parameters, which the problem lists if there are any."""
    answer = problem(status, detail)
    if errors:
        answer.body = orjson.dumps(orjson.loads(bytes(answer.body or b"{}")) | {"errors": errors})  # type: ignore[arg-type]
    return answer
