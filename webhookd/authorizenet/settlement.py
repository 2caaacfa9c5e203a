"""The facts of a transaction after its webhooks: settled, returned, expired. Pure functions, without I/O.

Facts have the fields of this page alone: no names, addresses, cards or bank accounts.

The rule of `merge`, which lets looks at a transaction come in any order and any number of times:

1. A state has a rank (`_RANKS`). The look with the highest rank decides on the status, the amount and the batch. Of two with
   the same rank, the later one decides; in a final state, one that knows the batch and the amount does before one that does
   not. So no stale answer takes a settlement back.
2. If a state contradicts a lower one, the rank decides, too: money that settled after a failure or an expiry has settled.
3. Whatever does not change in a transaction's life is kept as soon as one look had it. Returned items and the batches that
   failed only grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache, reduce
from typing import Any

from webhookd.authorizenet.api.results import Batch, ReturnedItem, Transaction, TransactionRow

ECHECK = "echeck"  # the account type of an eCheck, folded
_LONGEST_STATUS = 60  # characters of an unknown status that are counted: the provider's own are shorter


class State(StrEnum):
    """The state of a transaction, from the provider's status and the returned items."""

    HELD = "held"
    AUTHORIZED = "authorized"
    PENDING = "pending"  # captured, or in a batch that is not settled
    REFUND_PENDING = "refund pending"
    UNKNOWN = "unknown"  # the provider's text is new
    ERROR = "error"
    DECLINED = "declined"
    EXPIRED = "expired"
    VOIDED = "voided"
    SETTLEMENT_FAILED = "settlement failed"
    SETTLED = "settled"
    REFUND_SETTLED = "refund settled"
    RETURNED = "returned"  # an eCheck that keeps its settled status
    RETURN = "return"  # the return itself, which is a transaction of its own
    CHARGEBACK = "chargeback"
    CHARGEBACK_REVERSAL = "chargeback reversal"

    @property
    def is_open(self) -> bool:
        """Returns whether the state is not final, so that the transaction needs another look."""
        return self in _OPEN


_STATES = {
    "authorizedPendingCapture": State.AUTHORIZED,
    "authorizedPendingRelease": State.AUTHORIZED,
    "approvedReview": State.AUTHORIZED,
    "capturedPendingSettlement": State.PENDING,
    "pendingSettlement": State.PENDING,
    "pendingFinalSettlement": State.PENDING,
    "updatingSettlement": State.PENDING,
    "couldNotVoid": State.PENDING,  # the void failed, so the money still comes: look again
    "refundPendingSettlement": State.REFUND_PENDING,
    "settledSuccessfully": State.SETTLED,
    "refundSettledSuccessfully": State.REFUND_SETTLED,
    "FDSPendingReview": State.HELD,
    "FDSAuthorizedPendingReview": State.HELD,
    "underReview": State.HELD,
    "declined": State.DECLINED,
    "failedReview": State.DECLINED,
    "voided": State.VOIDED,
    "expired": State.EXPIRED,
    "communicationError": State.ERROR,
    "generalError": State.ERROR,
    "settlementError": State.SETTLEMENT_FAILED,
    "returnedItem": State.RETURN,
    "chargeback": State.CHARGEBACK,
    "chargebackReversal": State.CHARGEBACK_REVERSAL,
}
_BY_STATUS = {status.casefold(): state for status, state in _STATES.items()}
_OPEN = frozenset({State.HELD, State.AUTHORIZED, State.PENDING, State.REFUND_PENDING, State.UNKNOWN})
# A refund and a charge never change into each other, so their common ranks mean nothing. An unknown text may be final: it
# outranks the open states, and no final one.
_RANKS = {
    State.HELD: 0,
    State.AUTHORIZED: 1,
    State.PENDING: 2,
    State.REFUND_PENDING: 2,
    State.UNKNOWN: 3,
    State.ERROR: 4,
    State.DECLINED: 5,
    State.EXPIRED: 6,
    State.VOIDED: 7,
    State.SETTLEMENT_FAILED: 8,  # the processor can settle it later, in another batch
    State.SETTLED: 9,
    State.REFUND_SETTLED: 9,
    State.RETURN: 10,
    State.CHARGEBACK: 10,
    State.CHARGEBACK_REVERSAL: 11,
}


@lru_cache(maxsize=100)
def state_of(status: str) -> State:
    """Returns the state that a status of the provider means, without regard to returned items."""
    return _BY_STATUS.get(status.casefold(), State.UNKNOWN)


@dataclass(slots=True, frozen=True)
class Facts:
    """The facts of a transaction.

    status: the provider's text, even if it is unknown.
    seen_at: the time of the look that decided on `status`, `amount`, `batch_id` and `settled_at`.
    amount: what settles; positive for a refund, too.
    ref_transaction_id: the transaction that a refund, a capture or a void is for. Only details have it.
    account_type: the type of card, or eCheck. Only lists have it.
    detailed: whether the details were read.
    lists_returns: whether a list reports returned items, which only details name.
    """

    id: str
    status: str
    seen_at: datetime
    amount: Decimal | None = None
    batch_id: str | None = None
    settled_at: datetime | None = None
    submitted_at: datetime | None = None
    type: str | None = None
    ref_transaction_id: str | None = None
    account_type: str | None = None
    invoice_number: str | None = None
    subscription_id: str | None = None
    payment_number: int | None = None
    echeck: bool = False
    detailed: bool = False
    lists_returns: bool = False
    returned_items: tuple[ReturnedItem, ...] = ()
    failed_batches: frozenset[str] = frozenset()

    @property
    def settlement(self) -> State:
        """Returns the state without regard to returned items."""
        return state_of(self.status)

    @property
    def state(self) -> State:
        """Returns the state. Returned items count more than the status, which stays as it was."""
        return State.RETURNED if self.returned_items or self.lists_returns else self.settlement

    def has_reached(self, state: State) -> bool:
        """Returns whether the settlement is no earlier than `state`, by the ranks of the states."""
        return _RANKS[self.settlement] >= _RANKS[state]

    @property
    def is_refund(self) -> bool:
        """Returns whether money goes back. A list shows this by the status alone, so a failed refund needs its details."""
        return self.settlement in (State.REFUND_PENDING, State.REFUND_SETTLED) or (self.type or "").startswith("refund")

    @property
    def needs_details(self) -> bool:
        """Returns whether details can report more that an event or a report needs."""
        if self.lists_returns and not self.returned_items:
            return True
        named = self.settlement not in (State.SETTLED, State.REFUND_SETTLED, State.SETTLEMENT_FAILED) or self.batch_id
        ambiguous = self.is_refund or self.settlement is State.SETTLEMENT_FAILED
        return not named or (ambiguous and not self.detailed)


