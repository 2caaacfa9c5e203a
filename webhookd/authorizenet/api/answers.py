"""Reads the provider's answers: the byte order mark, errors with HTTP status 200, lists in three forms, dates without zone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from webhookd.authorizenet.api.errors import NOTHING_THERE, Refusal
from webhookd.authorizenet.body import load

_LONGEST = 500  # characters of a text that is quoted
# Contract: AnetApiSchema.xsd, the element in each list. The JSON form has the list alone, and examples have the element, too.
_ITEMS = {
    "arbTransactions": "arbTransaction",
    "batchList": "batch",
    "processors": "processor",
    "returnedItems": "returnedItem",
    "statistics": "statistic",
    "subscriptionDetails": "subscriptionDetail",
    "transactions": "transaction",
}


class UnreadableError(ValueError):
    """An answer is not of the form that its call has. The message quotes nothing of the answer."""


class NoJsonError(UnreadableError):
    """An answer is no JSON, or was cut off."""


def decoded(body: bytes) -> Any:
    """Returns the JSON of an answer, before which the provider puts a byte order mark. Numbers with a fraction are Decimal."""
    try:
        return load(body.decode("utf-8-sig"))
    except ValueError:
        raise NoJsonError("the answer is no JSON, or was cut off") from None


def report_of(body: bytes) -> dict[str, Any] | Refusal:
    """Returns the fields of an answer of the JSON API, or the error that the answer is: both come with HTTP status 200.

    If there is nothing to list (I00004, E00087), the fields are those of an empty answer.
    """
    fields = decoded(body)
    if isinstance(fields, dict) and len(fields) == 1:
        (name, inner), *_ = fields.items()
        if name.endswith("Response") and isinstance(inner, dict):  # published examples have the answer's name
            fields = inner
    messages = fields.get("messages") if isinstance(fields, dict) else None
    if not isinstance(messages, dict):
        raise UnreadableError("the answer has no `messages`")
    first = next((one for one in rows(messages, "message") if isinstance(one, dict)), {})
    code, text = str(first.get("code", ""))[:20], str(first.get("text", ""))[:_LONGEST]
    if str(messages.get("resultCode", "")).lower() != "ok" and code not in NOTHING_THERE:
        return Refusal(code, text)
    return dict(fields)


def rest_refusal(status: int, body: bytes) -> Refusal:
    """Returns the error of the REST API with this HTTP status. The body can be anything, such as a proxy's page."""
    try:
        fields = decoded(body)
    except UnreadableError:
        fields = None
    if not isinstance(fields, dict):
        return Refusal(str(status), "", status=status)
    texts = [str(fields.get("message", ""))]
    texts += [str(one.get("message", "")) for one in rows(fields, "details") if isinstance(one, dict)]
    reason = str(fields.get("reason") or status)[:40]
    return Refusal(reason, "; ".join(filter(None, texts))[:_LONGEST], status=status)


def rows(fields: Mapping[str, Any], name: str) -> list[Any]:
    """Returns a list of an answer: the list itself, an object with the list inside (`{"transaction": […]}`), or a lone row."""
    value = fields.get(name)
    if isinstance(value, dict) and value.keys() == {_ITEMS.get(name)}:
        (value,) = value.values()
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def moment(value: object) -> datetime | None:
    """Returns a time as UTC; a time without zone is UTC, too. None if `value` is no time."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def text(value: object) -> str | None:
    """Returns a text, or a whole number as text: ids come as texts in some answers and as numbers in others. Else None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def required(fields: Mapping[str, Any], name: str) -> str:
    """Returns a text that must be there. Raises UnreadableError."""
    if (found := text(fields.get(name))) is None:
        raise UnreadableError(f"the answer lacks `{name}`")
    return found


def number(value: object) -> int | None:
    """Returns a whole number, also one that is written as a text; else None."""
    if isinstance(value, bool):
        return None
    try:
        return int(value) if isinstance(value, int | str) else None
    except ValueError:
        return None


def money(value: object) -> Decimal | None:
    """Returns an amount, also one that is written as a text; None if there is none."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        amount = Decimal(value)
    except ArithmeticError:
        return None
    return amount if amount.is_finite() else None


def flag(value: object) -> bool | None:
    """Returns a truth value, also one that is written as a text; None if there is none."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def entry(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns an object inside an answer; {} if there is none."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def entries(fields: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Returns the objects of a list. Raises UnreadableError if a row is no object: a row that is skipped would go unnoticed."""
    found = rows(fields, name)
    if not all(isinstance(one, dict) for one in found):
        raise UnreadableError(f"a row of `{name}` is no object")
    return found
