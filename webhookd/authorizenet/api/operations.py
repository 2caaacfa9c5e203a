"""The calls that webhookd may send to Authorize.Net: reports, and the webhooks' own registration. No other call leaves.

A Transaction Key can charge and refund, and no key that can only read is known. So `json_body` and `rest_path` make every
request, and refuse whatever is not in `REPORTS` or `REST`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from webhookd.errors import WebhookdError


class ForbiddenCallError(WebhookdError):
    """A call that is not on the list, or whose fields are not: a mistake in webhookd's code. Nothing was sent."""


class Feature(StrEnum):
    """A part of the API that an account can lack."""

    WEBHOOKS = "webhooks"
    ACCOUNT = "account"
    REPORTS = "reports"
    SUMMARY = "summary"
    SUBSCRIPTIONS = "subscriptions"


class Report(NamedTuple):
    """A call of the JSON API that only reads.

    fields: the call's own fields, in the order of the provider's schema, which the provider demands.
    """

    feature: Feature
    fields: tuple[str, ...] = ()
    credentials: bool = True


_PAGED = ("sorting", "paging")
# Contract: AnetApiSchema.xsd, the sequence of each type. The field that all types have, merchantAuthentication, comes first.
REPORTS: Mapping[str, Report] = MappingProxyType(
    {
        "isAliveRequest": Report(Feature.ACCOUNT, credentials=False),
        "authenticateTestRequest": Report(Feature.ACCOUNT),
        "getMerchantDetailsRequest": Report(Feature.ACCOUNT),
        "getTransactionDetailsRequest": Report(Feature.REPORTS, ("transId",)),
        "getTransactionSummaryRequest": Report(Feature.SUMMARY, ("transId",)),
        "getUnsettledTransactionListRequest": Report(Feature.REPORTS, ("status", *_PAGED)),
        "getSettledBatchListRequest": Report(
            Feature.REPORTS, ("includeStatistics", "firstSettlementDate", "lastSettlementDate")
        ),
        "getBatchStatisticsRequest": Report(Feature.REPORTS, ("batchId",)),
        "getTransactionListRequest": Report(Feature.REPORTS, ("batchId", *_PAGED)),
        "ARBGetSubscriptionRequest": Report(Feature.SUBSCRIPTIONS, ("subscriptionId", "includeTransactions")),
        "ARBGetSubscriptionStatusRequest": Report(Feature.SUBSCRIPTIONS, ("subscriptionId",)),
        "ARBGetSubscriptionListRequest": Report(Feature.SUBSCRIPTIONS, ("searchType", *_PAGED)),
    }
)
_INNER = {"sorting": ("orderBy", "orderDescending"), "paging": ("limit", "offset")}


class Rest(NamedTuple):
    """A call of the REST API.

    repeatable: whether a call whose answer was lost may be sent again.
    of_record: whether the provider may forbid the record that the call is for, and nothing else.
    """

    method: str
    path: str
    repeatable: bool = True
    of_record: bool = False


REST: Mapping[str, Rest] = MappingProxyType(
    {
        "event types": Rest("GET", "eventtypes"),
        "webhooks": Rest("GET", "webhooks"),
        "webhook": Rest("GET", "webhooks/{}"),
        "create webhook": Rest("POST", "webhooks", repeatable=False),
        "change webhook": Rest("PUT", "webhooks/{}"),
        "delete webhook": Rest("DELETE", "webhooks/{}"),
        "ping webhook": Rest("POST", "webhooks/{}/pings", repeatable=False),
        "notifications": Rest("GET", "notifications"),
        "notification": Rest("GET", "notifications/{}", of_record=True),
    }
)
_ID = re.compile(r"[0-9A-Za-z-]{1,64}")  # an id with a slash or dots would lead to another path


def is_id(text: str) -> bool:
    """Returns whether a text can be the id in the path of a call of the REST API."""
    return _ID.fullmatch(text) is not None


def json_body(name: str, fields: Mapping[str, Any], credentials: tuple[str, str] | None) -> bytes:
    """Returns the body of a call of the JSON API, with its keys in the order that the provider demands.

    name: a name of REPORTS, such as `getTransactionDetailsRequest`.
    fields: the call's own fields, in any order; a field that is None is left out.
    credentials: the API Login ID and the Transaction Key; None only for calls without credentials.
    Raises ForbiddenCallError.
    """
    report = REPORTS.get(name)
    if report is None:
        raise ForbiddenCallError(f"{name[:80]!r} is not a call that only reads: it is not sent")
    if unknown := fields.keys() - set(report.fields):
        raise ForbiddenCallError(f"{name} has no field {', '.join(sorted(unknown))}: it is not sent")
    if report.credentials != (credentials is not None):
        raise ForbiddenCallError(f"{name} and its credentials do not go together: it is not sent")
    body: dict[str, Any] = {}
    if credentials is not None:
        body["merchantAuthentication"] = {"name": credentials[0], "transactionKey": credentials[1]}
    for field in report.fields:
        if (value := fields.get(field)) is not None:
            body[field] = _ordered(name, field, value)
    return orjson.dumps({name: body})


def _ordered(name: str, field: str, value: Any) -> Any:
    """Returns a field's value. The keys of an object come in the provider's order, too, and no text holds a call of its own."""
    if field in _INNER:
        if unknown := value.keys() - set(_INNER[field]):
            raise ForbiddenCallError(f"{name}: {field} has no field {', '.join(sorted(unknown))}: it is not sent")
        return {inner: value[inner] for inner in _INNER[field] if inner in value}
    if not isinstance(value, str | bool | int):
        raise ForbiddenCallError(f"{name}: {field} is neither text nor a number nor true or false: it is not sent")
    return value


def rest_path(name: str, identifier: str | None = None) -> tuple[str, str]:
    """Returns the method and the path of a call of the REST API, below `/rest/v1/`. Raises ForbiddenCallError.

    name: a name of REST, such as `webhook`. identifier: the id in the path, if the path has one.
    """
    call = REST.get(name)
    if call is None:
        raise ForbiddenCallError(f"{name[:80]!r} is no call of webhooks and their history: it is not sent")
    if ("{}" in call.path) != (identifier is not None) or (identifier is not None and not is_id(identifier)):
        raise ForbiddenCallError(f"{name}: the id is missing, or has a character that no id has: the call is not sent")
    return call.method, call.path.format(identifier)
