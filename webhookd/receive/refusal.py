"""Refusals: the answer to each error, and the outcome that is counted."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple

from webhookd.errors import OverloadedError, RefusedError, SignatureError, UnavailableError


class Rejection(StrEnum):
    """The reason of a rejection that is the sender's fault: the outcome that is counted, and the reason of the sample."""

    SIGNATURE_MISSING = "signature_missing"
    SIGNATURE_MALFORMED = "signature_malformed"
    SIGNATURE_MISMATCH = "signature_mismatch"
    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_PATH = "unknown_path"
    CONTENT_ENCODING = "content_encoding"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    TRUNCATED = "truncated"
    BAD_EXPECT = "bad_expect"


class Refusal(NamedTuple):
    """The answer to a refused webhook, and the outcome that is counted."""

    status: HTTPStatus
    detail: str
    outcome: str
    retry: bool = False  # whether the answer has the header field Retry-After


# The outcomes under which refused webhooks of a known account are counted, and which alerts use.
REFUSED = (
    *("overload", "error", "postgresql_away", "postgresql_refused", "webhookd_away"),
    *(Rejection.SIGNATURE_MISSING, Rejection.SIGNATURE_MALFORMED, Rejection.SIGNATURE_MISMATCH),
)
_OF_SIGNATURES = {name.removeprefix("signature_"): name for name in Rejection if name.startswith("signature_")}


def refusal(error: Exception) -> Refusal:
    """Returns the answer to an error of the intake: 503 if the sender is not at fault, so that the provider sends again."""
    match error:
        case SignatureError():
            return Refusal(HTTPStatus.UNAUTHORIZED, "the signature does not verify", _OF_SIGNATURES[error.outcome])
        case UnavailableError():
            outcome = f"{error.dependency}_{'refused' if isinstance(error, RefusedError) else 'away'}"
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "webhookd cannot store webhooks at the moment", outcome, retry=True)
        case TimeoutError():  # the commit took longer than its timeout
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "could not store the webhook in time", "postgresql_away", retry=True)
        case OverloadedError():
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many webhooks at once", "overload", retry=True)
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "webhookd cannot take webhooks at the moment", "error", retry=True)
