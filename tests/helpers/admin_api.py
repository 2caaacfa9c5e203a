"""A small admin API over a real socket, for tests of the commands that call it. `ran` runs those commands.

The API answers as the admin API's OpenAPI document says, as far as the commands need it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import typer
from aiohttp import web
from typer.testing import CliRunner

from webhookd.cli.operator import (
    dead_letter_commands,
    destination_commands,
    event_commands,
    gap_commands,
    listen_command,
    operation_commands,
    quarantine_commands,
    refused_commands,
    stats_commands,
    timeline_commands,
)
from webhookd.cli.operator.failures import ApiError, Exit
from webhookd.errors import SettingsError

TOKEN = "operate-3f1c9a"
READ_TOKEN = "look-77b0e2"
AUTHCAPTURE = "net.authorize.payment.authcapture.created"

Answer = dict[str, Any] | web.Response
Route = Callable[[dict[str, list[str]], Any], Answer]


@dataclass
class Asked:
    """One request that the API received."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any


@dataclass
class AdminApi:
    """Routes by method and path below /webhooks, and the requests received. The path `events` needs no route of its own."""

    url: str = ""
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    page: int = 2

    def answer(self, method: str, path: str, answer: Answer | Route) -> None:
        self.routes[method, path] = answer if callable(answer) else lambda _, __: answer

    def asked_for(self, method: str, path: str) -> list[Asked]:
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    async def handle(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_TOKEN):
            return problem(401, "give a token")
        if request.method == "POST" and token == READ_TOKEN:
            return problem(403, "this token may only look")
        query = {name: request.query.getall(name) for name in request.query}
        path = request.match_info["path"]
        self.asked.append(Asked(request.method, path, query, await request.json() if request.can_read_body else None))
        route = self.routes.get((request.method, path))
        if route is None and path == "events":
            return web.json_response(self._events(query))
        if route is None:
            return problem(404, "there is nothing here")
        answer = route(query, self.asked[-1].body)
        # A response object can be sent only once.
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    def _events(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Returns a page of events, newest first. Every other page is empty, and says that more events follow."""
        (floor,) = query.get("received_from", [""])
        rows = sorted((row for row in self.events if row["received_at"] >= floor), key=lambda row: row["received_at"])[::-1]
        step = int(query.get("cursor", ["0"])[0])
        if step % 2 == 0:
            return {"events": [], "next": str(step + 1), "searched_to": "2026-01-01T00:00:00Z"}
        begin = step // 2 * self.page
        end = begin + min(self.page, int(query["limit"][0]))
        return {"events": rows[begin:end], "next": str(step + 1) if end < len(rows) else None, "searched_to": None}


def problem(status: int, detail: str, **more: Any) -> web.Response:
    return web.json_response(
        {"type": "about:blank", "title": "no", "status": status, "detail": detail, **more},
        status=status,
        content_type="application/problem+json",
    )


def event(number: int, received_at: str = "2026-01-31T12:00:00Z", **more: Any) -> dict[str, Any]:
    """Returns an EventRow of the API."""
    absent = ("event_date", "invoice_number", "merchant_reference", "retry_at", "finished_at", "redriven_at", "discarded_at")
    return {
        "id": event_id(number),
        "account": "default",
        "notification_id": f"n-{number}",
        "event_type": AUTHCAPTURE,
        "status": "queued",
        "attempts": 0,
        "received_at": received_at,
        "entity_name": "transaction",
        "entity_id": f"600{number}",
        "error": None,
        **dict.fromkeys(absent),
        **more,
    }


def event_id(number: int) -> str:
    return f"01890a5d-ac96-774b-bcce-{number:012d}"


def operation(kind: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": event_id(999),
        "kind": kind,
        "state": state,
        "dry_run": False,
        "actor": "operator (ann)",
        "reason": "",
        "selection": {},
        "rate": 20.0,
        "limit": None,
        "total": 3,
        "done": 0,
        "skipped": 0,
        "held_by": None,
        "error": None,
        "event_types": {AUTHCAPTURE: 3},
        "reasons": {"the handlers gave up": 3},
        "created_at": "2026-01-31T12:00:00Z",
        "updated_at": "2026-01-31T12:00:00Z",
        "finished_at": None,
        **more,
    }


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Any] | None = None) -> AsyncIterator[AdminApi]:
    """Serves an AdminApi, or `handler` in its place, on a free port."""
    api = AdminApi()
    app = web.Application()
    app.router.add_route("*", "/webhooks/{path:.*}", handler or api.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()


def commands() -> typer.Typer:
    """Returns the commands, put together as in `webhookd`."""
    app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False)
    for group in (
        event_commands.app,
        timeline_commands.app,
        dead_letter_commands.app,
        quarantine_commands.app,
        refused_commands.app,
        operation_commands.app,
        destination_commands.app,
        gap_commands.app,
    ):
        app.add_typer(group)
    app.command("stats", help=stats_commands.HELP)(stats_commands.stats)
    app.command("listen", help=listen_command.HELP)(listen_command.listen)
    return app


@dataclass
class Ran:
    """The result of a command: its exit code, its output and its errors."""

    code: int
    out: str
    err: str


async def ran(url: str, *arguments: str, token: str | None = TOKEN, stdin: str | None = None) -> Ran:
    """Runs a command against the API at `url`, and maps errors to exit codes as `webhookd` does."""
    environment = {"WEBHOOKD_API_URL": url, "WEBHOOKD_API_TOKEN": token, "COLUMNS": "200"}
    result = await asyncio.to_thread(CliRunner().invoke, commands(), arguments, input=stdin, env=environment)
    error = result.exception
    assert error is None or isinstance(error, SystemExit | ApiError | SettingsError), repr(error)
    codes = {SettingsError: Exit.USAGE}
    code = error.exit_code if isinstance(error, ApiError) else codes.get(type(error), result.exit_code)  # type: ignore[arg-type]
    told = "" if error is None or isinstance(error, SystemExit) else f"{error}\n"
    found = Ran(int(code), result.stdout, result.stderr + told)
    assert TOKEN not in found.out + found.err, "the token is shown"
    assert READ_TOKEN not in found.out + found.err, "the token is shown"
    return found
