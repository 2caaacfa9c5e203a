"""`webhookd reconcile`: compares the provider's settlement days with webhookd's books and the shop's."""

from __future__ import annotations

import asyncio
import csv
import io
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from webhookd.cli.operator import options
from webhookd.cli.operator.api import Api, Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES, ApiError, Exit
from webhookd.cli.operator.gap_commands import day_of
from webhookd.cli.operator.screen import instant, money, number_of, plain, say, tell_json
from webhookd.cli.operator.target import find
from webhookd.errors import SettingsError
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

_MOST = 10_000  # differences of a day that the API returns
_MOST_DAYS = 3660
_AT_ONCE = 3  # days: while PostgreSQL reads one, the daemon compares another
NOT_KNOWN = 6  # the exit code, beside those of every command
_HEADS = ("account", "day", "result", "as_of", "kind", "books", "subject", "transactions", "provider", "other", "batch_id")
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes a cell that begins so for a formula

HELP = (
    "Compare each settlement day of Authorize.Net with webhookd's books, and with the shop's.\n\n"
    "A day is one of the account's own time zone, by the settlement times of its batches. It is green only if all of its "
    "batches are closed, everything about it is known, and nothing differs. Below the days come the subscriptions that differ "
    "now, and the renewals that did not come. Each difference comes with what to do. The command changes nothing. For example, "
    "each morning in a cron job: `webhookd reconcile --from 7d --to 2d`.\n\n"
    "The exit code is 0 if all is green, 1 if something differs, and 6 if nothing differs but something is not known yet.\n\n"
    "The command uses the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n" + EXIT_CODES.removesuffix(".") + "; 6 not known yet."
)


