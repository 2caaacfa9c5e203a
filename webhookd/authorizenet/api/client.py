"""The client of one account at Authorize.Net: webhooks, their history, and reports, as types."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NoReturn, Self, TypeVar

from webhookd.authorizenet.api import reading
from webhookd.authorizenet.api.answers import UnreadableError
from webhookd.authorizenet.api.caller import Caller, OnCall
from webhookd.authorizenet.api.credentials import Credentials, fingerprint
from webhookd.authorizenet.api.errors import FeatureOffError, RecordNotFoundError
from webhookd.authorizenet.api.history import HistoryReader
from webhookd.authorizenet.api.limits import Clock, Lane, State
from webhookd.authorizenet.api.pages import read_pages
from webhookd.authorizenet.api.refusals import MemoryRefusals, Refusals
from webhookd.authorizenet.api.results import (
    Batch,
    History,
    HistoryPage,
    ListPage,
    Merchant,
    PastNotification,
    Subscription,
    SubscriptionRow,
    Transaction,
    TransactionRow,
    Webhook,
)
from webhookd.settings.provider import ProviderAccess

T = TypeVar("T")

PATIENCE = 60.0  # seconds
_ROWS = 1000  # rows of a page; the schema allows no more
_BATCH_DAYS = 30  # the provider lists batches of at most 31 days, and counts both ends


class ProviderClient:
    """A client of one account's API. Every call but those on webhooks only reads. Use it as `async with`, or `close` it.

    access: the account's credentials and address.
    refusals: the memory of refused credentials. If None, it ends with the client.
    on_call: is called after each request, with the call's name, the seconds until its answer, and the error that the answer is.
    lane: the rate and the pauses, if other clients share them (see clients_of).
    patience: the seconds that a call may wait, in all, while the provider is away for a short time.
    now, sleep: the clock, which tests replace.

    Calls raise the errors of `errors`. `state` is the state of the account, for alerts.
    """

    def __init__(
        self,
        access: ProviderAccess,
        *,
        refusals: Refusals | None = None,
        on_call: OnCall | None = None,
        lane: Lane | None = None,
        patience: float = PATIENCE,
        now: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        credentials = Credentials(access, refusals or MemoryRefusals(now), now)
        lane = lane or Lane(access.rate, now)
        self._caller = Caller(access, credentials, lane, patience, on_call or (lambda *_: None), now, sleep)
        self._history = HistoryReader()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client holds credentials, and is never copied or stored")

    async def close(self) -> None:
        """Closes the connections."""
        await self._caller.close()

    @property
    def state(self) -> State:
        """Returns whether calls are stopped or paused, and since when."""
        return self._caller.state

    # Webhooks

    async def event_types(self) -> tuple[str, ...]:
        """Returns the event types that a webhook can have."""
        return await self._caller.rest("event types", lambda answer, _: reading.event_types(answer))

    async def webhooks(self) -> tuple[Webhook, ...]:
        """Returns all webhooks of the account."""
        return await self._caller.rest("webhooks", lambda answer, _: reading.webhooks(answer))

    async def webhook(self, identifier: str) -> Webhook:
        """Returns a webhook."""
        return await self._caller.rest(
            "webhook", lambda answer, _: _same(reading.webhook(answer), lambda found: found.id, identifier), identifier
        )

    async def create_webhook(
        self, url: str, event_types: Sequence[str], *, name: str | None = None, active: bool = False
    ) -> Webhook:
        """Registers a webhook. If no answer comes, the webhook may be there nevertheless: look at `webhooks`."""
        body = {"url": url, "eventTypes": list(event_types), "status": "active" if active else "inactive"}
        if name is not None:
            body = {"name": name, **body}
        return await self._caller.rest("create webhook", lambda answer, _: reading.webhook(answer), body=body)

    async def change_webhook(
        self,
        identifier: str,
        *,
        url: str | None = None,
        event_types: Sequence[str] | None = None,
        active: bool | None = None,
        name: str | None = None,
    ) -> Webhook:
        """Changes those fields of a webhook that are given."""
        status = None if active is None else "active" if active else "inactive"
        types = None if event_types is None else list(event_types)
        fields = {"name": name, "url": url, "eventTypes": types, "status": status}
        body = {field: value for field, value in fields.items() if value is not None}
        return await self._caller.rest(
            "change webhook",
            lambda answer, _: _same(reading.webhook(answer), lambda found: found.id, identifier),
            identifier,
            body=body,
        )

    async def delete_webhook(self, identifier: str) -> None:
        """Removes a webhook. A webhook that is not there counts as removed."""
        try:
            await self._caller.rest("delete webhook", lambda *_: None, identifier)
        except RecordNotFoundError:
            return

    async def ping(self, identifier: str) -> bool:
        """Makes the provider send a sample to an inactive webhook. Returns whether the webhook's address answered it."""
        return await self._caller.rest("ping webhook", lambda _, answer: answer.status < 300, identifier, body={}, also=500)

    # The history

    async def history(self, first: date, last: date, *, young_from: datetime | None = None, thorough: bool = True) -> History:
        """Returns the notifications that the provider made from `first` to `last`, as a set without an order.

        Ask for a day more on both sides: the zone of the days, and whether `last` belongs to them, is not known.
        young_from, thorough: see `HistoryReader.read`. By default, rows are young from now on.
        """

        async def page(offset: int, limit: int) -> HistoryPage:
            query = {
                "from_date": first.isoformat(),
                "to_date": last.isoformat(),
                "offset": str(offset),
                "limit": str(limit),
            }
            return await self._caller.rest("notifications", lambda answer, _: reading.history_page(answer), query=query)

        return await self._history.read(page, young_from or datetime.now(UTC), thorough=thorough)

    async def notification(self, identifier: str) -> PastNotification:
        """Returns a notification of the history, with its payload."""
        return await self._caller.rest(
            "notification",
            lambda answer, sent: _same(
                reading.past_notification(answer, sent.body), lambda found: found.row.notification_id, identifier
            ),
            identifier,
        )

    # The account

    async def is_alive(self) -> None:
        """Returns if the provider answers. Sends no credentials."""
        await self._caller.report("isAliveRequest", {}, lambda _: None)

    async def check_credentials(self) -> None:
        """Returns if the credentials are good."""
        await self._caller.report("authenticateTestRequest", {}, lambda _: None)

    async def merchant(self) -> Merchant:
        """Returns the account that the credentials belong to."""
        return await self._caller.report("getMerchantDetailsRequest", {}, reading.merchant)

    # Transactions and batches

    async def transaction(self, identifier: str) -> Transaction:
        """Returns a transaction's details. The provider may not know a new transaction for some seconds."""
        return await self._transaction("getTransactionDetailsRequest", identifier)

    async def transaction_summary(self, identifier: str) -> Transaction:
        """Returns a transaction's state, without most of its fields; from its details if the provider has no summaries."""
        try:
            return await self._transaction("getTransactionSummaryRequest", identifier)
        except FeatureOffError:
            return await self.transaction(identifier)

    async def _transaction(self, name: str, identifier: str) -> Transaction:
        return await self._caller.report(
            name,
            {"transId": identifier},
            lambda answer: _same(reading.transaction(answer), lambda found: found.id, identifier),
        )

    async def unsettled(self, *, held: bool = False) -> AsyncIterator[TransactionRow]:
        """Yields the transactions that are not settled; only those that the fraud filters hold, if `held`."""
        fields = {"status": "pendingApproval" if held else "any"}
        async for row in self._paged("getUnsettledTransactionListRequest", fields, reading.transaction_page):
            yield row

    async def batch_transactions(self, batch_id: str) -> AsyncIterator[TransactionRow]:
        """Yields all transactions of a batch, also those that were declined, voided or failed."""
        async for row in self._paged("getTransactionListRequest", {"batchId": batch_id}, reading.transaction_page):
            yield row

    async def batches(self, first: datetime, last: datetime, *, statistics: bool = True) -> tuple[Batch, ...]:
        """Returns the batches that were settled from `first` to `last`. Raises ValueError for a time without a zone."""
        if first.tzinfo is None or last.tzinfo is None:
            raise ValueError("the times of batches need a zone")
        found: dict[str, Batch] = {}
        while first <= last:
            end = min(last, first + timedelta(days=_BATCH_DAYS))
            fields = {"includeStatistics": statistics, "firstSettlementDate": _utc(first), "lastSettlementDate": _utc(end)}
            for batch in await self._caller.report("getSettledBatchListRequest", fields, reading.batches):
                found[batch.id] = batch
            first = end + timedelta(milliseconds=1)
        return tuple(found.values())

    async def batch(self, batch_id: str) -> Batch:
        """Returns a batch with its statistics."""
        return await self._caller.report(
            "getBatchStatisticsRequest",
            {"batchId": batch_id},
            lambda answer: _same(reading.batch(answer), lambda found: found.id, batch_id),
        )

    # Subscriptions

    async def subscriptions(self, search: str) -> AsyncIterator[SubscriptionRow]:
        """Yields subscriptions. `search`: subscriptionActive, subscriptionInactive, cardExpiringThisMonth, and others."""
        async for row in self._paged("ARBGetSubscriptionListRequest", {"searchType": search}, reading.subscription_page):
            yield row

    async def subscription(self, identifier: str) -> Subscription:
        """Returns a subscription with its latest payments."""
        fields = {"subscriptionId": identifier, "includeTransactions": True}
        return await self._caller.report(
            "ARBGetSubscriptionRequest", fields, lambda answer: reading.subscription(answer, identifier)
        )

    def _paged(self, name: str, fields: dict[str, Any], read: Callable[[Any], ListPage]) -> AsyncIterator[Any]:
        fields = fields | {"sorting": {"orderBy": "id", "orderDescending": False}}

        async def page(number: int) -> ListPage:
            return await self._caller.report(name, fields | {"paging": {"limit": _ROWS, "offset": number}}, read)

        return read_pages(name, page)

    def __repr__(self) -> str:
        return f"ProviderClient of {self._caller!r}"


