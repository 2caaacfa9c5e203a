"""Makes the typed results from the provider's answers. Every function can raise UnreadableError."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from webhookd.authorizenet.api.answers import (
    LONGEST_ID,
    UnreadableError,
    entries,
    entry,
    flag,
    moment,
    money,
    number,
    optional_id,
    required,
    required_id,
    rows,
    text,
)
from webhookd.authorizenet.api.operations import is_id
from webhookd.authorizenet.api.results import (
    Batch,
    BatchStatistic,
    HistoryPage,
    HistoryRow,
    ListPage,
    Merchant,
    PastNotification,
    PaymentAttempt,
    ReturnedItem,
    Schedule,
    Subscription,
    SubscriptionPayment,
    SubscriptionRow,
    Transaction,
    TransactionRow,
    Webhook,
)
from webhookd.authorizenet.notification import canonical

Fields = Mapping[str, Any]


def webhook(fields: Any) -> Webhook:
    """Reads a webhook; a list with one webhook is one, too."""
    if isinstance(fields, list) and len(fields) == 1:
        (fields,) = fields
    if not isinstance(fields, dict):
        raise UnreadableError("the answer is no webhook")
    types = fields.get("eventTypes") or []
    if not isinstance(types, list) or not all(isinstance(one, str) for one in types):
        raise UnreadableError("`eventTypes` of a webhook is no list of texts")
    if not is_id(identifier := required_id(fields, "webhookId").lower()):
        raise UnreadableError("`webhookId` has a character that no id has, or is too long")
    status = required(fields, "status").lower()
    return Webhook(
        identifier,
        required(fields, "url"),
        status,
        tuple(map(canonical, types)),
        text(fields.get("name")),
    )


def webhooks(answer: Any) -> tuple[Webhook, ...]:
    """Reads the list of webhooks. A row that cannot be read whole gets its `problem`: it must not hide the others."""
    if not isinstance(answer, list):
        raise UnreadableError("the answer is no list")
    return tuple(map(_listed_webhook, answer))


def _listed_webhook(row: Any) -> Webhook:
    try:
        return webhook(row)
    except UnreadableError as error:
        fields = row if isinstance(row, dict) else {}
        identifier, url, status = (text(fields.get(name)) or "" for name in ("webhookId", "url", "status"))
        return Webhook(identifier[:LONGEST_ID].lower(), url, status.lower(), (), problem=str(error))


def event_types(answer: Any) -> tuple[str, ...]:
    """Reads the list of event types."""
    if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
        raise UnreadableError("the answer is no list of event types")
    return tuple(required(one, "name") for one in answer)


def _history_row(fields: Fields) -> HistoryRow:
    return HistoryRow(
        required_id(fields, "notificationId").lower(),
        canonical(required(fields, "eventType")),
        moment(fields.get("eventDate")),
        text(fields.get("deliveryStatus")),
    )


def history_page(answer: Any) -> HistoryPage:
    """Reads a page of the history. A row that cannot be read is counted: it must not hide the others."""
    if not isinstance(answer, dict) or not isinstance(answer.get("notifications"), list):
        raise UnreadableError("the answer has no list `notifications`")
    found, unreadable = [], 0
    for row in answer["notifications"]:
        try:
            found.append(_history_row(row if isinstance(row, dict) else {}))
        except UnreadableError:
            unreadable += 1
    return HistoryPage(tuple(found), unreadable)


def past_notification(answer: Any, body: bytes) -> PastNotification:
    """Reads a notification of the history. `body`: the answer's bytes."""
    if not isinstance(answer, dict):
        raise UnreadableError("the answer is no notification")
    webhook_id = text(answer.get("webhookId"))
    has_payload = isinstance(answer.get("payload"), dict)
    return PastNotification(_history_row(answer), webhook_id and webhook_id.lower(), body, has_payload)


def merchant(answer: Fields) -> Merchant:
    """Reads the account's details."""
    return Merchant(
        text(answer.get("gatewayId")),
        text(answer.get("merchantName")),
        bool(flag(answer.get("isTestMode"))),
        text(answer.get("merchantTimeZone")),
        tuple(filter(None, map(text, rows(answer, "currencies")))),
        tuple(filter(None, map(text, rows(answer, "paymentMethods")))),
    )


def _subscription_payment(fields: Fields) -> SubscriptionPayment | None:
    own = entry(fields, "subscription")
    identifier = optional_id(own, "id")
    return None if identifier is None else SubscriptionPayment(identifier, number(own.get("payNum")))


