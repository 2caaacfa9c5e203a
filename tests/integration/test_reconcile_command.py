"""The report of a reconciliation as people get it: by the API, by `webhookd reconcile`, and as the guide shows it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.conftest import Servers, Start
from tests.helpers.command import webhookd
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.operator import ANN, Connection, Operator
from tests.helpers.settled_books import SEEN, keep_batch, keep_days, keep_facts, keep_sweep, statistic
from tests.unit.test_timeline import event as event_of
from webhookd.authorizenet.api.results import Batch
from webhookd.authorizenet.settlement import Facts
from webhookd.authorizenet.timeline import fold_all
from webhookd.daemon import Daemon
from webhookd.store.event_store import EventStore
from webhookd.store.provider_facts import StoredFacts

NOON = datetime(2026, 6, 2, 15, 20, tzinfo=UTC)
PAGE = (GUIDE / "reconcile.md").read_text()
MISSING = "60000000040"


async def keep_two_days(daemon: Daemon, connection: Connection, amounts: Sequence[tuple[str, str, int]]) -> None:
    """Writes sales (id, amount, day of June); webhookd has an event of each but MISSING."""
    await keep_sweep(connection)
    facts = [
        Facts(
            name,
            "settledSuccessfully",
            SEEN,
            amount=Decimal(amount),
            batch_id=f"b{day}",
            settled_at=NOON + timedelta(days=day - 2),
            submitted_at=NOON - timedelta(days=3 - day),
            account_type="Visa",
            invoice_number=f"=I{name}",
        )
        for name, amount, day in amounts
    ]
    for name in sorted({str(one.batch_id) for one in facts}):
        own = [one for one in facts if one.batch_id == name]
        await keep_batch(
            connection, Batch(name, "settledSuccessfully", own[0].settled_at, "creditCard", (statistic(own),)), own
        )
    await keep_facts(daemon.database, [StoredFacts(one, listed_in=frozenset({str(one.batch_id)})) for one in facts])
    await keep_days(connection, {one.submitted_at.date() for one in facts if one.submitted_at})
    events = [
        event_of("payment.authcapture.created", {"id": one.id, "authAmount": float(one.amount or 0), "responseCode": 1})
        for one in facts
        if one.id != MISSING
    ]
    async with daemon.database.acquire("admin") as own_connection:
        await EventStore(daemon.database).process(own_connection, [], fold_all(events))


SALES = [("60000000010", "10.00", 2), ("60000000020", "20.00", 2), ("60000000030", "12.00", 3), (MISSING, "5.00", 3)]


@pytest.fixture
async def daemon(start: Start, connection: Connection) -> Daemon:
    daemon = await start(admin_tokens=ANN)
    await keep_two_days(daemon, connection, SALES)
    return daemon


async def run(servers: Servers, daemon: Daemon, *arguments: str) -> tuple[int, str, str]:
    environment = {"WEBHOOKD_API_URL": daemon.admin_url, "WEBHOOKD_API_TOKEN": ANN["ann"]}
    return await webhookd("reconcile", *arguments, folder=servers.folder, **environment)


async def test_the_api_reports_each_day_with_exact_amounts_and_what_to_do(daemon: Daemon) -> None:
    ann = Operator(daemon.admin_url)
    path = "provider/accounts/default/reconciliation"
    status, found = await ann.get(path, **{"from": "2026-06-02", "to": "2026-06-03"})
    assert status == 200, found
    green, other = found["days"]
    assert (green["day"], green["result"], green["matched"], green["charged"]) == ("2026-06-02", "green", 2, "30.00")
    assert (green["begins"], green["ends"], green["zone"]) == (
        "2026-06-02T07:00:00Z",
        "2026-06-03T07:00:00Z",
        "America/Los_Angeles",
    )
    assert {(one["account_type"], one["line"]): one["value"] for one in green["totals"]} == {
        ("visa", "charge amount"): "30.00",
        ("visa", "charge count"): "2",
    }
    assert (other["result"], other["difference_count"]) == ("differences", 1)
    (difference,) = other["differences"]
    assert difference["kind"] == "at the provider and not here"
    assert difference["links"] == [f"/#/transactions/default/{MISSING}"]
    assert "webhookd gaps close" in difference["to_do"]
    assert found["by_kind"] == {"at the provider and not here": 1}
    for status, wrong in (
        (409, {"from": "2026-06-03", "to": "2026-06-02"}),
        (409, {"from": "2026-01-01", "to": "2026-04-03"}),
        (422, {"from": "2026-06-03"}),
    ):
        assert (await ann.get(path, **wrong))[0] == status, wrong
    assert (await ann.get("provider/accounts/nobody/reconciliation", **{"from": "2026-06-02", "to": "2026-06-02"}))[0] == 404


async def test_the_command_prints_what_the_guide_shows_and_its_exit_code_says_the_result(
    daemon: Daemon, servers: Servers, connection: Connection
) -> None:
    span = ("--from", "2026-06-02", "--to", "2026-06-03")
    code, out, err = await run(servers, daemon, *span)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    shown = blocks(PAGE, "text")[0].splitlines()
    assert lines[: len(shown)] == shown
    assert f"    {daemon.admin_url}/#/transactions/default/{MISSING}" in lines
    assert lines[-1].startswith("as of ")
    assert (await run(servers, daemon, "--from", "2026-06-02", "--to", "2026-06-02"))[0] == 0
    await connection.execute("UPDATE provider_batches SET looked_at = NULL WHERE batch_id = 'b2'")
    code, out, _ = await run(servers, daemon, "--from", "2026-06-02", "--to", "2026-06-02")
    assert code == 6
    assert "not known yet: batch b2: its list was not read yet" in out
    assert (await run(servers, daemon, *span))[0] == 1, "differences count more"
    assert (await run(servers, daemon, *span, "--account", "nobody"))[0] == 3
    assert (await run(servers, daemon, "--from", "2026-06-03", "--to", "2026-06-02"))[0] == 2


async def test_subscriptions_are_compared_in_the_api_and_below_the_days(
    daemon: Daemon, servers: Servers, connection: Connection
) -> None:
    await connection.execute("UPDATE provider_sweeps SET subscriptions_at = now()")
    await connection.execute(
        """INSERT INTO provider_subscriptions (account, subscription_id, status, status_since, created_at, amount, seen_at)
           VALUES ('default', '4415473', 'active', '2026-06-01', '2026-06-01', 9.5, '2026-06-01')"""
    )
    ann = Operator(daemon.admin_url)
    path = "provider/accounts/{}/reconciliation/subscriptions"
    status, found = await ann.get(path.format("default"))
    assert (status, found["result"], found["difference_count"], found["reasons"]) == (200, "differences", 1, [])
    (difference,) = found["differences"]
    assert (difference["kind"], difference["subscription_id"]) == ("at the provider and not here", "4415473")
    assert difference["link"] == "/#/subscriptions/default/4415473"
    assert "webhookd gaps close" in difference["to_do"]
    assert (await ann.get(path.format("nobody")))[0] == 404
    code, out, _ = await run(servers, daemon, "--from", "2026-06-02", "--to", "2026-06-02")
    assert code == 1, "the day is green, and the subscriptions differ"
    assert "  at the provider and not here: 4415473; provider active, webhookd nothing" in out.splitlines()
    assert f"    {daemon.admin_url}/#/subscriptions/default/4415473" in out.splitlines()


async def test_json_and_csv_are_the_same_at_each_run_but_for_the_time(daemon: Daemon, servers: Servers) -> None:
    span = ("--from", "2026-06-02", "--to", "2026-06-03")
    found = [json.loads((await run(servers, daemon, *span, "--json"))[1]) for _ in range(2)]
    for one in found:
        for part in (*one["accounts"][0]["days"], one["accounts"][0]["subscriptions"]):
            del part["as_of"]
    assert found[0] == found[1]
    _, out, _ = await run(servers, daemon, *span, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["day"], row["result"], row["subject"], row["provider"]) for row in rows] == [
        ("2026-06-02", "green", "", ""),
        ("2026-06-03", "differences", MISSING, "5.00"),
    ]
    assert (await run(servers, daemon, *span, "--csv", "--json"))[0] == 2


QUERY = """
SELECT transaction_id, amount, state FROM public.payments
WHERE $1 = 'default' AND (booked_at >= $2 AND booked_at < $3 OR transaction_id = ANY ($4::text[]))
"""
SHOP = """
CREATE TABLE public.payments (transaction_id text, amount numeric, state text, booked_at timestamptz);
INSERT INTO public.payments VALUES
    ('60000000010', 10, 'captured', '2026-06-01 12:00Z'), ('60000000020', 20.00, NULL, '2026-06-01 13:00Z'),
    ('60000000030', 12.01, 'voided', '2026-06-02 12:00Z'), ('77', 1, 'captured', '2026-06-02 13:00Z'),
    ('60000000040', 5, 'captured', '2020-01-01 13:00Z')
