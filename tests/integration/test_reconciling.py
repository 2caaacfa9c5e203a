"""The reconciliation names exactly the differences between the provider's books and webhookd's, and is green only on proof."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio

from tests.helpers.operator import Connection
from tests.helpers.settled_books import keep, kill
from webhookd.authorizenet.findings import Kind
from webhookd.errors import NotFoundError
from webhookd.operate import reconciling
from webhookd.operate.reconciling import ReconciledDay, Reconciler
from webhookd.runtime.loops import Watch
from webhookd.simulate import DIFFERENCES, Account, Clock, Simulator, story
from webhookd.simulate.story import Planted
from webhookd.store.database import Database
from webhookd.store.pools import PoolSettings
from webhookd.store.queries import queries
from webhookd.telemetry.metrics import Metrics

START = datetime(2026, 6, 1, 17, tzinfo=UTC)  # 10:00 in Los Angeles
ZONE = ZoneInfo("America/Los_Angeles")
FIRST, LAST = date(2026, 6, 1), date(2026, 6, 27)
Found = set[tuple[Kind, str]]


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolSettings(database_url, short=3, work=1, handler_timeout=5), metrics=Metrics(), watch=Watch())
    await database.start()
    yield database
    await database.stop()


async def merchant(seed: int, days: int = 6, **plant: int) -> tuple[Simulator, list[Planted]]:
    """Returns a simulator after some days of sales, and three weeks in which all settles."""

    async def post(_: str, __: bytes, ___: Mapping[str, str]) -> int:
        return 200

    simulator = Simulator(seed, clock=Clock(START, speed=0), post=post)
    simulator.register("https://shop.example.com/hooks")
    async with simulator:
        planted = await story(simulator, days, sales=12, plant=plant)
        simulator.clock.advance(20 * 86_400)
        await simulator.idle()
        simulator.account()
    return simulator, planted


async def reports(database: Database, zone: str | None = None) -> list[ReconciledDay]:
    return [one async for one in Reconciler(database, lambda _: zone).days("default", FIRST, LAST)]


def found(days: list[ReconciledDay]) -> Found:
    return {(one.kind, one.subject) for day in days for one in day.report.findings}


def natural(account: Account, *, told: bool = False) -> Found:
    """Returns what differs without any fault: no event reports a return, a failed settlement, or a part that is captured.

    told: whether synthetic events report returns and failed settlements.
    """
    kinds: Found = set()
    for one in account.transactions.values():
        if one.batch is None or one.batch.settled_at is None:
            continue
        failed = one.status == "settlementError"
        if (failed or one.returned) and not told:
            kinds.add((Kind.STATE_DIFFERS, one.id))
        if one.settle_amount != one.auth_amount and not failed:
            kinds.add((Kind.AMOUNT_DIFFERS, one.id))
    return kinds


def wanted(account: Account, planted: list[Planted], *, told: bool = False) -> Found:
    """Returns what a report must name: what differs without a fault, and what was planted."""
    kinds = natural(account, told=told)
    for kind, ids in planted:
        failed = any(name in account.transactions and account.transactions[name].status == "settlementError" for name in ids)
        match kind:
            case "missing":
                kinds = {one for one in kinds if one[1] not in ids} | (set() if failed else {(Kind.NOT_HERE, ids[0])})
            case "unknown":
                kinds.add((Kind.NOT_AT_PROVIDER, ids[0]))
            case "amount" if not failed:
                kinds.add((Kind.AMOUNT_DIFFERS, ids[0]))
            case "voided" if not (told and failed):
                kinds.add((Kind.STATE_DIFFERS, ids[0]))
            case "doubled" if not failed:
                kinds.add((Kind.CAPTURED_TWICE, str(account.transactions[ids[0]].invoice)))
            case "unsettled":
                kinds.add((Kind.NOT_SETTLED, ids[0]))
            case "lone refund" | "stray refund" if not failed:
                kinds.add((Kind.REFUND_WITHOUT_SALE, ids[0]))
    return kinds


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 40))])
async def test_the_report_names_exactly_what_was_planted(
    connection: Connection, database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator, planted = await merchant(seed, **dict.fromkeys(DIFFERENCES, 2))
    account = simulator.account()
    events = await keep(connection, database, simulator)
    expected = wanted(account, planted)
    agree = sorted(
        (one for one in account.transactions.values() if one.status == "settledSuccessfully" and not one.returned),
        key=lambda one: one.id,
    )
    touched = {subject for _, subject in expected} | {name for one in planted for name in one.ids}
    sound = [one for one in agree if one.id not in touched]
    await kill(connection, events[sound[0].id])
    await kill(connection, events[sound[1].id], destination="shop")
    expected |= {(Kind.DEAD, sound[0].id), (Kind.DEAD, sound[1].id)}
    days = await reports(database)
    assert [day.report.reasons for day in days if day.report.reasons] == []
    assert found(days) == expected
    assert sum(day.report.in_agreement for day in days) > len(sound) / 2
    # PostgreSQL compares most transactions by itself. A report that reads all of them finds the same.
    assert sum(day.report.agreed for day in days) > 0
    monkeypatch.setattr(reconciling._Snapshot, "inputs", every_row(reconciling._Snapshot.inputs))
    for fast, slow in zip(days, await reports(database), strict=True):
        assert slow.report.agreed == 0
        assert facts_of(fast) == facts_of(slow)


def every_row(inputs: Any) -> Any:
    async def read(snapshot: Any, zone: Any) -> Any:
        snapshot._every = True
        return await inputs(snapshot, zone)

    return read


def facts_of(day: ReconciledDay) -> tuple[Any, ...]:
    report = day.report
    sums = report.charged, report.refunded, report.in_agreement, report.without_money
    return report.day, report.begins, report.ends, *sums, report.findings, report.reasons, report.batches, report.totals


@pytest.mark.parametrize(
    ("status", "here", "kind"),
    [
        ("declined", "declined", None),
        ("declined", None, None),
        ("declined", "voided", Kind.STATE_DIFFERS),
        ("declined", "captured", Kind.STATE_DIFFERS),
        ("declined", "dead", Kind.DEAD),
        ("declined", "dead without a timeline", Kind.DEAD),
        ("voided", "voided", None),
        ("voided", "declined", None),
        ("voided", None, None),
        ("voided", "captured", Kind.STATE_DIFFERS),
    ],
)
async def test_what_moved_no_money_agrees_if_it_is_not_here_or_has_the_same_state(
    connection: Connection, database: Database, status: str, here: str | None, kind: Kind | None
) -> None:
    simulator, _ = await merchant(5, days=3)
    events = await keep(connection, database, simulator)
    (one, *_) = (
        one for one in simulator.account().transactions.values()
        if one.batch and one.status == status and one.type != "refundTransaction" and one.id in events
    )  # fmt: skip
    before = await reports(database)
    if here is not None and here.startswith("dead"):
        await kill(connection, events[one.id])
    if here in (None, "dead without a timeline"):
        await connection.execute("DELETE FROM timeline WHERE entity_id = $1", one.id)
    elif here != "dead":
        facts = f'[[2, 1, {{"state": "{here}"}}], [1, 1, {{"state": "captured", "captured_amount": "1"}}]]'
        await connection.execute("UPDATE timeline SET facts = $2 WHERE entity_id = $1", one.id, facts)
    days = await reports(database)
    assert found(days) == found(before) | ({(kind, one.id)} if kind else set())
    assert sum(day.report.without_money for day in days) == sum(day.report.without_money for day in before)


@pytest.mark.parametrize(
    ("one", "other", "is_twice"),
    [
        ((None, None), (None, None), True),
        (("77", 3), ("77", 3), True),
        (("77", 3), (None, None), True),
        (("77", 3), ("77", 4), False),
        (("77", 3), ("78", 3), False),
    ],
)
async def test_an_invoice_that_is_captured_on_two_days_is_named_on_both(
    connection: Connection,
    database: Database,
    one: tuple[str | None, int | None],
    other: tuple[str | None, int | None],
    is_twice: bool,
) -> None:
    simulator, _ = await merchant(5, days=3)
    await keep(connection, database, simulator)
    before = found(await reports(database))
    text = """SELECT min(transaction_id) FROM provider_transactions
        WHERE state = 'settled' AND subscription_id IS NULL AND batch_id IN (SELECT batch_id FROM provider_batches
        WHERE settled_at = (SELECT {}(settled_at) FROM provider_batches WHERE payment_method = 'creditCard'))"""
    ids = [await connection.fetchval(text.format(which)) for which in ("min", "max")]
    for number, (subscription, payment) in zip(ids, (one, other), strict=True):
        change = "UPDATE provider_transactions SET invoice_number = 'A', amount = 5, subscription_id = $2, payment_number = $3 "
        await connection.execute(f"{change} WHERE transaction_id = $1", number, subscription, payment)
        facts = '[[1, 1, {"state": "captured", "captured_amount": "5"}]]'
        await connection.execute("UPDATE timeline SET facts = $2 WHERE entity_id = $1", number, facts)
    days = await reports(database)
    twice = [row for day in days for row in day.report.findings if row.kind is Kind.CAPTURED_TWICE]
    assert [row.transactions for row in twice] == ([tuple(sorted(ids))] * 2 if is_twice else [])
    assert found(days) == {one for one in before if one[1] not in ids} | ({(Kind.CAPTURED_TWICE, "A")} if is_twice else set())


async def test_a_transaction_that_two_lists_have_is_named(connection: Connection, database: Database) -> None:
    simulator, _ = await merchant(5, days=3)
    await keep(connection, database, simulator)
    before = found(await reports(database))
    text = "SELECT min(transaction_id) FROM provider_transactions WHERE state = 'settled' AND transaction_id <> ALL($1)"
    number = await connection.fetchval(text, [subject for _, subject in before])
    await connection.execute(
        """UPDATE provider_transactions t SET listed_in = ARRAY[batch_id, (
               SELECT min(b.batch_id) FROM provider_batches b WHERE b.batch_id <> t.batch_id
           )] WHERE transaction_id = $1""",
        number,
    )
    assert found(await reports(database)) == before | {(Kind.LISTED_TWICE, number)}


async def test_a_day_that_only_a_declined_charge_is_from_has_to_be_whole(connection: Connection, database: Database) -> None:
    simulator, _ = await merchant(5, days=3)
    await keep(connection, database, simulator)
    assert not any(day.report.reasons for day in await reports(database))
    await connection.execute(
        """UPDATE provider_transactions SET submitted_at = '2026-05-20 12:00Z' WHERE transaction_id = (
               SELECT min(transaction_id) FROM provider_transactions WHERE state = 'declined' AND batch_id IS NOT NULL
           )"""
    )
    reasons = [reason for day in await reports(database) for reason in day.report.reasons]
    assert reasons == ["webhookd's history is not known to be whole for 2026-05-20 (UTC)"]


async def test_an_event_from_before_the_sweep_began_is_not_looked_for_in_the_lists(
    connection: Connection, database: Database
) -> None:
    simulator, planted = await merchant(5, days=3, unknown=1)
    await keep(connection, database, simulator)
    unknown = (Kind.NOT_AT_PROVIDER, planted[0].ids[0])
    for seconds, is_named in ((-1, True), (1, False)):
        await connection.execute(
            """UPDATE provider_sweeps SET swept_from = make_interval(secs => $2) + (
                   SELECT coalesce(event_date, received_at) FROM ledger WHERE entity_id = $1
               )""",
            planted[0].ids[0],
            seconds,
        )
        assert (unknown in found(await reports(database))) is is_named


async def test_a_refund_may_name_a_sale_from_before_the_sweep_began(connection: Connection, database: Database) -> None:
    simulator, planted = await merchant(5, days=3, **{"stray refund": 1})
    await keep(connection, database, simulator)
    made_at = simulator.account().transactions[planted[0].ids[0]].made_at
    for days, is_named in ((179, False), (181, True)):
        await connection.execute("UPDATE provider_sweeps SET swept_from = $1", made_at - timedelta(days=days))
        assert ((Kind.REFUND_WITHOUT_SALE, planted[0].ids[0]) in found(await reports(database))) is is_named


async def test_a_merchant_without_faults_has_green_days_with_the_sums_of_the_books(
    connection: Connection, database: Database
) -> None:
    simulator, _ = await merchant(5)
    account = simulator.account()
    await keep(connection, database, simulator)
    days = await reports(database)
    assert found(days) == natural(account)
    greens = [day for day in days if day.result == "green"]
    assert greens
    for day in days:
        own = [
            one
            for one in account.transactions.values()
            if one.batch is not None
            and one.batch.settled_at is not None
            and one.batch.settled_at.astimezone(ZONE).date() == day.report.day
        ]
        sales = [one.settle_amount for one in own if one.status == "settledSuccessfully" and not one.returned]
        refunds = [one.settle_amount for one in own if one.status == "refundSettledSuccessfully"]
        assert (day.report.charged, day.report.refunded) == (sum(sales), sum(refunds))


# Each case changes a database in which one day is green, and has a word of the reason for which no day of it is green then.
DOUBTS = [
    ("UPDATE provider_batches SET settlement_state = 'pendingSettlement'", "its state is pendingSettlement"),
    ("UPDATE provider_batches SET reasons = '{the list moved}'", "the list moved"),
    ("UPDATE provider_batches SET looked_at = NULL", "its list was not read yet"),
    ("UPDATE provider_batches SET settled_at = NULL, reasons = '{it is pending}'", "it is pending"),
    ("UPDATE provider_batches SET settled_at = NULL", "no settlement time"),
    ("UPDATE provider_days SET completeness = 'open'", "history is not known to be whole for 2026-06"),
    ("DELETE FROM provider_days", "history is not known to be whole for 2026-06"),
    ("UPDATE provider_sweeps SET batches_listed_at = NULL", "not listed to the end"),
    ("UPDATE provider_sweeps SET batches_listed_at = '2026-06-02'", "before the day was surely complete"),
    ("UPDATE provider_sweeps SET swept_from = '2026-06-30'", "looks only at batches that settled since"),
    ("UPDATE provider_sweeps SET time_zone = 'Pacific'", "time zone is not known"),
    ("UPDATE provider_sweeps SET time_zone = NULL", "time zone is not known"),
    ("DELETE FROM provider_sweeps", "not listed to the end"),
    ("UPDATE provider_transactions SET status = 'newText', state = 'unknown' WHERE batch_id IS NOT NULL", "still newText"),
    ("UPDATE provider_transactions SET submitted_at = NULL", "reports no date"),
]


@pytest.mark.parametrize(("change", "word"), DOUBTS)
async def test_no_day_is_green_while_a_batch_is_open_or_something_is_not_known(
    connection: Connection, database: Database, change: str, word: str
) -> None:
    simulator, _ = await merchant(5, days=3)
    await keep(connection, database, simulator)
    before = {day.report.day for day in await reports(database) if day.result == "green" and day.report.batches}
    assert before
    await connection.execute(change)
    days = [day for day in await reports(database) if day.report.day in before]
    assert [day.report.day for day in days if day.result == "green"] == []
    assert any(word in reason for day in days for reason in day.report.reasons)


@pytest.mark.parametrize(("plant", "kind"), [("unknown", Kind.NOT_AT_PROVIDER), ("unsettled", Kind.NOT_SETTLED)])
async def test_a_transaction_that_no_batch_has_is_judged_only_if_the_lists_are_new(
    connection: Connection, database: Database, plant: str, kind: Kind
) -> None:
    simulator, planted = await merchant(5, days=3, **{plant: 1})
    await keep(connection, database, simulator)
    unknown = (kind, planted[0].ids[0])
    assert [kind for kind in found(await reports(database)) if kind == unknown]
    for change, word in (
        ("UPDATE provider_sweeps SET unsettled_at = '2026-06-02'", "the unsettled ones were last listed"),
        ("UPDATE provider_sweeps SET unsettled_at = NULL", "last listed: never"),
        ("INSERT INTO provider_batches VALUES ('default', 'b', 's', now())", "the list of a batch was not read yet"),
    ):
        await connection.execute(change)
        days = await reports(database)
        assert unknown not in found(days)
        assert [day.report.day for day in days if any(word in one for one in day.report.reasons)] != []


@pytest.mark.parametrize(
    ("change", "is_named"),
    [
        ("UPDATE provider_transactions SET submitted_at = submitted_at - interval '30 days' WHERE transaction_id = $1", True),
        ("UPDATE provider_transactions SET state = 'voided' WHERE transaction_id = $1", True),
        ("UPDATE timeline SET facts = replace(facts::text, 'captured', 'refunded')::jsonb WHERE entity_id = $1", True),
        ("UPDATE timeline SET facts = replace(facts::text, '\"captured\"', '\"voided\"')::jsonb WHERE entity_id = $1", False),
        ("UPDATE provider_transactions SET batch_id = 'b9' WHERE transaction_id = $1", False),
    ],
)
async def test_what_is_captured_here_and_never_settles_there_is_named_on_the_day_a_week_later(
    connection: Connection, database: Database, change: str, is_named: bool
) -> None:
    simulator, planted = await merchant(5, days=3, unsettled=1)
    await keep(connection, database, simulator)
    (number,) = planted[0].ids
    await connection.execute(change, number)
    days = [one.report.day for one in await reports(database) if (Kind.NOT_SETTLED, number) in found([one])]
    sold = simulator.account().transactions[number].made_at.astimezone(ZONE).date()
    assert days == ([sold + timedelta(days=7)] if is_named else [])


async def test_what_no_batch_has_is_not_judged_while_the_list_of_an_earlier_batch_was_not_read_to_its_end(
    connection: Connection, database: Database
) -> None:
    simulator, planted = await merchant(5, days=3, unsettled=1)
    await keep(connection, database, simulator)
    first = "(SELECT min(settled_at) FROM provider_batches)"
    await connection.execute(f"UPDATE provider_batches SET reasons = '{{the list moved}}' WHERE settled_at = {first}")
    days = await reports(database)
    assert (Kind.NOT_SETTLED, planted[0].ids[0]) not in found(days)
    said = [
        day.report.day for day in days if any("an earlier batch was not read to its end" in one for one in day.report.reasons)
    ]
    assert said == [simulator.account().transactions[planted[0].ids[0]].made_at.astimezone(ZONE).date() + timedelta(days=7)]


@pytest.mark.parametrize(
    ("named", "given", "zone"),
    [
        ("America/Los_Angeles", "Asia/Tokyo", "America/Los_Angeles"),
        ("Pacific Standard Time", None, "Pacific Standard Time"),
        ("PST maybe", "America/Los_Angeles", "America/Los_Angeles"),
        (None, "America/Los_Angeles", "America/Los_Angeles"),
    ],
)
async def test_the_zone_is_the_providers_or_else_that_of_the_settings(
    connection: Connection, database: Database, named: str | None, given: str | None, zone: str
) -> None:
    simulator, _ = await merchant(5, days=2)
    await keep(connection, database, simulator, zone=named)
    days = await reports(database, given)
    assert {day.zone for day in days} == {zone}
    assert {day.report.begins.hour for day in days} == {7}
    assert [day for day in days if any("zone" in reason for reason in day.report.reasons)] == []


async def test_a_day_on_which_the_clock_changes_has_all_its_batches_once(connection: Connection, database: Database) -> None:
    simulator, _ = await merchant(5, days=3)
    await keep(connection, database, simulator)
    # The batches settle on 8 March 2026, from its first to its last minute: the day has 23 hours.
    times = [datetime(2026, 3, 8, 8, 0, tzinfo=UTC), datetime(2026, 3, 9, 6, 59, tzinfo=UTC)]
    names = [row["batch_id"] for row in await connection.fetch("SELECT batch_id FROM provider_batches ORDER BY 1")]
    for name, at in zip(
        names, [*times, times[1] + timedelta(minutes=1), *([datetime(2026, 5, 1, tzinfo=UTC)] * 9)], strict=False
    ):
        await connection.execute("UPDATE provider_batches SET settled_at = $2 WHERE batch_id = $1", name, at)
    one, two = [day async for day in Reconciler(database, lambda _: None).days("default", date(2026, 3, 8), date(2026, 3, 9))]
    assert one.report.ends - one.report.begins == timedelta(hours=23)
    assert (one.report.batches, two.report.batches) == (tuple(names[:2]), tuple(names[2:3]))


async def test_a_report_writes_nothing_and_an_account_without_credentials_is_not_found(
    connection: Connection, database: Database
) -> None:
    with pytest.raises(NotFoundError, match="no account default has API credentials"):
        await Reconciler(database, lambda _: None).day("default", FIRST)
    async with database.acquire("admin") as pooled:
        assert await pooled.fetchval("SELECT 1") == 1


async def test_a_day_is_read_by_indexes(connection: Connection, database: Database) -> None:
    simulator, _ = await merchant(5)
    await keep(connection, database, simulator)
    await connection.execute("ANALYZE provider_transactions, timeline, ledger")
    async with database.acquire("admin") as own:
        plan = await own.fetch(f"EXPLAIN {queries.settled_rows.sql}", "default", False, ["9000001"])
        at = START, START + timedelta(days=1), START
        plan += await own.fetch(f"EXPLAIN {queries.unlisted_transactions.sql}", *at, "default")
        plan += await own.fetch(f"EXPLAIN {queries.unsettled_transactions.sql}", "default", *at)
    text = "\n".join(row[0] for row in plan)
    assert not re.findall(r"Seq Scan on (?:provider_transactions|timeline|ledger|work|deliveries)", text)
    for index in (
        "provider_transactions_batch",
        "provider_transactions_unbatched",
        "provider_transactions_invoice",
        "timeline_pkey",
        "ledger_pkey",
    ):
        assert f"using {index}" in text
    assert "hashed SubPlan" in text
