"""The intake: an authentic body becomes a committed event, a known duplicate or quarantine. Only then is it answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from webhookd.authorizenet.notification import Notification, check_age, parse
from webhookd.authorizenet.signature import Verifier, fingerprint
from webhookd.errors import RefusedError, UnavailableError, Unusable, UnusableError
from webhookd.http.admission import Admission
from webhookd.queue.relay import HOT_PATH_GRACE, Relay
from webhookd.receive.refusal import refusal
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import Watch
from webhookd.settings import Settings
from webhookd.store.database import Database
from webhookd.store.idempotency import IdempotencyKeys, Seen
from webhookd.store.keys import hash_of_body, new_id
from webhookd.store.outbox import Outgoing
from webhookd.store.provider_pings import Pings
from webhookd.store.receipts import Accepted, Arrival, Quarantined, Receipts, why_not_stored
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from webhookd.telemetry.tracing import Origin, Tracing

_MAX_BATCH = 256
_COMMITS = 3  # group commits under way at a time: while PostgreSQL runs some, webhookd prepares the next one
_FILL = 21  # webhooks; while one commit is under way, another one for fewer webhooks would cost more than it saves
# Under heavy load with few duplicates, do not ask Redis: Redis costs all webhooks more than it saves the few duplicates, and
# PostgreSQL finds duplicates too.
_HEAVY = 16  # webhooks in a batch, from which the load is heavy
_FEW = 0.05  # fraction of duplicates among the webhooks, below which duplicates are few
_LATEST = 0.1  # weight of the latest batch in that fraction


class ReceiptOutcome(StrEnum):
    """The outcomes that a 200 reports."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    TEST = "test"


class Receipt(NamedTuple):
    """The result for an authentic body. PostgreSQL has committed what the result reports."""

    outcome: ReceiptOutcome
    id: UUID


