"""The comparison of subscriptions names exactly what differs, and is green only on fresh lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.helpers.operator import Connection
from tests.helpers.settled_books import keep_sweep
from tests.integration.test_reconciling import database as database  # noqa: PLC0414  a fixture
from tests.unit.test_timeline import event as event_of
from webhookd.authorizenet.timeline import fold_all
from webhookd.errors import NotFoundError
from webhookd.operate.reconciling import Reconciler
from webhookd.store.database import Database
from webhookd.store.event_store import EventStore

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=9)
DAY = timedelta(days=1)


async def theirs(connection: Connection, name: str, *, status: str = "active", amount: str = "9.50", **given: Any) -> None:
    await connection.execute(
        """INSERT INTO provider_subscriptions (account, subscription_id, status, status_since, created_at, amount, seen_at)
           VALUES ('default', $1, $2, $3, $4, $5, $6)""",
        name,
        status,
        OLD,
        given.get("created", OLD),
        Decimal(amount),
        given.get("seen", OLD),
    )


async def ours(database: Database, name: str, at: datetime = OLD, kind: str = "created", **payload: Any) -> None:
    given = {"id": name, "entityName": "subscription", "status": "active", "amount": 9.5} | payload
    event = event_of(f"customer.subscription.{kind}", given, date=at)
    async with database.acquire("admin") as connection:
        await EventStore(database).process(connection, [], fold_all([event]))


async def listed(connection: Connection, at: datetime | None = NOW, since: datetime = NOW - 30 * DAY) -> None:
    await keep_sweep(connection, zone="UTC")
    await connection.execute("UPDATE provider_sweeps SET subscriptions_at = $1, swept_from = $2", at, since)


async def found(database: Database) -> list[tuple[str, str, str | None, str | None]]:
    report = await Reconciler(database, lambda _: None).subscriptions("default")
    return [(one.kind.value, one.id, one.provider, one.other) for one in report.findings]


async def test_each_kind_of_difference_is_named_with_both_sides_in_a_stable_order(
    connection: Connection, database: Database
) -> None:
    await listed(connection)
    for name in ("1", "2", "10", "3", "4", "6"):
        await theirs(connection, name, status="canceled" if name == "3" else "active", amount="9.49" if name == "4" else "9.50")
    for name in ("1", "3", "4", "5", "6"):
        await ours(database, name)
    await connection.execute(
        """INSERT INTO provider_missed_renewals (account, subscription_id, expected_on, amount, came_at)
           VALUES ('default', '6', $1, 9.5, NULL), ('default', '6', $2, 9.5, NULL), ('default', '6', $3, 9.5, now())""",
        (NOW - 5 * DAY).date(),
        (NOW - 16 * DAY).date(),
        (NOW - 4 * DAY).date(),
    )
    assert await found(database) == [
        ("at the provider and not here", "2", "active", None),
        ("at the provider and not here", "10", "active", None),
        ("here and not at the provider", "5", None, "active"),
        ("status differs", "3", "canceled", "active"),
        ("amount differs", "4", "9.49", "9.5"),
        ("renewal did not come", "6", f"{(NOW - 5 * DAY).date()}", None),
    ]


async def test_what_may_still_come_is_not_judged(connection: Connection, database: Database) -> None:
    await listed(connection)
    await theirs(connection, "1", created=NOW - 40 * DAY)  # before webhookd looked
    await theirs(connection, "2", seen=NOW - DAY / 2)  # its webhook may be late
    await theirs(connection, "3", status="canceled", seen=NOW - DAY / 2)
    await ours(database, "3")
    await theirs(connection, "4")  # cancelled since its list was read
    await ours(database, "4", NOW - DAY / 2, "cancelled")
    await ours(database, "5", NOW - DAY / 2)  # made since the lists were read
    await theirs(connection, "6", status="Canceled")  # spellings
    await ours(database, "6", OLD, "cancelled")
    assert await found(database) == []


@pytest.mark.parametrize(
    ("at", "known", "result", "reason"),
    [
        (NOW, True, "green", ""),
        (NOW - 3 * DAY, True, "not known", "last listed at"),
        (NOW - 3 * DAY, False, "not known", "last listed at"),
        (None, True, "not known", "not listed to the end"),
        (None, False, "green", ""),  # an account without recurring billing
    ],
)
async def test_the_result_is_green_only_if_the_lists_are_fresh(
    connection: Connection, database: Database, at: datetime | None, known: bool, result: str, reason: str
) -> None:
    await listed(connection, at)
    if known:
        await theirs(connection, "1")
        await ours(database, "1")
    report = await Reconciler(database, lambda _: None).subscriptions("default")
    assert (report.result, report.listed_at) == (result, at)
    assert reason in " ".join(report.reasons)
    assert len(report.reasons) == bool(reason)


async def test_an_account_without_credentials_is_not_found(database: Database, connection: Connection) -> None:
    with pytest.raises(NotFoundError, match="no account default"):
        await found(database)
