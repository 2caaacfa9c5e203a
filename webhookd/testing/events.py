"""Events for tests: notifications of any known type, with the provider's payload and a test's own values."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias, TypedDict, Unpack

import orjson

from webhookd.authorizenet import sampling
from webhookd.authorizenet.api.results import ReturnedItem
from webhookd.authorizenet.details import Details, transaction_of
from webhookd.authorizenet.notification import EVENT_TYPES, canonical, nearest_type, parse, whole_pattern
from webhookd.authorizenet.settlement import state_of
from webhookd.authorizenet.shapes import Field, Kind, fields_of
from webhookd.errors import WebhookdError
from webhookd.event import Event, give_details
from webhookd.store.keys import new_id

Amount: TypeAlias = str | Decimal | int
_AMOUNT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_numbers = itertools.count(sampling.fresh_number())  # each event has an entity of its own


class MisuseError(WebhookdError):
    """A test asks for something that cannot work. The message names it, and the remedy."""


class Fields(TypedDict, total=False):
    """The fields of a payload that a test can set. None takes a field out. The guide's page of payloads has their meaning."""

    amount: Amount | None  # authAmount of a transaction, amount of a subscription
    auth_code: str | None
    avs_response: str | None
    customer_payment_profile_id: int | None
    customer_profile_id: int | None
    customer_shipping_address_id: int | None
    customer_type: str | None
    description: str | None
    error: str | None
    fraud_list: list[dict[str, str]] | None
    id: str | None
    invoice_number: str | None
    merchant_customer_id: str | None
    merchant_reference_id: str | None
    name: str | None
    payment_profiles: list[dict[str, str]] | None
    response_code: int | None
    status: str | None
    submit_time_utc: str | None
    trans_id: int | None


class DetailFields(TypedDict, total=False):
    """The details that a test can give. `webhookd.Details` has their meaning. `state` follows from `status`."""

    transaction_id: str
    status: str
    state: str
    amount: Amount | None
    batch_id: str | None
    settled_at: datetime | None
    submitted_at: datetime | None
    type: str | None
    ref_transaction_id: str | None
    invoice_number: str | None
    subscription_id: str | None
    payment_number: int | None
    returned_items: tuple[ReturnedItem, ...]


def event(
    event_type: str,
    /,
    *,
    account: str = "default",
    date: datetime | None = None,
    unknown: bool = False,
    payload: Mapping[str, object] | None = None,
    details: DetailFields | None = None,
    **fields: Unpack[Fields],
) -> Event:
    """Makes an event of `event_type`, which has the payload of the provider's own events of this type.

    `event_type`: `net.authorize.` may be left out.
    `account`: the account's name. `date`: the provider's date of the event, now by default; without a zone, it is UTC.
    `unknown`: True for a type that webhookd does not know.
    `payload`: further values by their names in JSON, for fields that webhookd does not know. They are not checked.
    `details`: what `event.details()` returns. Without them, the details have not come yet.
    `fields`: values of the payload's fields, for example `amount="7.10"`. Amounts keep their digits. None takes a field out.

    Each event has an entity of its own; `id` joins events. Raises MisuseError, which names the nearest type or field.
    """
    __tracebackhide__ = True  # pytest then shows the test, and not this function
    name = _known(event_type, unknown=unknown)
    by_keyword = {field.keyword: field for field in fields_of(name) if field.keyword is not None}
    values: dict[str, Any] = {}
    for keyword, value in fields.items():
        if keyword not in by_keyword:
            raise MisuseError(
                f'events of the type "{name}" have no field {keyword}; the nearest is {_nearest(keyword, by_keyword)}, and all '
                f"are: {', '.join(sorted(by_keyword))}. A field that webhookd does not know goes into payload={{…}}"
            )
        field = by_keyword[keyword]
        values[f"payload.{field.path}"] = None if value is None else _checked(keyword, field, value)
    values |= {f"payload.{path}": value for path, value in (payload or {}).items()}
    sample = sampling.with_values(sampling.sample(name, next(_numbers), _utc(date)), values)
    notification = parse(sample.body, account)
    made = Event(
        id=new_id(),
        account=account,
        notification_id=notification.notification_id,
        event_type=notification.event_type,
        event_date=notification.event_date,
        received_at=datetime.now(UTC),
        attempt=1,
        raw=sample.body,
    )
    if details is not None:
        give_details(made, _details(made, details))
    return made


def _details(event: Event, fields: DetailFields) -> Details:
    __tracebackhide__ = True
    transaction_id = transaction_of(event.payload)
    if transaction_id is None:
        raise MisuseError(f'events of the type "{event.event_type}" are not about a transaction, so they have no details')
    if unknown := [name for name in fields if name not in DetailFields.__annotations__]:
        (nearest,) = difflib.get_close_matches(unknown[0], DetailFields.__annotations__, n=1, cutoff=0.0)
        raise MisuseError(f"details have no field {unknown[0]}; the nearest is {nearest}")
    amount = fields.get("amount", event.payload.get("authAmount"))
    if isinstance(amount, float) or (amount is not None and not _AMOUNT.fullmatch(str(amount))):
        raise MisuseError(f'amount is an amount: write it as text, for example "amount": "7.10", and not as {amount!r}')
    status = fields.get("status", "capturedPendingSettlement")
    values: dict[str, Any] = {"transaction_id": transaction_id, "status": status, "state": state_of(status).value, **fields}
    return Details(**values | {"amount": None if amount is None else Decimal(amount)})


def _utc(date: datetime | None) -> datetime | None:
    return date if date is None or date.tzinfo is None else date.astimezone(UTC)


def _known(event_type: str, *, unknown: bool) -> str:
    __tracebackhide__ = True
    if "*" in event_type:
        nearest = nearest_type(event_type.replace("*", ""))
        raise MisuseError(f'"{event_type}" is a pattern, and an event has one type: name one type, such as "{nearest}"')
    name = canonical(whole_pattern(event_type))
    if name not in EVENT_TYPES and not unknown:
        nearest = nearest_type(event_type)
        raise MisuseError(
            f'there is no event type "{event_type}"; the nearest known type is "{nearest}". For a type that '
            f'webhookd does not know yet, write event("{event_type}", unknown=True)'
        )
    return name


def _nearest(keyword: str, known: Mapping[str, Field]) -> str:
    # People also write the name that stands in the JSON: invoiceNumber, authAmount.
    by_spelling = {**{name: name for name in known}, **{field.name.lower(): name for name, field in known.items()}}
    (found,) = difflib.get_close_matches(keyword.lower(), by_spelling, n=1, cutoff=0.0)
    return by_spelling[found]


def _checked(keyword: str, field: Field, value: object) -> object:
    __tracebackhide__ = True
    if field.kind is Kind.MONEY:
        text = format(value, "f") if isinstance(value, Decimal) else str(value)
        if isinstance(value, (bool, float)) or not _AMOUNT.fullmatch(text):
            raise MisuseError(f'{keyword} is an amount: write it as text, for example {keyword}="7.10", and not as {value!r}')
        return orjson.Fragment(text)  # keeps the zeros
    wanted, remedy = _JSON[field.kind]
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise MisuseError(f"{keyword} is {remedy} ({field.path} in the payload), and not {value!r}")
    return value


_JSON: dict[Kind, tuple[type, str]] = {
    Kind.NUMBER: (int, "a whole number"),
    Kind.TEXT: (str, "text, also if it is a number"),
    Kind.LIST: (list, "a list of objects"),
}
