"""The errors of Authorize.Net's API, by what to do about them.

The codes and their texts: the provider's responseCodes.json. No message holds a credential: the client masks them in the
provider's texts, which may quote a request's values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from webhookd.authorizenet.api.operations import Feature
from webhookd.errors import WebhookdError


class ProviderError(WebhookdError):
    """A call failed. `code` is the provider's code (`E00007`), its reason (`NOT_FOUND`), or the HTTP status as text."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CredentialsRefusedError(ProviderError):
    """The provider refuses the API Login ID or the Transaction Key. The account's calls stop for a while."""


class FeatureOffError(ProviderError):
    """The account may not use a part of the API; the message has the remedy. Calls of this part stop for a day."""


class RecordNotFoundError(ProviderError):
    """The provider knows no such transaction, subscription, webhook or notification."""


class CallRejectedError(ProviderError):
    """The provider rejects the call as it is. Another try changes nothing."""


class RecordForbiddenError(CallRejectedError):
    """The provider forbids the record that a call is for (HTTP 403). It may refuse the credentials: another call shows that."""


class UnreadableAnswerError(ProviderError):
    """An answer is JSON, but not of the form that its call has. Another try changes nothing."""


class ListMovedError(ProviderError):
    """A list changed while its pages were read, so that rows may be missing. Read the list again."""


class ProviderUnavailableError(ProviderError):
    """The provider did not answer, or not now.

    retry_in: the seconds until another call may be sent. sent: whether the call was sent, so that it may have had its effect.
    """

    def __init__(self, message: str, code: str = "", retry_in: float = 0.0, *, sent: bool = True) -> None:
        super().__init__(message, code)
        self.retry_in = retry_in
        self.sent = sent


NOTHING_THERE = frozenset({"I00004", "E00087"})
_NOT_FOUND = frozenset({"E00040", "E00035", "NOT_FOUND"})
_CREDENTIALS = frozenset(
    {"E00005", "E00006", "E00007", "E00008", "E00010", "E00059", "E00122", "E00123", "E00124", "E00139"}
    | {"AUTHENTICATION_FAILED"}
)
_PASSING = frozenset({"E00001", "E00049", "E00053", "E00062", "E00063", "E00104", "E00133", "408", "425", "429"})
_OTHER_KEY = frozenset({"E00007", "AUTHENTICATION_FAILED"})
UNKNOWN_CALL = frozenset({"E00003", "E00004"})  # the answers to a call that this host does not know yet
_REMEDIES = {
    "E00009": "the account is in test mode: switch the test mode off in the Merchant Interface (Account, Settings, Test Mode)",
    "E00011": "the Transaction Details API is switched off: switch it on in the Merchant Interface (Account, Settings, "
    "Transaction Details API)",
    "E00020": "the account has no eCheck",
    "E00021": "the account takes no credit cards",
    "E00025": "the account has no Automated Recurring Billing: sign up for it in the Merchant Interface, or ask for no "
    "subscriptions",
    "E00044": "the account has no Customer Information Manager: sign up for it in the Merchant Interface",
}


_KNOWN = NOTHING_THERE | _NOT_FOUND | _CREDENTIALS | _PASSING | UNKNOWN_CALL | _REMEDIES.keys()
_LONGEST_TEXT, _LONGEST_CODE = 500, 40  # characters that a message quotes
CREDENTIALS_REMEDY = (
    "check the API Login ID and the Transaction Key of the account, and that they are of production or of the sandbox, as "
    "WEBHOOKD_PROVIDER is"
)


class Refusal(NamedTuple):
    """An answer that is an error, with the provider's code and text as they came.

    asked_wait: seconds that the answer asks to wait. foreign: the answer does not have the form of an error of this API, so it
    may come from something between, such as a firewall.
    """

    code: str
    text: str
    asked_wait: float = 0.0
    status: int = 200
    foreign: bool = False

    @property
    def of_credentials(self) -> bool:
        """Returns whether the provider refuses the credentials."""
        return self.code in _CREDENTIALS or self.status == 401 or (self.status == 403 and not self.foreign)

    @property
    def of_key(self) -> bool:
        """Returns whether the account's other Transaction Key may work."""
        return self.code in _OTHER_KEY or (self.of_credentials and self.status in (401, 403))


def error_of(
    call: str, refusal: Refusal, feature: Feature, mask: Callable[[str], str] = str, *, of_record: bool = False
) -> ProviderError:
    """Returns the error for an answer. `call` names the call. `mask` hides secrets in a text: it comes before any cut.

    of_record: whether a status 403 may be about the record alone that the call is for.
    """
    known = refusal.code in _KNOWN or refusal.code == str(refusal.status)
    code = refusal.code if known else mask(refusal.code)[:_LONGEST_CODE]
    text = mask(refusal.text)[:_LONGEST_TEXT]
    said = f"{call}: Authorize.Net answered {code or refusal.status}" + (f" ({text})" if text else "")
    if code in _NOT_FOUND:
        return RecordNotFoundError(said, code)
    if of_record and refusal.status == 403 and refusal.of_credentials and code not in _CREDENTIALS:
        return RecordForbiddenError(said, code)
    if refusal.of_credentials:
        return CredentialsRefusedError(f"{said}: {CREDENTIALS_REMEDY}", code)
    if code in _REMEDIES:
        return FeatureOffError(f"{said}: {_REMEDIES[code]}", code)
    if code in _PASSING or refusal.status >= 500 or refusal.status in (408, 425, 429):
        return ProviderUnavailableError(said, code, refusal.asked_wait)
    if refusal.foreign and (refusal.status in (403, 404) or 300 <= refusal.status < 400):
        return ProviderUnavailableError(
            f"{call}: HTTP status {refusal.status}, and not in the form of Authorize.Net's API: something between, such as a "
            "firewall or a proxy, may have answered; let webhookd reach the address that WEBHOOKD_PROVIDER names",
            code,
            refusal.asked_wait,
        )
    if feature is Feature.SUMMARY and code in UNKNOWN_CALL:
        return FeatureOffError(f"{said}: this host does not know the call", code)
    return CallRejectedError(said, code)
