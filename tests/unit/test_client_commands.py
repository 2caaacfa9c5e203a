"""The operator's commands send the right requests to the API, show its answers, and end with the right exit status."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console
from typer.testing import CliRunner

from tests.helpers.admin_api import (
    AUTHCAPTURE,
    READ_TOKEN,
    TOKEN,
    AdminApi,
    commands,
    event,
    event_id,
    operation,
    problem,
    ran,
    serving,
)
from webhookd.cli.operator import api as client
from webhookd.cli.operator import bulk, tail
from webhookd.cli.operator.failures import Exit
from webhookd.cli.operator.listen import Sent
from webhookd.cli.operator.listen_screen import Board
from webhookd.cli.operator.target import ApiTarget
from webhookd.errors import Unusable
from webhookd.receive.refusal import Rejection

REPOSITORY = Path(__file__).parents[2]
HOSTILE = "\x1b]0;owned\x07[bold]\x9b2J\u202e\ud800 end"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs each test in its own folder, so that only its own settings count; a command looks again after 10 ms."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "FIRST_LOOK", 0.01)
    monkeypatch.setattr(client, "LAST_LOOK", 0.01)


@pytest.fixture
async def api() -> AsyncIterator[AdminApi]:
    async with serving() as served:
        yield served


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes stdin a terminal, so that the command can ask somebody."""
    monkeypatch.setattr(bulk, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))


SHOW = ("events", "show", event_id(1))


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (404, Exit.NOT_FOUND, "not found: the sentence"),
        (409, Exit.FAILED, "refused: the sentence"),
        (422, Exit.USAGE, "the sentence; query limit: too large"),
        (500, Exit.FAILED, "failed (500): the sentence"),
        (503, Exit.UNAVAILABLE, "is unavailable: the sentence; try again later"),
    ],
)
async def test_each_refusal_has_its_exit_code_and_a_plain_sentence(api: AdminApi, status: int, code: Exit, told: str) -> None:
    errors = [{"in": "query", "name": "limit", "message": "too large"}] if status == 422 else None
    api.answer("GET", f"events/{event_id(1)}", lambda *_: problem(status, "the sentence", errors=errors))
    found = await ran(api.url, *SHOW)
    assert (found.code, found.out) == (code, "")
    assert told in found.err


async def test_a_refusal_says_each_mistake_once(api: AdminApi) -> None:
    said = {"limit": "too large", "status.0": "unknown"}
    errors = [{"in": "query", "name": name, "message": message} for name, message in said.items()]
    api.answer("GET", f"events/{event_id(1)}", lambda *_: problem(422, "limit: too large", errors=errors))
    found = await ran(api.url, *SHOW)
    assert "rejects the request: limit: too large; query status.0: unknown\n" in found.err


async def test_a_wrong_token_and_one_that_may_only_look_are_not_allowed(api: AdminApi) -> None:
    wrong = await ran(api.url, *SHOW, token="wrong-token-1")
    assert wrong.code == Exit.NOT_ALLOWED
    assert "refused the token: set WEBHOOKD_API_TOKEN" in wrong.err
    assert "wrong-token-1" not in wrong.err
    without = await ran(api.url, *SHOW, token=None)
    assert without.code == Exit.NOT_ALLOWED
    assert "needs a token" in without.err
    look = await ran(api.url, "events", "retry", event_id(1), token=READ_TOKEN)
    assert look.code == Exit.NOT_ALLOWED
    assert "this token may only look" in look.err


async def test_nobody_at_the_address_is_told_with_the_address_and_the_remedy() -> None:
    found = await ran("http://127.0.0.1:1", *SHOW)
    assert found.code == Exit.UNAVAILABLE
    assert "http://127.0.0.1:1 cannot be reached" in found.err
    assert "WEBHOOKD_API_URL" in found.err


