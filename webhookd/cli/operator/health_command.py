"""`webhookd health`: the health that a running daemon reports, for people and for a container's health check."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import monotonic
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from webhookd.cli.operator.alert_commands import tell_alerts
from webhookd.cli.operator.api import with_api
from webhookd.cli.operator.options import Url
from webhookd.cli.operator.screen import plain, say, tell_json
from webhookd.cli.operator.target import find_open
from webhookd.errors import SettingsError
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

HELP = (
    "Ask a running webhookd whether it can take webhooks, and which problems it has.\n\n"
    "The command asks the admin listener of WEBHOOKD_API_URL, else of this machine's daemon, else of the `webhookd dev` in "
    "this folder. It needs no token. If PostgreSQL is unavailable, webhookd is not ready. If only Redis or SQS is "
    "unavailable, webhookd is ready, and the command reports the problem.\n\n"
    "With `--live`, the command asks only whether the process answers. Use `--live` for a check that restarts webhookd: no "
    "restart brings PostgreSQL back.\n\n"
    "With `--strict`, the command also fails if a condition fires for which webhookd sends an alert (`webhookd alerts list`). "
    "Use `--strict` in a job of cron on another machine. It needs a token that may read: WEBHOOKD_API_TOKEN.\n\n"
    "Exit codes: 0 ready (with `--live`: alive; with `--strict`: and no condition fires); 1 not ready, no answer, or a "
    "condition fires; 2 wrong usage or settings; with `--strict` also 4 the API is unavailable; 5 not allowed.\n\n"
    "For example: `webhookd health --live --timeout 1`, or `webhookd health --json | jq .report.dependencies`."
)
_LONGEST = 65_536  # bytes of an answer; webhookd's has some hundreds
_NAMES = {"postgresql": "PostgreSQL", "redis": "Redis", "sqs": "SQS"}


@dataclass(slots=True, frozen=True)
class Answer:
    """An answer: its HTTP status, None if webhookd gave no answer, and its object; or the reason why there is no answer."""

    status: int | None
    report: dict[str, Any]
    problem: str = ""


def health(
    live: Annotated[bool, typer.Option("--live", help="Ask only whether the process answers.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Also fail if a condition fires that has an alert.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait for an answer.")] = 3.0,
    url: Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Runs the command. Its help is HELP, since a docstring cannot be put together."""
    if live and strict:
        raise SettingsError("--live and --strict: give one of them")
    address = find_open(url, folder)
    answer = ask(f"{address}/{'livez' if live else 'readyz'}", timeout)
    well = ready = answer.status == 200
    alerts = None
    if strict and ready:
        alerts = with_api(url, folder, lambda api: api.get("alerts"), timeout=timeout)
        well = ready and alerts["believable"] and not alerts["firing"]
    if as_json:
        problem = {"problem": answer.problem} if answer.problem else {}
        more = {} if alerts is None else {"alerts": alerts}
        tell_json({"ok": well, "url": address, "status": answer.status, "report": answer.report, **problem, **more})
    else:
        # Print on standard output, good or bad: the user asked for the health.
        what = ("alive" if ready else "not alive") if live else ("ready" if ready else "not ready")
        say(f"{what}: {address}" + "".join(f"; {problem}" for problem in _problems(answer)))
        if alerts is not None:
            tell_alerts(alerts)
    raise typer.Exit(0 if well else 1)


def ask(url: str, timeout: float) -> Answer:
    """Sends a GET to `url`, and returns the answer within about `timeout` seconds."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    ends = monotonic() + timeout
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.connect()
        connection.sock.settimeout(max(ends - monotonic(), 0.01))
        connection.request("GET", parts.path, headers={"Accept": "application/json", "Connection": "close"})
        response = connection.getresponse()
        status, body = response.status, response.read(_LONGEST)
    except TimeoutError:
        return Answer(None, {}, f"no answer within {timeout:g} s")
    except (OSError, HTTPException, ValueError) as error:
        reason = plain(getattr(error, "strerror", None) or error) or type(error).__name__
        return Answer(None, {}, f"no answer ({reason})")
    finally:
        connection.close()
    try:
        report = json.loads(body)
    except ValueError:
        report = None
    if status not in (200, 503) or not isinstance(report, dict) or "status" not in report:
        return Answer(None, {}, f"the server there ({status}) is not webhookd's admin listener")
    return Answer(status, report)


def _problems(answer: Answer) -> list[str]:
    problems = [answer.problem] if answer.problem else []
    if answer.report.get("stopping"):
        problems.append("webhookd is stopping")
    dependencies = answer.report.get("dependencies")
    for name, state in dependencies.items() if isinstance(dependencies, dict) else ():
        if isinstance(state, dict) and not state.get("up"):
            reason = plain(state.get("problem") or "no reason is known yet")
            problems.append(f"{_NAMES.get(name, plain(name))} is away: {reason}")
    return problems
