"""A trial of handlers: events go the daemon's own way through PostgreSQL, in one transaction that is rolled back at the end.

The daemon's own code receives and sends, folds into the timeline, makes and records the attempt, and retries. Left out are the
listener, Redis and SQS.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from types import ModuleType
from typing import TypeAlias
from uuid import UUID

from webhookd.authorizenet.details import Details
from webhookd.authorizenet.notification import parse
from webhookd.errors import HookError, WebhookdError, causes_of
from webhookd.event import Event, Status, details_beside, give_details
from webhookd.operate.events import Events
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.process import handlers as registry
from webhookd.process.attempt import Attempts, Step
from webhookd.process.callables import module_of, told
from webhookd.process.details import EventDetails
from webhookd.process.failure import AttemptFailedError, Failure, TransactionEndedError
from webhookd.process.fold import Folds
from webhookd.process.handlers import Handler, Registration, Registry
from webhookd.process.hooks import Hooks
from webhookd.process.records import Records
from webhookd.process.result import Outcome
from webhookd.process.retry import Policy
from webhookd.process.runner import HandlerRunner
from webhookd.process.turns import Turns
from webhookd.queue.message import EventReference
from webhookd.runtime.loops import Watch
from webhookd.settings import Settings
from webhookd.store.details import DetailsStore
from webhookd.store.event_store import Claimed, EventStore
from webhookd.store.keys import hash_of_body
from webhookd.store.outbox import Outbox
from webhookd.store.pools import Connection, is_lost
from webhookd.store.queries import SCHEMA
from webhookd.store.receipts import Arrival, Receipts, why_not_stored
from webhookd.store.rolled_back import Content, RolledBack
from webhookd.telemetry.metrics import Metrics
from webhookd.testing.events import MisuseError

Handlers: TypeAlias = Iterable[ModuleType | Handler]

_MOST = 100_000  # pieces of work of the database that are due besides the trial's own
_HOOKS = 10.0  # seconds that hooks have to stop


class DeliveryError(WebhookdError):
    """An attempt failed without an exception of a handler, for example because the handlers took too long."""


class _Runner(HandlerRunner):
    """The daemon's runner of handlers. It also checks what only a commit checks."""

    database: RolledBack

    async def run(self, event: Event, connection: Connection) -> Failure | None:
        failure = await super().run(event, connection)
        if failure is None and not is_lost(connection) and connection.is_in_transaction():
            await self.database.check_constraints()
        return failure


class _Details(EventDetails):
    """The daemon's giver of details. It gives the details that a test names, and else those of the database."""

    named: dict[UUID, Details]  # by the id of the event in the ledger

    async def give(self, connection: Connection, claimed: Claimed) -> tuple[bool, Failure | None]:
        if (found := self.named.get(claimed.event.id)) is None:
            return await super().give(connection, claimed)
        give_details(claimed.event, found)
        return False, None


class _NoDeadLetters:
    """The dead-letter queue of a trial, which has no queue. The death is in PostgreSQL."""

    def copy(self, reference: EventReference) -> None:
        """Sends nothing."""


