"""Routes of timelines: the state of a transaction, subscription, customer or payment profile, and its events."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from webhookd.admin.access import AccessLevel
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.settlement_shapes import (
    MissedRenewal,
    Money,
    Settlement,
    SubscriptionSettlement,
    missed_renewals,
    plain,
    settlement_of_subscription,
    settlement_of_transaction,
)
from webhookd.admin.shapes import EventRow, Text, Time, event_row
from webhookd.errors import NotFoundError
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.store.queries import queries

_MOST = 200  # events of one timeline
_MOST_MISSED = 500
_MOST_RELATED = 100  # ids: a customer's list of payment profiles comes from outside

EntityName = Literal["transaction", "subscription", "customerProfile", "customerPaymentProfile"]


class Account(Shape):
    """The account of the entity."""

    account: Text = "default"


class TransactionId(Shape):
    """The provider's id of a transaction."""

    transaction_id: Text


class SubscriptionId(Shape):
    """The provider's id of a subscription."""

    subscription_id: Text


class CustomerProfileId(Shape):
    """The provider's id of a customer profile."""

    customer_profile_id: Text


class PaymentProfileId(Shape):
    """The provider's id of a payment profile."""

    payment_profile_id: Text


class Related(Shape):
    """An entity that the shown entity names, and that has a timeline of its own."""

    entity_name: EntityName
    entity_id: str


class Timeline(Shape):
    """The part that the timelines of all entities have. Facts are null if no processed event reported them."""

    account: str
    first_event_at: Time | None = None
    last_event_at: Annotated[Time | None, Field(description="The date of the newest event that counts.")] = None
    last_event_type: Annotated[str | None, Field(description="The type of the newest event that counts.")] = None
    related: Annotated[list[Related], Field(description="The entities that this entity names, if they have a timeline.")]
    events: Annotated[list[EventRow], Field(description="The newest 200 events, in the order of their dates.")]


class FraudFilter(Shape):
    """A fraud filter that held or declined the transaction."""

    name: Annotated[str | None, Field(alias="fraudFilter")]
    action: Annotated[str | None, Field(alias="fraudAction")]


class Transaction(Timeline):
    """The state of a transaction by its newest event. Facts are null if no processed event reported them."""

    transaction_id: str
    state: Annotated[
        str | None,
        Field(
            description="authorized, held, approved, captured, refunded, declined, error or voided. Null if no event "
            "reported it: then `response_code` may give the reason."
        ),
    ] = None
    kind: Annotated[str | None, Field(description="charge or refund.")] = None
    requested_amount: Annotated[Money, Field(description="The amount that the payment requested, whatever its result.")] = None
    authorized_amount: Annotated[Money, Field(description="Null while held, and after a refusal or a void.")] = None
    captured_amount: Annotated[Money, Field(description="Null while held, and after a refusal or a void.")] = None
    refunded_amount: Annotated[Money, Field(description="Null while held, and after a refusal or a void.")] = None
    authorized_at: Time | None = None
    held_at: Time | None = None
    approved_at: Time | None = None
    declined_at: Time | None = None
    captured_at: Time | None = None
    voided_at: Time | None = None
    refunded_at: Time | None = None
    response_code: Annotated[
        int | None, Field(description="1 approved, 2 declined, 3 error, 4 held for review. Other codes report no state.")
    ] = None
    auth_code: str | None = None
    avs_response: str | None = None
    invoice_number: str | None = None
    merchant_reference: str | None = None
    fraud_filters: list[FraudFilter] | None = None
    last_failure_at: Annotated[
        Time | None, Field(description="When a void or a capture last failed. The failure did not change the transaction.")
    ] = None
    last_failure_type: Annotated[str | None, Field(description="The type of the event that reported the last failure.")] = None
    last_failure_code: Annotated[
        int | None, Field(description="The response code of the last failure; null if the code was not a number.")
    ] = None
    settlement: Annotated[
        Settlement | None, Field(description="What no webhook reports. Null if webhookd has not asked the provider.")
    ] = None


