"""The payloads of the known event types: what each type reports, its fields with their meaning, and the values of a sample.

The samples of `webhookd trigger` and `webhookd dev`, the events of `webhookd.testing` and the guide's page of payloads are made
from these tables. The shapes follow notifications that the provider sent, if `confirmed` is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from webhookd.authorizenet.notification import PREFIX


class Kind(StrEnum):
    """How a field is written in JSON."""

    MONEY = "number, with its zeros"
    NUMBER = "number"
    TEXT = "text"
    LIST = "list"


class Field(NamedTuple):
    """A field of a payload. `path`: `.` leads into an object, and `[]` into each object of a list.

    `example`: returns the value in a sample, by the event's type, without its prefix, and the sample's number.
    """

    path: str
    kind: Kind
    meaning: str
    example: Callable[[str, int], Any] | None = None

    @property
    def name(self) -> str:
        """Returns the field's own name."""
        return re.split(r"\.|\[\]\.", self.path)[-1]

    @property
    def keyword(self) -> str | None:
        """Returns the keyword of `webhookd.testing.event` that sets the field; None if no keyword does."""
        if self.name == "entityName" or "[]" in self.path:
            return None
        return "amount" if self.kind is Kind.MONEY else re.sub(r"(?<=[a-z])([A-Z]+)", r"_\1", self.name).lower()


class Shape(NamedTuple):
    """The payload of an event type: what the type reports, the fields of a sample, and others that may come.

    `confirmed`: whether a captured notification, or two sources, show the `fields`. They show the `optional` fields in some
    events. The `likely` fields are only known of other types of the entity.
    """

    reports: str
    entity: str
    fields: tuple[str, ...]  # paths, in the provider's order
    optional: tuple[str, ...] = ()
    likely: tuple[str, ...] = ()
    confirmed: bool = True

    @property
    def possible(self) -> tuple[str, ...]:
        """Returns the paths of all fields that an event can have."""
        return (*self.fields, *self.optional, *self.likely)


# Authorized and then captured, captured at once, refunded, held: each is a transaction of its own.
_STORY = {
    "payment.authcapture.created": 1,
    "payment.void.created": 1,
    "payment.refund.created": 2,
    "payment.fraud.held": 3,
    "payment.fraud.approved": 3,
    "payment.fraud.declined": 4,
    "payment.capture.created": 5,
}
_STATUS = {
    "suspended": "suspended",
    "failed": "suspended",
    "terminated": "terminated",
    "cancelled": "canceled",
    "expired": "expired",
}


def _amount(_: str, number: int) -> orjson.Fragment:
    return orjson.Fragment(f"{number % 500 + 1}.10")  # the provider writes two decimals, and a float would lose the zero


def _transaction_id(event_type: str, number: int) -> str:
    return str(60_000_000_000 + number * 10 + _STORY.get(event_type, 0))


def _status(event_type: str, _: int) -> str:
    return _STATUS.get(event_type.rpartition(".")[2], "active")


def _customer(_: str, number: int) -> int:
    return 1_811_000_000 + number


def _payment_profile(_: str, number: int) -> int:
    return 1_806_000_000 + number


def _avs_response(event_type: str, _: int) -> str:
    return "P" if event_type == "payment.refund.created" else "Y"


def _always(value: Any) -> Callable[[str, int], Any]:
    return lambda _, __: value


def _reference(_: str, number: int) -> str:
    return str(336_000 + number)