def _same(found: T, identifier_of: Callable[[T], str], asked: str) -> T:
    """Returns an answer if it is about the id that was asked for. Raises UnreadableError."""
    if identifier_of(found).casefold() != asked.casefold():
        raise UnreadableError("the answer is about another id than the one that was asked for")
    return found


def clients_of(
    accesses: Mapping[str, ProviderAccess],
    *,
    refusals: Refusals | None = None,
    on_call: Callable[[str], OnCall] | None = None,
    patience: float = PATIENCE,
    now: Clock = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> dict[str, ProviderClient]:
    """Returns the client of each account. Accounts with one API Login ID at one host share its rate and its pauses.

    Accounts that share their Transaction Keys, too, share one client. It has the name of the first of them.

    on_call: makes the hook of a client from the name of its account.
    """
    refusals = refusals or MemoryRefusals(now)
    lanes: dict[tuple[str, str], Lane] = {}
    clients: dict[str, ProviderClient] = {}
    found = {}
    for account, access in accesses.items():
        same = fingerprint(access)
        if same not in clients:
            place = access.url.lower(), access.login_id.get_secret_value()
            if place not in lanes:
                lanes[place] = Lane(access.rate, now)
            hook = None if on_call is None else on_call(account)
            clients[same] = ProviderClient(
                access, refusals=refusals, on_call=hook, lane=lanes[place], patience=patience, now=now, sleep=sleep
            )
        found[account] = clients[same]
    return found


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