class Subscription(Timeline):
    """The state of a subscription by its newest event. Facts are null if no processed event reported them."""

    subscription_id: str
    name: str | None = None
    amount: Money = None
    status: Annotated[str | None, Field(description="active, expired, suspended, canceled or terminated.")] = None
    customer_profile_id: str | None = None
    payment_profile_id: str | None = None
    shipping_address_id: str | None = None
    last_failure_transaction_id: str | None = None
    last_failure_error: str | None = None
    last_failure_at: Time | None = None
    settlement: Annotated[
        SubscriptionSettlement | None,
        Field(description="What no webhook reports. Null if webhookd has not asked the provider."),
    ] = None


class Customer(Timeline):
    """The state of a customer profile by its newest event. Facts are null if no processed event reported them."""

    customer_profile_id: str
    state: Annotated[str | None, Field(description="active or deleted.")] = None
    merchant_customer_id: str | None = None
    payment_profile_ids: Annotated[
        list[str] | None,
        Field(description="The newest list that a customer event gave; events of payment profiles do not change it."),
    ] = None


class PaymentProfile(Timeline):
    """The state of a payment profile by its newest event. Facts are null if no processed event reported them."""

    payment_profile_id: str
    state: Annotated[str | None, Field(description="active or deleted.")] = None
    customer_profile_id: str | None = None
    customer_type: Annotated[str | None, Field(description="individual or business.")] = None


class MissedRenewals(Shape):
    """The renewals of an account that did not come."""

    renewals: Annotated[list[MissedRenewal], Field(description="The newest first.")]


@dataclass(slots=True, frozen=True)
class _Entity:
    """One kind of entity: its name in events, its word for people, its query, and the entities that it names in turn."""

    name: EntityName
    word: str
    shape: type[Timeline]
    row: Any  # the named query that reads the entity's row
    id_field: str
    names: dict[str, EntityName]  # field → the kind of entity whose id it holds
    settlement: Callable[[OperatorQueries, str, str], Awaitable[Settlement | SubscriptionSettlement | None]] | None = None


_TRANSACTION = _Entity(
    "transaction", "transaction", Transaction, queries.transaction, "transaction_id", {}, settlement_of_transaction
)
_SUBSCRIPTION = _Entity(
    "subscription",
    "subscription",
    Subscription,
    queries.subscription,
    "subscription_id",
    {
        "customer_profile_id": "customerProfile",
        "payment_profile_id": "customerPaymentProfile",
        "last_failure_transaction_id": "transaction",
    },
    settlement_of_subscription,
)
_CUSTOMER = _Entity(
    "customerProfile",
    "customer profile",
    Customer,
    queries.customer,
    "customer_profile_id",
    {"payment_profile_ids": "customerPaymentProfile"},
)
_PAYMENT_PROFILE = _Entity(
    "customerPaymentProfile",
    "payment profile",
    PaymentProfile,
    queries.payment_profile,
    "payment_profile_id",
    {"customer_profile_id": "customerProfile"},
)


def _facts(row: Any, shape: type[Shape]) -> dict[str, Any]:
    names = shape.model_fields.keys() & row.keys() if row is not None else set()
    facts = {name: value for name, value in plain(row or {}).items() if name in names}
    if facts.get("fraud_filters") is not None:
        facts["fraud_filters"] = _filters(json.loads(facts["fraud_filters"]))
    if facts.get("payment_profile_ids") is not None:
        facts["payment_profile_ids"] = json.loads(facts["payment_profile_ids"])
    return facts


def _filters(given: Any) -> list[FraudFilter]:
    """Returns the entries of the provider's fraudList; malformed parts are left out."""

    def text(value: Any) -> str | None:
        return value if isinstance(value, str) else None

    entries = [entry for entry in given if isinstance(entry, dict)] if isinstance(given, list) else []
    return [FraudFilter(**{name: text(entry.get(name)) for name in ("fraudFilter", "fraudAction")}) for entry in entries]


def _named(settlement: Settlement | SubscriptionSettlement | None) -> list[tuple[str, str]]:
    """Returns the kinds and the ids of the entities that a settlement names."""
    if isinstance(settlement, SubscriptionSettlement):
        return [("transaction", one.transaction_id) for one in reversed(settlement.payments) if one.transaction_id]
    if settlement is None:
        return []
    refunds = settlement.refunds.transactions if settlement.refunds else []
    found = [("transaction", settlement.ref_transaction_id), ("subscription", settlement.subscription_id)]
    found += [("transaction", one.transaction_id) for one in reversed(refunds)]
    return [(name, one) for name, one in found if one]


