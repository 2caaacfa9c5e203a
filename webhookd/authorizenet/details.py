"""The details of a transaction that handlers get beside an event, and the rules of when they are good enough for the event.

Pure functions, without I/O. Details have the fields of this page alone: no names, addresses, cards or bank accounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from webhookd.authorizenet.api.results import ReturnedItem, Transaction
from webhookd.authorizenet.notification import PREFIX
from webhookd.authorizenet.settlement import Facts, State

_PAYMENT = f"{PREFIX}payment."
_SYNTHETIC = "webhookd.transaction."
_OF_TRANSACTIONS = (_PAYMENT, _SYNTHETIC)  # the beginnings of the types whose entity is a transaction
_MOST_DIGITS = 40  # of a transaction's id
PATIENCE = 600.0  # seconds for which a part that an answer lacks is asked for again
# The statuses that an answer cannot have any more after an event: such an answer is older than the event.
_BEFORE = {
    f"{_PAYMENT}priorAuthCapture.created": frozenset({"authorizedPendingCapture"}),
    f"{_PAYMENT}void.created": frozenset({"authorizedPendingCapture", "capturedPendingSettlement", "refundPendingSettlement"}),
    f"{_PAYMENT}fraud.approved": frozenset({"FDSPendingReview", "FDSAuthorizedPendingReview"}),
    f"{_PAYMENT}fraud.declined": frozenset({"FDSPendingReview", "FDSAuthorizedPendingReview"}),
}
# Synthetic events are committed before the facts that they report. So the stored facts may be final, and yet too old.
_REPORTED = {
    f"{_SYNTHETIC}settled": State.SETTLED,
    f"{_SYNTHETIC}refund_settled": State.REFUND_SETTLED,
    f"{_SYNTHETIC}settlement_failed": State.SETTLEMENT_FAILED,
    f"{_SYNTHETIC}expired": State.EXPIRED,
}
_RETURNED = f"{_SYNTHETIC}returned"


@dataclass(slots=True, frozen=True, kw_only=True, repr=False)
class Details:
    """The details of a transaction, as Authorize.Net reported them last.

    status: the provider's text. state: what the status and the returned items mean, in webhookd's words, such as `settled`.
    amount: what settles, or has settled; positive for a refund, too.
    settled_at, submitted_at: in UTC.
    type: the provider's, such as `refundTransaction`.
    ref_transaction_id: the transaction that a refund, a capture or a void is for.
    subscription_id, payment_number: the subscription that the transaction is a payment of, and the payment's number, from 1.
    returned_items: the returns of an eCheck.
    """

    transaction_id: str
    status: str
    state: str
    amount: Decimal | None = None
    batch_id: str | None = None
    settled_at: datetime | None = None
    submitted_at: datetime | None = None
    type: str | None = None
    ref_transaction_id: str | None = None
    invoice_number: str | None = None
    subscription_id: str | None = None
    payment_number: int | None = None
    returned_items: tuple[ReturnedItem, ...] = ()

    def __repr__(self) -> str:  # a repr ends up in logs, and a merchant may write a name into an invoice number
        return f"Details(transaction_id={self.transaction_id!r}, status={self.status!r}, state={self.state!r})"


def details_of(facts: Facts) -> Details:
    """Returns facts as handlers get them."""
    return Details(
        transaction_id=facts.id,
        status=facts.status,
        state=facts.state.value,
        amount=facts.amount,
        batch_id=facts.batch_id,
        settled_at=facts.settled_at,
        submitted_at=facts.submitted_at,
        type=facts.type,
        ref_transaction_id=facts.ref_transaction_id,
        invoice_number=facts.invoice_number,
        subscription_id=facts.subscription_id,
        payment_number=facts.payment_number,
        returned_items=facts.returned_items,
    )


def can_have_details(event_type: str) -> bool:
    """Returns whether events of a type are about a transaction, by the type's name."""
    return event_type.startswith(_OF_TRANSACTIONS)


def transaction_of(payload: Mapping[str, Any]) -> str | None:
    """Returns the transaction that an event is about, by its payload. None if it is about none, or is a test (id 0)."""
    found = payload.get("id")
    if str(payload.get("entityName")).casefold() != "transaction" or not isinstance(found, (str, int)):
        return None
    text = str(found).strip()
    return text if text.isascii() and text.isdigit() and int(text) and len(text) <= _MOST_DIGITS else None


def are_good_for(facts: Facts, event_type: str, received_at: datetime) -> bool:
    """Returns whether stored facts serve an event: they are details, and no older than the event.

    A final state serves later events, too. received_at: the receipt of the event.
    """
    if not facts.detailed or facts.status in _BEFORE.get(event_type, ()):
        return False
    if not facts.has_reached(_REPORTED.get(event_type, facts.settlement)) or (
        event_type == _RETURNED and not facts.returned_items
    ):
        return False
    return not facts.settlement.is_open or facts.seen_at >= received_at


def missing_part(event_type: str, found: Transaction) -> str | None:
    """Returns what the provider's answer lacks for an event, as a text; None if nothing.

    The provider may link a payment to its subscription minutes after the event. It marks each payment of a subscription as a
    recurring charge. So do merchants with their own recurring charges, which never get a subscription.
    """
    if found.recurring and found.subscription_payment is None:
        return "Authorize.Net does not name the subscription of the recurring charge yet"
    if found.status in _BEFORE.get(event_type, ()):
        return f"Authorize.Net's answer is older than the event: the transaction's status is {found.status}"
    return None
