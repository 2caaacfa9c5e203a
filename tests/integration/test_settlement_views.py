"""The views for finance: sums of refunds are right, renewals have their numbers, and a query reads by an index."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.database import Connection
from tests.helpers.guide import GUIDE
from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.results import ReturnedItem
from webhookd.authorizenet.settlement import Facts, State, of_details, state_of
from webhookd.runtime.loops import Watch
from webhookd.simulate import Clock, Simulator
from webhookd.simulate.story import story
from webhookd.store.database import Database
from webhookd.store.pools import PoolSettings
from webhookd.store.provider_facts import FactStore, StoredFacts
from webhookd.telemetry.metrics import Metrics

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
REFUNDED = "refundSettledSuccessfully"
_STATUSES = ("settledSuccessfully", "capturedPendingSettlement", "settlementError", "declined", "voided", "a new text")
_REFUND_STATUSES = (REFUNDED, "refundPendingSettlement", "settlementError", "declined", "voided", "generalError")
_one_database = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolSettings(database_url, short=3, work=1, handler_timeout=5), metrics=Metrics(), watch=Watch())
    await database.start()
    yield database
    await database.stop()


async def store(database: Database, *facts: Facts, account: str = "default") -> None:
    async def decide(_: Mapping[str, StoredFacts]) -> Iterable[StoredFacts]:
        return [StoredFacts(one) for one in facts]

    await FactStore(database, account).change([one.id for one in facts], decide)


def sale(identifier: str = "1", amount: str = "100.00", status: str = "settledSuccessfully", **more: Any) -> Facts:
    return Facts(identifier, status, NOW, amount=Decimal(amount), batch_id="b", settled_at=NOW, **more)


def refund(identifier: str, amount: str, of: str | None = "1", status: str = REFUNDED, **more: Any) -> Facts:
    found = Facts(
        identifier, status, NOW, amount=Decimal(amount), type="refundTransaction", ref_transaction_id=of, detailed=True
    )
    return reduce(lambda facts, name: _with(facts, name, more[name]), more, found)


def _with(facts: Facts, name: str, value: Any) -> Facts:
    return Facts(**{one: getattr(facts, one) for one in Facts.__slots__} | {name: value})


async def row_of(connection: Connection, view: str, identifier: str = "1", account: str = "default") -> dict[str, Any]:
    found = await connection.fetchrow(
        f"SELECT * FROM webhookd.{view} WHERE account = $1 AND transaction_id = $2", account, identifier
    )
    assert found is not None
    return dict(found)


async def test_partial_and_repeated_refunds_add_up(database: Database, connection: Connection) -> None:
    await store(
        database,
        sale(),
        refund("2", "30.00"),
        refund("3", "30.00"),
        refund("4", "0.01"),
        refund("5", "5.00", status="refundPendingSettlement"),
        refund("6", "7.00", status="settlementError"),
        refund("7", "9.00", status="voided"),
        refund("8", "11.00", of="9"),  # of a sale that webhookd does not know
        refund("10", "13.00", of=None),
        refund("11", "15.00", returned_items=(ReturnedItem("12", NOW, "R02"),)),  # the bank sent this money back
    )
    await store(database, refund("2", "50.00"), account="north")
    found = await row_of(connection, "sales")
    assert {name: found[name] for name in found if "refund" in name or name in ("left_amount", "returned_amount")} == {
        "refunds": 3,
        "refunded_amount": Decimal("60.01"),
        "pending_refunds": 1,
        "pending_refund_amount": Decimal("5.00"),
        "failed_refunds": 3,
        "returned_amount": 0,
        "left_amount": Decimal("39.99"),
    }
    lone = "SELECT f.transaction_id FROM webhookd.settlements f LEFT JOIN webhookd.sales s ON s.account = f.account "
    lone += (
        "AND s.transaction_id = f.ref_transaction_id WHERE f.kind = 'refund' AND s.account IS NULL AND f.account = 'default'"
    )
    assert {row["transaction_id"] for row in await connection.fetch(lone)} == {"8", "10"}
    assert [row["transaction_id"] for row in await connection.fetch("SELECT * FROM webhookd.sales")] == ["1"]


async def test_a_return_takes_the_whole_sale_back_once(database: Database, connection: Connection) -> None:
    items = (ReturnedItem("9", NOW + timedelta(days=5), "R10"), ReturnedItem("8", NOW + timedelta(days=2), "R01"))
    await store(
        database,
        sale(account_type="eCheck", echeck=True, returned_items=items),
        refund("2", "30.00"),
        Facts("8", "returnedItem", NOW, amount=Decimal("100.00")),
        sale("3", "7.00", returned_items=(ReturnedItem("7", None, None),)),
        sale("4", "7.00", lists_returns=True),  # its details are not read yet
    )
    found = await row_of(connection, "sales")
    assert (found["state"], found["settled_amount"], found["returned_amount"]) == ("returned", Decimal(100), Decimal(100))
    assert (found["returned_at"], found["return_code"]) == (NOW + timedelta(days=2), "R01")
    assert found["left_amount"] == Decimal(-30), "the customer has the money twice"
    assert (await row_of(connection, "settlements"))["returns"] == 2
    assert (await row_of(connection, "settlements", "8"))["kind"] == "return"
    for identifier in "34":
        found = await row_of(connection, "sales", identifier)
        assert (found["left_amount"], found["returned_at"], found["return_code"]) == (0, None, None)
    assert await connection.fetchval("SELECT sum(left_amount) FROM webhookd.sales") == Decimal(-30)


@pytest.mark.parametrize("status", ["declined", "settlementError", "capturedPendingSettlement", "voided", "a new text"])
async def test_a_sale_that_did_not_settle_has_no_amount_in_any_sum(
    database: Database, connection: Connection, status: str
) -> None:
    await store(database, sale(status=status))
    found = await row_of(connection, "sales")
    assert (found["amount"], found["settled_amount"], found["left_amount"]) == (Decimal(100), None, None)


@st.composite
def books(draw: st.DrawFn) -> list[Facts]:
    """Draws sales, and refunds of them, of other refunds, of nothing, and of transactions that nobody knows."""
    amounts = st.integers(1, 99_999).map(lambda cents: Decimal(cents) / 100)
    count = draw(st.integers(1, 4))
    found = []
    for number in range(1, count + draw(st.integers(0, 8)) + 1):
        is_sale = number <= count
        status = draw(st.sampled_from(_STATUSES if is_sale else _REFUND_STATUSES))
        returned = (ReturnedItem(f"r{number}", NOW, "R01"),) if draw(st.integers(0, 9)) == 0 else ()
        found.append(
            Facts(
                str(number),
                status,
                NOW,
                amount=draw(st.one_of(st.none(), amounts)) if status == "a new text" else draw(amounts),
                type="authCaptureTransaction" if is_sale else "refundTransaction",
                ref_transaction_id=None if is_sale else draw(st.sampled_from([None, *map(str, range(1, 6)), "77"])),
                detailed=True,
                returned_items=returned,
            )
        )
    return draw(st.permutations(found))


@_one_database
@given(books())
async def test_the_sums_of_any_books_are_those_of_the_facts(
    database: Database, connection: Connection, found: list[Facts]
) -> None:
    account = uuid.uuid4().hex
    await store(database, *found, account=account)
    rows = await connection.fetch("SELECT * FROM webhookd.sales WHERE account = $1", account)
    refunds = [one for one in found if one.is_refund]
    assert {row["transaction_id"] for row in rows} == {one.id for one in found if not one.is_refund}
    for row in rows:
        (own,) = [one for one in found if one.id == row["transaction_id"]]
        given_back = [one for one in refunds if one.ref_transaction_id == own.id]
        settled = [one.amount or Decimal(0) for one in given_back if one.state is State.REFUND_SETTLED]
        pending = [one.amount or Decimal(0) for one in given_back if one.state.is_open]
        expected = own.amount if own.settlement is State.SETTLED else None
        returned = expected or Decimal(0) if own.state is State.RETURNED else Decimal(0)
        assert (row["state"], row["settled_amount"]) == (own.state, expected)
        assert (row["refunds"], row["refunded_amount"]) == (len(settled), sum(settled))
        assert (row["pending_refunds"], row["pending_refund_amount"]) == (len(pending), sum(pending))
        assert row["failed_refunds"] == len(given_back) - len(settled) - len(pending)
        assert row["left_amount"] == (None if expected is None else expected - sum(settled) - returned)


@pytest.mark.parametrize("seed", range(3))
async def test_the_sales_of_a_simulated_merchant_are_as_in_its_books(
    database: Database, connection: Connection, seed: int
) -> None:
    async with Simulator(seed, clock=Clock(NOW - timedelta(days=40), speed=0)) as simulator:
        await story(simulator, 25, sales=12, plant={"lone refund": 1})
        async with ProviderClient(replace(simulator.access(), rate=100_000)) as client:
            details = [await client.transaction(name) for name in simulator.account().transactions]
        transactions = simulator.account().transactions
    await store(database, *(of_details(one, NOW) for one in details))
    rows = await connection.fetch("SELECT * FROM webhookd.sales")
    charges = {name: one for name, one in transactions.items() if not one.is_refund and one.status != "returnedItem"}
    assert {row["transaction_id"] for row in rows} == set(charges)
    for row in rows:
        own = charges[row["transaction_id"]]
        given_back = [one for one in transactions.values() if one.is_refund and one.ref_id == own.id]
        settled = sum((one.settle_amount for one in given_back if one.status == REFUNDED), Decimal(0))
        assert row["settled_amount"] == (own.settle_amount if state_of(own.status) is State.SETTLED else None)
        assert row["refunded_amount"] == settled
        assert (row["returned_amount"] > 0) == bool(own.returned)
    assert sum(row["refunds"] for row in rows) > 0
    assert any(row["returned_amount"] for row in rows)


async def test_the_payments_of_a_subscription_stand_by_their_numbers(database: Database, connection: Connection) -> None:
    of = {"subscription_id": "44"}
    at = [NOW + timedelta(days=day) for day in range(9)]
    await store(
        database,
        sale("1", "9.99", payment_number=1, submitted_at=at[0], **of),
        sale("2", "9.99", "declined", payment_number=2, submitted_at=at[1], **of),
        sale("3", "9.99", payment_number=2, submitted_at=at[2], **of),
        sale("4", "9.99", "capturedPendingSettlement", payment_number=3, submitted_at=at[3], **of),
        sale("5", "9.99", payment_number=7, subscription_id="45"),
        _with(refund("6", "9.99"), "subscription_id", "44"),
    )
    attempts = [
        (1, 1, "1", at[0], "This transaction has been approved."),
        (2, 1, None, at[1], "This transaction has been declined."),
        (2, 2, "3", at[2], "This transaction has been approved."),
        (4, 1, None, at[4], "The credit card has expired."),
        (4, 2, None, at[5], "The credit card is closed."),
        (5, 1, "9", at[6], "This transaction has been approved."),
    ]
    await connection.executemany(
        "INSERT INTO webhookd.provider_attempts (account, subscription_id, key, payment_number, attempt_number, "
        "transaction_id, submitted_at, response) VALUES ('default', '44', $1 || '.' || $2, $3, $4, $5, $6, $7)",
        [(str(one[0]), str(one[1]), *one) for one in attempts],
    )
    rows = await connection.fetch("SELECT * FROM webhookd.renewals WHERE subscription_id = '44' ORDER BY payment_number")
    shown = [(row["payment_number"], row["state"], row["transaction_id"], row["attempts"]) for row in rows]
    assert shown == [
        (1, "settled", "1", 1),
        (2, "settled", "3", 2),
        (3, "pending", "4", 1),
        (4, "failed", None, 2),
        (5, None, "9", 1),
    ]
    assert [row["settled_amount"] for row in rows] == [Decimal("9.99"), Decimal("9.99"), None, None, None]
    assert [row["last_failure"] for row in rows] == [None, attempts[1][4], None, attempts[4][4], None]
    assert (rows[3]["first_attempt_at"], rows[3]["last_attempt_at"]) == (at[4], at[5])


_ROWS = """
INSERT INTO webhookd.provider_transactions (
    account, transaction_id, status, state, seen_at, amount, batch_id, settled_at, type, ref_transaction_id, invoice_number,
    subscription_id, payment_number
)
SELECT
    'default', n::text, CASE WHEN r THEN 'refundSettledSuccessfully' ELSE 'settledSuccessfully' END,
    CASE WHEN r THEN 'refund settled' ELSE 'settled' END, now(), n % 977, n / 500, now() - n * interval '1 minute',
    CASE WHEN r THEN 'refundTransaction' END, CASE WHEN r THEN (n - 5)::text END, 'i' || n,
    CASE WHEN n % 3 = 0 THEN (n / 30)::text END, CASE WHEN n % 3 = 0 THEN n % 10 END
