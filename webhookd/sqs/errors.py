"""The meaning of the errors of SQS and of its client. botocore's exceptions end in this package.

Contract: the SQS API reference, "Common errors" and the errors of each operation.
"""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from webhookd.errors import MessageGoneError, MessageRefusedError, UnavailableError
from webhookd.queue.contract import Failure

# Exceptions that a call to SQS raises if SQS, the network or the credentials are away.
ERRORS = (ClientError, BotoCoreError, OSError, TimeoutError)
# Exceptions of botocore's parser if an answer is not SQS's: JSON of another shape, bytes that are no UTF-8, deep nesting.
ODD_ANSWERS = (AttributeError, TypeError, ValueError, RecursionError)
# SQS's codes that refuse a message. Other codes report that SQS, the network or the credentials are away.
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
# Codes for a receipt that is no longer good: the message was deleted, is visible again, or another receiver has it.
# AWS answers InvalidParameterValue if a deleted message is to be hidden.
_GONE = frozenset({"InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid"})
_MISSING = ("NonExistentQueue", "QueueDoesNotExist")


def code_of(error: ClientError) -> str:
    """Returns SQS's code of an error, or "ClientError" if there is none."""
    return str(error.response.get("Error", {}).get("Code", "ClientError"))


def is_refusal(code: str) -> bool:
    """Returns whether `code`, of a call or of an entry, means that SQS refuses the message, whenever it is sent."""
    return plain(code) in _REFUSALS


def send_failure(code: str | None) -> Failure | None:
    """Returns the failure that `code` means for a message that was to be sent; None for None."""
    if code is None:
        return None
    return MessageRefusedError(code) if is_refusal(code) else UnavailableError("sqs", code)


def receipt_failure(code: str | None) -> Failure | None:
    """Returns the failure that `code` means for a message that was received; None for None."""
    if code is None:
        return None
    return MessageGoneError(code) if plain(code) in _GONE else UnavailableError("sqs", code)


def is_missing(error: BaseException) -> bool:
    """Returns whether SQS reports that the queue does not exist."""
    return isinstance(error, ClientError) and any(code in code_of(error) for code in _MISSING)


def plain(code: str) -> str:
    """Returns SQS's code without its namespace and the suffix of an exception."""
    return code.rpartition(".")[2].removesuffix("Exception")
