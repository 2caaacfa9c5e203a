"""Takes notifications from the provider's history into the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CallRejectedError, ProviderError, RecordNotFoundError, UnreadableAnswerError
from webhookd.authorizenet.api.results import HistoryRow, PastNotification
from webhookd.authorizenet.notification import Notification, parse
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
_SAMPLE = "0"  # the id of the entity in a sample


class Limits(NamedTuple):
    """The limits of what is taken. body: bytes. age: by the eventDate; retention would remove an older event."""

    body: int
    age: timedelta


class Webhooks(NamedTuple):
    """The webhooks that are ours, by their ids. `only`: the account has no others, so that a notification must be ours."""

    ids: frozenset[str]
    only: bool


class Takeover:
    """Fetches notifications of one account, and commits them as the receiver commits webhooks.

    A notification is ours if its webhook has WEBHOOKD_PUBLIC_URL, or brought one of the latest events that a Signature Key
    verified. All others are foreign: another program gets them, and webhookd must not process what that program processes.
    If no webhook is known as ours, nothing is taken.
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

    async def webhooks(self) -> Webhooks:
        """Returns the webhooks that are ours."""
        seen = await self._gaps.seen_webhooks()
        if self._url is None:
            return Webhooks(frozenset(seen), False)
        registered = await self._client.webhooks()
        ours = {one.id for one in registered if same_url(one.url, self._url)} | seen
        return Webhooks(frozenset(ours), bool(registered) and all(one.id in ours for one in registered))

    async def take(self, rows: Sequence[HistoryRow], ours: Webhooks, pings: Sequence[Ping], now: datetime) -> None:
        """Takes notifications, a batch at a time.

        Raises the client's errors about the account, after what was fetched before is committed.
        """
        arrivals: list[Arrival] = []
        refused: list[Refused] = []
        for row in rows:
            try:
                found = await self._fetch(row, ours, pings, now)
            except ProviderError:
                await self._commit(arrivals, refused)
                raise
            if isinstance(found, Arrival):
                arrivals.append(found)
            else:
                refused.append(found)
            if len(arrivals) + len(refused) >= _BATCH:
                await self._commit(arrivals, refused)
                arrivals, refused = [], []
        await self._commit(arrivals, refused)

    async def _fetch(self, row: HistoryRow, ours: Webhooks, pings: Sequence[Ping], now: datetime) -> Arrival | Refused:
        try:
            found = await self._client.notification(row.notification_id)
        except (RecordNotFoundError, CallRejectedError, UnreadableAnswerError) as error:
            return _refused(row, str(error))
        if found.webhook_id is not None and found.webhook_id not in ours.ids:
            return _refused(row, found.webhook_id, status="foreign")
        if found.webhook_id is None and not ours.only:
            return _refused(row, "the provider does not say for which webhook it is, and the account has several")
        try:
            notification = parse(found.body, self._account)
        except UnusableError as error:
            return _refused(row, error.detail)
        if notification.entity_id == _SAMPLE:
            return _refused(row, "a sample of a ping", status="foreign")
        if (problem := self._problem(found, notification, pings, now)) is not None:
            return _refused(row, problem)
        return Arrival(
            new_id(),
            self._account,
            notification._replace(content_key=None),  # the provider writes dates and amounts in another way here
            HISTORY,
            found.body,
            hash_of_body(found.body),
        )

    def _problem(self, found: PastNotification, notification: Notification, pings: Sequence[Ping], now: datetime) -> str | None:
        at = notification.event_date
        if not found.has_payload:
            return "the answer has no payload"
        if len(found.body) > self._limits.body:
            return "the answer is longer than WEBHOOKD_MAX_BODY_BYTES"
        if at is not None and now - at > self._limits.age:
            return "it is older than WEBHOOKD_EVENT_RETENTION: retention would remove it at once"
        if at is not None and any(
            one.webhook_id == found.webhook_id and one.opened_at - _CLOCKS <= at <= one.closes_at + _CLOCKS for one in pings
        ):
            return "it was made while webhookd pinged the webhook and no sample came: it may be the sample"
        return None

    async def _commit(self, arrivals: Sequence[Arrival], refused: Sequence[Refused]) -> None:
        refused, taken = list(refused), []
        if arrivals:
            results = await self._receipts.accept(arrivals, send_after=0.0, actor=ACTOR, reason=_REASON)
            for arrival, result in zip(arrivals, results, strict=True):
                if isinstance(result, Accepted):
                    taken.append((arrival, result))
                else:
                    said = arrival.notification
                    why = why_not_stored(result)
                    refused.append(Refused(said.notification_id, "unreadable", why, said.event_type, said.event_date))
        await self._gaps.forget([arrival.notification.notification_id for arrival, _ in taken])
        await self._gaps.note(refused)
        new = sum(result.layer is None for _, result in taken)  # others came as webhooks meanwhile
        self._recovered.inc(new)
        self.taken += new
        if new or refused:
            foreign = sum(one.status == "foreign" for one in refused)
            unreadable = len(refused) - foreign
            counts = {"taken": new, "foreign": foreign, "unreadable": unreadable}
            logger.info("notifications of the history that no webhook brought", account=self._account, **counts)


def _refused(row: HistoryRow, reason: str, *, status: str = "unreadable") -> Refused:
    return Refused(row.notification_id, status, reason, row.event_type, row.event_date)