FROM (SELECT n, n % 10 = 0 AS r FROM generate_series(1, 100000) AS n) AS numbers;
INSERT INTO webhookd.provider_attempts (account, subscription_id, key, payment_number, attempt_number, response)
SELECT 'default', (n / 10)::text, n::text, n % 10, 1, 'declined' FROM generate_series(1, 100000) AS n;
ANALYZE webhookd.provider_transactions, webhookd.provider_attempts;
"""
_QUERIES = {
    "SELECT * FROM webhookd.settlements WHERE account = 'default' AND transaction_id = '500'": 1,
    "SELECT * FROM webhookd.sales WHERE account = 'default' AND transaction_id = '505'": 2,
    "SELECT * FROM webhookd.sales WHERE account = 'default' AND transaction_id = ANY('{505,515,525}')": 6,
    "SELECT * FROM webhookd.sales WHERE account = 'default' AND invoice_number = 'i505'": 2,
    "SELECT * FROM webhookd.sales WHERE account = 'default' AND batch_id = '7'": 560,
    "SELECT * FROM webhookd.sales WHERE account = 'default' AND subscription_id = '7'": 20,
    "SELECT sum(left_amount) FROM webhookd.sales WHERE account = 'default' AND settled_at > now() - interval '1 day'": 1_700,
    "SELECT * FROM webhookd.renewals WHERE account = 'default' AND subscription_id = '7'": 20,
}


async def test_of_100_000_transactions_a_query_reads_only_what_it_shows(connection: Connection) -> None:
    await connection.execute(_ROWS)
    for query, most in _QUERIES.items():
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}")
        nodes = list(_nodes(json.loads(explained)[0]["Plan"]))
        assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and "Relation Name" in node], query
        read = sum(_rows_read(node) for node in nodes)
        assert 0 < read <= most, (query, read)
        assert await connection.fetch(query)


def _rows_read(node: dict[str, Any]) -> float:
    """Returns how many rows of a table a node reads, those that it leaves out included. Other nodes only pass rows on."""
    if "Relation Name" not in node:
        return 0
    left_out = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + left_out) * node["Actual Loops"])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


_PAGE = dict(re.findall(r"^## (.+?)$.*?^```sql\n(.+?)^```$", (GUIDE / "finance.md").read_text(), re.MULTILINE | re.DOTALL))


async def test_the_queries_of_the_guide_find_what_their_headings_say(database: Database, connection: Connection) -> None:
    await store(
        database,
        sale("1", "100.00", account_type="Visa", invoice_number="INV-42"),
        refund("2", "30.00"),
        refund("3", "5.00", of="77"),
        sale("4", "20.00", returned_items=(ReturnedItem("5", NOW, "R01"),), account_type="eCheck"),
        sale("6", "9.00", payment_number=1, subscription_id="4415473"),
    )
    await connection.execute(
        "INSERT INTO webhookd.provider_missed_renewals (account, subscription_id, expected_on, amount, came_at) "
        "VALUES ('default', '1', '2026-11-01', 9, NULL), ('default', '2', '2026-11-01', 9, now())"
    )
    found = {heading: [tuple(row) for row in await connection.fetch(query)] for heading, query in _PAGE.items()}
    hundred, thirty = Decimal("100.00"), Decimal("30.00")
    assert found == {
        "What settled on a day": [
            ("charge", "Visa", 1, hundred),
            ("charge", "eCheck", 1, Decimal("20.00")),
            ("charge", None, 1, Decimal("9.00")),
        ],
        "Sales and their refunds": [("1", "INV-42", hundred, thirty, 0, 0, Decimal("70.00"))],
        "Sales that were returned, or refunded too far": [("4", None, NOW, "R01", 0)],
        "Refunds without a sale": [("3", "77", Decimal("5.00"))],
        "Payments of a subscription": [(1, "settled", Decimal("9.00"), 1, None)],
        "Renewals that did not come": [("1", date(2026, 11, 1), Decimal(9), None)],
    }