@pytest.mark.parametrize("status", [200, 302, 404])
async def test_another_server_is_not_taken_for_the_api(status: int) -> None:
    async def other(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>", content_type="text/html", headers={"Location": "/webhooks/x"})

    async with serving(other) as served:
        found = await ran(served.url, *SHOW)
    assert found.code == Exit.UNAVAILABLE, "and not 3: an event may well be there"
    assert "not as webhookd's admin API" in found.err


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("command", [SHOW, ("events", "retry", event_id(1))], ids=["get", "post"])
async def test_no_redirect_is_followed_with_the_token(api: AdminApi, command: tuple[str, ...], status: int) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": f"{api.url}{request.path}"})

    async with serving(elsewhere) as served:
        found = await ran(served.url, *command)
    assert found.code == Exit.UNAVAILABLE
    assert api.asked == [], "nothing arrives at where the answer points"


async def test_the_environments_proxy_is_used_but_not_for_this_machine(api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[str] = []

    async def proxy(request: web.Request) -> web.Response:
        passed.append(f"{request.method} {request.host}")
        return problem(404, "by the proxy")

    async with serving(proxy) as served:
        monkeypatch.setenv("http_proxy", served.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        away = await ran("http://hooks.example.test", *SHOW)
        assert away.code == Exit.NOT_FOUND
        assert len(passed) == 1
        assert passed[0].endswith("hooks.example.test")
        api.answer("GET", f"events/{event_id(1)}", lambda *_: problem(404, "by the api"))
        assert "by the api" in (await ran(api.url, *SHOW)).err
        monkeypatch.setenv("no_proxy", "example.test")
        assert (await ran("http://hooks.example.test", *SHOW)).code == Exit.UNAVAILABLE
    assert len(passed) == 1


@pytest.mark.parametrize(
    "form", ["http://user:hunter22@127.0.0.1:{}", "user:hunter22@127.0.0.1:{}", "http://user:hunter22@[x:{}"]
)
async def test_a_proxy_that_refuses_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv("https_proxy", form.format(server.sockets[0].getsockname()[1]))
    found = await ran("https://hooks.example.test", *SHOW)
    server.close()
    assert found.code == Exit.UNAVAILABLE
    assert "the environment's proxy cannot reach it (" in found.err
    assert "hunter22" not in found.err


async def test_a_list_goes_on_through_empty_pages_up_to_its_limit(api: AdminApi) -> None:
    api.events = [event(number, f"2026-01-31T12:00:0{number}Z") for number in range(5)]
    everything = json.loads((await ran(api.url, "events", "list", "--json")).out)
    assert [row["id"] for row in everything["events"]] == [event_id(number) for number in (4, 3, 2, 1, 0)]
    assert everything["more"] is False
    some = json.loads((await ran(api.url, "events", "list", "--json", "--limit", "3")).out)
    assert [row["id"] for row in some["events"]] == [event_id(number) for number in (4, 3, 2)]
    assert some["more"] is True
    shown = await ran(api.url, "events", "list", "--limit", "3")
    assert event_id(4) in shown.out
    assert "payment.authcapture.created" in shown.out
    assert "There may be more than 3" in shown.out


async def test_filters_reach_the_api_by_its_names(api: AdminApi) -> None:
    types = ("--event-type", "payment.*", "--event-type", "customer.*")
    await ran(api.url, "events", "list", "6001", "--status", "dead", *types, "--since", "2026-01-31T12:00+01:00")
    query = api.asked[0].query
    assert query["q"] == ["6001"]
    assert query["status"] == ["dead"]
    assert query["event_type"] == ["payment.*", "customer.*"]
    assert query["received_from"] == ["2026-01-31T11:00:00Z"]
    assert "received_to" not in query
    api.answer("GET", "dead-letters", {"events": [], "next": None})
    await ran(api.url, "dead-letters", "list", "--reason", "time", "--until", "1h", "--discarded")
    query = api.asked[-1].query
    assert (query["reason"], query["discarded"]) == (["time"], ["true"])
    assert datetime.fromisoformat(query["died_to"][0]) < datetime.now(UTC) - timedelta(minutes=59)
    wrong = await ran(api.url, "events", "list", "--since", "yesterday")
    assert (wrong.code, "--since" in wrong.err) == (Exit.USAGE, True)


def whole(**more: Any) -> dict[str, Any]:
    """Returns an event with its body, aliases and audit trail."""
    return {
        **event(1, error=HOSTILE, status="dead"),
        "last_error": HOSTILE,
        "dead_reason": HOSTILE,
        "dead_letter_copy": "sent",
        "sends": 1,
        "send_after": None,
        "body": {"encoding": "utf-8", "text": f'{{"card": "{HOSTILE}"}}'},
        "aliases": [{"notification_id": HOSTILE, "received_at": "2026-01-31T12:00:00Z"}],
        "audit": [
            {
                "at": "2026-01-31T12:00:00Z",
                "from_status": None,
                "to_status": "received",
                "actor": HOSTILE,
                "attempt": None,
                "reason": HOSTILE,
                "consumer": HOSTILE,
            }
        ],
        "failed_attempts": [
            {"at": "2026-01-31T12:00:00Z", "attempt": 1, "outcome": "dead", "error": HOSTILE, "consumer": HOSTILE}
        ],
        "related": [event(2, event_type=HOSTILE, entity_id=HOSTILE)],
        "retry": {"allowed": True, "needs_force": False, "reason": HOSTILE},
        **more,
    }


def assert_harmless(text: str) -> None:
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", text), ascii(text)


async def test_no_escape_sequence_of_the_api_reaches_the_terminal(api: AdminApi) -> None:
    api.answer("GET", f"events/{event_id(1)}", whole())
    shown = await ran(api.url, *SHOW, "--body")
    assert_harmless(shown.out)
    assert shown.out.count(r"\x1b]0;owned\x07[bold]\x9b2J\u202e\ud800 end") >= 8, "shown, and not obeyed"
    api.answer("GET", "events", {"events": [whole()], "next": None, "searched_to": None})
    assert_harmless((await ran(api.url, "events", "list")).out)
    api.answer("GET", f"events/{event_id(1)}", lambda *_: problem(409, HOSTILE))
    assert_harmless((await ran(api.url, *SHOW)).err)


async def test_json_is_exact_and_the_body_is_customer_data(api: AdminApi) -> None:
    api.answer("GET", f"events/{event_id(1)}", whole())
    exact = await ran(api.url, *SHOW, "--json", "--body")
    assert json.loads(exact.out) == whole()
    assert_harmless(exact.out)
    assert json.loads((await ran(api.url, *SHOW, "--json")).out).keys() == whole().keys() - {"body"}
    assert "card" not in (await ran(api.url, *SHOW)).out


async def test_the_trail_names_consumers_only_if_there_is_another_than_the_handlers(api: AdminApi) -> None:
    def change(consumer: str | None, to: str) -> dict[str, Any]:
        return {**whole()["audit"][0], "to_status": to, "actor": "worker", "reason": None, "consumer": consumer}

    receipt, handled = change(None, "received"), change("handlers", "processed")
    api.answer("GET", f"events/{event_id(1)}", whole(audit=[receipt, handled], failed_attempts=[]))
    shown = (await ran(api.url, *SHOW)).out
    assert "worker" in shown
    assert not re.search("consumer|handlers", shown)
    api.answer("GET", f"events/{event_id(1)}", whole(audit=[receipt, handled, change("mail", "dead")], failed_attempts=[]))
    cells = [[cell.strip() for cell in re.split("[│┃]", line)] for line in (await ran(api.url, *SHOW)).out.splitlines()]
    trail = [row[3:6] for row in cells if len(row) == 9]
    assert trail == [
        ["to", "consumer", "by"],
        ["received", "", "worker"],
        ["processed", "handlers", "worker"],
        ["dead", "mail", "worker"],
    ]


async def test_an_api_of_the_release_before_names_no_consumers(api: AdminApi) -> None:
    attempt = {"at": "2026-01-31T12:00:00Z", "attempt": 1, "outcome": "dead", "error": "of the handlers"}
    api.answer("GET", f"events/{event_id(1)}", whole(failed_attempts=[attempt]))
    assert "of the handlers" in (await ran(api.url, *SHOW)).out


def test_the_table_of_listen_obeys_no_markup_of_an_event() -> None:
    board = Board("to http://[fe80::1]:3000")
    board.add(Sent(1, event(1, event_type="[/x]", entity_id="[link=https://evil.test]6001[/link]"), b"{}", "webhook"))
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(board)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[link=https://evil.test]6001[/link]" in shown
    assert "[fe80::1]" in shown
    assert "\x1b]8" not in shown


async def test_of_several_retries_each_is_tried_and_one_failure_is_exit_code_one(api: AdminApi) -> None:
    api.answer("POST", f"events/{event_id(2)}/retry", {"event": event(2)})
    found = await ran(api.url, "events", "retry", event_id(1), event_id(2), "--force", "--note", "again", "--json")
    assert found.code == Exit.FAILED
    told = json.loads(found.out)
    assert [row["id"] for row in told["retried"]] == [event_id(2)]
    assert [row["id"] for row in told["failed"]] == [event_id(1)]
    asked = api.asked_for("POST", f"events/{event_id(2)}/retry")[0]
    assert (asked.query, asked.body) == ({"force": ["true"]}, {"reason": "again"})
    assert (await ran(api.url, "events", "retry", event_id(1))).code == Exit.NOT_FOUND, "alone it keeps its own"


BULK = [
    ("dead-letters", "redrive", "--reason", "timeout"),
    ("dead-letters", "discard", "--all"),
    ("events", "replay", "--since", "2h", "--note", "wrong tax"),
    ("quarantine", "discard", event_id(1)),
    ("quarantine", "discard", "--all"),
    ("quarantine", "release", "--reason", "too_old"),
]


@pytest.mark.parametrize("arguments", BULK)
async def test_where_nobody_can_be_asked_nothing_is_done_without_yes(api: AdminApi, arguments: tuple[str, ...]) -> None:
    for more in ((), ("--json",)):
        found = await ran(api.url, *arguments, *more)
        assert (found.code, found.out) == (Exit.USAGE, "")
        assert "there is no terminal to ask for confirmation: give --yes" in found.err
    assert api.asked == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("dead-letters", "redrive", "--yes"), "--all"),
        (("dead-letters", "redrive", "--yes", "--all", "--account", "eu"), "--all"),
        (("dead-letters", "discard", "--yes", event_id(1), "--reason", "timeout"), "--all"),
        (("events", "replay", "--yes", "--note", "x"), "filter"),
        (("events", "replay", "--dry-run", "--status", "dead"), "--since"),
        (("events", "show", "4711"), "'4711' is not an id of webhookd"),
        (("dead-letters", "redrive", "4711"), "'4711' is not an id of webhookd"),
        (("events", "list", "--status", "foo"), "'foo' is no status; give received, queued, retrying, processed or dead"),
        (("events", "replay", "--status", "queued", "--since", "2h"), "'queued' is no status; give processed or dead"),
        (("quarantine", "release", "4711"), "'4711' is not an id of webhookd"),
        (("quarantine", "release", "--yes"), "--all"),
        (("quarantine", "release", "--yes", "--all", "--account", "eu"), "--all"),
        (("quarantine", "discard", "--yes", event_id(1), "--reason", "too_old"), "--all"),
        (("operations", "show", "4711"), "'4711' is not an id of webhookd"),
        (("events", "replay", "--yes", "--since", "2h"), "--note"),
        (("stats", "--window", "soon"), "--window"),
    ],
)
async def test_what_could_not_be_meant_asks_nothing_of_the_api(api: AdminApi, arguments: tuple[str, ...], told: str) -> None:
    found = await ran(api.url, *arguments)
    assert (found.code, found.out, told in found.err) == (Exit.USAGE, "", True)
    assert api.asked == []


def working(api: AdminApi, kind: str, place: str, *states: dict[str, Any]) -> None:
    """Makes the API answer a dry run as counted at once, and an operation as going through `states`."""
    left = list(states)

    def start(_: Any, body: Any) -> dict[str, Any]:
        return operation(kind, "done", dry_run=True) if body["dry_run"] else operation(kind, "counting", total=None)

    api.answer("POST", f"{place}/{kind}", start)
    api.answer("GET", f"operations/{event_id(999)}", lambda *_: operation(kind, **(left.pop(0) if left[1:] else left[0])))


async def test_a_dry_run_counts_by_type_and_reason_and_starts_nothing(api: AdminApi) -> None:
    working(api, "redrive", "dead-letters")
    found = await ran(api.url, "dead-letters", "redrive", "--all", "--dry-run")
    assert found.code == Exit.DONE
    assert "payment.authcapture.created" in found.out
    assert "the handlers gave up" in found.out
    assert "redrive would change 3 events; nothing was changed" in found.out
    assert [asked.body["dry_run"] for asked in api.asked] == [True]


async def test_a_bulk_command_counts_asks_and_follows_what_was_agreed_to(api: AdminApi, terminal: None) -> None:
    working(api, "redrive", "dead-letters", {"state": "working"}, {"state": "done", "done": 2, "skipped": 1})
    refused = await ran(api.url, "dead-letters", "redrive", "--all", stdin="n\n")
    assert refused.code == Exit.FAILED
    assert [asked.body["dry_run"] for asked in api.asked] == [True]
    agreed = await ran(api.url, "dead-letters", "redrive", "--all", "--note", "reopened", stdin="y\n")
    assert agreed.code == Exit.DONE
    assert "redrive 3 events?" in agreed.err
    assert "2 events redriven, 1 skipped, since they had changed" in agreed.out
    body = api.asked_for("POST", "dead-letters/redrive")[-1].body
    assert body["dry_run"] is False
    assert body["reason"] == "reopened"
    assert body["filter"] == {"died_to": "2026-01-31T12:00:00Z"}, "no event that died after the count"
    assert "all" not in body


async def test_one_event_is_told_in_the_singular(api: AdminApi) -> None:
    working(api, "redrive", "dead-letters", {"state": "done", "done": 1})
    found = await ran(api.url, "dead-letters", "redrive", "--all", "--yes", "--note", "reopened")
    assert "1 event redriven" in found.out


async def test_with_yes_a_filter_goes_as_given_and_the_operation_is_told_whole(api: AdminApi) -> None:
    working(api, "replay", "events", {"state": "done", "done": 3})
    arguments = ("events", "replay", "--status", "processed", "--force", "--account", "eu", "--note", "tax", "--rate", "5")
    found = await ran(api.url, *arguments, "--yes", "--json")
    assert found.code == Exit.DONE
    assert json.loads(found.out) == operation("replay", "done", done=3)
    (asked,) = api.asked_for("POST", "events/replay")
    chosen = {"status": ["processed"], "account": "eu"}
    assert asked.body == {"filter": chosen, "reason": "tax", "force": True, "rate": 5.0, "limit": None, "dry_run": False}


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_an_operation_that_did_not_get_done_is_exit_code_one(api: AdminApi, state: str) -> None:
    working(api, "discard", "dead-letters", {"state": state, "error": "PostgreSQL went away"})
    found = await ran(api.url, "dead-letters", "discard", event_id(1), "--yes")
    assert found.code == Exit.FAILED
    assert state in found.err
    assert "PostgreSQL went away" in found.err


async def test_detached_it_returns_with_the_id(api: AdminApi) -> None:
    working(api, "redrive", "dead-letters")
    found = await ran(api.url, "dead-letters", "redrive", "--all", "--yes", "--detach")
    assert (found.code, f"webhookd operations show {event_id(999)}" in found.out) == (Exit.DONE, True)
    assert len(api.asked) == 1


async def test_following_goes_on_through_an_outage_but_not_for_ever(api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    working(api, "redrive", "dead-letters", {"state": "done", "done": 3})
    good = api.routes["GET", f"operations/{event_id(999)}"]
    outage = [1, 2, 3]
    api.answer(
        "GET",
        f"operations/{event_id(999)}",
        lambda query, body: problem(503, "PostgreSQL is away") if outage and outage.pop() else good(query, body),
    )
    assert (await ran(api.url, "dead-letters", "redrive", "--all", "--yes")).code == Exit.DONE
    monkeypatch.setattr(client, "PATIENCE", 0.0)
    outage = [1, 2, 3]
    found = await ran(api.url, "dead-letters", "redrive", "--all", "--yes")
    assert found.code == Exit.UNAVAILABLE
    assert "goes on in the daemon" in found.err


async def in_a_process(url: str, *arguments: str) -> asyncio.subprocess.Process:
    script = "from tests.helpers.admin_api import commands; commands()()"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *arguments),
        env={"PYTHONPATH": str(REPOSITORY), "WEBHOOKD_API_URL": url, "WEBHOOKD_API_TOKEN": TOKEN},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_ctrl_c_leaves_the_operation_to_the_daemon_and_tells_how_to_cancel_it(api: AdminApi) -> None:
    working(api, "redrive", "dead-letters", {"state": "working"})
    looked = asyncio.Event()
    state = api.routes["GET", f"operations/{event_id(999)}"]

    def look(query: Any, body: Any) -> Any:
        looked.set()
        return state(query, body)

    api.answer("GET", f"operations/{event_id(999)}", look)
    process = await in_a_process(api.url, "dead-letters", "redrive", "--all", "--yes", "--json")
    await asyncio.wait_for(looked.wait(), 30)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == Exit.INTERRUPTED, err.decode()
    assert json.loads(out)["id"] == event_id(999)
    assert "goes on in the daemon" in err.decode()
    assert f"webhookd operations cancel {event_id(999)}" in err.decode()
    assert "Traceback" not in err.decode()
    assert not [asked for asked in api.asked if asked.path.endswith("cancel")]


async def test_tail_shows_each_event_once_in_order_and_ctrl_c_ends_it(api: AdminApi) -> None:
    start = datetime.now(UTC)

    def at(seconds: float) -> str:
        return (start + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    api.events = [event(number, at(number - 60)) for number in range(3)]
    process = await in_a_process(api.url, "events", "tail", "--json", "-n", "2", "--account", "default")
    assert process.stdout is not None

    async def next_ids(count: int) -> list[int]:
        assert process.stdout is not None
        lines = [await asyncio.wait_for(process.stdout.readline(), 30) for _ in range(count)]
        return [int(json.loads(line)["id"][-12:]) for line in lines]

    assert await next_ids(2) == [1, 2]
    api.events += [event(6, at(0.2)), event(5, at(0.1))]
    assert await next_ids(2) == [5, 6]
    api.events += [event(4, at(-3)), event(7, at(0.3))]
    assert await next_ids(2) == [4, 7], "one that was committed late is not lost"
    api.events.append(event(8, at(0.4)))
    assert await next_ids(1) == [8]
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out, err) == (Exit.INTERRUPTED, b"", b"")
    assert all(asked.query["account"] == ["default"] for asked in api.asked)


async def test_tail_says_how_far_back_it_searched(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    api.events = [event(number, f"2026-01-31T12:00:0{number}Z") for number in range(6)]
    async with client.Api(ApiTarget(api.url, TOKEN)) as connected:
        for last, pages, said in ((6, 3, "searched back to 2026-01-01 00:00:00: found 2 of the last 6 events"), (2, 3, "")):
            following = tail.follow(connected, last, most_pages=pages)
            assert (await anext(following))["id"] == event_id(4)
            await following.aclose()
            assert capfd.readouterr().err.strip() == said


async def test_tail_waits_for_an_api_that_went_away(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tail, "PAUSE", 0.01)
    api.events = [event(1)]
    async with client.Api(ApiTarget(api.url, TOKEN)) as connected:
        following = tail.follow(connected, 1)
        assert (await anext(following))["id"] == event_id(1)
        away = [1, 2]

        def flaky(query: Any, _: Any) -> Any:
            return problem(503, "restarting") if away and away.pop() else api._events(query)

        api.answer("GET", "events", flaky)
        api.events.append(event(2, "2100-01-31T12:00:00Z"))
        assert (await asyncio.wait_for(anext(following), 10))["id"] == event_id(2)
        await following.aclose()
    assert capfd.readouterr().err.count("waiting for it") == 1


async def test_quarantine_is_listed_shown_released_and_discarded(api: AdminApi) -> None:
    row = {
        "id": event_id(1),
        "account": "default",
        "reason": "too_old",
        "detail": "from 2019",
        "received_at": "2026-01-31T12:00:00Z",
        "times_received": 2,
        "size": 10,
        "state": "waiting",
        **dict.fromkeys(("event_id", "handled_at", "handled_by", "note")),
    }
    api.answer("GET", "quarantine", {"bodies": [row], "next": None})
    one = {**row, "body": {"encoding": "base64", "text": "/w=="}, "release": {"allowed": False, "reason": "it is too old"}}
    api.answer("GET", f"quarantine/{event_id(1)}", one)
    api.answer("POST", f"quarantine/{event_id(1)}/release", {"outcome": "duplicate", "event_id": event_id(2)})
    api.answer("POST", f"quarantine/{event_id(1)}/discard", {"outcome": "discarded"})
    assert "from 2019" in (await ran(api.url, "quarantine", "list")).out
    assert api.asked[-1].query["state"] == ["waiting"]
    shown = (await ran(api.url, "quarantine", "show", event_id(1), "--body")).out
    assert "release: it is too old" in shown
    assert "body (base64): /w==" in shown
    released = (await ran(api.url, "quarantine", "release", event_id(1))).out
    assert f"duplicate, event {event_id(2)}" in released
    assert (await ran(api.url, "quarantine", "discard", event_id(1), "--yes", "--note", "test")).code == Exit.DONE
    assert api.asked[-1].body == {"reason": "test"}


async def test_bodies_of_a_filter_are_counted_and_released_the_oldest_first_except_those_that_cannot_be(api: AdminApi) -> None:
    rows = [{"id": event_id(number), "reason": reason} for number, reason in ((3, "too_old"), (2, "not_json"), (1, "too_old"))]
    api.answer("GET", "quarantine", {"bodies": rows, "next": None})
    for number in (1, 3):
        api.answer("POST", f"quarantine/{event_id(number)}/release", {"outcome": "released", "event_id": event_id(9)})
    counted = await ran(api.url, "quarantine", "release", "--all", "--dry-run", "--json")
    assert json.loads(counted.out) == {"total": 3, "reasons": {"too_old": 2, "not_json": 1}}
    assert "release would change 3 bodies" in (await ran(api.url, "quarantine", "release", "--all", "--dry-run")).out
    assert not [one for one in api.asked if one.method == "POST"]
    done = await ran(api.url, "quarantine", "release", "--account", "eu", "--since", "2h", "--yes", "--json", "--note", "late")
    told = json.loads(done.out)
    assert done.code == Exit.FAILED
    assert [row["id"] for row in told["released"]] == [event_id(1), event_id(3)]
    assert [row["id"] for row in told["failed"]] == [event_id(2)]
    query = next(one.query for one in api.asked[::-1] if one.method == "GET")
    assert (query["state"], query["account"]) == (["waiting"], ["eu"])
    assert "received_from" in query
    await ran(api.url, "quarantine", "release", "--all", "--limit", "1", "--yes")
    assert api.asked[-1].path.endswith(f"{event_id(1)}/release"), "the oldest one"
    api.answer("GET", "quarantine", {"bodies": [], "next": None})
    assert (await ran(api.url, "quarantine", "discard", "--all", "--yes")).out == "no body is chosen\n"


async def test_refused_webhooks_are_listed_and_what_strangers_wrote_reaches_no_terminal(api: AdminApi) -> None:
    row = {
        "id": event_id(1),
        "refused_at": "2026-01-31T12:00:00.123Z",
        "account": "default",
        "reason": "signature_mismatch",
        "status": 401,
        "path": "/webhooks/authorize-net\x1b[2J",
        "peer": "10.0.0.1",
        "forwarded_for": "198.241.162.104\u202e",
        "header": "sha512=, 128 hexadecimal digits in upper case",
        "content_type": "text/\x07plain",
        "size": 340,
        "first_bytes": "{\n\x1b]0;hurt",
        "finding": "unknown_key",
        "likely": "No key that is set here made this signature.",
    }
    api.answer("GET", "refused", {"samples": [row, row | {"size": None, "forwarded_for": None}], "next": None})
    listed = await ran(api.url, "refused", "list", "--reason", "signature_mismatch", "--account", "default")
    assert listed.code == Exit.DONE
    assert api.asked[-1].query["reason"] == ["signature_mismatch"]
    assert "2026-01-31 12:00:00  401 signature_mismatch, account default" in listed.out
    assert "10.0.0.1 (X-Forwarded-For says 198.241.162.104" in listed.out
    assert "likely: No key that is set here" in listed.out
    assert not any(sign in listed.out for sign in "\x1b\x07\u202e")
    told = json.loads((await ran(api.url, "refused", "list", "--json")).out)
    assert [one["size"] for one in told["samples"]] == [340, None]


@pytest.mark.parametrize(("group", "choices"), [("refused", Rejection), ("quarantine", Unusable)])
async def test_a_reason_that_there_is_not_is_refused_with_those_that_there_are(
    api: AdminApi, group: str, choices: type[StrEnum]
) -> None:
    found = await ran(api.url, group, "list", "--reason", "nonsense")
    assert (found.code, found.out) == (Exit.USAGE, "")
    assert [choice for choice in choices if choice not in found.err] == []
    assert api.asked == []


async def test_operations_are_listed_shown_followed_and_cancelled(api: AdminApi) -> None:
    path = f"operations/{event_id(999)}"
    api.answer("GET", "operations", {"operations": [operation("redrive", "working", done=1)], "next": None})
    api.answer("GET", path, operation("redrive", "failed", error="no"))
    api.answer("POST", f"{path}/cancel", operation("redrive", "cancelled", done=1))
    assert "1 of 3" in (await ran(api.url, "operations", "list")).out
    shown = await ran(api.url, "operations", "show", event_id(999))
    assert (shown.code, "state: failed" in shown.out) == (Exit.DONE, True)
    assert (await ran(api.url, "operations", "show", event_id(999), "--follow")).code == Exit.FAILED
    assert "is cancelled: 1 event done" in (await ran(api.url, "operations", "cancel", event_id(999))).out


async def test_stats_are_shown_with_what_is_not_known(api: AdminApi) -> None:
    totals = {"received": 1234, "duplicates": 1, "quarantined": 0, "refused": 0, "processed": 9, "retried": 0, "dead": 0}
    answer = {
        "window": 7200,
        "step": 300,
        "from": "2026-01-31T10:00:00Z",
        "to": "2026-01-31T12:00:00Z",
        "totals": totals,
        "rates": {name: count / 7200 for name, count in totals.items()},
        "event_types": [{"event_type": AUTHCAPTURE, "received": 7, "processed": 6, "retried": 1, "dead": 0}],
        "latency": {
            "acknowledgement": {"count": 2, "p50": 0.004, "p95": 0.02, "p99": 1.5},
            "end_to_end": {"count": 0, "p50": None, "p95": None, "p99": None},
        },
        "now": {
            "statuses": {"received": 0, "queued": 100000, "retrying": 2, "dead": 3},
            "capped_at": 100000,
            "quarantine": 4,
            "oldest_unfinished_seconds": 61.0,
            "queue": {"visible": 5, "in_flight": 6, "delayed": 0},
            "dead_letter_queue": None,
        },
        "series": [],
    }
    api.answer("GET", "stats", answer)
    shown = (await ran(api.url, "stats", "--window", "2h")).out
    assert api.asked[0].query == {"window": ["7200"]}
    for part in ("1,234", "4 ms", "1.5 s", "100,000 or more", "6 in flight", "dead letter queue: not known", "61.0 s"):
        assert part in shown
    assert json.loads((await ran(api.url, "stats", "--json")).out) == answer


@pytest.mark.parametrize(
    ("command", "taught"),
    [
        (("events",), ["Exit codes", "5 not allowed", "WEBHOOKD_API_TOKEN_FILE", "For example"]),
        (("dead-letters",), ["Exit codes", "redrive", "For example"]),
        (("quarantine",), ["Exit codes", "release"]),
        (("operations",), ["Exit codes", "cancel"]),
        (("stats",), ["Exit codes", "For example"]),
        (("events", "tail"), ["Ctrl-C", "For example"]),
        (("dead-letters", "redrive"), ["--detach", "--dry-run", "Fresh events go first", "For example"]),
    ],
)
def test_help_teaches_and_fits_eighty_columns(command: tuple[str, ...], taught: list[str]) -> None:
    result = CliRunner().invoke(commands(), [*command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
    assert [hint for hint in taught if hint not in text] == []
    assert max(len(line) for line in result.output.splitlines()) <= 80
