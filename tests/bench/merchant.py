"""A merchant with many settled days, at a provider on this machine: the simulator's reports, and a count of their calls.

The books are filled at once, without deliveries. The simulator answers from them, in the shapes of its `wire`, which follow the
provider's schema: getSettledBatchList with statistics, getTransactionList with 1,000 rows a page and the total of all pages,
getUnsettledTransactionList, and the details of a transaction. A transaction takes about 600 bytes of memory here.

`GET /calls` returns the calls since the last look: {name: [calls, calls that were made before, with the same fields]}.
`GET /books` returns the numbers of the books. `python -m … --port N --days N --a-day N` serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from aiohttp import web

from webhookd.authorizenet.body import load
from webhookd.simulate import Account, Batch, Faults, Rules, Transaction, books
from webhookd.simulate.answering import json
from webhookd.simulate.records import CARDS, CHECK
from webhookd.simulate.reports import Reports
from webhookd.simulate.settlement import statistics

RULES = Rules()
ZONE = ZoneInfo(RULES.zone)
PAGE = 1000  # rows of a list that one call returns
_DAY = timedelta(days=1)
# Of each hundred transactions of a day: an assumption, and no figure of the provider's. Only refunds need their details.
_REFUNDS, _DECLINED, _VOIDED, _CHECKS = 2, 5, 1, 4
_SALE = 20  # from a refund's place to that of its sale, a day before


def login() -> Account:
    """Returns the account with its keys, without books."""
    return books.account("default", 0)


def settlement_days(days: int, now: datetime) -> list[date]:
    """Returns the days on which the batches settle, in the account's zone. Each is over, and its batches are surely listed."""
    last = now.astimezone(ZONE).date() - 2 * _DAY
    return [last - age * _DAY for age in range(days - 1, -1, -1)]


def fill(account: Account, days: int, a_day: int, now: datetime) -> None:
    """Writes the books: each day's card batch and eCheck batch, and one more day of sales that are not settled yet."""
    numbers = itertools.count(a_day)  # the refunds of the first day name sales of the day before
    for day in settlement_days(days, now):
        closed_at = datetime.combine(day - _DAY, RULES.cut_off, ZONE).astimezone(UTC)
        own = [_made(next(numbers), place, a_day, closed_at) for place in range(a_day)]
        account.transactions |= {one.id: one for one in own}
        for method in ("creditCard", CHECK):
            rows = [one for one in own if one.method == method]
            batch = Batch(
                str(9_000_001 + len(account.batches)), method, day - _DAY, closed_at, rows, "settledSuccessfully",
                closed_at + RULES.card_settles, statistics(rows),
            )  # fmt: skip
            account.batches[batch.id] = batch
            for one in rows:
                one.batch = batch
    for place in range(a_day):
        one = _made(next(numbers), 99, a_day, now - _DAY * (place + 1) / a_day)
        one.status = "capturedPendingSettlement"
        account.transactions[one.id] = account.open[one.id] = one


def _made(number: int, place: int, a_day: int, closed_at: datetime) -> Transaction:
    """Makes a transaction. `place`: its number in its day, which decides its kind."""
    made_at = (closed_at - _DAY + _DAY * place / a_day).replace(microsecond=0)
    amount, kind = Decimal(1_000 + number % 9_000) / 100, place % 100
    own = Transaction(
        _id(number), "authCaptureTransaction", "settledSuccessfully", made_at, made_at, amount, amount, CARDS[number % 4]
    )
    if kind < _REFUNDS:
        own.type, own.status, own.ref_id = "refundTransaction", "refundSettledSuccessfully", _id(number - a_day + _SALE)
        return own
    own.invoice = f"INV-{number}"
    if kind < _REFUNDS + _DECLINED:
        own.status, own.response_code, own.reason_code = "declined", 2, 2
    elif kind < _REFUNDS + _DECLINED + _VOIDED:
        own.status = "voided"
    elif kind < _REFUNDS + _DECLINED + _VOIDED + _CHECKS:
        own.account_type = CHECK
    return own


def _id(number: int) -> str:
    return str(60_000_000_000 + number * 10)


def numbers_of(account: Account) -> dict[str, Any]:
    """Returns the numbers of the books: what a sweep must find, and what a job with a call for each transaction needs."""
    settled = [one for batch in account.batches.values() for one in batch.transactions]
    charged = sum((one.settle_amount for one in settled if one.status == "settledSuccessfully"), Decimal(0))
    return {
        "batches": len(account.batches),
        "pages": sum(math.ceil(len(batch.transactions) / PAGE) for batch in account.batches.values()),
        "settled": len(settled),
        "unsettled": len(account.open),
        "charged": str(charged),
    }


class Calls:
    """Counts calls by name, and those that were made before, with the same fields."""

    def __init__(self) -> None:
        self._made: Counter[bytes] = Counter()
        self._names: dict[bytes, str] = {}

    def note(self, name: str, fields: dict[str, Any]) -> None:
        """Counts a call. The credentials are no part of its fields."""
        asked = {key: value for key, value in fields.items() if key != "merchantAuthentication"}
        key = orjson.dumps([name, asked])
        self._made[key] += 1
        self._names[key] = name

    def take(self) -> dict[str, list[int]]:
        """Returns the counts, and begins anew."""
        found: dict[str, list[int]] = {}
        for key, count in self._made.items():
            own = found.setdefault(self._names[key], [0, 0])
            own[0] += count
            own[1] += count - 1
        self._made.clear()
        self._names.clear()
        return found


def app_of(account: Account) -> web.Application:
    """Returns the server. The history of notifications is empty: the sweep does not read it."""
    reports = Reports(lambda name: account if name == account.login_id else None, lambda: datetime.now(UTC), Faults())
    calls = Calls()

    async def report(request: web.Request) -> web.Response:
        body = await request.read()
        _, name, answer = reports.answer(body)
        calls.note(name, load(body.decode()).get(name, {}))
        return answer

    async def rest(request: web.Request) -> web.Response:
        calls.note("REST " + request.path, dict(request.query))
        return json({"notifications": []} if request.path.endswith("notifications") else [])

    async def counted(_: web.Request) -> web.Response:
        return json(calls.take())

    async def filled(_: web.Request) -> web.Response:
        return json(numbers_of(account))

    app = web.Application()
    app.router.add_post("/xml/v1/request.api", report)
    app.router.add_get("/rest/v1/{path:.*}", rest)
    app.router.add_get("/calls", counted)
    app.router.add_get("/books", filled)
    return app


def main() -> None:
    """Fills the books, and serves."""
    parser = argparse.ArgumentParser()
    for name in ("port", "days", "a-day"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    account = login()
    fill(account, given.days, given.a_day, datetime.now(UTC))
    web.run_app(app_of(account), host="127.0.0.1", port=given.port, access_log=None, print=None)


if __name__ == "__main__":
    main()
