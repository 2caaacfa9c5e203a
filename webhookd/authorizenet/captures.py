"""The captures of invoices, and those that are twice. Pure functions, without I/O.

Renewals share their subscription's invoice: of these, only the same payment is twice. A sale that is no renewal, and has the
invoice of a renewal, is twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from webhookd.authorizenet.settlement import Facts, State

_Payment = tuple[str | None, int | None]
_NO_RENEWAL: _Payment = (None, None)


class Capture(NamedTuple):
    """A settled charge of an invoice; a renewal has a subscription and the number of its payment."""

    id: str
    subscription_id: str | None = None
    payment_number: int | None = None

    @property
    def payment(self) -> _Payment:
        """Returns the subscription and the number of the payment."""
        return self.subscription_id, self.payment_number


def captures_of(rows: Iterable[Facts]) -> dict[str, set[Capture]]:
    """Returns the settled charges among transactions, by their invoice numbers."""
    found: dict[str, set[Capture]] = {}
    for one in rows:
        if one.invoice_number and one.state is State.SETTLED and not one.is_refund:
            payment = one.payment_number if one.subscription_id else None
            found.setdefault(one.invoice_number, set()).add(Capture(one.id, one.subscription_id, payment))
    return found


def captured_twice(rows: Iterable[Facts], captures: Mapping[str, Collection[Capture]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields each invoice of the rows that is captured twice, with the ids of these captures, sorted.

    captures: invoice numbers → their captures, on any day.
    """
    for invoice, own in captures_of(rows).items():
        by_payment: dict[_Payment, set[str]] = {}
        for one in {*own, *captures.get(invoice, ())}:
            by_payment.setdefault(one.payment, set()).add(one.id)
        sales = by_payment.get(_NO_RENEWAL, set())
        found = set[str]()
        for payment in {one.payment for one in own}:
            same = set[str]().union(*by_payment.values()) if payment == _NO_RENEWAL else by_payment[payment] | sales
            found |= same if len(same) > 1 else set()
        if found:
            yield invoice, tuple(sorted(found))