_TRANSACTION = (
    Field(
        "responseCode",
        Kind.NUMBER,
        "1: approved. 2: declined. 3: error. 4: held for review. A recurring charge that failed can have 8. The button "
        "that tests a webhook sends 0 or 21",
        lambda event_type, _: {"payment.fraud.held": 4, "payment.fraud.declined": 2}.get(event_type, 1),
    ),
    Field("authCode", Kind.TEXT, "the bank's approval code", _always("P1XHLC")),
    Field("avsResponse", Kind.TEXT, "the result of the check of the address, such as `Y`; `P` if none was made", _avs_response),
    Field("authAmount", Kind.MONEY, "the amount, in the currency of the account", _amount),
    Field(
        "fraudList",
        Kind.LIST,
        "the fraud filters that the transaction met",
        _always([{"fraudFilter": "Shipping-Billing Mismatch Filter", "fraudAction": "authAndHold"}]),
    ),
    Field("fraudList[].fraudFilter", Kind.TEXT, "the filter's name"),
    Field("fraudList[].fraudAction", Kind.TEXT, "`reject`, `decline`, `hold`, `authAndHold` or `report`"),
    Field(
        "merchantReferenceId",
        Kind.TEXT,
        "the reference that the shop gave in its request; some events of one shop lack it",
        _reference,
    ),
    Field(
        "invoiceNumber",
        Kind.TEXT,
        "the invoice number that the shop gave; all payments of a subscription have the same, so it names no single payment",
        _reference,
    ),
    Field("entityName", Kind.TEXT, "`transaction`", _always("transaction")),
    Field("id", Kind.TEXT, "the transaction's id, which alone names the payment; a test may have `0`", _transaction_id),
)
_CUSTOMER_PROFILE = (
    Field(
        "paymentProfiles",
        Kind.LIST,
        "the customer's payment profiles",
        lambda event_type, number: [{"customerType": "individual", "id": str(_payment_profile(event_type, number))}],
    ),
    Field("paymentProfiles[].customerType", Kind.TEXT, "`individual`, and likely also `business`"),
    Field("paymentProfiles[].id", Kind.TEXT, "the payment profile's id"),
    Field("merchantCustomerId", Kind.TEXT, "the shop's own id of the customer", lambda _, number: f"SUB_{number:03d}"),
    Field("description", Kind.TEXT, "the shop's text about the customer"),
    Field("entityName", Kind.TEXT, "`customerProfile`", _always("customerProfile")),
    Field("id", Kind.TEXT, "the customer profile's id", lambda event_type, number: str(_customer(event_type, number))),
)
_CUSTOMER_PAYMENT_PROFILE = (
    Field("customerProfileId", Kind.NUMBER, "the id of the customer profile", _customer),
    Field("customerType", Kind.TEXT, "`individual`, and likely also `business`", _always("individual")),
    Field("entityName", Kind.TEXT, "`customerPaymentProfile`", _always("customerPaymentProfile")),
    Field("id", Kind.TEXT, "the payment profile's id", lambda event_type, number: str(_payment_profile(event_type, number))),
)
_SUBSCRIPTION = (
    Field("name", Kind.TEXT, "the subscription's name", lambda _, number: f"Subscription {number}"),
    Field("amount", Kind.MONEY, "the amount of each payment", _amount),
    Field("status", Kind.TEXT, "`active`, `expired`, `suspended`, `canceled` (in this spelling) or `terminated`", _status),
    Field("profile.customerProfileId", Kind.NUMBER, "the id of the customer profile", _customer),
    Field("profile.customerPaymentProfileId", Kind.NUMBER, "the id of the payment profile that pays", _payment_profile),
    Field("profile.customerShippingAddressId", Kind.NUMBER, "the id of the shipping address; some events lack it"),
    Field("entityName", Kind.TEXT, "`subscription`", _always("subscription")),
    Field("id", Kind.TEXT, "the subscription's id", lambda _, number: str(4_415_000 + number)),
    Field(
        "transactionDetails.transId",
        Kind.NUMBER,
        "the id of the transaction that failed",
        lambda _, number: 60_000_000_000 + number * 10,
    ),
    Field("transactionDetails.error", Kind.TEXT, "why it failed", _always("This transaction has been declined.")),
    Field(
        "transactionDetails.submitTimeUTC",
        Kind.TEXT,
        "when the transaction was made, in UTC, without a zone",
        _always("2021-04-09T09:29:27.257"),
    ),
)
# The fields of each entity, by the entity's name.
FIELDS = {
    "transaction": _TRANSACTION,
    "customerProfile": _CUSTOMER_PROFILE,
    "customerPaymentProfile": _CUSTOMER_PAYMENT_PROFILE,
    "subscription": _SUBSCRIPTION,
}

_NAMED = ("entityName", "id")
_PLAIN = ("responseCode", "authCode", "avsResponse", "authAmount", *_NAMED)
_WITHOUT_CODE = ("responseCode", "avsResponse", "authAmount", *_NAMED)
_HELD = ("responseCode", "authCode", "avsResponse", "authAmount", "fraudList", "merchantReferenceId", "invoiceNumber", *_NAMED)
_PROFILE = ("profile.customerProfileId", "profile.customerPaymentProfileId")
_SUBSCRIBED = ("name", "amount", "status", *_PROFILE, *_NAMED)
_DETAILS = ("transactionDetails.transId", "transactionDetails.error", "transactionDetails.submitTimeUTC")


def _transaction(
    reports: str, fields: tuple[str, ...] = _PLAIN, optional: tuple[str, ...] = (), *, confirmed: bool = True
) -> Shape:
    likely = tuple(name for name in _HELD if name not in (*fields, *optional))
    return Shape(reports, "transaction", fields, optional, likely, confirmed)