"""


async def shop_report(start: Start, connection: Connection, query: str = QUERY, **settings: Any) -> Any:
    daemon = await start(admin_tokens=ANN, shop_query=query, **settings)
    if not await connection.fetchval("SELECT count(*) FROM provider_batches"):
        await keep_two_days(daemon, connection, SALES)
        await connection.execute(SHOP)
    _, found = await Operator(daemon.admin_url).get(
        "provider/accounts/default/reconciliation", **{"from": "2026-06-02", "to": "2026-06-03"}
    )
    return found["days"]


async def test_the_shops_own_table_is_compared(start: Start, connection: Connection, database_url: str) -> None:
    for settings in ({}, {"shop_database_url": database_url}):
        green, other = await shop_report(start, connection, **settings)
        assert (green["result"], green["matched"], green["shop_compared"]) == ("green", 2, True)
        assert [(one["kind"], one["books"], one["subject"]) for one in other["differences"]] == [
            ("at the provider and not here", "webhookd", MISSING),
            ("here and not at the provider", "shop", "77"),
            ("amount differs", "shop", "60000000030"),
            ("state differs", "shop", "60000000030"),
        ]
        assert [one["links"] for one in other["differences"]] == [
            [f"/#/transactions/default/{MISSING}"],
            [],  # nobody but the shop knows it, so it has no page
            *[["/#/transactions/default/60000000030"]] * 2,
        ]


SPAN = "WHERE $1 = 'default' AND $2 < $3::timestamptz AND $4::text[] IS NOT NULL"


@pytest.mark.parametrize(
    ("query", "word"),
    [
        (f"SELECT transaction_id, amount FROM public.payments {SPAN}", "other columns than three"),
        (f"SELECT secret_column, 1, '' FROM public.payments {SPAN}", "UndefinedColumnError, SQLSTATE 42703"),
        (f"SELECT nextval('public.counter')::text, 1, '' {SPAN}", "ReadOnlySQLTransactionError, SQLSTATE 25006"),
        (f"SELECT set_config('transaction_read_only', 'off', true), nextval('public.counter'), '' {SPAN}", "SQLSTATE 25001"),
        (f"SELECT '1', 1, '' {SPAN}; COMMIT; SELECT nextval('public.counter')", "PostgresSyntaxError, SQLSTATE 42601"),
        (f"SELECT NULL, 1, '' FROM public.payments {SPAN}", "rows with no id of a transaction: 5"),
        (f"SELECT transaction_id, 'much', '' FROM public.payments {SPAN}", "rows with an amount that is no number: 5"),
        (f"SELECT transaction_id, amount, 7 FROM public.payments {SPAN}", "rows with a state that is no text: 5"),
        (f"SELECT pg_sleep(30)::text, 1, '' {SPAN}", "longer than 0.5 s"),
        (f"SELECT n::text, 1, '' FROM generate_series(1, 9) n {SPAN}", "more than 8 rows"),
        ("SELECT transaction_id, amount, state FROM payments WHERE $1 = $2 AND $3 = $4", "SQLSTATE"),
    ],
)
async def test_a_query_that_fails_or_returns_odd_rows_leaves_no_day_green_and_is_not_quoted(
    start: Start,
    connection: Connection,
    query: str,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from webhookd.store import shop_books

    monkeypatch.setattr(shop_books, "_MOST", 8)
    monkeypatch.setattr(shop_books.ShopBooks.__init__, "__kwdefaults__", {"timeout": 0.5})
    await connection.execute("CREATE SEQUENCE public.counter")
    days = await shop_report(start, connection, query)
    assert {day["result"] for day in days} <= {"differences", "not known"}
    assert all(any(word in reason for reason in day["reasons"]) for day in days), days[0]["reasons"]
    told = json.dumps(days) + "".join(capsys.readouterr())
    for secret in ("public.payments", "secret_column", "pg_sleep", "nextval"):
        assert secret not in told
