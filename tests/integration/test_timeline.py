"""The timeline in PostgreSQL has the same fold as in Python, typed columns, and one round trip for each event."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.timeline import decode, keep_timeline
from tests.unit.test_timeline import (
    CHARGE,
    FRAUD,
    HELD,
    ODD,
    ROWS,
    START,
    STORIES,
    after,
    event,
    folded,
    some_facts,
    stories,
    with_an_odd_field,
    with_duplicates,
)
from webhookd.authorizenet.facts import Facts, encode, fold
from webhookd.authorizenet.timeline import facts_of
from webhookd.event import Event
from webhookd.store.queries import queries

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

# Each example has an account of its own, so one database serves all examples.
_one_database = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def rows(connection: Connection, table: str, account: str = "default") -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(f"SELECT * FROM {table} WHERE account = $1", account)]


async def facts_in(connection: Connection, account: str) -> str:
    """Returns the stored facts of the account's only entity."""
    (row,) = await rows(connection, "timeline", account)
    return str(row["facts"])


@_one_database
@given(stories(), st.data())
async def test_every_order_of_arrival_with_duplicates_ends_in_the_same_row(
    connection: Connection, story: list[Event], data: st.DataObject
) -> None:
    entry = facts_of(story[0])
    assert entry is not None
    arrivals = with_duplicates(data.draw(st.permutations(story)), data.draw(st.randoms(use_true_random=False)))
    kept = []
    for order in (story, arrivals):
        account = uuid.uuid4().hex
        for e in order:
            await keep_timeline(
                Event(e.id, account, e.notification_id, e.event_type, e.event_date, e.received_at, 1, e.raw), connection
            )
        kept.append(await facts_in(connection, account))
    assert kept[0] == kept[1]
    assert decode(kept[0]) == folded(story)


# PostgreSQL stores no U+0000 and no lone surrogate; facts_of lets neither through.
_storable = some_facts.map(
    lambda facts: {name: (at, rank, value and value.replace("\x00", "")) for name, (at, rank, value) in facts.items()}
)


@_one_database
@given(_storable, _storable)
async def test_postgresql_folds_as_python_does(connection: Connection, a: Facts, b: Facts) -> None:
    statement = "SELECT webhookd.settle(webhookd.fold($1::text::jsonb, $2::text::jsonb))"
    assert decode(await connection.fetchval(statement, encode(a), encode(b))) == fold(a, b)


async def test_postgresql_keeps_the_row_that_is_expected_of_each_story(connection: Connection) -> None:
    wrong = {}
    for account, (steps, expected) in ROWS.items():
        for minutes, (name, payload) in reversed(list(enumerate(steps))):
            await keep_timeline(event(name, payload, date=after(minutes), account=account), connection)
        table = "subscriptions" if "status" in expected else "transactions"
        (row,) = await rows(connection, table, account)
        shown = {name: None if row[name] is None else _as_text(row[name]) for name in expected}
        if shown != expected:
            wrong[account] = shown, expected
    assert wrong == {}, "(row, expected)"


