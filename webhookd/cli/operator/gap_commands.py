"""`webhookd gaps`: the result of each day's comparison with the provider's history, and orders to take what is missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

import typer

from webhookd.cli.operator import bulk, options
from webhookd.cli.operator.api import Api, Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES, ApiError, Exit
from webhookd.cli.operator.screen import instant, number_of, plain, say, tell_json
from webhookd.errors import SettingsError
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

_NOT_WHOLE = ("missing", "unreadable", "not known")
_LONGEST_OPEN = timedelta(hours=6)  # after the day's end; an outage of the provider's API is over by then
_SET_CREDENTIALS = "set WEBHOOKD_API_LOGIN_ID and WEBHOOKD_TRANSACTION_KEY"
_DAYS = re.compile(r"([1-9][0-9]{0,2})\s*([dw])")

Account = Annotated[str | None, typer.Option(help="Only this account. [all]", show_default=False)]

app = typer.Typer(
    name="gaps",
    invoke_without_command=True,
    help="Compare Authorize.Net's history with the ledger, day by day, and take what no webhook brought.\n\n"
    "webhookd compares them every WEBHOOKD_GAP_EVERY seconds, if it has API credentials. This command shows the results. The "
    "days are of UTC. A day is whole if webhookd has every notification that the history lists for it, after two looks.\n\n"
    "The exit code is 1 if a day that is over is not whole, has no result, or is open more than six hours after its end; if no "
    "comparison has ended for two hours; or if Authorize.Net refuses the credentials. The last lines say which. For example, "
    "in a cron job: `webhookd gaps --days 7`. An account for which no replica has asked for three days, as after its "
    "credentials were removed, is not compared: it counts only if --account names it.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n" + EXIT_CODES,
)


@app.callback()
def show(
    context: typer.Context,
    account: Account = None,
    days: Annotated[int, typer.Option(min=1, max=400, help="The number of days until today.")] = 14,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show what is known of each day."""
    if context.invoked_subcommand is not None:
        return

    async def read(api: Api) -> list[Json]:
        found = [one for one in (await api.get("provider", "accounts"))["accounts"] if account in (None, one["account"])]
        for one in found:
            one["days"] = (await api.get("provider", "accounts", one["account"], "days", days=days))["days"]
        return found

    accounts = with_api(url, folder, read)
    if not accounts:
        which = "no account has" if account is None else f"the account {plain(account)} does not have"
        raise ApiError(f"{which} API credentials: {_SET_CREDENTIALS}", Exit.NOT_FOUND)
    counted = [one for one in accounts if account is not None or one["held"] or one["unattended"]]
    if as_json:
        tell_json({"accounts": accounts})
    else:
        for one in accounts:
            _tell(one, days, named=len(accounts) > 1, counts=one in counted)
    if not counted:
        raise ApiError(f"no account is compared: {_SET_CREDENTIALS}", Exit.NOT_FOUND)
    now = datetime.now(UTC)
    raise typer.Exit(Exit.FAILED if any([*problems_of(one, days, now)] for one in counted) else Exit.DONE)


def problems_of(account: Json, days: int, now: datetime) -> Iterator[str]:
    """Yields the reasons why the last `days` of an account are not known to be whole."""
    if account["credentials"] == "refused":
        yield f"Authorize.Net has refused the credentials since {instant(account['credentials_since'])}: run `webhookd doctor`"
    elif account["uncompared"]:
        asks = "" if account["held"] else ", and no replica asks Authorize.Net for the account now"
        yield f"no comparison has ended for two hours{asks}: see /guide/runbook-provider#webhookdproviderunreachable"
    states = {date.fromisoformat(day["day"]): day["completeness"] for day in account["days"]}
    today = now.date()
    first = today if account["first_day"] is None else date.fromisoformat(account["first_day"])
    past = [today - timedelta(days=age) for age in range(days - 1, 0, -1)]
    for words, found in (
        ("not whole", [day for day in past if states.get(day) in _NOT_WHOLE]),
        ("without a result", [day for day in past if day >= first and day not in states]),
        ("open more than six hours after the end", [day for day in past if states.get(day) == "open" and _is_late(day, now)]),
    ):
        if found:
            yield f"{number_of(len(found), 'day')} {words}, from {found[0]}"


