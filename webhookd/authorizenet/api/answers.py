"""Reads the provider's answers: the byte order mark, errors with HTTP status 200, lists in three forms, dates without zone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from webhookd.authorizenet.api.errors import NOTHING_THERE, Refusal
from webhookd.authorizenet.body import load

# Characters of an error's text that are looked at. Secrets are masked before the text is cut to what is shown; half a secret at
# this end is never shown.
_LONGEST = 100_000
_LONGEST_FIELD = 4096  # characters of a text in an answer
LONGEST_ID = 200  # characters; as in a webhook's body
# Neither PostgreSQL nor UTF-8 takes all of these, and no id, name or URL has them.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_AMOUNT = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
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
    fields = _unwrapped(decoded(body))
    if not isinstance(fields, dict) or not isinstance(fields.get("messages"), dict):
        raise UnreadableError("the answer has no `messages`")
    return error_in(fields) or dict(fields)


def error_in(fields: Any) -> Refusal | None:
    """Returns the error of the JSON API that an answer is; None if it is none. The REST API may answer so, too."""
    fields = _unwrapped(fields)
    messages = fields.get("messages") if isinstance(fields, dict) else None
    if not isinstance(messages, dict) or str(messages.get("resultCode", "")).lower() == "ok":
        return None
    found = [one for one in rows(messages, "message") if isinstance(one, dict)]
    said = [Refusal(text(one.get("code")) or "", _quoted(one.get("text"))) for one in found]
    # Another message may stand before the error.
    errors = [one for one in said if one.code.startswith("E") and one.code not in NOTHING_THERE]
    if not errors and any(one.code in NOTHING_THERE for one in said):
        return None
    return (errors or said or [Refusal("", "")])[0]


def refusal_of(status: int, body: bytes) -> Refusal:
    """Returns the error that an answer with this HTTP status is. The body can be anything, such as a proxy's page."""
    try:
        fields = decoded(body)
    except UnreadableError:
        fields = None
    if (error := error_in(fields)) is not None:
        return error._replace(status=status)
    if not isinstance(fields, dict):
        return Refusal(str(status), "", status=status, foreign=True)
    texts = [_quoted(fields.get("message"))]
    texts += [_quoted(one.get("message")) for one in rows(fields, "details") if isinstance(one, dict)]
    reason = text(fields.get("reason"))
    foreign = reason is None and "correlationId" not in fields
    return Refusal(reason or str(status), "; ".join(filter(None, texts))[:_LONGEST], status=status, foreign=foreign)


def rest_error_in(fields: Any, body: bytes) -> Refusal | None:
    """Returns the error that an answer of the REST API is in spite of its HTTP status 2xx; None if it is none."""
    if not isinstance(fields, dict):
        return None
    status = fields.get("status")  # of a webhook, a text
    return refusal_of(status, body) if isinstance(status, int) and status >= 400 else error_in(fields)


def _unwrapped(fields: Any) -> Any:
    if isinstance(fields, dict) and len(fields) == 1:
        (name, inner), *_ = fields.items()
        if name.endswith("Response") and isinstance(inner, dict):  # published examples have the answer's name
            return inner
    return fields


def _quoted(value: object) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


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
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        found = datetime.fromisoformat(value.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def text(value: object) -> str | None:
    """Returns a text, or a whole number as text: ids come as texts in some answers and as numbers in others. Else None.

    A text that is too long, or has control characters, counts as none: it could not be stored.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**40 else None
    if not isinstance(value, str) or len(value) > _LONGEST_FIELD or _UNFIT.search(value.strip()):
        return None
    return value.strip() or None


def required(fields: Mapping[str, Any], name: str) -> str:
    """Returns a text that must be there. Raises UnreadableError."""
    if (found := text(fields.get(name))) is None:
        raise UnreadableError(f"the answer lacks `{name}`")
    return found


def required_id(fields: Mapping[str, Any], name: str) -> str:
    """Returns an id that must be there. Raises UnreadableError, also if an index could not hold the id."""
    if len(found := required(fields, name)) > LONGEST_ID:
        raise UnreadableError(f"`{name}` has more than {LONGEST_ID} characters")
    return found


def optional_id(fields: Mapping[str, Any], name: str) -> str | None:
    """Returns an id or an invoice number; None if there is none, or if an index could not hold it."""
    found = text(fields.get(name))
    return found if found is not None and len(found) <= LONGEST_ID else None


def number(value: object) -> int | None:
    """Returns a whole number of at most 18 digits, also one that is written as a text; else None."""
    found = text(value)
    return int(found) if found is not None and _WHOLE.fullmatch(found) else None


def money(value: object) -> Decimal | None:
    """Returns an amount, also one that is written as a text; None if there is none, or if no amount is so long."""
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return value if isinstance(exponent, int) and -18 <= exponent <= 18 and value.adjusted() < 18 else None
    found = text(value)
    return Decimal(found) if found is not None and _AMOUNT.fullmatch(found) else None


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
