"""The differences that a reconciliation can find, each with what to do."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The kind of a difference. Reports list them in this order."""

    NOT_HERE = "at the provider and not here"
    NOT_AT_PROVIDER = "here and not at the provider"
    NOT_SETTLED = "here and not settled at the provider"
    AMOUNT_DIFFERS = "amount differs"
    STATE_DIFFERS = "state differs"
    CAPTURED_TWICE = "one invoice captured twice"
    DEAD = "processed but dead"
    REFUND_WITHOUT_SALE = "refund without a sale"
    LISTED_TWICE = "listed twice"


class Books(StrEnum):
    """The books that are compared with the provider's."""

    WEBHOOKD = "webhookd"
    SHOP = "shop"
    PROVIDER = "provider"  # the provider's rows differ among each other


_TO_DO = {
    (Kind.NOT_HERE, Books.WEBHOOKD): (
        "Close the gap with `webhookd gaps close --since DAY`. If nothing comes, look whether the webhook was inactive or "
        "lacked the event type: `webhookd provider check`."
    ),
    (Kind.NOT_HERE, Books.SHOP): "Find the order by the invoice number, and enter the payment or refund in the shop's books.",
    (Kind.NOT_AT_PROVIDER, Books.WEBHOOKD): (
        "Look whether the API key belongs to this account, whether the sandbox was mixed up with production, "
        "and whether the account was in test mode."
    ),
    (Kind.NOT_AT_PROVIDER, Books.SHOP): (
        "Look the transaction up in the Merchant Interface. If it is not there, no money moved: correct the shop's books."
    ),
    (Kind.NOT_SETTLED, Books.WEBHOOKD): (
        "Look in the Merchant Interface why the transaction is in no batch. If it expired, was declined or was voided there, "
        "no money moved: charge or refund again. If it still waits, ask Authorize.Net, and do not charge again."
    ),
    (Kind.AMOUNT_DIFFERS, Books.WEBHOOKD): (
        "Compare with the transaction's details: a partial capture settles less than the authorised amount."
    ),
    (Kind.AMOUNT_DIFFERS, Books.SHOP): "Correct the amount in the shop's books: the provider's amount is what settled.",
    (Kind.STATE_DIFFERS, Books.WEBHOOKD): (
        "An event of the transaction was missed, or is dead. Look at `webhookd events list --entity-id ID`, and close the gap "
        "with `webhookd gaps close --since DAY`."
    ),
    (Kind.STATE_DIFFERS, Books.SHOP): "Correct the state in the shop's books, and look why its handler did not do it.",
    (Kind.CAPTURED_TWICE, Books.PROVIDER): (
        "Look whether the customer paid twice. If so, refund one transaction. If the order was split, nothing is to be done."
    ),
    (Kind.DEAD, Books.WEBHOOKD): (
        "Mend what failed, then redrive the event, so that its effect takes place: `webhookd dead-letters list`, then "
        "`webhookd dead-letters redrive ID`. A delivery has `webhookd destinations` instead."
    ),
    (Kind.REFUND_WITHOUT_SALE, Books.PROVIDER): (
        "Find the sale in the Merchant Interface. If there is none, ask who refunded: an unlinked refund can be fraud."
    ),
    (
        Kind.LISTED_TWICE,
        Books.PROVIDER,
    ): "Look at both batches in the Merchant Interface: a transaction settles in one only.",
    (Kind.LISTED_TWICE, Books.SHOP): "Let the query return one row for each transaction, or remove the second booking.",
}
_MONEY_LOST = {
    "settlement failed": "No money came. Ask the merchant service provider, and charge again if the batch does not settle.",
    "returned": "The bank returned the eCheck: the money goes back. Collect it from the customer, and correct the books.",
    "chargeback": "The customer's bank took the money back. Dispute it or collect it again, and correct the books.",
}


class Finding(NamedTuple):
    """A difference between the provider's books and others.

    books: the books that differ from the provider's.
    subject: the transaction's id; for an invoice captured twice, the invoice number.
    transactions: the transactions concerned, sorted.
    provider, other: what each side has: an amount, or a state in words. None if a side has nothing.
    batch_id: the batch of the transaction, if it has one.
    """

    kind: Kind
    books: Books
    subject: str
    transactions: tuple[str, ...]
    provider: Decimal | str | None = None
    other: Decimal | str | None = None
    batch_id: str | None = None

    @property
    def to_do(self) -> str:
        """Returns what a person should do."""
        lost = _MONEY_LOST.get(str(self.provider)) if self.kind is Kind.STATE_DIFFERS else None
        return lost or _TO_DO[self.kind, self.books]

    @property
    def order(self) -> tuple[int, str, int, str, tuple[str, ...]]:
        """Returns the key of the stable order: ids sort as numbers do."""
        return list(Kind).index(self.kind), self.books, len(self.subject), self.subject, self.transactions
