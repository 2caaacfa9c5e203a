"""The worker: one message → its event claimed, its handlers run, their effects and `processed` committed together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
from asyncpg.transaction import Transaction

from webhookd.authorizenet.notification import label
from webhookd.errors import BusyError, Permanent, Retryable, UnavailableError
from webhookd.event import Event
from webhookd.failpoints import Failpoint, reach
from webhookd.lifecycle import shielded
from webhookd.logs import logger, where
from webhookd.metrics import Metrics
from webhookd.process.backoff import asked_delay, retry_delay
from webhookd.process.handlers import Registry
from webhookd.queue.acks import Acks
from webhookd.queue.dead_letters import DeadLetters
from webhookd.queue.leases import Leases
from webhookd.queue.sqs import Body, Message
from webhookd.store.claims import Claims
from webhookd.store.database import Connection, Database, unavailable
from webhookd.store.events import Claimed, EventStore, storable

_CANCELLED = 2.0  # seconds that handlers have to end when they are cancelled
_BOOKKEEPING = 10.0  # seconds, for each step after the handlers
_BUSY = 1.0  # seconds for each receive so far, until a message comes back whose event another worker has
_LONGEST_BUSY = 30.0
_INTERRUPTED = 2.0  # seconds at first, doubling, until a message comes back that PostgreSQL was not there for
_LONGEST_INTERRUPTED = 60.0
_EARLY = 0.5  # seconds: a retry that comes back this little before its time is not sent away again


class Outcome(StrEnum):
    """What came of one delivery."""

    PROCESSED = "processed"
    RETRYING = "retrying"
    DEAD = "dead"
    DUPLICATE = "duplicate"  # its event had ended before
    BUSY = "busy"  # another worker has its event
    EARLY = "early"  # its event's retry is not due yet
    INTERRUPTED = "interrupted"  # PostgreSQL went away, or the daemon stops: no attempt is counted
    UNKNOWN = "unknown"  # no such event here, or no message of ours: left to the redrive policy


@dataclass(slots=True, frozen=True)
class Limits:
    """Seconds and counts of the settings that bear the same names."""

    handler_timeout: float
    max_attempts: int
    retry_base: float
    retry_cap: float
    resend_after: float
    max_stuck: int  # handlers that cannot be ended, until the daemon gives itself up


class TransactionEndedError(Exception):
    """A handler ended the transaction that it was given, so its effects no longer commit with the event."""

    def __init__(self) -> None:
        super().__init__("a handler committed or rolled back the transaction of the connection that it was given")


class StuckError(Exception):
    """Handlers that do not end when they are cancelled; their connection was cut."""


class Worker:
    """Works on one message at a time; any number of `work` calls run side by side."""

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
        broken: asyncio.Event,
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
        self._broken = broken
        self._stuck: set[asyncio.Task[BaseException | None]] = set()

    async def work(self, message: Message) -> None:
        """Brings `message` to an outcome. Whatever happens, the message is deleted only after its event has ended."""
        self._leases.hold(message)
        outcome = Outcome.INTERRUPTED
        try:
            outcome = await self._work(message)
        except UnavailableError as error:
            logger.warning("an event was interrupted", event_id=_event_id(message), dependency=error.dependency)
            # Further and further away: what is put off too often, SQS moves to the dead-letter queue, tried or not.
            await self._hide(message, retry_delay(message.receive_count, _INTERRUPTED, _LONGEST_INTERRUPTED))
        except asyncio.CancelledError:
            # Stopping: the transaction was rolled back, so another worker may have the event at once.
            await shielded(self._hide(message, 0), _BOOKKEEPING)
            raise
        finally:
            await self._leases.release(message)
            event_type = label(message.body.event_type) if message.body else "other"
            self._metrics.processed.labels(event_type, outcome).inc()

    async def _work(self, message: Message) -> Outcome:
        body = message.body
        if body is None:
            logger.warning("a message in the queue is not one of webhookd's; it is left to the redrive policy")
            return Outcome.UNKNOWN
        token = await self._claims.acquire(body.event_id)
        if token is None and message.receive_count == 1:
            return await self._busy(message)
        # A message that came back was not held on to, so its claim may be that of a worker which died: then the row lock alone
        # says whether someone has the event, and nobody waits for the claim's end.
        reach(Failpoint.WORKER_AFTER_CLAIM)
        try:
            if body.dead is not None:
                await self._revive(body)
            return await self._attempt(message, body, wait=token is not None)
        except BusyError:
            return await self._busy(message)
        finally:
            if token is not None:
                self._claims.release(body.event_id, token)

    async def _busy(self, message: Message) -> Outcome:
        await self._hide(message, min(_BUSY * message.receive_count, _LONGEST_BUSY))
        return Outcome.BUSY

    async def _revive(self, body: Body) -> None:
        # Only an operator's redrive brings a dead-letter copy here: dead_letters.py sees to it.
        if await self._store.revive(
            body.event_id,
            died=body.died,
            actor="operator (queue redrive)",
            reason="its message was moved from the dead-letter queue back to the queue",
            resend_after=self._limits.resend_after,
        ):
            self._metrics.dead_letters_moved.labels("redriven").inc()

    async def _attempt(self, message: Message, body: Body, *, wait: bool) -> Outcome:
        try:
            async with self._database.acquire("work") as connection:
                claimed, result = await self._transact(connection, body, wait=wait)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if unavailable(error):
                raise UnavailableError("postgresql", where(error)) from error
            raise
        if isinstance(result, BaseException):
            if claimed is None or isinstance(result, UnavailableError):
                raise result
            return await shielded(self._failed(message, claimed, result), _BOOKKEEPING)
        if result is Outcome.EARLY and claimed is not None:
            await self._hide(message, claimed.wait)
        elif result in (Outcome.PROCESSED, Outcome.DUPLICATE):
            await self._leases.release(message)
            self._acks.delete(message)
        elif result is Outcome.UNKNOWN:
            logger.warning("a message names an event that is not in the database", event_id=str(body.event_id))
        return result

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
            if claimed.wait > _EARLY:
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
        if len(self._stuck) >= self._limits.max_stuck:
            # They take memory, and the processor, and nothing can end them but the end of the process.
            logger.critical("too many handlers do not end: the daemon stops, to be started anew", stuck=len(self._stuck))
            self._broken.set()
        return False

    async def _failed(self, message: Message, claimed: Claimed, error: BaseException) -> Outcome:
        event = claimed.event
        detail = _told(error)
        if isinstance(error, Permanent):
            return await self._dead(message, claimed, "permanent", error.reason, detail)
        if isinstance(error, TransactionEndedError):
            # Its effects may be committed, so another attempt could double them.
            return await self._dead(message, claimed, "transaction_ended", str(error), detail)
        if event.attempt >= self._limits.max_attempts:
            reason = f"all {event.attempt} attempts are spent; the last one raised {where(error)}"
            return await self._dead(message, claimed, "attempts_spent", reason, detail)
        if isinstance(error, Retryable) and error.after is not None:
            delay = asked_delay(error.after)
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
            claimed, reason=f"{detail} (next try in {delay:.2f} s)", delay=delay, resend_after=self._limits.resend_after
        ):
            self._metrics.retries.labels(label(event.event_type)).inc()
        reach(Failpoint.WORKER_AFTER_RETRY)
        await self._hide(message, delay)
        return Outcome.RETRYING

    async def _dead(self, message: Message, claimed: Claimed, code: str, reason: str, detail: str) -> Outcome:
        event = claimed.event
        logger.error(
            "an event is dead", event_id=str(event.id), event_type=event.event_type, attempt=event.attempt, reason=code
        )
        died = await self._store.mark_dead(
            event.id,
            attempts=claimed.attempts,
            from_status=claimed.status,
            reason=reason,
            detail=detail,
            actor="worker",
        )
        if died is not None:
            reach(Failpoint.WORKER_AFTER_DEATH)
            self._metrics.dead.labels(code).inc()
            self._metrics.attempts.observe(event.attempt)
            self._dead_letters.copy(Body(event.id, event.account, event.event_type, storable(reason), died))
        await self._leases.release(message)
        self._acks.delete(message)
        return Outcome.DEAD

    async def _hide(self, message: Message, seconds: float) -> None:
        await self._leases.release(message)
        await self._acks.hide(message, seconds)


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


def _event_id(message: Message) -> str | None:
    return str(message.body.event_id) if message.body else None