def _is_late(day: date, now: datetime) -> bool:
    return now > datetime.combine(day + timedelta(days=1), time(), UTC) + _LONGEST_OPEN


def _tell(account: Json, days: int, *, named: bool, counts: bool) -> None:
    name = plain(account["account"])
    if not counts:
        say(f"{name}: no credentials for three days: not compared; `webhookd gaps --account {name}` shows its days")
        return
    if named:
        say(f"{name}:")
    for day in reversed(account["days"]):
        say(line_of(day))
    if not account["days"]:
        say("no day has been compared yet")
    if account["compared_at"]:
        say(f"last compared {instant(account['compared_at'])} (UTC)")
    for problem in problems_of(account, days, datetime.now(UTC)):
        say(problem)


def line_of(day: Json) -> str:
    """Returns the line of a day. A day that is whole has its counts alone."""
    at = date.fromisoformat(day["day"])
    counts = f"{at.day} {at:%B}: provider {day['listed']:,}, webhookd {day['ours']:,}, {day['recovered']:,} recovered"
    return "; ".join([counts, *_doubts(day)])


def _doubts(day: Json) -> Iterator[str]:
    for name, words in (("missing", "missing"), ("unreadable", "unreadable"), ("waiting", "perhaps on their way")):
        if day[name]:
            yield f"{day[name]:,} {words}"
    if day["unlisted"]:
        yield f"{day['unlisted']:,} that the provider does not list"
    if day["completeness"] == "open":
        yield "not proven yet"
    elif day["completeness"] == "not known":
        yield "whether more are missing is not known"


@app.command()
def close(
    since: Annotated[str, typer.Option(help="The first day: a date such as 2026-11-01, or an age such as 30d or 2w.")],
    account: Annotated[str, typer.Option(help="The account.")] = "default",
    note: options.Note = "",
    yes: options.Yes = False,
    detach: options.Detach = False,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Take from Authorize.Net's history what is missing since a day.

    The daemon takes the notifications and processes them as any event, also those that were made before webhookd had the
    account's credentials. If another program has processed these, do not take them: their effects would happen
    again. Notifications that are younger than WEBHOOKD_GAP_GRACE may be on their way: they are left alone.

    For example: `webhookd gaps close --since 30d`.
    """
    first = first_day(since, datetime.now(UTC).date())
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise SettingsError("there is no terminal to ask for confirmation: give --yes")
        typer.confirm(f"take and process all that is missing since {first}?", abort=True, err=True)
    body = {"since": first.isoformat(), "reason": note}
    operation = with_api(url, folder, lambda api: api.post("provider", "accounts", account, "close-gaps", body=body))
    if not detach:
        operation = bulk.follow(url, folder, operation, as_json=as_json)
    if as_json:
        tell_json(operation)
    elif detach:
        say(f"operation {plain(operation['id'])} runs in the daemon: `webhookd operations show {plain(operation['id'])}`")
    else:
        taken = number_of(operation["reasons"].get("recovered", 0), "event")
        say(f"{number_of(operation['done'], 'day')} compared, {taken} taken from the history")
        say("notifications that are younger than WEBHOOKD_GAP_GRACE may be on their way, and were left alone")
    if not detach and operation["state"] != "done":
        why = f"failed: {plain(operation['error'])}" if operation["state"] == "failed" else "was cancelled"
        raise ApiError(f"the operation {plain(operation['id'])} {why}", Exit.FAILED)


def first_day(text: str, today: date) -> date:
    """Returns the day that `--since` names. Raises SettingsError."""
    return day_of("--since", text, today)


def day_of(option: str, text: str, today: date) -> date:
    """Returns the day that a date or an age names. Raises SettingsError that names `option`."""
    if found := _DAYS.fullmatch(text.strip()):
        return today - timedelta(days=int(found[1]) * (7 if found[2] == "w" else 1))
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise SettingsError(
            f"{option} {plain(text)}: give a date such as 2026-11-01, or an age of at least 1d, such as 30d or 2w"
        ) from None