def of_row(row: TransactionRow, seen_at: datetime, batch: Batch | None = None) -> Facts:
    """Returns the facts of a row of a list. `batch`: the batch whose list has the row."""
    payment = row.subscription_payment
    return Facts(
        row.id,
        row.status,
        seen_at,
        amount=row.settle_amount,
        batch_id=batch and batch.id,
        settled_at=batch and batch.settled_at,
        submitted_at=row.submitted_at,
        account_type=row.account_type,
        invoice_number=row.invoice_number,
        subscription_id=payment and payment.subscription_id,
        payment_number=payment and payment.number,
        echeck=(row.account_type or "").casefold() == ECHECK,
        lists_returns=row.has_returned_items,
        failed_batches=_failed(row.status, batch),
    )


def of_details(details: Transaction, seen_at: datetime) -> Facts:
    """Returns the facts of a transaction's details, or of its summary, which has no type."""
    payment, batch = details.subscription_payment, details.batch
    return Facts(
        details.id,
        details.status,
        seen_at,
        amount=details.settle_amount,
        batch_id=batch and batch.id,
        settled_at=batch and batch.settled_at,
        submitted_at=details.submitted_at,
        type=details.type,
        ref_transaction_id=details.ref_transaction_id,
        invoice_number=details.invoice_number,
        subscription_id=payment and payment.subscription_id,
        payment_number=payment and payment.number,
        echeck=details.payment_method == "bankAccount",
        detailed=details.type is not None,
        returned_items=_items(details.returned_items),
        failed_batches=_failed(details.status, batch),
    )


def merge(a: Facts, b: Facts) -> Facts:
    """Returns what both looks at one transaction know together. The order of looks does not matter."""
    if a.id != b.id:
        raise ValueError("facts of two transactions cannot be merged")
    decides = max(a, b, key=_order)
    return Facts(
        a.id,
        decides.status,
        decides.seen_at,
        amount=decides.amount,
        batch_id=decides.batch_id,
        settled_at=decides.settled_at,
        submitted_at=_known(a.submitted_at, b.submitted_at),
        type=_known(a.type, b.type),
        ref_transaction_id=_known(a.ref_transaction_id, b.ref_transaction_id),
        account_type=_known(a.account_type, b.account_type),
        invoice_number=_known(a.invoice_number, b.invoice_number),
        subscription_id=_known(a.subscription_id, b.subscription_id),
        payment_number=_known(a.payment_number, b.payment_number),
        echeck=a.echeck or b.echeck,
        detailed=a.detailed or b.detailed,
        lists_returns=a.lists_returns or b.lists_returns,
        returned_items=_items((*a.returned_items, *b.returned_items)),
        failed_batches=a.failed_batches | b.failed_batches,
    )


def merge_all(looks: Iterable[Facts]) -> dict[str, Facts]:
    """Returns the merged facts of many looks, by transaction."""
    found: dict[str, Facts] = {}
    for one in looks:
        found[one.id] = merge(found[one.id], one) if one.id in found else one
    return found


def unknown_statuses(facts: Iterable[Facts]) -> Counter[str]:
    """Counts the statuses that webhookd does not know."""
    return Counter(one.status[:_LONGEST_STATUS] for one in facts if one.settlement is State.UNKNOWN)


def _order(facts: Facts) -> tuple[Any, ...]:
    """Returns the key of rule 1. Its last parts only make the result the same for both orders of looks."""
    final = not facts.settlement.is_open
    known = (final and one is not None for one in (facts.batch_id, facts.amount, facts.settled_at))
    settled = facts.settled_at.timestamp() if facts.settled_at else 0
    last = (facts.batch_id or "", facts.status, facts.amount or Decimal(0), settled)
    return _RANKS[facts.settlement], *known, facts.seen_at, *last


def _known(a: Any, b: Any) -> Any:
    """Returns the value that one of two looks has; the greater one if they differ, so that the order does not matter."""
    return max((one for one in (a, b) if one is not None), default=None)


def _items(items: Iterable[ReturnedItem]) -> tuple[ReturnedItem, ...]:
    """Returns returned items by id, each once, with all that is known of it."""
    found: dict[str, ReturnedItem] = {}
    for one in items:
        found[one.id] = reduce(_both, (found.get(one.id, one), one))
    return tuple(found[key] for key in sorted(found))


def _both(a: ReturnedItem, b: ReturnedItem) -> ReturnedItem:
    return ReturnedItem(a.id, _known(a.returned_at, b.returned_at), _known(a.code, b.code))


def _failed(status: str, batch: Batch | None) -> frozenset[str]:
    return frozenset({batch.id}) if batch and state_of(status) is State.SETTLEMENT_FAILED else frozenset()
