"""The OpenAPI document, made from the table of routes and the shapes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from webhookd.admin.access import HEADER, AccessLevel
from webhookd.admin.cookies import COOKIE
from webhookd.admin.route import Route
from webhookd.admin.shapes import Problem

_REF = "#/components/schemas/{model}"
_PROBLEMS = {
    400: "The request is malformed.",
    401: "The request has no token, or an unknown token.",
    403: "The token may look, but not operate; or a page of another origin sent the change.",
    404: "Nothing has this id.",
    408: "The body did not arrive in time.",
    409: "The present state does not allow the request; `detail` gives the reason.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "WEBHOOKD_ADMIN_HOSTS does not list the host name of the request.",
    422: "A parameter is invalid; `errors` lists each mistake.",
    503: "PostgreSQL is unavailable, or took too long; try again.",
}
_ABOUT = """
The API for operators of webhookd. Errors are problem details (RFC 9457). Lists have pages: give the `next` of a page as the
`cursor` of the following page; if `next` is null, the page is the last. Times are ISO 8601, in UTC. The audit trail keeps
every change, with the name of the token.
"""

Mode = Literal["validation", "serialization"]


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document of `routes`."""
    routes = list(routes)
    shapes: set[tuple[type[BaseModel], Mode]] = {(Problem, "serialization")}
    for route in routes:
        if route.answers is not None:
            shapes.add((route.answers, "serialization"))
        for taken in (route.body, route.query, route.takes):
            if taken is not None:
                shapes.add((taken, "validation"))
    ordered = sorted(shapes, key=lambda shape: (shape[0].__name__, shape[1]))
    refs, described = models_json_schema(ordered, by_alias=True, ref_template=_REF)
    definitions = described["$defs"]
    parameters = {
        shape.__name__: definitions.pop(refs[shape, "validation"]["$ref"].rpartition("/")[2], {})
        for shape in {taken for route in routes for taken in (route.query, route.takes)}
    }
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs, parameters)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webhookd",
            "version": version("webhookd"),
            "description": " ".join(_ABOUT.split()),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of WEBHOOKD_ADMIN_TOKENS or WEBHOOKD_READ_TOKENS.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": f"`POST /session` sets this cookie. A change also needs the header {HEADER}.",
                },
            },
        },
    }


def _operation(route: Route, refs: dict[Any, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    summary, _, rest = inspect.cleandoc(route.handler.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "tags": [_tag(route.path)],
        "summary": summary.rstrip("."),
        "description": " ".join(rest.split()) or summary,
        "responses": {},
    }
    given = [*_parameters(parameters[route.takes.__name__], "path"), *_parameters(parameters[route.query.__name__], "query")]
    if given:
        operation["parameters"] = given
    if route.body is not None:
        content = {"application/json": {"schema": refs[route.body, "validation"]}}
        operation["requestBody"] = {"required": route.body_required, "content": content}
    answer: dict[str, Any] = {"description": "Done." if route.status != 202 else "Ordered; the work follows."}
    if route.answers is not None:
        answer["content"] = {"application/json": {"schema": refs[route.answers, "serialization"]}}
    operation["responses"][str(route.status)] = answer
    for status in sorted(_problems(route, bool(given))):
        content = {"application/problem+json": {"schema": refs[Problem, "serialization"]}}
        operation["responses"][str(status)] = {"description": _PROBLEMS[status], "content": content}
        if status == 401:
            operation["responses"]["401"]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
        if status == 503:
            operation["responses"]["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    if route.role is not AccessLevel.OPEN:
        operation["security"] = [{"token": []}, {"session": []}]
    return operation


def _problems(route: Route, given: bool) -> set[int]:
    statuses = {*route.problems, 421, 422, 503, 400}
    if route.role is not AccessLevel.OPEN:
        statuses |= {401, 403}
    if route.method != "GET":
        statuses |= {403}
    if route.body is not None:
        statuses |= {408, 413, 415}
    return statuses


def _parameters(schema: dict[str, Any], place: str) -> list[dict[str, Any]]:
    parameters = []
    for name, field in schema.get("properties", {}).items():
        plain = _without_null({key: value for key, value in field.items() if key != "title"})
        described = plain.pop("description", None)
        parameter: dict[str, Any] = {
            "name": name,
            "in": place,
            "required": place == "path" or name in schema.get("required", ()),
            "schema": plain,
        }
        if described:
            parameter["description"] = described
        parameters.append(parameter)
    return parameters


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a parameter's schema without null: a request leaves an optional parameter out, and does not give null."""
    options = [option for option in schema.pop("anyOf", ()) if option.get("type") != "null"]
    if schema.get("default", "") is None:
        del schema["default"]
    return (options[0] if options else {}) | schema


def _tag(path: str) -> str:
    parts = re.findall(r"[a-z-]+", path.removeprefix("/webhooks"))
    return parts[0] if parts else "session"
