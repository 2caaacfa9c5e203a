"""Requests stay within SQS's limits, and SQS's error codes have the right meaning."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.errors import MessageGoneError, MessageRefusedError, UnavailableError
from webhookd.queue.contract import Failure
from webhookd.sqs.errors import receipt_failure, send_failure
from webhookd.sqs.queue import _requests


@given(st.lists(st.integers(1, 300_000), max_size=60))
def test_a_request_holds_ten_messages_and_256_kib_at_most(sizes: list[int]) -> None:
    requests = [sizes[part] for part in _requests(sizes)]
    assert list(itertools.chain.from_iterable(requests)) == sizes
    assert all(1 <= len(request) <= 10 for request in requests)
    assert all(sum(request) <= 262_144 for request in requests if len(request) > 1)
    for request, following in itertools.pairwise(requests):
        assert len(request) == 10 or sum(request) + following[0] > 262_144, "no request is smaller than need be"


@pytest.mark.parametrize(
    ("code", "sent", "received"),
    [
        ("InvalidParameterValue", MessageRefusedError, MessageGoneError),
        ("AWS.SimpleQueueService.BatchRequestTooLong", MessageRefusedError, UnavailableError),
        ("InvalidMessageContents", MessageRefusedError, UnavailableError),
        ("com.amazonaws.sqs.ReceiptHandleIsInvalid", UnavailableError, MessageGoneError),
        ("ReceiptHandleIsInvalidException", UnavailableError, MessageGoneError),
        ("AWS.SimpleQueueService.MessageNotInflight", UnavailableError, MessageGoneError),
        ("InternalError", UnavailableError, UnavailableError),
        ("RequestThrottled", UnavailableError, UnavailableError),
        ("AccessDenied", UnavailableError, UnavailableError),
    ],
)
def test_a_code_judges_the_message_its_receipt_or_neither(code: str, sent: type[Failure], received: type[Failure]) -> None:
    assert type(send_failure(code)) is sent
    assert type(receipt_failure(code)) is received


def test_without_a_code_nothing_has_failed() -> None:
    assert send_failure(None) is None
    assert receipt_failure(None) is None
