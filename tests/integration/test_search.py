"""The search returns each wanted event once and in order, on pages of any size: a plain filter in Python agrees."""

from __future__ import annotations

import fnmatch
import itertools
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeAlias

import asyncpg
import pytest
import pytest_asyncio

from tests.helpers.database import connect
from tests.helpers.stored import store, store_alias
from webhookd.event import Status
from webhookd.operate import search as module
from webhookd.operate.cursor import START, Cursor
from webhookd.operate.events import Events
from webhookd.operate.filter import Filter, filters_of
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.search import Rows
from webhookd.runtime.loops import Watch
from webhookd.store.database import Database
from webhookd.store.pools import PoolSettings
from webhookd.telemetry.metrics import Metrics

Record: TypeAlias = "asyncpg.Record"
COUNT = 400
SEARCHES = 30  # for each seed
BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
TYPES = (
    "payment.authcapture.created",
    "payment.void.created",
    "customer.created",
    "customer.subscription.failed",
    "pay_ment.x",
    "pay-ment.x",
    "pay-ment.x",
)
PATTERNS = ("payment.*", "customer.created", "*.created", "net.authorize.payment.void.created", "pay_ment.*", "*x", "nothing.*")
ACCOUNTS = ("default", "shop", "Shop")
KEYS = ("7", "77", "INV-7", "ref-7", "Ünï 7", "7%")
# Filters that name the value of a column.
TEXTS = tuple(one.name for one in filters_of(Filter) if one.kind is str and one.name != "origin")
ORIGINS = {
    "history": "history",
    "synthetic": "synthetic",
    "": "import",
    "0123456789ab": "webhook",
}  # by the fingerprint of the kind
UNFINISHED = (Status.RECEIVED, Status.QUEUED, Status.RETRYING)


@dataclass(slots=True)
class Stored:
    """The stored events, and the search over them."""

    events: Events
    rows: list[Record]
    aliases: dict[str, uuid.UUID]


