"""Takes notifications from the provider's history into the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import (
    CallRejectedError,
    CredentialsRefusedError,
    ProviderError,
    ProviderUnavailableError,
    RecordForbiddenError,
    RecordNotFoundError,
    UnreadableAnswerError,
)
from webhookd.authorizenet.api.operations import ForbiddenCallError
from webhookd.authorizenet.api.results import HistoryRow, PastNotification
from webhookd.authorizenet.gaps import is_ahead
from webhookd.authorizenet.notification import parse
from webhookd.errors import UnusableError
from webhookd.event import HISTORY
from webhookd.settings.provider import ProviderAccess
from webhookd.store.keys import hash_of_body, new_id
from webhookd.store.provider_gaps import Ping, ProviderGaps, Refused
from webhookd.store.receipts import Accepted, Arrival, Receipts, why_not_stored
from webhookd.sync.webhook_url import same_url
from webhookd.telemetry.logs import logger
from webhookd.telemetry.provider_metrics import ProviderMetrics

ACTOR = "gap closer"
_REASON = "from Authorize.Net's history: no webhook had brought it"
_BATCH = 20  # notifications that are fetched before a commit: at two calls a second, a kill costs ten seconds
_CLOCKS = timedelta(minutes=1)  # by which the provider's clock and PostgreSQL's may differ
_IN_A_ROW = 3  # notifications in a row for which the provider does not answer, until it counts as away
_RETENTION_MARGIN = timedelta(days=2)  # retention counts from the receipt, and an eventDate may be a day later
_SAMPLE = "0"  # the id of the entity in a sample


class Limits(NamedTuple):
    """The limits of what is taken. body: bytes. age: by the eventDate; retention would remove an older event."""

    body: int
    age: timedelta


class Webhooks(NamedTuple):
    """The webhooks that are ours, by their ids. `only`: the account has no others, so that a notification must be ours."""

    ids: frozenset[str]
    only: bool


class Span(NamedTuple):
    """The time of the notifications that may be taken, by their eventDate.

    since: older ones are not webhookd's business. until: younger ones may be on their way.
    now: ones that are dated far ahead of this time have a wrong date, and are taken.
    """

    since: datetime
    until: datetime
    now: datetime

    def has(self, at: datetime) -> bool:
        """Returns whether a notification with this date may be taken."""
        return self.since <= at <= self.until or is_ahead(at, self.now)


class Takeover:
    """Fetches notifications of one account, and commits them as the receiver commits webhooks.

    A notification is ours if its webhook has WEBHOOKD_PUBLIC_URL, or once brought an event that a Signature Key verified. All
    others are foreign: another program gets them, and webhookd must not process what that program processes. If no webhook
    is known as ours, nothing is taken.

    Two webhooks of ours bring each event twice. So the second notification of an event becomes an alias of the event.
    One case is left, in which the event is taken twice: the history lists or shows only one of the two notifications, this one
    is taken, and later the other one comes as a webhook. Nothing that both have in common identifies the event. The history
    has three decimals of the date, the webhook up to seven, and a key without the other decimals would also be the key of
    another real event: one request may change an entity twice within a millisecond. It is better to process such an event
    twice than to drop a real one. The guardian reports two webhooks of ours (`doubled`).
    """

    def __init__(
        self,
        access: ProviderAccess,
        client: ProviderClient,
        gaps: ProviderGaps,
        receipts: Receipts,
        limits: Limits,
        metrics: ProviderMetrics,
    ) -> None:
        self._account = access.account
        self._url = access.public_url
        self._client = client
        self._gaps = gaps
        self._receipts = receipts
        self._limits = limits
        self._recovered = metrics.recovered.labels(access.account)
        self.taken = 0  # new events since the start

    def oldest(self, now: datetime) -> datetime:
        """Returns the eventDate from which notifications may be taken. Retention may have removed events that are older."""
        return oldest(self._limits.age, now)

    async def webhooks(self, known: frozenset[str]) -> Webhooks:
        """Returns the webhooks that are ours. `known`: those that were found before."""
        ours, only = set(known) | await self._gaps.seen_webhooks(), False
        if self._url is not None:
            registered = await self._client.webhooks()
            ours |= {one.id for one in registered if one.id and same_url(one.url, self._url)}
            only = bool(registered) and all(one.id in ours for one in registered)
        if ours - known:
            await self._gaps.note_webhooks(ours)
        return Webhooks(frozenset(ours), only)

    async def take(self, rows: Sequence[HistoryRow], ours: Webhooks, pings: Sequence[Ping], span: Span) -> None:
        """Takes notifications, a batch at a time.

        Raises the client's errors about the account, after what was fetched before is committed. If the provider does not
        answer for single notifications, they are noted, and the others are taken; after three in a row, by the next look.
        """
        batch = _Batch()
        failed: list[Refused] = []  # in a row
        elsewhere = await self._gaps.elsewhere([row.notification_id for row in rows])
        try:
            for row in rows:
                if (other := elsewhere.get(row.notification_id)) is not None:
                    batch.refused.append(_refused(row, f"an event of the account {other}", status="foreign"))
                    continue
                try:
                    found = await self._fetch(row, ours, pings, span)
                except ProviderUnavailableError as error:
                    failed.append(_refused(row, str(error)))
                    if len(failed) == _IN_A_ROW:
                        await self._client.webhooks()  # raises, if the provider answers nothing at all
                        batch.refused += failed  # so that the next look does not begin with them
                        raise
                    continue
                except (
                    CredentialsRefusedError
                ) as error:  # noted: if only this call is refused, the next look must not begin with it
                    batch.refused.append(_refused(row, str(error)))
                    raise
                batch.refused += failed
                failed = []
                if batch.add(found) >= _BATCH:
                    await self._commit(batch)
                    batch = _Batch()
            if failed:
                await self._client.webhooks()  # raises, if the provider answers nothing at all
                batch.refused += failed
        except ProviderError:
            await self._commit(batch)
            raise
        await self._commit(batch)

    async def _fetch(self, row: HistoryRow, ours: Webhooks, pings: Sequence[Ping], span: Span) -> Arrival | Refused:
        try:
            found = await self._client.notification(row.notification_id)
        except RecordForbiddenError as error:
            await self._client.webhooks()  # raises, if the provider refuses the credentials
            return _refused(row, str(error))
        except (RecordNotFoundError, CallRejectedError, UnreadableAnswerError, ForbiddenCallError) as error:
            return _refused(row, str(error))
        if found.webhook_id is not None and found.webhook_id not in ours.ids:
            return _refused(row, found.webhook_id, status="foreign")
        if found.webhook_id is None and not ours.only:
            return _refused(row, "the provider does not say for which webhook it is, and the account may have several")
        try:
            notification = parse(found.body, self._account)
        except UnusableError as error:
            return _refused(row, error.detail)
        if notification.entity_id == _SAMPLE:
            return _refused(row, "a sample of a ping", status="foreign")
        at = row.event_date or notification.event_date
        if at is None:
            return _refused(row, "neither the list nor the notification has a date that can be read")
        if not span.has(at):
            return _refused(row, "not to be taken, or not yet", status="seen")._replace(event_date=at)
        if (problem := self._problem(found, at, pings)) is not None:
            return _refused(row, problem)
        return Arrival(
            new_id(),
            self._account,
            # The provider writes dates and amounts in another way here, so that a key of the content would match nothing.
            notification._replace(event_date=at, content_key=None),
            HISTORY,
            found.body,
            hash_of_body(found.body),
        )

    def _problem(self, found: PastNotification, at: datetime, pings: Sequence[Ping]) -> str | None:
        if not found.has_payload:
            return "the answer has no payload"
        if len(found.body) > self._limits.body:
            return "the answer is longer than WEBHOOKD_MAX_BODY_BYTES"
        if any(
            one.webhook_id == found.webhook_id and one.opened_at - _CLOCKS <= at <= one.closes_at + _CLOCKS for one in pings
        ):
            return "it was made while webhookd pinged the webhook and no sample came: it may be the sample"
        return None

    async def _commit(self, batch: _Batch) -> None:
        """Commits what was fetched. Each event comes once: its further notifications become aliases of it."""
        firsts: list[Arrival] = []
        seconds: list[Arrival] = []
        seen: set[tuple[object, ...]] = set()
        for arrival in batch.arrivals:
            said = arrival.notification
            event = said.event_type, said.entity_id, said.event_date
            is_second = said.entity_id is not None and event in seen
            seen.add(event)
            (seconds if is_second else firsts).append(arrival)
        aliases = 0
        for some in (firsts, *([one] for one in seconds)):  # one by one: a second may be the twin of another second
            new = []
            for arrival in some:
                if (event_id := await self._gaps.twin(arrival.notification, arrival.body or b"")) is None:
                    new.append(arrival)
                else:
                    await self._gaps.add_alias(arrival.notification.notification_id, event_id)
                    aliases += 1
            await self._store(new, batch)
        # Keep the notes of those that could not be stored: the notes count the tries, from which the pauses follow.
        refused = {one.notification_id for one in batch.refused}
        await self._gaps.forget({one.notification.notification_id for one in batch.arrivals} - refused)
        await self._gaps.note(batch.refused)
        if batch.arrivals or batch.refused:
            counts = Counter(one.status for one in batch.refused)
            logger.info(
                "notifications of the history that no webhook brought",
                account=self._account,
                taken=batch.taken,
                second_notifications=aliases,
                foreign=counts["foreign"],
                unreadable=counts["unreadable"],
            )

    async def _store(self, arrivals: Sequence[Arrival], batch: _Batch) -> None:
        if not arrivals:
            return
        results = await self._receipts.accept(arrivals, send_after=0.0, actor=ACTOR, reason=_REASON)
        for arrival, result in zip(arrivals, results, strict=True):
            said = arrival.notification
            if not isinstance(result, Accepted):
                why = why_not_stored(result)
                batch.refused.append(Refused(said.notification_id, "unreadable", why, said.event_type, said.event_date))
            elif result.layer is None:  # others came as webhooks meanwhile
                batch.taken += 1
                self.taken += 1
                self._recovered.inc()


@dataclass(slots=True)
class _Batch:
    """Notifications that were fetched. `taken`: new events of them."""

    arrivals: list[Arrival] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    taken: int = 0

    def add(self, found: Arrival | Refused) -> int:
        """Adds a notification. Returns the number of notifications."""
        if isinstance(found, Arrival):
            self.arrivals.append(found)
        else:
            self.refused.append(found)
        return len(self.arrivals) + len(self.refused)


def oldest(retention: timedelta, now: datetime) -> datetime:
    """Returns the date from which events may be taken, so that none comes again that retention has removed."""
    return now - retention + _RETENTION_MARGIN


def _refused(row: HistoryRow, reason: str, *, status: str = "unreadable") -> Refused:
    return Refused(row.notification_id, status, reason, row.event_type, row.event_date)
