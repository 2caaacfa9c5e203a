"""The worker: a message → its events claimed, their handlers run, their effects and `processed` committed together.

An event that users' handlers are for has a transaction of its own, so that none of them can harm a neighbour. Events that only
the timeline is for share transactions (shared.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import asyncpg
from asyncpg.transaction import Transaction

from webhookd.authorizenet.notification import EVENT_TYPES, label
from webhookd.errors import BusyError, Permanent, Retryable, UnavailableError
from webhookd.event import Event
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import Watch, shielded
from webhookd.logs import Seldom, logger, where
from webhookd.metrics import Metrics
from webhookd.process.backoff import asked_delay, retry_delay
from webhookd.process.handlers import Registry
from webhookd.process.result import Outcome, Result
from webhookd.process.shared import BUSY, EARLY, SharedTransactions
from webhookd.queue.acks import Acks
from webhookd.queue.dead_letters import DeadLetters
from webhookd.queue.leases import Leases
from webhookd.queue.message import Body, Message
from webhookd.queue.proof import is_proven
from webhookd.store.claims import Claims
from webhookd.store.database import Connection, Database
from webhookd.store.events import Claimed, EventStore, storable
from webhookd.store.failures import unavailable

if TYPE_CHECKING:
    from webhookd.tracing import Tracing

_CANCELLED = 2.0  # seconds that handlers have to end when they are cancelled
_BOOKKEEPING = 10.0  # seconds, for each step after the handlers
_LONGEST_BUSY = 30.0
_INTERRUPTED = 2.0  # seconds at first, doubling, until a message comes back that PostgreSQL was not there for
_LONGEST_INTERRUPTED = 60.0

R = TypeVar("R")


@dataclass(slots=True, frozen=True)
class Limits:
    """Seconds and counts of the settings that bear the same names."""

    handler_timeout: float
    max_attempts: int
    retry_base: float
    retry_cap: float
    longest_delay: float  # what the queue can hold a message back
    resend_after: float
    concurrency: int  # transactions at a time, and handlers that cannot be ended until the daemon gives itself up


class TransactionEndedError(Exception):
    """A handler ended the transaction that it was given, so its effects no longer commit with the event."""

    def __init__(self) -> None:
        super().__init__("a handler committed or rolled back the transaction of the connection that it was given")


class StuckError(Exception):
    """Handlers that do not end when they are cancelled; their connection was cut."""


class Worker:
    """Works on messages; any number of `work` calls run side by side, in `concurrency` transactions."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        claims: Claims,
        leases: Leases,
        acks: Acks,
        dead_letters: DeadLetters,
        registry: Registry,
        limits: Limits,
        *,
        metrics: Metrics,
        watch: Watch,
        tracing: Tracing | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._claims = claims
        self._leases = leases
        self._acks = acks
        self._dead_letters = dead_letters
        self._registry = registry
        self._limits = limits
        self._metrics = metrics
        self._tracing = tracing
        # By label, since whoever writes to the queue chooses the types that stand in messages.
        self._processed = functools.cache(metrics.processed.labels)
        # What alerts look at is there before the first one: of a series that begins at 1, Prometheus sees no increase.
        for event_type in (*EVENT_TYPES, "other"):
            self._processed(event_type, Outcome.UNKNOWN)
            metrics.retries.labels(event_type)
        self._broken = watch.broken
        self._turns = asyncio.Semaphore(limits.concurrency)
        self._shared = SharedTransactions(
            database, store, claims, registry, self._turns, metrics=metrics, watch=watch, tracing=tracing
        )
        self._stuck: set[asyncio.Task[BaseException | None]] = set()
        self._tell_unknown = Seldom()
        self._tell_unproven = Seldom()

    async def start(self) -> None:
        """Starts gathering."""
        await self._shared.start()

    async def stop(self) -> None:
        """Ends what is gathered."""
        await self._shared.stop()

    async def work(self, message: Message) -> None:
        """Brings `message` to an outcome.

        Whatever happens, it is deleted only after each of its events has ended, or is due to be sent again.
        """
        self._leases.hold(message)
        try:
            await self._settle(message, await self._results(message))
        except asyncio.CancelledError:
            # Stopping: the transactions were rolled back, so another worker may have the events at once.
            await shielded(self._hide(message, 0), _BOOKKEEPING)
            raise
        finally:
            await self._leases.release(message)

    async def _settle(self, message: Message, results: Sequence[Result]) -> None:
        if all(result.outcome is Outcome.UNKNOWN for result in results):
            return  # another installation's, perhaps; else the redrive policy takes it away
        again = [result.again for result in results if result.again is not None]
        if again:
            await self._hide(message, max(again))
        else:
            await self._leases.release(message)
            self._acks.delete(message)

    async def _results(self, message: Message) -> Sequence[Result]:
        bodies = message.bodies
        if not bodies:
            if self._tell_unknown():
                logger.warning("a message in the queue is not one of webhookd's; it is left to the redrive policy")
            self._processed("other", Outcome.UNKNOWN).inc()
            return [Result(Outcome.UNKNOWN)]
        if message.receive_count > 1:
            # It was interrupted, or one of its events may kill its worker: from now on each is on its own.
            return await (self._each(message, bodies) if len(bodies) == 1 else self._split(message))
        shared = [body for body in bodies if body.dead is None and self._shared.takes(body.event_type)]
        if len(shared) == len(bodies):
            return await self._share(message, bodies)
        alone = [body for body in bodies if body not in shared]
        if not shared:
            return await self._each(message, alone)
        first, second = await asyncio.gather(self._share(message, shared), self._each(message, alone), return_exceptions=True)
        return [*_or_raise(first), *_or_raise(second)]

    async def _split(self, message: Message) -> list[Result]:
        """Leaves what still waits of a bundle to the sweeper; unknown events are dropped, unless there are no others."""
        try:
            known = await self._store.send_alone([body.event_id for body in message.bodies])
            unknown = Result(Outcome.UNKNOWN)
            results = [Result(Outcome.SPLIT) if body.event_id in known else unknown for body in message.bodies]
        except UnavailableError as error:
            results = [self._interrupted(message, error)] * len(message.bodies)
        for body, result in zip(message.bodies, results, strict=True):
            self._count(body, result.outcome)
        return results

    async def _each(self, message: Message, bodies: Sequence[Body]) -> list[Result]:
        """Works on events side by side, each in a transaction of its own."""
        if len(bodies) == 1:
            return [await self._deliver(message, bodies[0])]
        results = await asyncio.gather(*(self._deliver(message, body) for body in bodies), return_exceptions=True)
        return [_or_raise(result) for result in results]

    async def _share(self, message: Message, bodies: Sequence[Body]) -> list[Result]:
        """Works on events in a transaction with others'; on those for which that did not do, alone."""
        results: list[Result | None]
        try:
            results = await self._shared.submit(bodies)
        except UnavailableError as error:
            results = [self._interrupted(message, error)] * len(bodies)
        done = [result for result in results if result is not None]
        for body, result in zip(bodies, results, strict=True):
            if result is not None:
                self._count(body, result.outcome)
        if len(done) < len(bodies):
            left = [body for body, result in zip(bodies, results, strict=True) if result is None]
            done += await self._each(message, left)
        return done

    async def _deliver(self, message: Message, body: Body) -> Result:
        """Works on one event alone, and counts what came of it."""
        if self._tracing is None:
            return await self._counted(message, body)
        with self._tracing.process(body.traceparent, message.id, body.event_id, body.account, body.event_type):
            return await self._counted(message, body)

    async def _counted(self, message: Message, body: Body) -> Result:
        result = Result(Outcome.INTERRUPTED)
        try:
            result = await self._event(message, body)
        except UnavailableError as error:
            result = self._interrupted(message, error)
        finally:
            self._count(body, result.outcome)
            if self._tracing is not None:
                self._tracing.delivered(result.outcome)
        return result

    def _interrupted(self, message: Message, error: UnavailableError) -> Result:
        ids = [str(body.event_id) for body in message.bodies]
        logger.warning("an event was interrupted", event_id=ids[0], events=len(ids), dependency=error.dependency)
        # Further and further away: what is put off too often, SQS moves to the dead-letter queue, tried or not.
        return Result(Outcome.INTERRUPTED, retry_delay(message.receive_count, _INTERRUPTED, _LONGEST_INTERRUPTED))

    async def _event(self, message: Message, body: Body) -> Result:
        busy = Result(Outcome.BUSY, min(BUSY * message.receive_count, _LONGEST_BUSY))
        token, [ours] = await self._claims.acquire([body.event_id])
        if not ours and message.receive_count == 1:
            return busy
        # A message that came back was not held on to, so its claim may be that of a worker which died: then the row lock alone
        # says whether someone has the event, and nobody waits for the claim's end.
        reach(Failpoint.WORKER_AFTER_CLAIM)
        try:
            if body.dead is not None:
                await self._revive(body)
            return await self._attempt(message, body, wait=ours)
        except BusyError:
            return busy
        finally:
            if ours:
                self._claims.release([body.event_id], token)

    def _count(self, body: Body, outcome: Outcome) -> None:
        self._processed(label(body.event_type), outcome).inc()

    async def _revive(self, body: Body) -> None:
        """Revives a dead event by its dead-letter copy, if webhookd wrote that copy for this very death."""
        if body.died is None or not is_proven(body, await self._store.secret()):
            self._metrics.dead_letters_moved.labels("unproven").inc()
            if self._tell_unproven():
                logger.warning(
                    "a dead-letter copy that webhookd did not write revives nothing; `webhookd dead-letters redrive` does",
                    event_id=str(body.event_id),
                )
            return
        if await self._store.revive(
            body.event_id,
            died=body.died,
            actor="queue redrive",  # who moved the copy is not known
            reason="its dead-letter copy was moved back to the queue",
            resend_after=self._limits.resend_after,
        ):
            self._metrics.dead_letters_moved.labels("redriven").inc()

    async def _attempt(self, message: Message, body: Body, *, wait: bool) -> Result:
        # Where others share the message, a retry is sent by the sweeper when it is due, in a message of its own.
        bundled = len(message.bodies) > 1
        try:
            async with self._turns, self._database.acquire("work", reset=True) as connection:
                claimed, result = await self._transact(connection, body, wait=wait)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if unavailable(error):
                raise UnavailableError("postgresql", where(error)) from error
            raise
        if self._tracing is not None and claimed is not None:
            self._tracing.attempted(claimed.event.attempt, result if isinstance(result, BaseException) else None)
        if isinstance(result, BaseException):
            if claimed is None or isinstance(result, UnavailableError):
                raise result
            return await shielded(self._failed(claimed, result, bundled=bundled), _BOOKKEEPING)
        if result is Outcome.EARLY and claimed is not None:
            return Result(result, None if bundled else claimed.wait)
        if result is Outcome.UNKNOWN and self._tell_unknown():
            logger.warning("a message names an event that is not in the database", event_id=str(body.event_id))
        return Result(result)

    async def _transact(
        self, connection: Connection, body: Body, *, wait: bool
    ) -> tuple[Claimed | None, Outcome | BaseException]:
        """Claims, handles and commits; returns what was claimed and the outcome, or the handlers' error after a rollback."""
        transaction = connection.transaction()
        await transaction.start()
        committed = False
        claimed = None
        try:
            claimed = await self._store.claim(connection, body.event_id, wait=wait)
            if claimed is None:
                return None, Outcome.UNKNOWN
            if claimed.status.finished:
                return claimed, Outcome.DUPLICATE
            if claimed.wait > EARLY:
                return claimed, Outcome.EARLY
            if not claimed.has_body:
                return claimed, Permanent("its body is gone from the database")
            error = await self._handle(claimed.event, connection)
            reach(Failpoint.WORKER_AFTER_HANDLERS)
            if isinstance(error, StuckError):
                return claimed, error
            if _is_lost(connection):
                # By PostgreSQL or by a handler: it counts as an attempt, or a handler that closes it would be called for ever.
                return claimed, error or Retryable("the connection was lost while the handlers ran")
            if not connection.is_in_transaction():
                return claimed, TransactionEndedError()
            if error is not None:
                return claimed, error
            seconds = await shielded(self._commit(connection, transaction, claimed), _BOOKKEEPING)
            committed = True
            reach(Failpoint.WORKER_AFTER_COMMIT)
            self._metrics.end_to_end_seconds.observe(seconds)
            self._metrics.attempts.observe(claimed.event.attempt)
        except Exception as error:
            if claimed is None or unavailable(error) or isinstance(error, UnavailableError):
                raise
            # The statement that marks the event failed: a handler had swallowed a database error, which aborts the
            # transaction.
            return claimed, error
        else:
            return claimed, Outcome.PROCESSED
        finally:
            if not committed and not _is_lost(connection):
                await shielded(self._roll_back(transaction), _BOOKKEEPING)

    async def _commit(self, connection: Connection, transaction: Transaction, claimed: Claimed) -> float:
        seconds = await self._store.mark_processed(connection, claimed)
        if seconds is None:
            raise TransactionEndedError()
        await transaction.commit()
        return seconds

    async def _roll_back(self, transaction: Transaction) -> None:
        # A commit that failed has ended the transaction already; the pool resets the connection in any case.
        with contextlib.suppress(asyncpg.InterfaceError):
            await transaction.rollback()

    async def _handle(self, event: Event, connection: Connection) -> BaseException | None:
        """Runs the event's handlers within their time; returns what one of them raised, or None."""
        started = time.perf_counter()
        # In a task of their own, so that handlers which cannot be ended do not keep the worker.
        handlers = asyncio.create_task(self._run(event, connection), name=f"handlers of {event.id}")
        try:
            await asyncio.wait([handlers], timeout=self._limits.handler_timeout)
            if handlers.done():
                return handlers.result()
            limit = f"WEBHOOKD_HANDLER_TIMEOUT ({self._limits.handler_timeout:g} s)"
            if await self._end(handlers, event, connection):
                return Retryable(f"the handlers took longer than {limit}")
            return StuckError(f"the handlers took longer than {limit}, and did not end when they were cancelled")
        except asyncio.CancelledError:  # the daemon stops
            await shielded(self._end(handlers, event, connection), _BOOKKEEPING)
            raise
        finally:
            self._metrics.handle_seconds.labels(label(event.event_type)).observe(time.perf_counter() - started)

    async def _run(self, event: Event, connection: Connection) -> BaseException | None:
        try:
            for registration in self._registry.matching(event.event_type):
                with contextlib.nullcontext() if self._tracing is None else self._tracing.handler(registration.name):
                    await registration.handler(event, connection)
        except BaseException as error:  # noqa: BLE001  SystemExit in a handler must not end the daemon
            return error
        return None

    async def _end(self, handlers: asyncio.Task[BaseException | None], event: Event, connection: Connection) -> bool:
        """Cancels handlers; False where they swallow that: then their connection is cut, so that PostgreSQL rolls back."""
        handlers.cancel()
        await asyncio.wait([handlers], timeout=_CANCELLED)
        if handlers.done():
            return True
        connection.terminate()
        self._stuck.add(handlers)
        handlers.add_done_callback(self._stuck.discard)
        self._metrics.stuck_handlers.inc()
        logger.error("handlers do not end", event_id=str(event.id), event_type=event.event_type, stuck=len(self._stuck))
        if len(self._stuck) >= self._limits.concurrency:
            # They take memory, and the processor, and nothing can end them but the end of the process.
            logger.critical("too many handlers do not end: the daemon stops, to be started anew", stuck=len(self._stuck))
            self._broken.set()
        return False

    async def _failed(self, claimed: Claimed, error: BaseException, *, bundled: bool) -> Result:
        event = claimed.event
        detail = _told(error)
        if isinstance(error, Permanent):
            return await self._dead(claimed, "permanent", error.reason, detail)
        if isinstance(error, TransactionEndedError):
            # Its effects may be committed, so another attempt could double them.
            return await self._dead(claimed, "transaction_ended", str(error), detail)
        if event.attempt >= self._limits.max_attempts:
            reason = f"all {event.attempt} attempts are spent; the last one raised {where(error)}"
            return await self._dead(claimed, "attempts_spent", reason, detail)
        if isinstance(error, Retryable) and error.after is not None:
            delay = asked_delay(error.after, self._limits.longest_delay)
        else:
            delay = retry_delay(event.attempt, self._limits.retry_base, self._limits.retry_cap)
        logger.warning(
            "an attempt failed",
            event_id=str(event.id),
            event_type=event.event_type,
            attempt=event.attempt,
            error=where(error),
            retry_in=round(delay, 3),
        )
        if await self._store.mark_retrying(
            claimed,
            reason=f"{detail} (next try in {delay:.2f} s)",
            delay=delay,
            resend_after=0.0 if bundled else self._limits.resend_after,
        ):
            self._metrics.retries.labels(label(event.event_type)).inc()
        reach(Failpoint.WORKER_AFTER_RETRY)
        return Result(Outcome.RETRYING, None if bundled else delay)

    async def _dead(self, claimed: Claimed, code: str, reason: str, detail: str) -> Result:
        event = claimed.event
        logger.error(
            "an event is dead", event_id=str(event.id), event_type=event.event_type, attempt=event.attempt, reason=code
        )
        died = await self._store.mark_dead(
            event.id,
            attempts=claimed.attempts,
            redriven_at=claimed.redriven_at,
            from_status=claimed.status,
            reason=reason,
            detail=detail,
            actor="worker",
        )
        if died is not None:
            reach(Failpoint.WORKER_AFTER_DEATH)
            self._metrics.dead.labels(code).inc()
            self._metrics.attempts.observe(event.attempt)
            self._dead_letters.copy(
                Body(event.id, event.account, event.event_type, storable(reason), died, claimed.traceparent)
            )
        return Result(Outcome.DEAD)

    async def _hide(self, message: Message, seconds: float) -> None:
        await self._leases.release(message)
        await self._acks.hide(message, seconds)


def _or_raise(result: R | BaseException) -> R:
    if isinstance(result, BaseException):
        raise result
    return result


def _is_lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # closed, and therefore back with its pool, which no longer lets it be asked
        return True


def _told(error: BaseException) -> str:
    """The error's type and message, for the audit trail."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  a user's exception class can do anything
        message = "(its message cannot be read)"
    return f"{type(error).__qualname__}: {message}" if message else type(error).__qualname__