def _event(chance: random.Random) -> dict[str, Any]:
    # Many events share an instant, and ids follow a receiver's clock that differs from PostgreSQL's by up to some minutes.
    received_at = BEGAN + timedelta(minutes=chance.randrange(300), seconds=chance.choice((0, 0, 30)))
    made_at = received_at + timedelta(seconds=chance.choice((0, 0, -0.004, 0.004, 120, -400)))
    number = (int(made_at.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | chance.getrandbits(62)
    status = chance.choices(tuple(Status), weights=(1, 1, 1, 4, 2))[0]
    ended = status in (Status.PROCESSED, Status.DEAD)
    redriven = chance.random() < 0.2 and status is not Status.PROCESSED
    # Several deaths share an instant.
    ended_at = received_at.replace(minute=0) + timedelta(hours=1) if ended else None
    return {
        "id": uuid.UUID(int=number),
        "account": chance.choice(ACCOUNTS),
        "notification_id": f"{uuid.UUID(int=chance.getrandbits(128))}",
        "event_type": f"net.authorize.{chance.choice(TYPES)}",
        "key_fingerprint": chance.choice(tuple(ORIGINS)),
        "status": status,
        "received_at": received_at,
        **{name: chance.choice((*KEYS, None, None)) for name in TEXTS if name != "account"},
        "finished_at": ended_at,
        "redriven_at": BEGAN + timedelta(minutes=chance.randrange(400)) if redriven else None,
        "discarded_at": ended_at if status is Status.DEAD and chance.random() < 0.3 else None,
    }


@pytest_asyncio.fixture
async def stored(database_url: str, seed: int) -> AsyncIterator[Stored]:
    """Yields a database of random events, made from few values, so that many values are equal."""
    chance = random.Random(seed)
    connection = await connect(database_url)
    await store(connection, [_event(chance) for _ in range(COUNT)])
    rows = await connection.fetch("SELECT * FROM events")
    aliases = {f"a{chance.getrandbits(64):x}": chance.choice(rows)["id"] for _ in range(20)}
    for name, event_id in aliases.items():
        await store_alias(connection, event_id, chance.choice(ACCOUNTS), name)
    await connection.close()
    database = Database(PoolSettings(database_url, short=1, work=1, handler_timeout=5), metrics=Metrics(), watch=Watch())
    await database.start()
    yield Stored(Events(OperatorQueries(database)), rows, aliases)
    await database.stop()


def chosen(row: Record, wanted: Filter) -> bool:
    """Returns whether a filter chooses an event, by a naive comparison."""
    whole = [name if name.startswith(("net.", "*")) else f"net.authorize.{name}" for name in wanted.event_type or ()]
    return (
        (wanted.status is None or row["status"] in wanted.status)
        and (wanted.event_type is None or any(fnmatch.fnmatchcase(row["event_type"], pattern) for pattern in whole))
        and all(getattr(wanted, name) in (None, row[name]) for name in TEXTS)
        and wanted.origin in (None, ORIGINS[row["key_fingerprint"]])
        and (wanted.received_from is None or row["received_at"] >= wanted.received_from)
        and (wanted.received_to is None or row["received_at"] < wanted.received_to)
    )


def expected(stored: Stored, wanted: Filter, options: dict[str, str]) -> list[uuid.UUID]:
    """Returns the ids that a search must return, in their order."""
    rows = [row for row in stored.rows if chosen(row, wanted)]
    for kind, key in options.items():
        named = {row["id"] for row in rows if row["notification_id"] == key.lower()}
        named |= {event_id for name, event_id in stored.aliases.items() if name == key.lower()}
        keys = ("entity_id", "invoice_number", "merchant_reference") if kind == "anything" else ()
        named |= {row["id"] for row in rows if key in [row[name] for name in keys]}
        if kind == "anything":
            named |= {row["id"] for row in rows if str(row["id"]) == key.lower()}
        rows = [row for row in rows if row["id"] in named]
    open_only = wanted.status is not None and Status.PROCESSED not in wanted.status
    if open_only and not options and not wanted.by_index:
        return [row["id"] for row in sorted(rows, key=_waits_since, reverse=True)]
    return [row["id"] for row in sorted(rows, key=lambda row: row["id"], reverse=True)]


def _waits_since(row: Record) -> tuple[datetime, uuid.UUID]:
    at = row["finished_at"] if row["status"] == Status.DEAD else row["redriven_at"] or row["received_at"]
    return at, row["id"]


async def pages(stored: Stored, wanted: Filter, options: dict[str, str], limit: int) -> list[list[uuid.UUID]]:
    """Returns the ids on each page of a search."""
    found, cursor = [], START
    while True:
        page = await stored.events.search(wanted, cursor, limit, **options)
        assert len(page.rows) <= limit
        found.append([row["id"] for row in page.rows])
        if page.next is None:
            assert page.searched_to is None
            return found
        assert page.searched_to == page.next.at
        assert page.next != cursor, "a page must come further"
        assert len(found) <= 2 * COUNT
        cursor = page.next


def _filter(chance: random.Random) -> Filter:
    def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(chance.sample(values, chance.randrange(1, min(4, len(values)))))

    low, high = sorted(BEGAN + timedelta(minutes=chance.randrange(-5, 305)) for _ in range(2))
    whole: dict[str, Any] = {
        **{name: chance.choice(KEYS) for name in TEXTS},
        "status": some(tuple(str(status) for status in chance.choice((tuple(Status), (*UNFINISHED, Status.DEAD))))),
        "event_type": some(PATTERNS),
        "account": chance.choice((*ACCOUNTS, "nobody")),
        "origin": chance.choice((*ORIGINS.values(), "nothing")),
        "received_from": low,
        "received_to": high,
    }
    assert whole.keys() == {one.name for one in filters_of(Filter)}
    names = chance.sample(list(whole), chance.choice((0, 1, 1, 1, 2, 3)))
    return Filter(**{name: whole[name] for name in names})


def _options(chance: random.Random, stored: Stored) -> dict[str, str]:
    row = chance.choice(stored.rows)
    names = (row["notification_id"], row["notification_id"].upper(), chance.choice(list(stored.aliases)).upper(), "nothing")
    if chance.random() < 0.3:
        return {"notification_id": chance.choice(names)}
    return {"anything": chance.choice((*names, str(row["id"]), str(row["id"]).upper(), *KEYS))}


# How many events each statement of a page after the first looks at, and the seconds after which no statement follows.
BUDGETS: dict[str, tuple[tuple[int, ...], float]] = {
    "ample": (module._LOOKED, 60.0),
    "one look": ((250, 1000), 0.0),
    "three looks": ((3, 7), 60.0),
}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("by_key", [False, True], ids=["filters", "keys"])
async def test_pages_hold_each_event_once_and_in_order(
    stored: Stored, seed: int, budget: str, by_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, seconds = BUDGETS[budget]
    monkeypatch.setattr(module, "_LOOKED", looked)
    monkeypatch.setattr(module, "_BUDGET", seconds)
    chance = random.Random(seed)
    empty = several = 0
    wants = [Filter(), *(Filter(event_type=(pattern,)) for pattern in PATTERNS), *(_filter(chance) for _ in range(SEARCHES))]
    for wanted in wants:
        options = _options(chance, stored) if by_key else {}
        limit = chance.choice((3, 10, 50, 200))
        found = await pages(stored, wanted, options, limit)
        assert list(itertools.chain(*found)) == expected(stored, wanted, options), (wanted, options, limit)
        empty += any(not page for page in found[:-1])
        several += len(found) > 1
    assert several > 0
    if not by_key:  # a key finds few events, and a page looks at about as many at once
        assert (empty > 0) == (budget != "ample")


def test_the_budget_is_kept_by_looks_that_are_short() -> None:
    # A statement may take longer than its predecessors suggest, and the page then ends later by the difference.
    assert max(module._LOOKED) <= 2_000
    assert module._BUDGET <= 0.02


@pytest.mark.parametrize("pace", [1_000, 10_000, 100_000])
async def test_however_slow_postgresql_is_a_page_looks_at_what_the_budget_allows(
    pace: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pace` is in events a second: from disk, from memory on a busy machine, from memory. Each statement adds 2 ms."""
    now = 0.0
    looks: list[int] = []

    async def search(cursor: Cursor, looked: int, limit: int) -> Rows:
        nonlocal now
        now += 0.002 + looked / pace
        looks.append(looked)
        return [], cursor

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    page = await module.page_of(search, lambda row: START, START, 10)
    assert page.next is not None
    # If hardly any time is left, a look at a few events takes little more than the 2 ms of the statement itself.
    assert 0.7 * module._BUDGET <= now <= module._BUDGET + 0.003
    assert len(looks) > 1


async def test_a_notification_id_and_a_key_together_find_what_both_name_however_short_the_page(
    connection: asyncpg.Connection[Record], database_url: str
) -> None:
    accounts = ("a", "b", "c", "d")  # each has the same notification id, and each event has its own invoice
    event = {
        "notification_id": "n-1",
        "event_type": "net.authorize.payment.void.created",
        "status": "received",
        "received_at": datetime.now(UTC),
    }
    named = [{"id": uuid.UUID(int=n), "account": name, "invoice_number": f"I-{name}"} for n, name in enumerate(accounts, 1)]
    await store(connection, [event | one for one in named])
    database = Database(PoolSettings(database_url, short=1, work=1, handler_timeout=5), metrics=Metrics(), watch=Watch())
    await database.start()
    for account in accounts:
        found: list[str] = []
        cursor: Cursor | None = START
        while cursor is not None:
            page = await Events(OperatorQueries(database)).search(
                Filter(), cursor, 1, anything=f"I-{account}", notification_id="N-1"
            )
            found += [row["account"] for row in page.rows]
            cursor = page.next
        assert found == [account]
    await database.stop()
