"""The captures of invoices, and those that are twice. Pure functions, without I/O.

Renewals share their subscription's invoice: of these, only the same payment is twice. A shop may sell the first period, or a
fee, under the invoice of the renewals that follow. So a sale and a renewal are twice only with one amount, and within a week.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from webhookd.authorizenet.settlement import Facts, State

_NEAR = timedelta(days=7)


class Capture(NamedTuple):
    """A settled charge of an invoice; a renewal has a subscription, and the number of its payment if the provider names it."""

    id: str
    amount: Decimal | None
    submitted_at: datetime | None
    subscription_id: str | None = None
    payment_number: int | None = None

    @property
    def payment(self) -> tuple[str | None, int | None]:
        """Returns the subscription and the number of the payment."""
        return self.subscription_id, self.payment_number

    def is_near(self, other: Capture) -> bool:
        """Returns whether both were submitted within a week."""
        if self.submitted_at is None or other.submitted_at is None:
            return False
        return abs(self.submitted_at - other.submitted_at) <= _NEAR


def captures_of(rows: Iterable[Facts]) -> dict[str, dict[str, Capture]]:
    """Returns the settled charges among transactions: invoice number → id → capture."""
    found: dict[str, dict[str, Capture]] = {}
    for one in rows:
        if one.invoice_number and one.state is State.SETTLED and not one.is_refund:
            payment = one.payment_number if one.subscription_id else None
            capture = Capture(one.id, one.amount, one.submitted_at, one.subscription_id, payment)
            found.setdefault(one.invoice_number, {})[one.id] = capture
    return found


def captured_twice(rows: Iterable[Facts], captures: Mapping[str, Collection[Capture]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields each invoice of the rows that is captured twice, with the ids of these captures, sorted.

    captures: invoice numbers → their captures, on any day.
    """
    for invoice, own in captures_of(rows).items():
        every = {one.id: one for one in captures.get(invoice, ())} | own
        sales = [one for one in every.values() if one.subscription_id is None]
        found = {one.id for one in sales} if len(sales) > 1 and any(one.id in own for one in sales) else set[str]()
        payments: dict[tuple[str | None, int | None], set[str]] = {}
        by_amount: dict[Decimal | None, list[Capture]] = {}
        for one in sales:
            by_amount.setdefault(one.amount, []).append(one)
        for one in every.values():
            if one.subscription_id is not None:
                for sale in by_amount.get(one.amount, ()):
                    if one.is_near(sale) and (one.id in own or sale.id in own):
                        found |= {one.id, sale.id}
                if one.payment_number is not None:
                    payments.setdefault(one.payment, set()).add(one.id)
        for same in payments.values():
            if len(same) > 1 and not same.isdisjoint(own):
                found |= same
        if found:
            yield invoice, tuple(sorted(found))