class Trial:
    """Handlers, and a connection whose transaction is rolled back at the end. `trial` makes it."""

    def __init__(self, database: RolledBack, handlers: Registry, *, timeout: float, metrics: Metrics, watch: Watch) -> None:
        self._database = database
        self._handlers = handlers
        self._receipts = Receipts(database)
        self._outbox = Outbox(database)
        self._store = store = EventStore(database)
        self._operator = Events(OperatorQueries(database))
        self._folds = Folds(database, store, handlers, metrics=metrics)
        runner = _Runner(handlers, timeout=timeout, most_stuck=sys.maxsize, metrics=metrics, watch=watch, around=self._watching)
        runner.database = database
        policy = _usual_policy()
        details = DetailsStore(database)
        self._details = _Details(details, handlers)
        self._details.named = {}
        self._attempts = Attempts(database, store, runner, self._details, Turns(1), most=policy.attempts, metrics=metrics)
        self._records = Records(store, details, _NoDeadLetters(), policy, metrics=metrics)
        self._raised: BaseException | None = None  # the exception of the handler that ran last
        self._ids: dict[UUID, UUID] = {}  # the id of an event → the id under which the ledger has it

    @property
    def connection(self) -> Connection:
        """Returns the connection that handlers get, for a test's own rows. What it writes is rolled back at the end."""
        return self._database.connection

    async def deliver(self, event: Event, *, times: int = 1) -> Status:
        """Delivers an event `times` times, as the provider and the queue do. Returns its status after the last delivery.

        A repeat runs no handler if the event is processed or dead. If it waits for a retry, a repeat is the next attempt.
        Raises the exception of the handler that failed, with a note that names the handler, its place, and what webhookd does
        then; DeliveryError if the attempt failed without such an exception; MisuseError if no handler is for this type.
        """
        __tracebackhide__ = True  # pytest then shows the test, and not this function
        for _ in range(times):
            await self._work(await self._send(event))
        return await self.status(event)

    async def status(self, event: Event) -> Status:
        """Returns the status of an event that was delivered."""
        event_id = self._ids.get(event.id)
        if event_id is None:
            raise MisuseError(f"the event {event.id} was not delivered: call deliver(event) first")
        return Status((await self._store.states([event_id]))[event_id]["status"])

    async def assert_once(self, event: Event, *, forced: bool = True) -> None:
        """Delivers an event in every way in which it can come again, and asserts that its effects are those of one run.

        1. The handlers run, and their process ends before the commit. 2. The event is processed. 3. The provider and the queue
        deliver it again. 4. If `forced`, an operator forces a replay, which runs the handlers again.

        Compares all tables but webhookd's: after 3 and 4 their rows with those after 2, and their numbers of rows after 1 and
        2, since a sequence goes on after a rollback. Raises AssertionError with the tables that differ, and as `deliver` does.
        """
        __tracebackhide__ = True
        reference = await self._send(event)
        async with self._database.undone():
            if await self._work(reference) is not Outcome.PROCESSED:
                raise MisuseError(f"the event {event.id} was delivered before: let assert_once deliver it first")
            killed = await self._database.contents()
        await self._work(reference)
        once = await self._database.contents()
        _compare(_numbers(once), _numbers(killed), "a first attempt whose process ended before the commit")
        await self.deliver(event)
        _compare(once, await self._database.contents(), "the event came again")
        if forced:
            await self._operator.retry(self._ids[event.id], actor="trial", note="", force=True)
            await self._work(await self._reference(event))
            _compare(once, await self._database.contents(), "an operator forced a replay, and the handlers ran again")

    async def _send(self, event: Event) -> EventReference:
        """Receives a notification, and has its work sent. Returns the content of the message."""
        __tracebackhide__ = True
        if not self._handlers.matching(event.event_type):
            patterns = ", ".join(f"{one.name} for {one.pattern}" for one in self._handlers)
            raise MisuseError(f'no handler is for the type "{event.event_type}"; the handlers of this trial are {patterns}')
        arrival = Arrival(event.id, event.account, parse(event.raw, event.account), "", event.raw, hash_of_body(event.raw))
        (accepted,) = await self._receipts.accept([arrival], send_after=0.0)
        if isinstance(accepted, BaseException):
            raise MisuseError(f"PostgreSQL does not store the event: {why_not_stored(accepted)}") from accepted
        self._ids[event.id] = accepted.id
        if (details := details_beside(event)) is not None:
            self._details.named[accepted.id] = details
        if await self.status(event) is Status.RETRYING:  # its delay is over
            await self._operator.retry(accepted.id, actor="trial", note="", force=False)
        return await self._reference(event)

    async def _reference(self, event: Event) -> EventReference:
        lanes = {"fresh": _MOST, "rest": _MOST, "later": _MOST, "lost": 0}
        leased = await self._outbox.lease(**lanes, lease=60.0, resend_after=60.0, longest_wait=60.0)
        event_id = self._ids[event.id]
        # Work that is not sent now has a message already, which comes again.
        attempts = next((work.attempts for work in leased.all if work.id == event_id), 0)
        return EventReference(event_id, event.account, event.event_type, attempts=attempts)

    async def _work(self, reference: EventReference) -> Outcome:
        """Works on an event as a worker does. Raises the error that failed the attempt."""
        __tracebackhide__ = True
        self._raised = None
        try:
            folded = await self._folds.fold_alone(reference)
            step = folded if isinstance(folded, Step) else await self._attempts.make(reference, wait=False)
        except Exception as error:
            # If a handler has ended the transaction, or its connection, the end of a savepoint fails after the attempt.
            failed = next((one for one in causes_of(error) if isinstance(one, AttemptFailedError)), None)
            if failed is None:
                raise
        else:
            return step.outcome
        raise await self._error(failed)

    async def _error(self, failed: AttemptFailedError) -> Exception:
        failure = failed.failure
        raised = (one for one in (self._raised, failed.__cause__) if type(one).__qualname__ == failure.kind)
        error = next((one for one in raised if isinstance(one, Exception)), DeliveryError(failure.detail))
        if isinstance(error, TransactionEndedError):
            error = DeliveryError(str(error))
        if failure.kind == TransactionEndedError.__qualname__ or is_lost(self.connection):
            error.add_note("the transaction of this trial has ended, so nothing else can be delivered in it")
            return error
        result = await self._records.record(failed.claimed, failure)
        then = {
            Outcome.DEAD: "dead: webhookd makes no other attempt",
            Outcome.WAITING: "waiting for the details of its transaction: give them to this test, event(…, details={…})",
        }.get(result.outcome, "retrying: webhookd makes another attempt later")
        by = f" by the handler {failure.handler}{failure.origin}" if failure.handler else ""
        error.add_note(f"attempt {failed.claimed.event.attempt} failed{by}; the event is {then}")
        return error

    @contextlib.contextmanager
    def _watching(self, _: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._raised = error
            raise


@contextlib.asynccontextmanager
async def trial(
    database_url: str,
    handlers: Handlers,
    *,
    schema: str = SCHEMA,
    handler_timeout: float = Settings.model_fields["handler_timeout"].default,
) -> AsyncIterator[Trial]:
    """Connects to a database for tests, begins a transaction, and starts the hooks; undoes all of this at the end.

    `database_url`: a PostgreSQL that has webhookd's schema (`webhookd migrate`) and the shop's own tables.
    `handlers`: modules that have handlers, or handlers themselves.
    `schema`: the schema of webhookd's tables. `handler_timeout`: seconds that an event's handlers have together.

    Hooks (`@lifespan`) of the handlers' modules run meanwhile, but for those that `replaced_by` gave another value. Raises
    SettingsError if the database cannot be used, MisuseError for a function that is no handler, HookError.
    """
    chosen = _chosen(handlers)
    chosen.check(_usual_policy())
    metrics, watch = Metrics(), Watch()
    database = RolledBack(database_url, schema=schema, handler_timeout=handler_timeout, metrics=metrics, watch=watch)
    hooks = Hooks([hook for hook in chosen.hooks if not hook.is_running], watch)
    async with database.begin():
        await hooks.start()
        try:
            yield Trial(database, chosen, timeout=handler_timeout, metrics=metrics, watch=watch)
        finally:
            hooks.stop_by(time.monotonic() + _HOOKS)
            await hooks.stop()
        if watch.broken.is_set():
            raise HookError("a task of a hook failed during the test, which would end the daemon; the log has the error")


def _usual_policy() -> Policy:
    return Policy(*(Settings.model_fields[name].default for name in ("max_attempts", "retry_base", "retry_cap")))


def _chosen(handlers: Handlers) -> Registry:
    """Returns the registered handlers that are named, in the order of their registration, and the hooks of their modules."""
    chosen: list[Registration] = []
    modules: set[str] = set()
    for one in handlers:
        if isinstance(one, ModuleType):
            found = [r for r in registry.registered if _is_in(module_of(r.handler), one.__name__)]
            modules.add(one.__name__)
        else:
            found = [r for r in registry.registered if r.handler == one]
            modules.add(module_of(one))
        if not found:
            what = f"the module {one.__name__}" if isinstance(one, ModuleType) else f"the function {told(one)}"
            raise MisuseError(f'{what} registers no handler; decorate a handler with @on("…")')
        chosen += found
    if not chosen:
        raise MisuseError("a trial needs handlers: name modules or functions")
    result = Registry(r for r in registry.registered if r in chosen)
    result.hooks = [h for h in registry.registered.hooks if any(_is_in(module_of(h.function), name) for name in modules)]
    return result


def _is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def _numbers(contents: Mapping[str, Content]) -> dict[str, Content]:
    return {table: Content(content.rows, 0) for table, content in contents.items()}


def _compare(once: Mapping[str, Content], again: Mapping[str, Content], after: str) -> None:
    __tracebackhide__ = True
    empty = Content(0, 0)
    different = []
    for table in sorted(once.keys() | again.keys()):
        before, now = once.get(table, empty), again.get(table, empty)
        if before.rows != now.rows:
            different.append(f"{table} ({before.rows} rows after one run, and {now.rows} rows)")
        elif before != now:
            different.append(f"{table} (other values)")
    if different:
        raise AssertionError(f"the effects are not those of one run after this: {after}. Tables: {', '.join(different)}")