def reconcile(
    first: Annotated[str, typer.Option("--from", help="The first day: a date such as 2026-11-01, or an age such as 7d or 2w.")],
    last: Annotated[str, typer.Option("--to", help="The last day, in the same form.")] = "1d",
    account: Annotated[str | None, typer.Option(help="Only this account. [all]", show_default=False)] = None,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a line of CSV for each difference and each open question.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Runs the command. Its help is HELP, since a docstring cannot be put together."""
    if as_csv and as_json:
        raise SettingsError("--csv and --json: give one of them")
    today = datetime.now(UTC).date()
    begin, end = day_of("--from", first, today), day_of("--to", last, today)
    if not timedelta(0) <= end - begin < timedelta(days=_MOST_DAYS):
        raise SettingsError(f"--to {plain(last)}: give a day that is not before --from, and at most {_MOST_DAYS} days after it")

    async def read(api: Api) -> list[Json]:
        found = (await api.get("provider", "accounts"))["accounts"]
        names = [one["account"] for one in found if account in (None, one["account"])]
        return [
            {
                "account": name,
                "days": await _days(api, name, begin, end),
                "subscriptions": await api.get("provider", "accounts", name, "reconciliation", "subscriptions", most=_MOST),
            }
            for name in names
        ]

    accounts = with_api(url, folder, read)
    if not accounts:
        which = "no account has" if account is None else f"the account {plain(account)} does not have"
        raise ApiError(f"{which} API credentials: set WEBHOOKD_API_LOGIN_ID and WEBHOOKD_TRANSACTION_KEY", Exit.NOT_FOUND)
    if as_json:
        tell_json({"accounts": accounts})
    elif as_csv:
        sys.stdout.write(csv_of(accounts))
    else:
        for one in accounts:
            _tell(one, find(url, folder).url)
    raise typer.Exit(exit_code(accounts))


async def _days(api: Api, account: str, begin: date, end: date) -> list[Json]:
    """Returns the report of each day, the oldest first. Each is asked for by itself: no answer is large or takes long."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def report(age: int) -> Json:
        day = (begin + timedelta(days=age)).isoformat()
        async with turn:
            found = await api.get("provider", "accounts", account, "reconciliation", **{"from": day, "to": day, "most": _MOST})
        return found["days"][0]  # type: ignore[no-any-return]

    return await asyncio.gather(*map(report, range((end - begin).days + 1)))


def exit_code(accounts: list[Json]) -> int:
    """Returns 0 if all days and subscriptions are green, 1 if something differs, NOT_KNOWN if only something is open."""
    results = {part["result"] for one in accounts for part in (*one["days"], one["subscriptions"])}
    if "differences" in results:
        return Exit.FAILED
    return Exit.DONE if results == {"green"} else NOT_KNOWN


def csv_of(accounts: list[Json]) -> str:
    """Returns a line for each difference and each reason, and one for each green day, in the order of the report.

    If the API left some out, a line with the kind `left out` has their number.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_HEADS, "to_do"))
    for one in accounts:
        for day in one["days"]:
            head = [one["account"], day["day"], day["result"], day["as_of"]]
            rows = [
                [*(" ".join(row[name]) if name == "transactions" else row[name] for name in _HEADS[4:]), row["to_do"]]
                for row in day["differences"]
            ]
            rows += [["not known", "", "", "", "", "", "", reason] for reason in day["reasons"]]
            rows += [["left out", "", "", "", "", "", "", more] for more in _left_out(day)]
            for row in rows or [[""] * 8]:
                writer.writerow([cell(value) for value in (*head, *row)])
        found = one["subscriptions"]
        head = [one["account"], "", found["result"], found["as_of"]]
        rows = [
            [
                row["kind"],
                "webhookd",
                f"subscription {row['subscription_id']}",
                "",
                row["provider"],
                row["other"],
                "",
                row["to_do"],
            ]
            for row in found["differences"]
        ]
        rows += [["not known", "", "subscriptions", "", "", "", "", reason] for reason in found["reasons"]]
        rows += [["left out", "", "subscriptions", "", "", "", "", more] for more in _left_out(found)]
        for row in rows:
            writer.writerow([cell(value) for value in (*head, *row)])
    return text.getvalue()


def cell(value: object) -> str:
    """Returns a value as a cell of CSV, in one line. What a spreadsheet would take for a formula begins with a quote."""
    text = plain(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _tell(one: Json, base: str) -> None:
    say(f"{plain(one['account'])}:")
    for day in one["days"]:
        for line in lines_of(day, base):
            say(line)
    for line in subscription_lines(one["subscriptions"], base):
        say(line)
    if one["days"]:
        last = one["days"][-1]
        say(f"as of {instant(last['as_of'])} (UTC); days of {plain(last['zone'])}")


def lines_of(day: Json, base: str) -> Iterator[str]:
    """Yields the lines of a day: its sums, then each difference with what to do, then what is not known.

    base: the address of the dashboard, for links.
    """
    head = f"{plain(day['day'])} ({instant(day['begins'])[:16]} to {instant(day['ends'])[:16]} UTC): {plain(day['result'])}; "
    sums = f"charged {money(day['charged'])}, refunded {money(day['refunded'])}"
    yield f"{head}{day['matched']:,} matched, {day['without_money']:,} without money, {sums}"
    for row in day["differences"]:
        sides = f"provider {_side(row['provider'])}, {plain(row['books'])} {_side(row['other'])}"
        several = (
            "" if row["transactions"] == [row["subject"]] else f" (transactions {', '.join(map(plain, row['transactions']))})"
        )
        yield f"  {plain(row['kind'])}: {plain(row['subject'])}{several}; {sides}"
        yield f"    {plain(row['to_do'])}"
        for link in row["links"]:
            yield f"    {base}{plain(link)}"
    for reason in day["reasons"]:
        yield f"  not known yet: {plain(reason)}"
    for more in _left_out(day):
        yield f"  {more}"


def subscription_lines(found: Json, base: str) -> Iterator[str]:
    """Yields the lines of the subscriptions: each difference with what to do, then what is not known."""
    listed = "not listed" if found["listed_at"] is None else f"listed {instant(found['listed_at'])[:16]} UTC"
    yield f"subscriptions ({listed}): {plain(found['result'])}"
    for row in found["differences"]:
        sides = f"provider {_side(row['provider'])}, webhookd {_side(row['other'])}"
        yield f"  {plain(row['kind'])}: {plain(row['subscription_id'])}; {sides}"
        yield f"    {plain(row['to_do'])}"
        yield f"    {base}{plain(row['link'])}"
    for reason in found["reasons"]:
        yield f"  not known yet: {plain(reason)}"
    for more in _left_out(found):
        yield f"  {more}"


def _left_out(part: Json) -> Iterator[str]:
    """Yields how many differences, and how many reasons, an answer of the API leaves out. Subscriptions have all reasons."""
    for noun in ("difference", "reason"):
        if (more := part.get(f"{noun}_count", 0) - len(part[f"{noun}s"])) > 0:
            yield f"and {number_of(more, noun)} more"


def _side(value: object) -> str:
    return "nothing" if value is None else money(value)
