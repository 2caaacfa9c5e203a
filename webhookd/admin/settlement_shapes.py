"""The settlement of a transaction or a subscription in an answer: what the provider reports, and no webhook does."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field

from webhookd.admin.route import Shape
from webhookd.admin.shapes import Time
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.store.queries import queries

_MOST = 100  # refunds of a sale, payments of a subscription

Money = Annotated[str | None, Field(description="An exact decimal number.", examples=["139.99"])]


class ReturnedItem(Shape):
    """A return of an eCheck. It takes the whole amount back."""

    id: str
    returned_at: Time | None
    code: Annotated[str | None, Field(description="The reason's code, of NACHA.", examples=["R01"])]


class Refund(Shape):
    """A refund of a sale."""

    transaction_id: str
    state: str
    amount: Money
    settled_at: Time | None


class Refunds(Shape):
    """The refunds of a sale, with their sums."""

    settled: Annotated[int, Field(description="How many have settled.")]
    settled_amount: Annotated[Money, Field(description="The sum of those that have settled.")]
    pending: Annotated[int, Field(description="How many are on their way.")]
    pending_amount: Annotated[Money, Field(description="The sum of those that are on their way.")]
    failed: Annotated[int, Field(description="How many gave no money back.")]
    transactions: Annotated[list[Refund], Field(description=f"The newest {_MOST}, in the order of their times.")]


class Settlement(Shape):
    """The settlement of a transaction."""

    kind: Annotated[str, Field(description="charge or refund; or return, chargeback, chargeback reversal.")]
    state: Annotated[
        str,
        Field(
            description="held, authorized, pending, refund pending, settled, refund settled, settlement failed, returned, "
            "declined, expired, voided, error or unknown; or the kind, if it is neither charge nor refund."
        ),
    ]
    status: Annotated[str, Field(description="The provider's own text.")]
    amount: Annotated[Money, Field(description="The amount to settle, whatever became of it. Positive for a refund, too.")]
    settled_amount: Annotated[Money, Field(description="What settled. A return leaves it as it is.")]
    batch_id: str | None
    settled_at: Time | None
    returned: Annotated[list[ReturnedItem], Field(description="The returns of an eCheck.")]
    returned_amount: Annotated[Money, Field(description="What a bank took back of a charge. Null if it is no charge.")]
    refunds: Annotated[Refunds | None, Field(description="Null if the transaction is no charge.")]
    left_amount: Annotated[
        Money, Field(description="What settled of a charge, without refunds and returns. Null if nothing settled.")
    ]
    ref_transaction_id: Annotated[str | None, Field(description="The sale that a refund is for.")]
    account_type: Annotated[str | None, Field(description="The type of card, or eCheck.")]
    invoice_number: str | None
    subscription_id: str | None
    payment_number: Annotated[int | None, Field(description="The number of the subscription's payment, from 1.")]
    submitted_at: Time | None
    seen_at: Annotated[Time, Field(description="When the provider reported this state.")]


class Renewal(Shape):
    """A payment of a subscription."""

    payment_number: int | None
    state: Annotated[
        str | None, Field(description="The state of the transaction that paid; failed, if no attempt made a transaction.")
    ]
    transaction_id: str | None
    settled_amount: Money
    settled_at: Time | None
    attempts: int
    last_failure: Annotated[str | None, Field(description="The provider's reason for the last attempt without a transaction.")]
    first_attempt_at: Time | None
    last_attempt_at: Time | None


class MissedRenewal(Shape):
    """A renewal that was due and did not come in time."""

    subscription_id: str
    expected_on: Annotated[date, Field(description="The day on which it was due, in the account's time zone.")]
    amount: Money
    status: Annotated[str | None, Field(description="The subscription's present status, as the provider writes it.")]
    noted_at: Time
    came_at: Annotated[Time | None, Field(description="When an attempt at the payment came after all.")]


class SubscriptionSettlement(Shape):
    """A subscription as the provider lists it, with its payments."""

    status: Annotated[str | None, Field(description="The provider's own text. Null if the subscription is not listed.")]
    amount: Money
    past_occurrences: int | None
    total_occurrences: Annotated[int | None, Field(description="9999: no end.")]
    interval_length: int | None
    interval_unit: Annotated[str | None, Field(description="days or months.")]
    starts_on: date | None
    card_expires: Annotated[str | None, Field(description="The month in which the card expires, if it was reported.")]
    payments: Annotated[list[Renewal], Field(description=f"The newest {_MOST}, in the order of their numbers.")]
    missed: Annotated[list[MissedRenewal], Field(description="Renewals that did not come in time, the newest first.")]
    seen_at: Annotated[Time | None, Field(description="When the provider's list last showed a change.")]


async def settlement_of_transaction(statements: OperatorQueries, account: str, entity_id: str) -> Settlement | None:
    """Returns the settlement of a transaction; None if webhookd has asked the provider nothing about it."""
    row = await statements.one(queries.settlement_of_transaction, account=account, id=entity_id)
    if row is None:
        return None
    fields = plain(row)
    returned = [
        ReturnedItem(id=name, returned_at=at and datetime.fromisoformat(at), code=code)
        for name, at, code in json.loads(fields.pop("returned_items") or "[]")
    ]
    names = ("refunds", "refunded_amount", "pending_refunds", "pending_refund_amount", "failed_refunds")
    sums = [fields.pop(name) for name in names]
    refunds = None
    if fields["kind"] == "charge":
        rows = await statements.all(queries.refunds_of_sale, account=account, id=entity_id, limit=_MOST)
        shown = [
            Refund.model_validate({name: one for name, one in plain(each).items() if name != "submitted_at"}) for each in rows
        ]
        refunds = Refunds(**dict(zip(Refunds.model_fields, sums, strict=False)), transactions=shown)
    return Settlement.model_validate(fields | {"returned": returned, "refunds": refunds})


async def settlement_of_subscription(
    statements: OperatorQueries, account: str, entity_id: str
) -> SubscriptionSettlement | None:
    """Returns a subscription at the provider; None if webhookd has asked the provider nothing about it."""
    row = await statements.one(queries.subscription_at_provider, account=account, id=entity_id)
    payments = await statements.all(queries.renewals_of_subscription, account=account, id=entity_id, limit=_MOST)
    if row is None and not payments:
        return None
    missed = await statements.all(queries.missed_renewals_of_subscription, account=account, id=entity_id, limit=_MOST)
    names = SubscriptionSettlement.model_fields.keys()
    fields = dict.fromkeys(names) | ({} if row is None else {name: one for name, one in plain(row).items() if name in names})
    return SubscriptionSettlement.model_validate(
        fields | {"payments": [plain(one) for one in payments], "missed": [plain(one) for one in missed]}
    )


async def missed_renewals(statements: OperatorQueries, account: str, limit: int) -> list[MissedRenewal]:
    """Returns the newest renewals of an account that were missed and did not come since."""
    rows = await statements.all(queries.missed_renewals, account=account, limit=limit)
    return [MissedRenewal.model_validate(plain(row)) for row in rows]


def plain(row: Any) -> dict[str, Any]:
    """Returns a row with its amounts as text."""
    # Do not use str(), which writes a small amount as 1E-8.
    return {name: format(value, "f") if isinstance(value, Decimal) else value for name, value in row.items()}
