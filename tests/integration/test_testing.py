"""webhookd.testing runs handlers as the daemon does, on a connection whose transaction is rolled back."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from types import ModuleType

import asyncpg
import pytest

from tests.helpers.database import connect
from tests.helpers.wait import until
from webhookd import Connection, Event, Permanent, Retry, Retryable, lifespan, on
from webhookd.errors import HookError, SettingsError
from webhookd.process import handlers as handlers_module
from webhookd.process.handlers import Registry
from webhookd.store import queries as queries_module
from webhookd.store import rolled_back
from webhookd.store.migrations import migrate
from webhookd.store.queries import queries
from webhookd.testing import DeliveryError, MisuseError, Status, event, trial

AUTHCAPTURE = "payment.authcapture.created"
SHOP = """
CREATE TABLE public.payments (number serial PRIMARY KEY, id text, amount numeric);
CREATE TABLE public.orders (id text PRIMARY KEY);
CREATE TABLE public.invoices (number int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE SCHEMA books;
CREATE TABLE books."Odd name" (x int);
"""
INSERT = "INSERT INTO public.payments (id, amount) VALUES ($1, $2)"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Registers the handlers of a test in a registry of its own."""
    monkeypatch.setattr(handlers_module, "registered", registry := Registry())
    return registry


@pytest.fixture
async def database(database_url: str) -> str:
    """Makes the tables of a shop in the test's database, and returns the database's URL."""
    session = await connect(database_url)
    await session.execute(SHOP)
    await session.close()
    return database_url


async def pay(event: Event, connection: Connection) -> None:
    """Inserts the payment, again at each run."""
    await connection.execute(INSERT, event.payload["id"], event.payload["authAmount"])


async def test_a_handler_runs_as_in_the_daemon_and_all_is_rolled_back(database: str) -> None:
    seen: list[Event] = []

    @on(AUTHCAPTURE)
    async def book(event: Event, connection: Connection) -> None:
        seen.append(event)
        state = "SELECT state, captured_amount FROM webhookd.transactions WHERE transaction_id = $1"
        assert tuple(await connection.fetchrow(state, event.payload["id"]) or ()) == ("captured", Decimal("7.10"))
        assert await connection.fetchval("SHOW lock_timeout") == "0", "the fold's own timeout is gone"
        assert await connection.fetchval("SHOW jit") == "off", "the session is a worker's"
        await pay(event, connection)

    sale = event(AUTHCAPTURE, amount="7.10", invoice_number="4711", account="eu")
    async with trial(database, [book]) as begun:
        assert await begun.deliver(sale) is Status.PROCESSED
        assert str(await begun.connection.fetchval("SELECT amount FROM payments")) == "7.10"
        row = await begun.connection.fetchrow("SELECT * FROM webhookd.events")
        assert row is not None
        assert (row["id"], row["account"], row["invoice_number"], row["status"]) == (sale.id, "eu", "4711", "processed")
    (got,) = seen
    assert (got.id, got.raw, got.attempt, got.notification_id) == (sale.id, sale.raw, 1, sale.notification_id)
    with pytest.raises(SettingsError, match="has ended"):
        _ = begun.connection
    session = await connect(database)
    assert await session.fetchval("SELECT count(*) FROM payments") == 0
    assert await session.fetchval("SELECT count(*) FROM webhookd.ledger") == 0
    assert await session.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1
    await session.close()


async def test_a_repeat_runs_no_handler_again(database: str) -> None:
    on(AUTHCAPTURE)(pay)
    async with trial(database, [pay]) as begun:
        sale, other = event(AUTHCAPTURE), event(AUTHCAPTURE)
        assert await begun.deliver(sale, times=3) is Status.PROCESSED
        assert await begun.deliver(other) is Status.PROCESSED
        assert await begun.deliver(sale) is Status.PROCESSED
        assert await begun.connection.fetchval("SELECT count(*) FROM payments") == 2


async def test_an_exception_is_the_handlers_own_and_the_next_delivery_is_the_next_attempt(database: str) -> None:
    attempts: list[int] = []

    @on(AUTHCAPTURE)
    async def book(event: Event, connection: Connection) -> None:
        attempts.append(event.attempt)
        await pay(event, connection)
        if event.attempt == 1:
            raise Retryable("the books are closed", after=300)
        if event.attempt == 2:
            raise KeyError("order")

    async with trial(database, [book]) as begun:
        sale = event(AUTHCAPTURE)
        with pytest.raises(Retryable, match="the books are closed") as closed:
            await begun.deliver(sale)
        assert closed.value.after == 300
        (note,) = closed.value.__notes__
        assert f".book at {__file__}:" in note
        assert "retrying" in note
        assert await begun.status(sale) is Status.RETRYING
        assert await begun.connection.fetchval("SELECT count(*) FROM payments") == 0
        error = await begun.connection.fetchval("SELECT last_error FROM webhookd.work")
        assert "next try in 300.00 s" in error
        with pytest.raises(KeyError):
            await begun.deliver(sale)
        assert await begun.deliver(sale) is Status.PROCESSED
        assert attempts == [1, 2, 3]
        assert await begun.connection.fetchval("SELECT count(*) FROM payments") == 1


async def test_a_permanent_failure_and_the_last_attempt_make_an_event_dead(database: str) -> None:
    runs: list[str] = []

    @on("payment.refund.created")
    async def refuse(event: Event, connection: Connection) -> None:
        runs.append("refuse")
        raise Permanent("the refund has no order")

    @on("payment.void.created", retry=Retry(attempts=2))
    async def fail(event: Event, connection: Connection) -> None:
        runs.append("fail")
        raise ValueError("no void")

    async with trial(database, [refuse, fail]) as begun:
        refund, void = event("payment.refund.created"), event("payment.void.created")
        with pytest.raises(Permanent) as permanent:
            await begun.deliver(refund)
        assert permanent.value.reason == "the refund has no order"
        assert "dead" in permanent.value.__notes__[0]
        assert await begun.deliver(refund) is Status.DEAD
        for status in (Status.RETRYING, Status.DEAD):
            with pytest.raises(ValueError, match="no void"):
                await begun.deliver(void)
            assert await begun.status(void) is status
        assert await begun.deliver(void) is Status.DEAD
    assert runs == ["refuse", "fail", "fail"]


async def test_handlers_of_one_event_run_in_their_order_in_one_transaction(database: str) -> None:
    on(AUTHCAPTURE)(pay)

    @on("payment.*")
    async def fail(event: Event, connection: Connection) -> None:
        assert await connection.fetchval("SELECT count(*) FROM payments") == 1
        raise ValueError("no")

    async with trial(database, [fail, pay]) as begun:  # the order of the registration counts
        with pytest.raises(ValueError, match="no"):
            await begun.deliver(event(AUTHCAPTURE))
        assert await begun.connection.fetchval("SELECT count(*) FROM payments") == 0
    async with trial(database, [pay]) as begun:
        assert await begun.deliver(event(AUTHCAPTURE)) is Status.PROCESSED


async def test_what_only_the_commit_refuses_is_refused(database: str) -> None:
    @on(AUTHCAPTURE)
    async def swallow(event: Event, connection: Connection) -> None:
        with contextlib.suppress(asyncpg.DivisionByZeroError):
            await connection.execute("SELECT 1 / 0")

    @on("payment.refund.created")
    async def break_a_deferred_constraint(event: Event, connection: Connection) -> None:
        await connection.execute("INSERT INTO invoices VALUES (1), (1)")

    async with trial(database, [swallow, break_a_deferred_constraint]) as begun:
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await begun.deliver(event(AUTHCAPTURE))
        refund = event("payment.refund.created")
        with pytest.raises(asyncpg.UniqueViolationError):
            await begun.deliver(refund)
        assert await begun.status(refund) is Status.RETRYING
        assert await begun.connection.fetchval("SELECT count(*) FROM invoices") == 0


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN"])
async def test_a_handler_that_ends_its_transaction_is_reported(database: str, statement: str) -> None:
    @on(AUTHCAPTURE)
    async def end(event: Event, connection: Connection) -> None:
        await connection.execute(statement)

    async with trial(database, [end]) as begun:
        with pytest.raises(DeliveryError, match="a handler committed or rolled back"):
            await begun.deliver(event(AUTHCAPTURE))


async def test_a_handler_that_takes_too_long_or_ends_the_process_fails_the_delivery(database: str) -> None:
    @on(AUTHCAPTURE)
    async def wait(event: Event, connection: Connection) -> None:
        await asyncio.Event().wait()

    @on("payment.refund.created")
    async def leave(event: Event, connection: Connection) -> None:
        sys.exit(3)

    async with trial(database, [wait, leave], handler_timeout=0.2) as begun:
        with pytest.raises(DeliveryError, match=r"took longer than WEBHOOKD_HANDLER_TIMEOUT \(0\.2 s\) \[handler .*wait at "):
            await begun.deliver(event(AUTHCAPTURE))
        with pytest.raises(DeliveryError, match="SystemExit"):
            await begun.deliver(event("payment.refund.created"))


async def test_a_handler_that_does_not_end_loses_its_connection(database: str) -> None:
    go = asyncio.Event()

    @on(AUTHCAPTURE)
    async def stay(event: Event, connection: Connection) -> None:
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()

    async with trial(database, [stay], handler_timeout=0.1) as begun:
        with pytest.raises(DeliveryError, match="did not end when they were cancelled") as stuck:
            await begun.deliver(event(AUTHCAPTURE))
        assert "nothing else can be delivered" in stuck.value.__notes__[0]
        go.set()


async def test_effects_that_happen_once_pass_and_others_are_named(database: str) -> None:
    on("payment.refund.created")(pay)

    @on(AUTHCAPTURE)
    async def book(event: Event, connection: Connection) -> None:
        await connection.execute("INSERT INTO orders VALUES ($1) ON CONFLICT DO NOTHING", event.payload["id"])

    @on("payment.void.created")
    async def add(event: Event, connection: Connection) -> None:
        await connection.execute('UPDATE books."Odd name" SET x = x + 1')

    async with trial(database, [book, pay, add]) as begun:
        await begun.assert_once(event(AUTHCAPTURE))
        assert await begun.connection.fetchval("SELECT count(*) FROM orders") == 1
        twice = r"an operator forced a replay, .*Tables: public\.payments \(1 rows after one run, and 2 rows\)$"
        with pytest.raises(AssertionError, match=twice):
            await begun.assert_once(event("payment.refund.created"))
        await begun.assert_once(event("payment.refund.created"), forced=False)
        await begun.connection.execute('INSERT INTO books."Odd name" VALUES (1)')
        with pytest.raises(AssertionError, match=r'Tables: books\."Odd name" \(other values\)$'):
            await begun.assert_once(event("payment.void.created"))
        done = event(AUTHCAPTURE)
        await begun.deliver(done)
        with pytest.raises(MisuseError, match="was delivered before"):
            await begun.assert_once(done)


async def test_all_columns_count_whatever_their_names(database: str) -> None:
    @on(AUTHCAPTURE)
    async def count(event: Event, connection: Connection) -> None:
        await connection.execute("UPDATE public.counters SET n = n + 1")

    async with trial(database, [count]) as begun:
        await begun.connection.execute("CREATE TABLE public.counters (t text, n int)")
        await begun.connection.execute("INSERT INTO public.counters VALUES ('sales', 0)")
        with pytest.raises(AssertionError, match=r"Tables: public\.counters \(other values\)$"):
            await begun.assert_once(event(AUTHCAPTURE))


async def test_a_trial_waits_and_handlers_may_pause_whatever_limits_the_role_has(database: str) -> None:
    limits = {"statement_timeout": "50ms", "lock_timeout": "40ms"}
    limited = f"{database}{'&' if '?' in database else '?'}" + "&".join(f"{name}={value}" for name, value in limits.items())
    on(AUTHCAPTURE)(pay)
    session = await connect(database)
    async with trial(database, [pay]):
        waiting = asyncio.create_task(_limits(limited))
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND waitstart < now() - interval '0.2 s'"
        await until(lambda: _is(session, waits, 1), "it waits for longer than its own limits")
    assert await waiting == {**limits, "idle_in_transaction_session_timeout": "0"}
    await session.close()


async def _limits(url: str) -> dict[str, str]:
    async with trial(url, [pay]) as begun:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        return {name: str(await begun.connection.fetchval(f"SHOW {name}")) for name in names}


async def test_a_handler_that_remembers_a_run_that_was_undone_is_found(database: str) -> None:
    known: set[str] = set()

    @on(AUTHCAPTURE)
    async def book(event: Event, connection: Connection) -> None:
        if event.notification_id not in known:
            known.add(event.notification_id)
            await pay(event, connection)

    async with trial(database, [book]) as begun:
        with pytest.raises(
            AssertionError, match=r"ended before the commit\. Tables: public\.payments \(0 rows .* and 1 rows\)"
        ):
            await begun.assert_once(event(AUTHCAPTURE))


async def test_handlers_are_named_by_module_or_by_function(database: str, registry: Registry) -> None:
    here = sys.modules[__name__]
    with pytest.raises(MisuseError, match=rf"the module {__name__} registers no handler"):
        async with trial(database, [here]):
            pass
    on(AUTHCAPTURE)(pay)
    on("payment.refund.*")(pay)
    async with trial(database, [here]) as begun:
        await begun.deliver(event(AUTHCAPTURE))
        await begun.deliver(event("payment.refund.created"))
        with pytest.raises(
            MisuseError, match=r'no handler is for the type "net\.authorize\.payment\.void\.created"; .*pay for'
        ):
            await begun.deliver(event("payment.void.created"))
        with pytest.raises(MisuseError, match="was not delivered"):
            await begun.status(event(AUTHCAPTURE))
    with pytest.raises(MisuseError, match=r"the function .*\.nobody \(.*\) registers no handler; decorate"):
        async with trial(database, [nobody]):
            pass
    with pytest.raises(MisuseError, match="needs handlers"):
        async with trial(database, []):
            pass
    with pytest.raises(MisuseError, match="registers no handler"):
        async with trial(database, [ModuleType("tests.integration.test_test")]):  # no package of this module
            pass


async def nobody(event: Event, connection: Connection) -> None: ...


async def test_hooks_of_the_handlers_module_run_and_a_replaced_one_does_not(database: str) -> None:
    steps: list[str] = []

    @lifespan
    async def client() -> AsyncIterator[str]:
        steps.append("start")
        yield "real"
        steps.append("stop")

    @on(AUTHCAPTURE)
    async def call(event: Event, connection: Connection) -> None:
        steps.append(client.value)

    async with trial(database, [call]) as begun:
        await begun.deliver(event(AUTHCAPTURE))
    with client.replaced_by("fake"):
        async with trial(database, [call]) as begun:
            await begun.deliver(event(AUTHCAPTURE))
    assert steps == ["start", "real", "stop", "fake"]
    with pytest.raises(HookError):
        _ = client.value


async def test_a_hook_that_fails_fails_the_trial(database: str) -> None:
    on(AUTHCAPTURE)(pay)

    @lifespan
    async def background() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            yield

    failed = asyncio.Event()

    async def fail() -> None:
        await failed.wait()
        raise ValueError

    async def fail_meanwhile() -> None:
        async with trial(database, [pay]) as begun:
            failed.set()
            await begun.deliver(event(AUTHCAPTURE))

    with pytest.raises(HookError, match="a task of a hook failed during the test"):
        await fail_meanwhile()

    @lifespan
    async def broken() -> AsyncIterator[int]:
        yield int("x")

    with pytest.raises(HookError, match=r"the hook .*\.broken \(.*\) failed"):
        async with trial(database, [pay]):
            pass


async def test_trials_on_one_database_run_one_after_the_other(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on("payment.*")(pay)
    ended: list[int] = []

    async def one(number: int) -> None:
        async with trial(database, [pay]) as begun:
            await begun.deliver(event(AUTHCAPTURE))
            ended.append(number)

    session = await connect(database)
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with trial(database, [pay]) as begun:
        await begun.deliver(event("payment.refund.created"))
        others = [asyncio.create_task(one(number)) for number in (1, 2)]
        await until(lambda: _is(session, waits, 2), "both wait")
        await begun.deliver(event(AUTHCAPTURE))
        assert ended == []
    await asyncio.gather(*others)
    assert sorted(ended) == [1, 2]
    monkeypatch.setattr(rolled_back, "_OTHERS", 0.1)
    async with trial(database, [pay]):
        with pytest.raises(SettingsError, match="give each process of pytest a database of its own"):
            await one(3)
    await session.close()


async def _is(session: asyncpg.Connection[asyncpg.Record], query: str, wanted: int) -> bool:
    return bool(await session.fetchval(query) == wanted)


async def test_a_database_that_cannot_be_used_is_reported_with_the_remedy(empty_url: str, registry: Registry) -> None:
    on(AUTHCAPTURE)(pay)
    with pytest.raises(SettingsError, match="no schema webhookd of webhookd yet: run `webhookd migrate`"):
        async with trial(empty_url, [pay]):
            pass
    with pytest.raises(SettingsError, match="no such database"):
        async with trial(f"{empty_url}x", [pay]):
            pass


@pytest.mark.parametrize("schema", ["hooks", "public"])
async def test_webhookds_tables_can_be_in_another_schema(empty_url: str, schema: str) -> None:
    await migrate(empty_url, schema=schema)
    session = await connect(empty_url)
    await session.execute("CREATE TABLE public.payments (id text, amount numeric)")
    await session.close()
    on(AUTHCAPTURE)(pay)
    try:
        async with trial(empty_url, [pay], schema=schema) as begun:
            await begun.assert_once(event(AUTHCAPTURE), forced=False)
            with pytest.raises(AssertionError, match=r"Tables: public\.payments .2 rows after one run, and 3 rows.$"):
                await begun.assert_once(event(AUTHCAPTURE))
            assert await begun.connection.fetchval(f"SELECT count(*) FROM {schema}.transactions") == 2
    finally:
        queries.use(queries_module.SCHEMA)
