"""How the API shows transactions, batches and subscriptions, with the people and the cards that webhookd must not keep."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from webhookd.simulate.records import CHECK, Batch, Statistic, Subscription, Transaction

_NAME = {"firstName": "Annabella", "lastName": "Exampleson"}
_ADDRESS = {"address": "17 Simulation Street", "city": "Testerville", "zip": "98004-SIM"}
_MAIL = "annabella@exampleson.example"
_IP = "203.0.113.77"
_ROUTING = "XXXX0204"
_NUMBERS = {"Visa": "XXXX1111", "AmericanExpress": "XXXX0002", "Discover": "XXXX0012", CHECK: "XXXX2152"}
_CARD = "XXXX4444"
# Texts of people, cards and banks in the answers: what webhookd stores must have none of them.
PERSONAL = (*_NAME.values(), *_ADDRESS.values(), _MAIL, _IP, _ROUTING, _CARD, *_NUMBERS.values())
_MOST_ATTEMPTS = 20  # of a subscription, in its details
_REASONS = {1: "Approval", 2: "This transaction has been declined.", 3: "An error occurred.", 4: "Under review."}


def _utc(at: datetime) -> str:
    return _digits(at.astimezone(UTC)) + "Z"


def _local(at: datetime, zone: str) -> str:
    return _digits(at.astimezone(ZoneInfo(zone)))


def _digits(at: datetime) -> str:
    """Returns a time with at most three decimals, and without a zone."""
    text = at.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{at.microsecond // 1000:03}".rstrip("0") if at.microsecond >= 1000 else text


def _optional(name: str, value: Any) -> dict[str, Any]:
    """Returns an optional number or time as .NET writes it: with its `…Specified`, and absent if there is none."""
    return {f"{name}Specified": False} if value is None else {name: value, f"{name}Specified": True}


def _settled(batch: Batch, zone: str) -> dict[str, Any]:
    at = batch.settled_at
    return {
        "batchId": batch.id,
        **_optional("settlementTimeUTC", None if at is None else _utc(at)),
        **_optional("settlementTimeLocal", None if at is None else _local(at, zone)),
        "settlementState": batch.state,
    }


def _statistic(one: Statistic) -> dict[str, Any]:
    returned = one.returned_count > 0
    return {
        "accountType": one.account_type,
        "chargeAmount": one.charge_amount,
        "chargeCount": one.charge_count,
        "refundAmount": one.refund_amount,
        "refundCount": one.refund_count,
        "voidCount": one.void_count,
        "declineCount": one.decline_count,
        "errorCount": one.error_count,
        **_optional("returnedItemAmount", one.returned_amount if returned else None),
        **_optional("returnedItemCount", one.returned_count if returned else None),
    }


def batch_of(batch: Batch, zone: str, *, with_statistics: bool = True) -> dict[str, Any]:
    """Returns a batch as lists of batches show it."""
    sums = {"statistics": list(map(_statistic, batch.statistics))} if with_statistics else {}
    more = {"paymentMethod": batch.method, "marketType": "eCommerce", "product": "Card Not Present"}
    return _settled(batch, zone) | more | sums


def _state_of(one: Transaction, zone: str) -> dict[str, Any]:
    times = {"submitTimeUTC": _utc(one.made_at), "submitTimeLocal": _local(one.made_at, zone)}
    return {"transId": one.id, **times, "transactionStatus": one.status, "settleAmount": one.settle_amount}


def _payment_of(one: Transaction) -> dict[str, Any]:
    payment = one.payment
    return {} if payment is None else {"subscription": {"id": int(payment.subscription), "payNum": payment.number}}


def row_of(one: Transaction, zone: str) -> dict[str, Any]:
    """Returns a transaction as lists show it: without its type, its original, and a sign."""
    return {
        **_state_of(one, zone),
        **({} if one.invoice is None else {"invoiceNumber": one.invoice}),
        **_NAME,
        "accountType": one.account_type,
        "accountNumber": _NUMBERS.get(one.account_type, _CARD),
        "marketType": "eCommerce",
        "product": "Card Not Present",
        **_payment_of(one),
        **_optional("hasReturnedItems", True if one.returned else None),
        **(
            {"fraudInformation": {"fraudFilterList": ["Amount Filter"], "fraudAction": "Review"}}
            if one.filter_action is not None and "PendingReview" in one.status
            else {}
        ),
    }


def summary_of(one: Transaction, zone: str) -> dict[str, Any]:
    """Returns a transaction as getTransactionSummary shows it."""
    codes = {"responseCode": one.response_code, "responseReasonCode": one.reason_code}
    batch = {} if one.batch is None else {"batch": _settled(one.batch, zone)}
    return _state_of(one, zone) | codes | batch


def details_of(one: Transaction, zone: str) -> dict[str, Any]:
    """Returns a transaction as getTransactionDetails shows it."""
    number = _NUMBERS.get(one.account_type, _CARD)
    card = {"creditCard": {"cardNumber": number, "expirationDate": "XXXX", "cardType": one.account_type}}
    holder = " ".join(_NAME.values())
    bank = {"bankAccount": {"routingNumber": _ROUTING, "accountNumber": number, "nameOnAccount": holder, "echeckType": "WEB"}}
    held = {"FDSFilterAction": one.filter_action, "FDSFilters": [{"name": "Amount Filter", "action": one.filter_action}]}
    returned = [
        {"id": item.id, "dateUTC": _utc(item.at), "dateLocal": _local(item.at, zone), "code": item.code}
        | {"description": item.description}
        for item in one.returned
    ]
    return {
        "transId": one.id,
        **({} if one.ref_id is None else {"refTransId": one.ref_id}),
        "submitTimeUTC": _utc(one.made_at),
        "submitTimeLocal": _local(one.made_at, zone),
        **({} if one.type is None else {"transactionType": one.type}),
        "transactionStatus": one.status,
        "responseCode": one.response_code,
        "responseReasonCode": one.reason_code,
        **_payment_of(one),
        "responseReasonDescription": _REASONS.get(one.response_code, "Approval"),
        "AVSResponse": one.avs,
        **({} if one.filter_action is None else held),
        **({} if one.batch is None else {"batch": _settled(one.batch, zone)}),
        **({} if one.invoice is None else {"order": {"invoiceNumber": one.invoice}}),
        "requestedAmountSpecified": False,
        "authAmount": one.auth_amount,
        "settleAmount": one.settle_amount,
        "taxExempt": False,
        "payment": bank if one.account_type == CHECK else card,
        "customer": {"type": "individual", "email": _MAIL},
        "billTo": _NAME | _ADDRESS,
        "recurringBilling": one.payment is not None,
        "customerIP": _IP,
        "product": "Card Not Present",
        "marketType": "eCommerce",
        **({"returnedItems": returned} if returned else {}),
    }


def _created(one: Subscription) -> str:
    return _digits(one.created_at.astimezone(UTC))  # without Z, though it is UTC


def _ids_of(one: Subscription) -> tuple[int, int]:
    return 1_811_000_000 + int(one.id), 1_806_000_000 + int(one.id)


def subscription_row_of(one: Subscription) -> dict[str, Any]:
    """Returns a subscription as lists show it: its ids are numbers."""
    customer, payment = _ids_of(one)
    return {
        "id": int(one.id),
        "name": one.name,
        "status": one.status,
        "createTimeStampUTC": _created(one),
        **_NAME,
        "totalOccurrences": one.occurrences,
        "pastOccurrences": one.paid,
        "paymentMethod": CHECK if one.account_type == CHECK else "creditCard",
        "accountNumber": _NUMBERS.get(one.account_type, _CARD),
        "amount": one.amount,
        "currencyCode": "USD",
        "customerProfileId": customer,
        "customerPaymentProfileId": payment,
        "customerShippingProfileIdSpecified": False,
    }


def subscription_of(one: Subscription, *, with_attempts: bool) -> dict[str, Any]:
    """Returns a subscription as ARBGetSubscription shows it: without its own id, and with its latest attempts at payments."""
    customer, payment = _ids_of(one)
    attempts = [
        {
            **({} if attempt.transaction_id is None else {"transId": attempt.transaction_id}),
            "response": attempt.response,
            "submitTimeUTC": _digits(attempt.at.astimezone(UTC)),
            "payNum": attempt.number,
            "attemptNum": attempt.attempt,
        }
        for attempt in one.attempts[-_MOST_ATTEMPTS:]
    ]
    return {
        "name": one.name,
        "paymentSchedule": {
            "interval": {
                "length": one.interval_months or one.interval_days,
                "unit": "months" if one.interval_months else "days",
            },
            "startDate": (one.starts_on or one.created_at.date()).isoformat(),
            "totalOccurrences": one.occurrences,
            "trialOccurrences": 0,
        },
        "amount": one.amount,
        "status": one.status,
        "profile": {
            "email": _MAIL,
            "customerProfileId": str(customer),
            "paymentProfile": {"customerPaymentProfileId": str(payment), "billTo": _NAME | _ADDRESS},
        },
        **({"arbTransactions": attempts} if with_attempts and attempts else {}),
    }
