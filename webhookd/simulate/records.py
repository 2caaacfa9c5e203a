"""The money in the simulator's books: transactions, batches, subscriptions, and an account's rules of settlement.

Tests compare what webhookd knows with these, to the cent. `wire` makes from them what the API shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from webhookd.authorizenet.body import load
from webhookd.authorizenet.notification import PREFIX
from webhookd.simulate.answering import written

CHECK = "eCheck"
CARDS = ("Visa", "MasterCard", "AmericanExpress", "Discover")
DECLINED = (2, 2)  # the response code and the reason of a transaction that the bank declined


@dataclass(slots=True, frozen=True)
class Rules:
    """The rules of settlement of an account. zone: the time zone of the cut-off, and of the local times in reports.

    The times until settlement begin at the cut-off. The times until the end of holds are not known for certain.
    """

    zone: str = "America/Los_Angeles"
    cut_off: time = time(16)
    card_settles: timedelta = timedelta(hours=16, minutes=20)
    check_settles: timedelta = timedelta(days=3)
    held_ends: timedelta = timedelta(days=5)
    authorized_ends: timedelta = timedelta(days=30)

    def ends_after(self, status: str) -> timedelta | None:
        """Returns the age at which a transaction with this status expires; None if it never does."""
        if status == "FDSPendingReview":
            return self.held_ends
        return self.authorized_ends if status in ("authorizedPendingCapture", "FDSAuthorizedPendingReview") else None


@dataclass(slots=True)
class Statistic:
    """The sums of a batch for one type of card, or for eCheck."""

    account_type: str
    charge_amount: Decimal = Decimal("0.00")
    charge_count: int = 0
    refund_amount: Decimal = Decimal("0.00")
    refund_count: int = 0
    void_count: int = 0
    decline_count: int = 0
    error_count: int = 0
    returned_amount: Decimal = Decimal("0.00")
    returned_count: int = 0


@dataclass(slots=True, eq=False)
class Batch:
    """A batch. day: the local day of its cut-off. settled_at: None while the batch is pending."""

    id: str
    method: str  # creditCard or eCheck
    day: date
    closed_at: datetime
    transactions: list[Transaction] = field(repr=False)
    state: str = "pendingSettlement"
    settled_at: datetime | None = None
    statistics: tuple[Statistic, ...] = ()


class ReturnedItem(NamedTuple):
    """A return of an eCheck. `id` is also the id of the return's own transaction."""

    id: str
    at: datetime
    code: str
    description: str


class Return(NamedTuple):
    """A return to come. `after`: the time between the settlement of the eCheck and its return."""

    after: timedelta = timedelta(days=2)
    code: str = "R01"
    description: str = "Insufficient funds"


class Payment(NamedTuple):
    """A payment of a subscription. `number` counts the payments from 1."""

    subscription: str
    number: int


@dataclass(slots=True, eq=False)
class Transaction:
    """A transaction. known_from: from when reports know the transaction. returns: the return to come, of an eCheck.

    The amounts of refunds and returns are positive, too, as the provider shows them.
    """

    id: str
    type: str | None  # of a return, not known
    status: str
    made_at: datetime
    known_from: datetime
    auth_amount: Decimal
    settle_amount: Decimal
    account_type: str = "MasterCard"
    response_code: int = 1
    reason_code: int = 1
    invoice: str | None = None
    ref_id: str | None = None
    payment: Payment | None = None
    filter_action: str | None = None
    batch: Batch | None = None
    batched: bool = True  # whether cut-offs put it into a batch
    returns: Return | None = None
    returned: list[ReturnedItem] = field(default_factory=list)
    refunded: Decimal = Decimal("0.00")  # by refunds that were not voided
    avs: str = "Y"

    @property
    def method(self) -> str:
        """Returns the payment method, as a batch has it."""
        return CHECK if self.account_type == CHECK else "creditCard"

    @property
    def is_refund(self) -> bool:
        """Returns whether the transaction gives money back."""
        return self.type == "refundTransaction"


@dataclass(slots=True)
class Attempt:
    """An attempt at a payment of a subscription. transaction_id: None if it failed. response: the reason, if it failed."""

    at: datetime
    number: int  # of the payment, from 1
    attempt: int  # from 1
    transaction_id: str | None
    response: str


@dataclass(slots=True, eq=False)
class Subscription:
    """A subscription. card_ends: the month in which its card expires. occurrences: 9999 for one without end.

    interval_months: 0 if the interval is one of days. starts_on: None for the day of its creation, in UTC.
    """

    id: str
    amount: Decimal
    created_at: datetime
    name: str = ""
    status: str = "active"
    account_type: str = "Visa"
    interval_days: int = 30
    interval_months: int = 0
    starts_on: date | None = None
    occurrences: int = 9999
    card_ends: date = date(2030, 12, 1)
    paid: int = 0
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def last_at(self) -> datetime | None:
        """Returns when the last payment is due; None if there is no last one."""
        if self.occurrences == 9999:
            return None
        return self.created_at + timedelta(days=self.interval_days) * (self.occurrences - 1)


def cents(amount: object) -> Decimal:
    """Returns an amount as Decimal, with the digits in which it was written."""
    return amount if isinstance(amount, Decimal) else Decimal(str(amount))


def milliseconds(at: datetime) -> datetime:
    """Returns a time in UTC as the provider keeps it: with three decimals."""
    return at.astimezone(UTC).replace(microsecond=at.microsecond // 1000 * 1000)


_STATUS = {1: "capturedPendingSettlement", 2: "declined", 3: "generalError", 4: "FDSPendingReview"}
_TYPES = {
    "authorization": ("authOnlyTransaction", "authorizedPendingCapture"),
    "refund": ("refundTransaction", "refundPendingSettlement"),
    "void": ("authCaptureTransaction", "voided"),
}


def reported(event_type: str, payload: Mapping[str, Any], now: datetime, known_from: datetime) -> Transaction | None:
    """Makes the transaction that an event reports; None if the event is about none."""
    fields = load(written(payload).decode())
    if fields.get("entityName") != "transaction":
        return None
    sale = ("authCaptureTransaction", _STATUS.get(fields["responseCode"], "declined"))
    kind, status = _TYPES.get(event_type.removeprefix(PREFIX).split(".")[1], sale)
    amount = cents(fields["authAmount"])
    return Transaction(
        fields["id"],
        kind,
        status,
        milliseconds(now),
        known_from,
        amount,
        amount,
        response_code=fields["responseCode"],
        invoice=fields.get("invoiceNumber") or f"INV-{fields['id'][-6:]}",
        filter_action="hold" if status == "FDSPendingReview" else None,
        avs=fields.get("avsResponse", "P"),
    )
