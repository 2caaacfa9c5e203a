"""What the errors of SQS and of its client mean. botocore's exceptions end in this package.

Contract: the SQS API reference, "Common errors" and the errors of each operation.
"""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from webhookd.errors import MessageGoneError, MessageRefusedError, UnavailableError
from webhookd.logs import where
from webhookd.queue.contract import Failure
from webhookd.sqs.credentials import CredentialsError

# What a call to SQS raises where SQS, the network or the credentials are away.
ERRORS = (ClientError, BotoCoreError, OSError, TimeoutError)
# What botocore's parser raises of an answer that is not SQS's: JSON of another shape, bytes that are no UTF-8, deep nesting.
ODD_ANSWERS = (AttributeError, TypeError, ValueError, RecursionError)
# Codes of SQS that judge a message, rather than report that SQS, the network or the credentials are away.
_REFUSALS = frozenset(
    {
        "BatchRequestTooLong",
        "InvalidAttributeValue",
        "InvalidMessageContents",
        "InvalidParameterValue",
        "MissingParameter",
        "UnsupportedOperation",
        "ValidationError",
    }
)
# Codes for a receipt that is no longer good: the message was deleted, is visible again, or has gone to another receiver.
# AWS answers InvalidParameterValue where a deleted message is to be hidden.
_GONE = frozenset({"InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid"})
_MISSING = ("NonExistentQueue", "QueueDoesNotExist")


def code_of(error: ClientError) -> str:
    """SQS's code of an error, or botocore's name of it."""
    return str(error.response.get("Error", {}).get("Code", "ClientError"))


def is_refusal(code: str) -> bool:
    """Whether `code`, of a call or of an entry, means that SQS does not take the message, whenever it is sent."""
    return _plain(code) in _REFUSALS


def send_failure(code: str | None) -> Failure | None:
    """What `code` says of a message that was to be sent; None for None."""
    if code is None:
        return None
    return MessageRefusedError(code) if is_refusal(code) else UnavailableError("sqs", code)


def receipt_failure(code: str | None) -> Failure | None:
    """What `code` says of a message that was received; None for None."""
    if code is None:
        return None
    return MessageGoneError(code) if _plain(code) in _GONE else UnavailableError("sqs", code)


def is_missing(error: BaseException) -> bool:
    """Whether SQS knows no such queue."""
    return isinstance(error, ClientError) and any(code in code_of(error) for code in _MISSING)


def reason_of(error: BaseException, queue: str) -> str:
    """Why a call about the queue of that name failed, without a secret, and with the remedy where it is known."""
    if is_missing(error):
        return f"the queue {queue} does not exist"
    if isinstance(error, ClientError):
        code = code_of(error)
        if code.upper().startswith("KMS"):
            return f"{code}: give webhookd's role kms:GenerateDataKey and kms:Decrypt on the queue's key"
        return code
    return str(error) if isinstance(error, CredentialsError) else where(error)


def _plain(code: str) -> str:
    return code.rpartition(".")[2].removesuffix("Exception")