def _subscription(reports: str, more: tuple[str, ...] = (), *, confirmed: bool = True) -> Shape:
    optional = ("profile.customerShippingAddressId",)
    return Shape(reports, "subscription", (*_SUBSCRIBED, *more), optional, confirmed=confirmed)


_OF_A_CUSTOMER = ("paymentProfiles", "merchantCustomerId", *_NAMED)
_OF_A_PAYMENT_PROFILE = ("customerProfileId", "customerType", *_NAMED)

# The known event types, without their prefix.
SHAPES: dict[str, Shape] = {
    "payment.authorization.created": _transaction("an authorization, which is captured later"),
    "payment.authcapture.created": _transaction(
        "a sale or a recurring charge; also one that was declined or is held, and a test of a webhook: look at `responseCode`",
        _PLAIN,
        ("fraudList", "merchantReferenceId", "invoiceNumber"),
    ),
    "payment.capture.created": _transaction(
        "the capture of an amount that was authorized by other means, such as by phone", confirmed=False
    ),
    "payment.priorAuthCapture.created": _transaction(
        "the capture of an authorization; after a partial capture, the amount may be the authorized one"
    ),
    "payment.refund.created": _transaction("a refund: a transaction of its own, which does not name the sale", _WITHOUT_CODE),
    "payment.void.created": _transaction("a void; `id` names the transaction that was voided", _WITHOUT_CODE),
    "payment.fraud.held": _transaction("a transaction that the fraud filters hold for review", _HELD),
    "payment.fraud.approved": _transaction(
        "the approval of a held transaction. The bank can still refuse: `responseCode` is then 2 or 3. No other event reports "
        "that a held sale is captured now",
        confirmed=False,
    ),
    "payment.fraud.declined": _transaction("the refusal of a held transaction; can come without `fraud.held`", confirmed=False),
    "customer.created": Shape("a new customer profile", "customerProfile", _OF_A_CUSTOMER, ("description",)),
    "customer.updated": Shape("a change of a customer profile", "customerProfile", _OF_A_CUSTOMER, ("description",)),
    "customer.deleted": Shape("the end of a customer profile", "customerProfile", _NAMED),
    "customer.paymentProfile.created": Shape("a new payment profile", "customerPaymentProfile", _OF_A_PAYMENT_PROFILE),
    "customer.paymentProfile.updated": Shape("a change of a payment profile", "customerPaymentProfile", _OF_A_PAYMENT_PROFILE),
    "customer.paymentProfile.deleted": Shape(
        "the end of a payment profile", "customerPaymentProfile", ("customerProfileId", *_NAMED)
    ),
    "customer.subscription.created": _subscription("a new subscription"),
    "customer.subscription.updated": _subscription("a change of a subscription"),
    "customer.subscription.suspended": _subscription("a subscription that makes no payments, because one failed"),
    "customer.subscription.terminated": _subscription("a subscription that the provider ended"),
    "customer.subscription.cancelled": _subscription("a subscription that the shop or the customer ended"),
    "customer.subscription.expiring": _subscription("a subscription whose last payment is near"),
    "customer.subscription.failed": _subscription("a payment that failed; the provider does not repeat it", _DETAILS),
    "customer.subscription.expired": _subscription("a subscription that made its last payment", confirmed=False),
}
# Names of the fields that the provider sends as text, also if the text is a number.
TEXTS = frozenset(field.name for fields in FIELDS.values() for field in fields if field.kind is Kind.TEXT)


def shape_of(event_type: str) -> Shape:
    """Returns the shape of an event type. A type that is not known has the shape of a known type of its family."""
    kind = event_type.removeprefix(PREFIX)
    for family in ("customer.subscription.", "customer.paymentProfile.", "customer."):
        if kind.startswith(family):
            return SHAPES.get(kind) or SHAPES[f"{family}created"]
    return SHAPES.get(kind) or SHAPES["payment.authcapture.created"]


def fields_of(event_type: str) -> list[Field]:
    """Returns the fields that events of this type have or may have, but for those inside a list."""
    shape = shape_of(event_type)
    return [field for field in FIELDS[shape.entity] if field.path in shape.possible]


def make_payload(event_type: str, number: int) -> dict[str, Any]:
    """Makes the payload of a sample. `number` names its entity, so that types with the same number tell one story."""
    kind, shape = event_type.removeprefix(PREFIX), shape_of(event_type)
    by_path = {field.path: field for field in FIELDS[shape.entity]}
    payload: dict[str, Any] = {}
    for path in shape.fields:
        example = by_path[path].example
        if example is None:
            raise ValueError(f"the field {path} of {event_type} has no example")
        *parents, name = path.split(".")
        at = payload
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = example(kind, number)
    return payload
