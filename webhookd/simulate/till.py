"""The till of a simulated merchant: makes sales, captures, refunds, voids and renewals, each with the event that reports it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from webhookd.authorizenet.notification import PREFIX
from webhookd.simulate.books import Account
from webhookd.simulate.records import (
    DECLINED,
    Attempt,
    Payment,
    Return,
    Subscription,
    Transaction,
    milliseconds,
)
from webhookd.simulate.settlement import catch_up, enter

# The status, the response code and the reason of a new transaction, by its outcome; the status of what is approved may differ.
_OUTCOMES = {
    "approved": ("capturedPendingSettlement", 1, 1),
    "declined": ("declined", *DECLINED),
    "error": ("generalError", 3, 19),
    "held": ("FDSPendingReview", 4, 252),
    "authorized and held": ("FDSAuthorizedPendingReview", 4, 253),
}
_FILTERS = {"held": "hold", "authorized and held": "authAndHold"}
_HELD = ("FDSPendingReview", "FDSAuthorizedPendingReview")
_OPEN = ("authorizedPendingCapture", "capturedPendingSettlement", "refundPendingSettlement")
# The answer to an attempt at a payment of a subscription, by how it fails.
_RESPONSES = {
    None: "This transaction has been approved.",
    "declined": "This transaction has been declined.",
    "card expired": "The credit card has expired.",
}


class Till:
    """The till of an account. It acts at the time of the simulator's clock, and each action makes an event.

    Raises ValueError for what the provider would refuse, such as the refund of a sale that is not settled.
    `withheld`: the history lists the event as delivered, and nobody gets it.
    """

    def __init__(
        self,
        account: Account,
        now: Callable[[], datetime],
        next_number: Callable[[], int],
        make: Callable[..., object],
        unknown_seconds: float,
    ) -> None:
        self._account = account
        self._now = now
        self._next_number = next_number
        self._make = make
        self._unknown = timedelta(seconds=unknown_seconds)

    def sale(
        self,
        amount: Decimal,
        account_type: str = "Visa",
        *,
        outcome: str = "approved",
        capture: bool = True,
        invoice: str | None = None,
        payment: Payment | None = None,
        returns: Return | None = None,
        told_amount: Decimal | None = None,
        withheld: bool = False,
    ) -> Transaction:
        """Makes a sale; without `capture`, an authorization.

        account_type: a card type, or `eCheck`.
        outcome: `approved`, `declined`, `error`, `held`, or `authorized and held`.
        invoice: by default, a new number; a payment of a subscription has none.
        returns: the return of an eCheck, after its settlement.
        told_amount: another amount that the event reports.
        """
        status, code, reason = _OUTCOMES[outcome]
        if outcome == "approved" and not capture:
            status = "authorizedPendingCapture"
        number = self._next_number()
        sale = self._enter(
            number,
            "authCaptureTransaction" if capture else "authOnlyTransaction",
            status,
            amount,
            account_type=account_type,
            response_code=code,
            reason_code=reason,
            invoice=invoice or (f"INV-{number}" if payment is None else None),
            payment=payment,
            filter_action=_FILTERS.get(outcome),
            returns=returns,
        )
        kind = "fraud.held" if outcome in _FILTERS else "authcapture.created" if capture else "authorization.created"
        self._tell(kind, sale, number, told_amount or amount, withheld=withheld)
        return sale

    def capture(self, authorization: Transaction, amount: Decimal | None = None, *, withheld: bool = False) -> None:
        """Captures an authorization, or a part of it. The event reports the amount that was authorized."""
        amount = authorization.auth_amount if amount is None else amount
        self._demand(authorization.status == "authorizedPendingCapture" and 0 < amount <= authorization.auth_amount)
        authorization.type, authorization.status = "priorAuthCaptureTransaction", "capturedPendingSettlement"
        authorization.settle_amount = amount
        self._tell("priorAuthCapture.created", authorization, withheld=withheld)

    def refund(
        self, sale: Transaction | None, amount: Decimal, account_type: str = "Visa", *, withheld: bool = False
    ) -> Transaction:
        """Refunds a settled sale, or a part of it. Without a sale, the refund names none."""
        self._catch_up()
        if sale is not None:
            left = sale.settle_amount - sale.refunded
            self._demand(sale.status == "settledSuccessfully" and not sale.is_refund and 0 < amount <= left)
            sale.refunded += amount
            account_type = sale.account_type
        number, ref_id = self._next_number(), None if sale is None else sale.id
        refund = self._enter(
            number, "refundTransaction", "refundPendingSettlement", amount, account_type=account_type, ref_id=ref_id
        )
        self._tell("refund.created", refund, number, withheld=withheld)
        return refund

    def void(self, transaction: Transaction, *, withheld: bool = False) -> None:
        """Voids a transaction that is in no batch yet."""
        self._catch_up()
        self._demand(transaction.batch is None and transaction.status in _OPEN)
        transaction.status = "voided"
        if transaction.ref_id is not None:
            self._account.transactions[transaction.ref_id].refunded -= transaction.settle_amount
        self._tell("void.created", transaction, withheld=withheld)

    def approve(self, held: Transaction, *, bank_declines: bool = False) -> None:
        """Approves a held transaction, which the bank may decline nevertheless."""
        self._catch_up()
        self._demand(held.status in _HELD)
        captured = "capturedPendingSettlement" if held.type == "authCaptureTransaction" else "authorizedPendingCapture"
        held.status = "declined" if bank_declines else captured
        held.response_code, held.reason_code = DECLINED if bank_declines else (1, 1)
        self._tell("fraud.approved", held)

    def decline(self, held: Transaction) -> None:
        """Declines a held transaction. One that the bank has authorized is voided."""
        self._catch_up()
        self._demand(held.status in _HELD)
        held.status = "declined" if held.status == "FDSPendingReview" else "voided"
        held.response_code, held.reason_code = 2, 251
        self._tell("fraud.declined", held)

    # Subscriptions

    def subscribe(self, amount: Decimal, account_type: str = "Visa", **more: Any) -> Subscription:
        """Makes a subscription. `more`: fields of `Subscription`. Its payments are made by `renew`."""
        number = self._next_number()
        name = f"Subscription {number}"
        own = Subscription(str(4_415_000 + number), amount, milliseconds(self._now()), name, account_type=account_type, **more)
        self._account.subscriptions[own.id] = own
        self._tell_of(own, "created")
        return own

    def renew(self, own: Subscription, fails: str | None = None, *, withheld: bool = False) -> Transaction | None:
        """Makes the next payment of a subscription, or tries the one that failed again. Returns its transaction, if it has one.

        fails: `declined` makes a declined transaction, and `card expired` none. Both suspend the subscription.
        """
        self._demand(own.status in ("active", "suspended"))
        number = own.paid + 1
        attempt = 1 + sum(one.number == number for one in own.attempts)
        made, outcome = None, "declined" if fails else "approved"
        if fails != "card expired":
            payment = Payment(own.id, number)
            made = self.sale(own.amount, own.account_type, outcome=outcome, payment=payment, withheld=withheld)
        at, paid_by = milliseconds(self._now()), None if made is None or fails else made.id
        own.attempts.append(Attempt(at, number, attempt, paid_by, _RESPONSES[fails]))
        if fails:
            own.status = "suspended"
            details: dict[str, Any] = {} if made is None else {"transId": int(made.id)}
            details |= {"error": _RESPONSES[fails], "submitTimeUTC": at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]}
            self._tell_of(own, "failed", withheld=withheld, transactionDetails=details)
            self._tell_of(own, "suspended", withheld=withheld)
            return made
        own.paid = number
        own.status = "expired" if number == own.occurrences else "active"
        if own.status == "expired":
            self._tell_of(own, "expired")
        return made

    def cancel(self, own: Subscription) -> None:
        """Ends a subscription."""
        self._demand(own.status in ("active", "suspended"))
        own.status = "canceled"
        self._tell_of(own, "cancelled")

    # The books and the events

    def _catch_up(self) -> None:
        catch_up(self._account, self._now())

    @staticmethod
    def _demand(allowed: bool) -> None:
        if not allowed:
            raise ValueError("the provider would refuse this: look at the state and the amounts of the transaction")

    def _enter(self, number: int, kind: str, status: str, amount: Decimal, **more: Any) -> Transaction:
        self._catch_up()
        now = self._now()
        identifier = str(60_000_000_000 + number * 10)
        own = Transaction(identifier, kind, status, milliseconds(now), now + self._unknown, amount, amount, **more)
        enter(self._account, own, now)
        return own

    def _tell(
        self, kind: str, own: Transaction, number: int = 1, amount: Decimal | None = None, *, withheld: bool = False
    ) -> None:
        changes = {"id": own.id, "authAmount": own.auth_amount if amount is None else amount, "responseCode": own.response_code}
        if own.invoice is not None:
            changes["invoiceNumber"] = own.invoice
        self._make(f"{PREFIX}payment.{kind}", self._account.name, number=number, changes=changes, withheld=withheld)

    def _tell_of(self, own: Subscription, kind: str, *, withheld: bool = False, **changes: Any) -> None:
        changes |= {"id": own.id, "amount": own.amount, "name": own.name, "status": own.status}
        self._make(f"{PREFIX}customer.subscription.{kind}", self._account.name, number=1, changes=changes, withheld=withheld)