class Intake:
    """The intake: verifies, deduplicates, commits. `relay` is None if another process relays."""

    def __init__(
        self,
        settings: Settings,
        receipts: Receipts,
        idempotency: IdempotencyKeys,
        database: Database,
        relay: Relay | None,
        admission: Admission,
        pings: Pings,
        *,
        metrics: Metrics,
        watch: Watch,
        tracing: Tracing | None = None,
    ) -> None:
        self._receipts = receipts
        self._idempotency = idempotency
        self._database = database
        self._relay = relay
        self._admission = admission
        self._pings = pings
        self._verifiers: dict[str, Verifier] = {}
        self._key_last_used = metrics.key_last_used
        self._mismatches = metrics.body_mismatches
        self._keys: set[tuple[str, str]] = set()  # pairs of an account and the fingerprint of one of its keys
        self.renew(settings.keys_by_account)
        self._max_event_age = settings.max_event_age
        self._max_clock_skew = settings.max_clock_skew
        self._timeout = settings.commit_timeout
        self._metrics = metrics
        self.tracing = tracing
        self._duplicates = {layer: metrics.duplicates.labels(layer) for layer in ("redis", "notification_id", "content")}
        self._commits: Batcher[Arrival, Accepted] = Batcher(
            "group commit",
            self._commit,
            watch,
            max_batch=_MAX_BATCH,
            max_pending=settings.max_pending,
            workers=_COMMITS,
            fill=_FILL,
            timeout=settings.commit_timeout,
        )
        self._quarantine: Batcher[Quarantined, UUID] = Batcher(
            "quarantine",
            self._commit_quarantine,
            watch,
            max_batch=_MAX_BATCH,
            max_pending=settings.max_pending,
            workers=_COMMITS,
            fill=_FILL,
            timeout=settings.commit_timeout,
        )
        self._repeated = 0.0  # fraction of duplicates among the latest webhooks
        self._stopping = False

    async def start(self) -> None:
        """Starts committing."""
        self._stopping = False
        await self._admission.start()
        await self._commits.start()
        await self._quarantine.start()

    async def stop(self) -> None:
        """Commits the accepted webhooks, and returns."""
        self._stopping = True
        await self._commits.stop()
        await self._quarantine.stop()
        await self._pings.stop()
        await self._admission.stop()

    def refuse(self) -> None:
        """Refuses new requests from now on. Requests under way are finished."""
        self._stopping = True

    def renew(self, keys: Mapping[str, Sequence[str]]) -> None:
        """Verifies by these accounts and keys from now on. Webhooks that are verified already are not affected."""
        self._verifiers = {account: Verifier(own) for account, own in keys.items()}
        now = {(account, fingerprint(key)) for account, own in keys.items() for key in own}
        for account, key in now - self._keys:
            self._key_last_used.labels(account, key).set(0)
        for account, key in self._keys - now:
            self._key_last_used.remove(account, key)
        self._keys = now
        for account in keys:  # make these series at the start: if a series began at 1, Prometheus would see no increase
            self._mismatches.labels(account)

    def knows(self, account: str) -> bool:
        """Returns whether the account is configured."""
        return account in self._verifiers

    def check(self) -> None:
        """Raises UnavailableError if no webhook can be stored now."""
        if self._stopping:
            raise UnavailableError("webhookd", "shutting down")
        if not self._database.up:
            raise UnavailableError("postgresql", "away")

    async def take(self, account: str, body: bytes, signature: str | None, origin: Origin | None = None) -> Receipt:
        """Verifies and commits one body of a known account. `origin`: the origin of the request, if it is traced.

        Raises SignatureError if the body is not authentic. Raises UnavailableError, OverloadedError or TimeoutError if it could
        not be made durable in time. Then the body may be committed or not, and the provider's retry settles the matter.
        """
        key = self._verifiers[account].verify(body, signature)
        try:
            notification = parse(body, account)
            if self._pings.old or self._pings.concern(account, notification):
                with self._admission.waits():
                    test = await self._test(account, notification, body, key)
                if test is not None:
                    return Receipt(ReceiptOutcome.TEST, test)
            check_age(notification.event_date, self._database.now(), self._max_event_age, self._max_clock_skew)
            span = traceparent = None
            if self.tracing is not None and origin is not None:
                span, traceparent = self.tracing.receive(account, origin, notification.event_type)
            with self._admission.waits():
                arrival = Arrival(new_id(), account, notification, key, body, hash_of_body(body), traceparent)
                waiting = self._commits.submit(arrival)
                if span is not None:
                    waiting.add_done_callback(partial(self._answered, span))
                accepted = await waiting
        except UnusableError as error:
            return await self._set_aside(account, body, key, error, origin)
        if accepted.layer is None:
            return Receipt(ReceiptOutcome.ACCEPTED, accepted.id)
        self._duplicates[accepted.layer].inc()
        if not accepted.same_body:
            self._mismatches.labels(account).inc()
            logger.warning("a known notification id came with another body", account=account, event_id=str(accepted.id))
        return Receipt(ReceiptOutcome.DUPLICATE, accepted.id)

    async def _test(self, account: str, notification: Notification, body: bytes, key: str) -> UUID | None:
        """Keeps the sample of a ping that webhookd ordered, which is no event. Returns its id; None for a real notification."""
        if self._pings.old:
            await self._pings.renew()
        if not self._pings.concern(account, notification):
            return None
        async with asyncio.timeout(self._timeout):
            return await self._pings.keep(account, notification, body, key)

    async def _set_aside(self, account: str, body: bytes, key: str, why: UnusableError, origin: Origin | None) -> Receipt:
        """Commits an authentic body to quarantine. Raises the errors of `take`."""
        with self._admission.waits():
            quarantined = Quarantined(new_id(), account, why.reason, why.detail, key, body, hash_of_body(body))
            waiting = self._quarantine.submit(quarantined)
            if self.tracing is not None and origin is not None:
                waiting.add_done_callback(partial(self._answered, self.tracing.receive(account, origin)[0]))
            quarantine_id = await waiting
        logger.warning("quarantined", account=account, reason=why.reason, quarantine=str(quarantine_id))
        return Receipt(ReceiptOutcome.QUARANTINED, quarantine_id)

    def _answered(self, span: Span, waiting: asyncio.Future[Accepted] | asyncio.Future[UUID]) -> None:
        """Ends the span of a webhook whose answer is known."""
        if self.tracing is None or waiting.cancelled():
            return
        error = waiting.exception()
        if isinstance(error, UnusableError):
            return  # the body goes to quarantine, which has another span
        if isinstance(error, Exception):
            answer = refusal(error)
            self.tracing.answered(span, answer.status, answer.outcome, error=error)
            return
        kept = waiting.result()
        if not isinstance(kept, Accepted):
            self.tracing.answered(span, 200, ReceiptOutcome.QUARANTINED, quarantine_id=kept)
            return
        outcome = ReceiptOutcome.ACCEPTED if kept.layer is None else ReceiptOutcome.DUPLICATE
        self.tracing.answered(span, 200, outcome, event_id=kept.id, layer=kept.layer)

    async def _commit(self, arrivals: list[Arrival]) -> list[Accepted | BaseException]:
        self._verified(arrivals)
        known = await self._seen(arrivals)
        # Believe Redis only if it remembers exactly these bytes. After any other reply, PostgreSQL decides.
        results: list[Accepted | BaseException | None] = [
            Accepted(seen.event_id, "redis") if seen is not None and seen.body_hash == arrival.body_hash else None
            for arrival, seen in zip(arrivals, known, strict=True)
        ]
        new = [arrival for arrival, result in zip(arrivals, results, strict=True) if result is None]
        committed = iter(await self._commit_new(new) if new else ())
        told = [next(committed) if result is None else result for result in results]
        repeated = sum(isinstance(result, Accepted) and result.layer is not None for result in told) / len(told)
        self._repeated += (repeated - self._repeated) * _LATEST
        return told

    async def _seen(self, arrivals: list[Arrival]) -> Sequence[Seen | None]:
        if len(arrivals) >= _HEAVY and self._repeated < _FEW:
            return [None] * len(arrivals)
        return await self._idempotency.seen([(arrival.account, arrival.notification.notification_id) for arrival in arrivals])

    async def _commit_new(self, arrivals: list[Arrival]) -> list[Accepted | BaseException]:
        relay = self._relay
        hot = relay is not None and relay.reserve(len(arrivals))
        self._metrics.commit_batch_size.observe(len(arrivals))
        reach(Failpoint.RECEIVE_BEFORE_COMMIT)
        traced = contextlib.nullcontext() if self.tracing is None else self.tracing.commit([a.traceparent for a in arrivals])
        with traced:
            results = await self._receipts.accept(arrivals, send_after=HOT_PATH_GRACE if hot else 0.0)
        reach(Failpoint.RECEIVE_AFTER_COMMIT)
        fresh = [
            Outgoing(
                arrival.id, arrival.account, arrival.notification.event_type, traceparent=arrival.traceparent, due=result.due
            )
            for arrival, result in zip(arrivals, results, strict=True)
            if isinstance(result, Accepted) and result.layer is None
        ]
        if relay is not None and hot:
            relay.offer(fresh)
        # Mark only after the commit: a crash between an earlier mark and the commit would lose the event.
        self._idempotency.mark_seen(
            [
                (arrival.account, arrival.notification.notification_id, Seen(result.id, arrival.body_hash))
                for arrival, result in zip(arrivals, results, strict=True)
                if isinstance(result, Accepted) and result.same_body
            ]
        )
        return [
            # PostgreSQL refused this body alone. The body is authentic, so it goes to quarantine and is not refused.
            UnusableError(Unusable.UNSTORABLE, why_not_stored(result)) if isinstance(result, Exception) else result
            for result in results
        ]

    def _verified(self, bodies: Sequence[Arrival | Quarantined]) -> None:
        now = time.time()
        for account, key in {(body.account, body.key_fingerprint) for body in bodies} & self._keys:
            self._key_last_used.labels(account, key).set(now)

    async def _commit_quarantine(self, bodies: list[Quarantined]) -> Sequence[UUID | BaseException]:
        self._verified(bodies)
        kept = await self._receipts.quarantine(bodies)
        reach(Failpoint.QUARANTINE_AFTER_COMMIT)
        # If not even quarantine can store a body, the answer is 503, and the provider sends the body again.
        return [RefusedError("postgresql", why_not_stored(k)) if isinstance(k, Exception) else k for k in kept]