def _as_text(value: object) -> str:
    return str((value - START) // timedelta(minutes=1)) if isinstance(value, datetime) else str(value)


async def test_facts_that_share_a_transaction_are_settled_with_the_row(connection: Connection) -> None:
    """The facts of one event alone imply nothing: they must be combined with the row's facts."""
    for minutes, (name, payload) in enumerate(ROWS["a held sale is captured by its approval"][0]):
        entry = facts_of(event(name, payload, date=after(minutes)))
        assert entry is not None
        event_id = await connection.fetchval(
            "INSERT INTO work (event_id, consumer, status, due) "
            "VALUES (gen_random_uuid(), 'handlers', 'queued', now()) RETURNING event_id"
        )
        told = queries.process_events(
            connection,
            lock_timeout="1s",
            ids=[event_id],
            entity_names=[entry.name],
            accounts=["default"],
            entity_ids=[entry.id],
            facts=[encode(entry.facts)],
        )
        assert len([row async for row in told]) == 1
    (row,) = await rows(connection, "transactions")
    assert (row["state"], row["captured_amount"], row["requested_amount"]) == ("captured", Decimal("139.99"), Decimal("139.99"))


@pytest.mark.parametrize("texts", [("B", "a"), ("Z", "é"), ("a-b", "ab"), ("\uffff", "\U0001f600"), ("", "a")])
async def test_values_compare_by_code_point_in_any_collation(connection: Connection, texts: tuple[str, str]) -> None:
    facts = [encode({"name": (1, 1, text)}) for text in texts]
    for a, b in (facts, facts[::-1]):
        folded_there = await connection.fetchval("SELECT webhookd.fold($1::text::jsonb, $2::text::jsonb)", a, b)
        assert decode(folded_there) == {"name": (1, 1, texts[1])}


async def test_a_transaction_has_a_column_for_each_fact(connection: Connection) -> None:
    failure = "payment.void.created", CHARGE | {"responseCode": 3}
    for minutes, (name, payload) in reversed(list(enumerate([*STORIES["held, approved, captured, voided"], failure]))):
        await keep_timeline(event(name, payload, date=after(minutes)), connection)
    (row,) = await rows(connection, "transactions")
    assert json.loads(row.pop("fraud_filters")) == FRAUD
    assert row == {
        "account": "default",
        "transaction_id": "60022194830",
        "state": "voided",
        "kind": "charge",
        "requested_amount": Decimal("7.25"),
        "authorized_amount": None,
        "captured_amount": None,
        "refunded_amount": None,
        "authorized_at": after(0),
        "held_at": after(1),
        "approved_at": after(2),
        "declined_at": None,
        "captured_at": after(3),
        "voided_at": after(4),
        "refunded_at": None,
        "response_code": 1,
        "auth_code": "P1XHLC",
        "avs_response": "Y",
        "invoice_number": "i",
        "merchant_reference": "m",
        "first_event_at": after(0),
        "last_event_at": after(4),
        "last_event_type": "net.authorize.payment.void.created",
        "last_failure_at": after(5),
        "last_failure_type": "net.authorize.payment.void.created",
        "last_failure_code": 3,
    }


async def test_a_subscription_has_a_column_for_each_fact(connection: Connection) -> None:
    for minutes, (name, payload) in reversed(list(enumerate(STORIES["subscription"]))):
        await keep_timeline(event(name, payload, date=after(minutes)), connection)
    (row,) = await rows(connection, "subscriptions")
    assert row == {
        "account": "default",
        "subscription_id": "4415473",
        "name": "Magazine",
        "amount": Decimal("11.55"),
        "status": "canceled",
        "customer_profile_id": "1811467160",
        "payment_profile_id": "1806025108",
        "shipping_address_id": None,
        "last_failure_transaction_id": "123",
        "last_failure_error": "This transaction has been declined.",
        "last_failure_at": datetime(2021, 4, 9, 9, 29, 27, 257000, tzinfo=UTC),
        "first_event_at": after(0),
        "last_event_at": after(5),
        "last_event_type": "net.authorize.customer.subscription.cancelled",
    }


async def test_customers_and_payment_profiles_have_a_column_for_each_fact(connection: Connection) -> None:
    for minutes in range(2):
        for story in ("customer", "payment profile"):
            name, payload = STORIES[story][minutes]
            await keep_timeline(event(name, payload, date=after(-minutes)), connection)
    (customer,) = await rows(connection, "customers")
    (profile,) = await rows(connection, "payment_profiles")
    dates = {"first_event_at": after(-1), "last_event_at": after(0)}
    assert json.loads(customer.pop("payment_profile_ids")) == ["7"]
    assert customer == {
        "account": "default",
        "customer_profile_id": "18",
        "state": "active",
        "merchant_customer_id": "SUB_1",
        "last_event_type": "net.authorize.customer.created",
        **dates,
    }
    assert profile == {
        "account": "default",
        "payment_profile_id": "7",
        "state": "active",
        "customer_profile_id": "1811525852",
        "customer_type": "individual",
        "last_event_type": "net.authorize.customer.paymentProfile.created",
        **dates,
    }


@pytest.mark.parametrize("view", ["transactions", "subscriptions", "customers", "payment_profiles"])
async def test_a_view_of_the_timeline_costs_only_the_columns_that_are_read(connection: Connection, view: str) -> None:
    """A function that PostgreSQL calls for each row would make count(*) a hundred times slower."""
    for columns in ("*", "count(*)"):
        plan = [row[0] for row in await connection.fetch(f"EXPLAIN (VERBOSE) SELECT {columns} FROM {view}")]
        assert not [line for line in plan if "value_of" in line]
    assert not [line for line in plan if "jsonb_path_query_first" in line]


async def test_a_refund_is_a_row_beside_its_charge(connection: Connection) -> None:
    await keep_timeline(event("payment.authcapture.created", CHARGE), connection)
    await keep_timeline(event("payment.refund.created", CHARGE | {"authAmount": 0.72, "id": "60022194896"}), connection)
    kept = {row["transaction_id"]: row for row in await rows(connection, "transactions")}
    charge, refund = kept["60022194830"], kept["60022194896"]
    assert (charge["kind"], charge["state"], charge["captured_amount"]) == ("charge", "captured", Decimal("7.25"))
    assert (refund["kind"], refund["state"], refund["refunded_amount"]) == ("refund", "refunded", Decimal("0.72"))


async def test_one_id_in_two_accounts_is_two_rows(connection: Connection) -> None:
    for account in ("north", "south"):
        await keep_timeline(event("payment.fraud.held", HELD, account=account), connection)
    for account in ("north", "south"):
        assert [row["state"] for row in await rows(connection, "transactions", account)] == ["held"]


async def test_an_event_costs_one_statement_and_an_unknown_one_none(connection: Connection) -> None:
    sent: list[str] = []
    with connection.query_logger(lambda record: sent.append(record.query)):
        await keep_timeline(event("payment.authcapture.created", CHARGE), connection)
        await keep_timeline(event("payment.void.created", CHARGE), connection)
        await keep_timeline(event("payment.unheardOf.created", CHARGE), connection)
        await keep_timeline(event("payment.void.created", CHARGE | {"id": "0"}), connection)
    await asyncio.sleep(0)  # the logger runs at the loop's next turn
    assert len([query for query in sent if "webhookd.fold" in query]) == 2, "beside asyncpg's own questions"


async def test_no_odd_field_makes_the_event_fail_or_the_row_unreadable(connection: Connection) -> None:
    accounts = map(str, itertools.count())  # one account for each event, so that no odd value hides another
    for name, payload in itertools.chain.from_iterable(STORIES.values()):
        for odd in ODD:
            for fields in (*with_an_odd_field(payload, odd), {"id": odd}):
                await keep_timeline(event(name, fields, account=next(accounts)), connection)
    for table in ("transactions", "subscriptions", "customers", "payment_profiles"):
        assert await connection.fetch(f"SELECT * FROM {table}")


async def test_the_longest_id_fits_into_the_index(connection: Connection) -> None:
    longest = "".join(chr(0x10000 + 7919 * n % 0xFFFF) for n in range(500))
    await keep_timeline(event("payment.void.created", CHARGE | {"id": longest}), connection)
    assert [row["transaction_id"] for row in await rows(connection, "transactions")] == [longest]


@pytest.mark.parametrize(
    "date",
    [
        START,
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
async def test_dates_are_kept_to_the_microsecond(connection: Connection, date: datetime) -> None:
    await keep_timeline(event("payment.void.created", CHARGE, date=date), connection)
    (row,) = await rows(connection, "transactions")
    assert row["voided_at"] == row["first_event_at"] == row["last_event_at"] == date