class TimelineRoutes:
    """Routes of timelines."""

    def __init__(self, statements: OperatorQueries) -> None:
        self._statements = statements

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        given: dict[str, Any] = {"query": Account, "problems": (404,)}
        table: tuple[tuple[str, Any, type[Timeline], type[Shape]], ...] = (
            ("transactions/{transaction_id}", self.show_transaction, Transaction, TransactionId),
            ("subscriptions/{subscription_id}", self.show_subscription, Subscription, SubscriptionId),
            ("customers/{customer_profile_id}", self.show_customer, Customer, CustomerProfileId),
            ("payment-profiles/{payment_profile_id}", self.show_payment_profile, PaymentProfile, PaymentProfileId),
        )
        missed = ("GET", "/webhooks/missed-renewals", AccessLevel.READ, self.list_missed_renewals, MissedRenewals)
        return [
            Route(*missed, query=Account),
            *(
                Route("GET", f"/webhooks/{path}", AccessLevel.READ, handler, answers, takes=takes, **given)
                for path, handler, answers, takes in table
            ),
        ]

    async def show_transaction(self, call: Call) -> Timeline:
        """Show a transaction's timeline."""
        return await self._timeline(_TRANSACTION, call)

    async def show_subscription(self, call: Call) -> Timeline:
        """Show a subscription's timeline."""
        return await self._timeline(_SUBSCRIPTION, call)

    async def show_customer(self, call: Call) -> Timeline:
        """Show a customer profile's timeline."""
        return await self._timeline(_CUSTOMER, call)

    async def show_payment_profile(self, call: Call) -> Timeline:
        """Show a payment profile's timeline."""
        return await self._timeline(_PAYMENT_PROFILE, call)

    async def _timeline(self, entity: _Entity, call: Call) -> Timeline:
        account = call.query.account
        entity_id = getattr(call.path, entity.id_field).strip()
        row = await self._statements.one(entity.row, account=account, id=entity_id)
        events = await self._statements.all(
            queries.events_of_entity, account=account, entity_name=entity.name, entity_id=entity_id, limit=_MOST
        )
        settlement = await entity.settlement(self._statements, account, entity_id) if entity.settlement else None
        if row is None and not events and settlement is None:
            raise NotFoundError(f"no event of the account {account!r} names the {entity.word} {entity_id!r}")
        # The query returns the newest first. The stable sort then keeps events of the same date in the order of their receipt.
        events.reverse()
        events.sort(key=lambda event: event["event_date"] or event["received_at"] or datetime.min.replace(tzinfo=UTC))
        facts = {"account": account, entity.id_field: entity_id} | _facts(row, entity.shape)
        related = await self._related(account, entity, facts, settlement)
        more = {} if entity.settlement is None else {"settlement": settlement}
        return entity.shape.model_validate(
            facts | {"events": [event_row(event) for event in events], "related": related} | more
        )

    async def list_missed_renewals(self, call: Call) -> MissedRenewals:
        """List the renewals that did not come.

        They were due by the schedule of an active subscription, and came neither within two days nor since. The list
        has the newest 500.
        """
        found = await missed_renewals(self._statements, call.query.account, _MOST_MISSED)
        return MissedRenewals(renewals=found)

    async def _related(
        self, account: str, entity: _Entity, facts: dict[str, Any], settlement: Settlement | SubscriptionSettlement | None
    ) -> list[Related]:
        """Returns the entities that `facts` name, if they have a timeline: a link to another entity would lead nowhere."""
        named: list[tuple[str, str]] = _named(settlement)
        for field, name in entity.names.items():
            value = facts.get(field)
            named += [(name, one) for one in (value if isinstance(value, list) else [value]) if one]
        if not named:
            return []
        names, ids = zip(*named[:_MOST_RELATED], strict=True)
        known = await self._statements.all(queries.known_entities, account=account, names=list(names), ids=list(ids))
        return [Related(entity_name=row["entity_name"], entity_id=row["entity_id"]) for row in known]