def _transaction_row(fields: Fields) -> TransactionRow:
    return TransactionRow(
        required_id(fields, "transId"),
        required(fields, "transactionStatus"),
        moment(fields.get("submitTimeUTC")),
        money(fields.get("settleAmount")),
        text(fields.get("accountType")),
        optional_id(fields, "invoiceNumber"),
        _subscription_payment(fields),
        bool(flag(fields.get("hasReturnedItems"))),
    )


def transaction_page(answer: Fields) -> ListPage:
    """Reads a page of transactions."""
    found = tuple(map(_transaction_row, entries(answer, "transactions")))
    return ListPage(found, number(answer.get("totalNumInResultSet")))


def _statistic(fields: Fields) -> BatchStatistic:
    return BatchStatistic(
        text(fields.get("accountType")),
        money(fields.get("chargeAmount")) or Decimal(0),
        number(fields.get("chargeCount")) or 0,
        money(fields.get("refundAmount")) or Decimal(0),
        number(fields.get("refundCount")) or 0,
        number(fields.get("voidCount")) or 0,
        number(fields.get("declineCount")) or 0,
        number(fields.get("errorCount")) or 0,
    )


def _batch(fields: Fields) -> Batch:
    return Batch(
        required_id(fields, "batchId"),
        required(fields, "settlementState"),
        moment(fields.get("settlementTimeUTC")),
        text(fields.get("paymentMethod")),
        tuple(map(_statistic, entries(fields, "statistics"))),
    )


def batches(answer: Fields) -> tuple[Batch, ...]:
    """Reads a list of batches."""
    return tuple(map(_batch, entries(answer, "batchList")))


def batch(answer: Fields) -> Batch:
    """Reads one batch."""
    return _batch(entry(answer, "batch"))


def transaction(answer: Fields) -> Transaction:
    """Reads a transaction's details or its summary."""
    own = entry(answer, "transaction")
    returned = (
        ReturnedItem(required_id(one, "id"), moment(one.get("dateUTC")), text(one.get("code")))
        for one in entries(own, "returnedItems")
    )
    in_batch = entry(own, "batch")
    return Transaction(
        id=required_id(own, "transId"),
        status=required(own, "transactionStatus"),
        submitted_at=moment(own.get("submitTimeUTC")),
        type=text(own.get("transactionType")),
        ref_transaction_id=optional_id(own, "refTransId"),
        response_code=number(own.get("responseCode")),
        response_reason_code=number(own.get("responseReasonCode")),
        auth_amount=money(own.get("authAmount")),
        settle_amount=money(own.get("settleAmount")),
        invoice_number=optional_id(entry(own, "order"), "invoiceNumber"),
        subscription_payment=_subscription_payment(own),
        batch=_batch(in_batch) if in_batch else None,
        payment_method=next(iter(entry(own, "payment")), None),
        returned_items=tuple(returned),
        recurring=bool(flag(own.get("recurringBilling"))),
    )


def subscription_page(answer: Fields) -> ListPage:
    """Reads a page of subscriptions."""
    found = tuple(
        SubscriptionRow(
            required_id(one, "id"),
            required(one, "status"),
            moment(one.get("createTimeStampUTC")),
            money(one.get("amount")),
            number(one.get("pastOccurrences")),
            number(one.get("totalOccurrences")),
            text(one.get("invoice")),
        )
        for one in entries(answer, "subscriptionDetails")
    )
    return ListPage(found, number(answer.get("totalNumInResultSet")))


def subscription(answer: Fields, identifier: str) -> Subscription:
    """Reads a subscription. `identifier`: the id that was asked for."""
    own = entry(answer, "subscription")
    if not own:
        raise UnreadableError("the answer has no `subscription`")
    if (text(own.get("id")) or identifier).casefold() != identifier.casefold():
        raise UnreadableError("the answer is about another id than the one that was asked for")
    attempts = tuple(
        PaymentAttempt(
            text(one.get("transId")),
            moment(one.get("submitTimeUTC")),
            number(one.get("payNum")),
            number(one.get("attemptNum")),
            text(one.get("response")),
        )
        for one in entries(own, "arbTransactions")
    )
    return Subscription(identifier, text(own.get("status")), money(own.get("amount")), attempts, _schedule(own))


def _schedule(fields: Fields) -> Schedule | None:
    own = entry(fields, "paymentSchedule")
    if not own:
        return None
    interval, start = entry(own, "interval"), moment(own.get("startDate"))
    return Schedule(
        number(interval.get("length")),
        text(interval.get("unit")),
        start and start.date(),
        number(own.get("totalOccurrences")),
        number(own.get("trialOccurrences")),
        money(fields.get("trialAmount")),
    )
