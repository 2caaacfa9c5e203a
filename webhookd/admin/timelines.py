"""Routes of timelines: where a transaction and a subscription stand, and the events that tell it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import Field

from webhookd.admin.access import Role
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import EventRow, Text, Time, event_row
from webhookd.errors import NotFoundError
from webhookd.operate.statements import Statements
from webhookd.store.queries import queries

_MOST = 200  # events of one timeline

T = TypeVar("T", bound=Shape)


class Account(Shape):
    """Whose it is."""

    account: Text = "default"


class TransactionId(Shape):
    """The provider's id of a transaction."""

    transaction_id: Text


class SubscriptionId(Shape):
    """The provider's id of a subscription."""

    subscription_id: Text


class FraudFilter(Shape):
    """A fraud filter that held or declined the transaction."""

    name: Annotated[str | None, Field(alias="fraudFilter")]
    action: Annotated[str | None, Field(alias="fraudAction")]


class Transaction(Shape):
    """Where a transaction stands by its newest event. Facts are null where no processed event told them."""

    account: str
    transaction_id: str
    state: Annotated[
        str | None, Field(description="authorized, held, approved, captured, refunded, declined, error or voided.")
    ] = None
    kind: Annotated[str | None, Field(description="charge or refund.")] = None
    authorized_amount: str | None = None
    captured_amount: str | None = None
    refunded_amount: str | None = None
    authorized_at: Time | None = None
    held_at: Time | None = None
    approved_at: Time | None = None
    declined_at: Time | None = None
    captured_at: Time | None = None
    voided_at: Time | None = None
    refunded_at: Time | None = None
    response_code: int | None = None
    auth_code: str | None = None
    avs_response: str | None = None
    invoice_number: str | None = None
    merchant_reference: str | None = None
    fraud_filters: list[FraudFilter] | None = None
    first_event_at: Time | None = None
    last_event_at: Time | None = None
    last_event_type: str | None = None
    events: Annotated[list[EventRow], Field(description="The newest 200, in the order of their dates.")]


class Subscription(Shape):
    """Where a subscription stands by its newest event. Facts are null where no processed event told them."""

    account: str
    subscription_id: str
    name: str | None = None
    amount: str | None = None
    status: Annotated[str | None, Field(description="active, expired, suspended, canceled or terminated.")] = None
    customer_profile_id: str | None = None
    payment_profile_id: str | None = None
    shipping_address_id: str | None = None
    last_failure_transaction_id: str | None = None
    last_failure_error: str | None = None
    last_failure_at: Time | None = None
    first_event_at: Time | None = None
    last_event_at: Time | None = None
    last_event_type: str | None = None
    events: Annotated[list[EventRow], Field(description="The newest 200, in the order of their dates.")]


def _facts(row: Any, shape: type[Shape]) -> dict[str, Any]:
    names = shape.model_fields.keys() & row.keys() if row is not None else set()
    facts = {name: str(row[name]) if isinstance(row[name], Decimal) else row[name] for name in names}
    if facts.get("fraud_filters") is not None:
        facts["fraud_filters"] = _filters(json.loads(facts["fraud_filters"]))
    return facts


def _filters(told: Any) -> list[FraudFilter]:
    """The provider's fraudList; what is not as it should be is left out."""

    def text(value: Any) -> str | None:
        return value if isinstance(value, str) else None

    entries = [entry for entry in told if isinstance(entry, dict)] if isinstance(told, list) else []
    return [FraudFilter(**{name: text(entry.get(name)) for name in ("fraudFilter", "fraudAction")}) for entry in entries]


class TimelineRoutes:
    """Where entities stand."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def routes(self) -> list[Route]:
        """The table."""
        given: dict[str, Any] = {"query": Account, "problems": (404,)}
        return [
            Route(
                "GET",
                "/webhooks/transactions/{transaction_id}",
                Role.LOOK,
                self.show_transaction,
                Transaction,
                takes=TransactionId,
                **given,
            ),
            Route(
                "GET",
                "/webhooks/subscriptions/{subscription_id}",
                Role.LOOK,
                self.show_subscription,
                Subscription,
                takes=SubscriptionId,
                **given,
            ),
        ]

    async def show_transaction(self, call: Call) -> Transaction:
        """Show a transaction's timeline."""
        transaction_id = call.path.transaction_id
        return await self._timeline(Transaction, queries.transaction, "transaction", call.query.account, transaction_id)

    async def show_subscription(self, call: Call) -> Subscription:
        """Show a subscription's timeline."""
        subscription_id = call.path.subscription_id
        return await self._timeline(Subscription, queries.subscription, "subscription", call.query.account, subscription_id)

    async def _timeline(self, shape: type[T], query: Any, entity: str, account: str, entity_id: str) -> T:
        row = await self._statements.one(query, account=account, id=entity_id)
        events = await self._statements.all(
            queries.events_of_entity, account=account, entity_name=entity, entity_id=entity_id, limit=_MOST
        )
        if row is None and not events:
            raise NotFoundError(f"no event of the account {account!r} names the {entity} {entity_id!r}")
        events.sort(key=lambda event: event["event_date"] or event["received_at"] or datetime.min.replace(tzinfo=UTC))
        facts = {"account": account, f"{entity}_id": entity_id} | _facts(row, shape)
        return shape.model_validate(facts | {"events": [event_row(event) for event in events]})
