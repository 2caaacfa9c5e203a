"""The calls that may be sent to Authorize.Net, the reading of its answers, and the stops of calls, without a server."""

from __future__ import annotations

import ast
import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.authorizenet.api import answers, reading, results
from webhookd.authorizenet.api.answers import NoJsonError, UnreadableError
from webhookd.authorizenet.api.errors import (
    CallRejectedError,
    CredentialsRefusedError,
    FeatureOffError,
    ProviderError,
    ProviderUnavailableError,
    RecordNotFoundError,
    Refusal,
    error_of,
)
from webhookd.authorizenet.api.limits import BURST, FEATURE_AGAIN, Bucket, Gate
from webhookd.authorizenet.api.operations import (
    REPORTS,
    REST,
    Feature,
    ForbiddenCallError,
    json_body,
    rest_path,
)

PACKAGE = Path(__file__).parents[2] / "webhookd"
CREDENTIALS = ("login-of-a-test", "key-of-a-test-16")
# The calls of the provider's schema that move money or change customers and subscriptions.
WRITING = (
    "createTransactionRequest",
    "updateHeldTransactionRequest",
    "updateSplitTenderGroupRequest",
    "createCustomerProfileTransactionRequest",
    "createCustomerProfileFromTransactionRequest",
    "createCustomerProfileRequest",
    "updateCustomerProfileRequest",
    "deleteCustomerProfileRequest",
    "createCustomerPaymentProfileRequest",
    "updateCustomerPaymentProfileRequest",
    "deleteCustomerPaymentProfileRequest",
    "validateCustomerPaymentProfileRequest",
    "ARBCreateSubscriptionRequest",
    "ARBUpdateSubscriptionRequest",
    "ARBCancelSubscriptionRequest",
    "getHostedPaymentPageRequest",
    "securePaymentContainerRequest",
    "mobileDeviceRegistrationRequest",
    "updateMerchantDetailsRequest",
    "sendCustomerTransactionReceiptRequest",
)
# The sequences of AnetApiSchema.xsd, as the reference of the API lists them.
SEQUENCES = {
    "isAliveRequest": [],
    "authenticateTestRequest": [],
    "getMerchantDetailsRequest": [],
    "getTransactionDetailsRequest": ["transId"],
    "getTransactionSummaryRequest": ["transId"],
    "getUnsettledTransactionListRequest": ["status", "sorting", "paging"],
    "getSettledBatchListRequest": ["includeStatistics", "firstSettlementDate", "lastSettlementDate"],
    "getBatchStatisticsRequest": ["batchId"],
    "getTransactionListRequest": ["batchId", "sorting", "paging"],
    "ARBGetSubscriptionRequest": ["subscriptionId", "includeTransactions"],
    "ARBGetSubscriptionStatusRequest": ["subscriptionId"],
    "ARBGetSubscriptionListRequest": ["searchType", "sorting", "paging"],
}
VALUES = {"sorting": {"orderDescending": False, "orderBy": "id"}, "paging": {"offset": 1, "limit": 1000}}


def body_of(name: str, fields: dict[str, Any]) -> Any:
    return orjson.loads(json_body(name, fields, CREDENTIALS if REPORTS[name].credentials else None))


@pytest.mark.parametrize("name", WRITING)
def test_no_call_that_moves_money_or_changes_a_customer_is_made(name: str) -> None:
    with pytest.raises(ForbiddenCallError):
        json_body(name, {}, CREDENTIALS)
    with pytest.raises(ForbiddenCallError):
        rest_path(name)


@given(st.text(max_size=60))
def test_no_other_name_makes_a_call(name: str) -> None:
    if name not in REPORTS:
        with pytest.raises(ForbiddenCallError):
            json_body(name, {}, CREDENTIALS)
    if name not in REST:
        with pytest.raises(ForbiddenCallError):
            rest_path(name)


def test_the_list_of_calls_only_reads_and_registers_and_nobody_can_extend_it() -> None:
    assert {
        name for name in REPORTS if not name.removeprefix("ARB").lower().startswith(("get", "isalive", "authenticate"))
    } == set()
    assert {name for name, call in REST.items() if call.method != "GET" and not call.path.startswith("webhooks")} == set()
    with pytest.raises(TypeError):
        REPORTS["createTransactionRequest"] = REPORTS["isAliveRequest"]  # type: ignore[index]


@pytest.mark.parametrize("field", ["transactionRequest", "amount", "posRedirectToMint", "merchantAuthentication"])
def test_a_call_takes_no_field_that_is_not_its_own(field: str) -> None:
    with pytest.raises(ForbiddenCallError):
        json_body("getTransactionDetailsRequest", {field: "1"}, CREDENTIALS)
    with pytest.raises(ForbiddenCallError):
        json_body("getTransactionListRequest", {"paging": {field: "1"}}, CREDENTIALS)
    with pytest.raises(ForbiddenCallError):
        json_body("getTransactionDetailsRequest", {"transId": {field: "1"}}, CREDENTIALS)


@pytest.mark.parametrize("name", REPORTS)
def test_the_keys_of_a_call_have_the_order_of_the_schema_whatever_the_order_of_the_arguments(name: str) -> None:
    values = {field: VALUES.get(field, "1") for field in REPORTS[name].fields}
    names = list(values)
    for _ in range(5):
        random.shuffle(names)
        (root,) = body_of(name, {field: values[field] for field in names}).items()
        assert root[0] == name
        own = [] if name == "isAliveRequest" else ["merchantAuthentication"]
        assert list(root[1]) == own + SEQUENCES[name]
        assert list(root[1].get("merchantAuthentication", ["name", "transactionKey"])) == ["name", "transactionKey"]
        assert list(root[1].get("paging", ["limit", "offset"])) == ["limit", "offset"]
        assert list(root[1].get("sorting", ["orderBy", "orderDescending"])) == ["orderBy", "orderDescending"]
    assert REPORTS.keys() == SEQUENCES.keys()


def test_a_field_that_is_none_is_left_out_and_credentials_go_only_where_they_belong() -> None:
    assert list(body_of("getTransactionListRequest", {"batchId": "1", "paging": None})["getTransactionListRequest"]) == [
        "merchantAuthentication",
        "batchId",
    ]
    with pytest.raises(ForbiddenCallError):
        json_body("isAliveRequest", {}, CREDENTIALS)
    with pytest.raises(ForbiddenCallError):
        json_body("authenticateTestRequest", {}, None)


@pytest.mark.parametrize("identifier", ["", "..", "../../xml/v1/request.api", "a/b", "a?b", "a%2fb", "\u0661", "a" * 65, None])
def test_an_id_leads_to_no_other_path(identifier: str | None) -> None:
    with pytest.raises(ForbiddenCallError):
        rest_path("webhook", identifier)


def test_only_the_list_of_calls_writes_requests_with_credentials() -> None:
    """No other module makes a body with credentials, or knows the path to which it would be sent."""
    writers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in ("merchantAuthentication", "/xml/v1/request.api", "transactionKey")
    }
    outside = {path for path in writers if not path.startswith("simulate/")}  # the simulator receives such requests
    assert outside == {"authorizenet/api/operations.py", "authorizenet/api/caller.py"}


# Answers

_OK = '"messages":{"resultCode":"Ok","message":[{"code":"I00001","text":"Successful."}]}'


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_an_answer_may_begin_with_a_byte_order_mark_and_may_have_a_root(mark: bytes) -> None:
    assert answers.report_of(mark + b"{" + _OK.encode() + b',"a":1}') == {**json.loads(f"{{{_OK}}}"), "a": 1}
    rooted = answers.report_of(mark + b'{"getXResponse":{' + _OK.encode() + b',"a":1}}')
    assert isinstance(rooted, dict)
    assert rooted["a"] == 1


def test_an_error_with_status_200_is_an_error_also_if_its_message_is_no_list() -> None:
    for message in ('[{"code":"E00007","text":"no"}]', '{"code":"E00007","text":"no"}'):
        body = f'{{"messages":{{"resultCode":"Error","message":{message}}}}}'.encode()
        assert answers.report_of(body) == Refusal("E00007", "no")


@pytest.mark.parametrize(("code", "result"), [("I00004", "Ok"), ("E00087", "Error"), ("I00004", "Error")])
def test_nothing_to_list_is_an_empty_answer(code: str, result: str) -> None:
    answer = answers.report_of(
        f'{{"messages":{{"resultCode":"{result}","message":[{{"code":"{code}","text":"No records."}}]}}}}'.encode()
    )
    assert isinstance(answer, dict)
    assert reading.batches(answer) == ()


@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf", b"<html>", b'{"messages":{"resu', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_no_answer(body: bytes) -> None:
    with pytest.raises(NoJsonError):
        answers.report_of(body)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"1", b'{"messages":[]}', b'{"xResponse":{}}'])
def test_json_of_another_form_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableError, match="messages"):
        answers.report_of(body)


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (None, []),
        ("", []),
        ([], []),
        ([{"transId": "1"}, {"transId": "2"}], ["1", "2"]),
        ({"transaction": [{"transId": "1"}, {"transId": "2"}]}, ["1", "2"]),
        ({"transaction": {"transId": "1"}}, ["1"]),
        ({"transId": "1"}, ["1"]),
    ],
)
def test_a_list_has_three_forms(value: Any, rows: list[str]) -> None:
    assert [row["transId"] for row in answers.entries({"transactions": value}, "transactions")] == rows


def test_a_row_that_cannot_be_read_fails_the_call_since_nobody_would_notice_its_absence() -> None:
    for row in ([1], [{"transactionStatus": "voided"}], [{"transId": "1"}]):
        with pytest.raises(UnreadableError):
            reading.transaction_page({"transactions": row})


@pytest.mark.parametrize(
    "row", ['{"notificationId":"B"}', '{"eventType":"x"}', "5", "null", '{"notificationId":"B\\u0000","eventType":"x"}']
)
def test_a_row_of_the_history_that_cannot_be_read_is_counted_and_hides_no_other(row: str) -> None:
    page = reading.history_page(
        answers.decoded(f'{{"notifications":[{{"notificationId":"A","eventType":"x"}},{row}]}}'.encode())
    )
    assert [one.notification_id for one in page.rows] == ["a"]
    assert page.unreadable == 1


@pytest.mark.parametrize("answer", ['{"notifications":null}', '{"notifications":{}}', '{"notifications":""}', "{}", "[]"])
def test_what_is_no_list_is_no_empty_history(answer: str) -> None:
    with pytest.raises(UnreadableError, match="notifications"):
        reading.history_page(answers.decoded(answer.encode()))


@pytest.mark.parametrize("types", [5, "net.authorize.x", {"a": 1}, ["net.authorize.x", 5]])
def test_event_types_of_a_webhook_that_cannot_be_read_are_no_other_event_types(types: Any) -> None:
    with pytest.raises(UnreadableError, match="eventTypes"):
        reading.webhook({"webhookId": "a", "url": "https://x", "status": "active", "eventTypes": types})


@pytest.mark.parametrize("value", ["1_0", "\u0661", "1e5", "9" * 30, True, 1.5, [], "", None])
def test_what_is_no_number_of_a_common_size_is_none(value: Any) -> None:
    assert answers.number(value) is None


@pytest.mark.parametrize(
    "value", ["1_0", "\u0661", "Infinity", "NaN", Decimal("1e400"), Decimal("1e-400"), Decimal("NaN"), "9" * 30]
)
def test_what_is_no_amount_of_a_common_size_is_none(value: Any) -> None:
    assert answers.money(value) is None


@pytest.mark.parametrize("value", ["a\x00b", "a\ud800", "a" * 5000, 10**50])
def test_a_text_that_no_database_takes_is_none(value: Any) -> None:
    assert answers.text(value) is None


@pytest.mark.parametrize(
    "text",
    ["2017-02-09T19:18:42.167", "2017-02-09T19:18:42.167Z", "2017-02-09T19:18:42.1670000Z", "2017-02-09T11:18:42.167-08:00"],
)
def test_a_time_is_utc_with_and_without_a_zone(text: str) -> None:
    assert answers.moment(text) == datetime(2017, 2, 9, 19, 18, 42, 167_000, tzinfo=UTC)


def test_money_keeps_its_digits_and_an_id_may_be_a_number() -> None:
    fields = answers.decoded(b'{"a":1018.88,"b":5.00,"c":50000,"d":"7.10","e":true,"f":1e400}')
    assert [answers.money(fields[name]) for name in "abcd"] == [Decimal("1018.88"), Decimal(5), Decimal(50000), Decimal("7.1")]
    assert answers.money(fields["e"]) is None
    assert answers.text(4_415_473) == answers.text("4415473 ") == "4415473"


def test_the_answers_that_the_provider_gave_are_read() -> None:
    listed = (
        '{"transactions":[{"transId":"60010736710","submitTimeUTC":"2016-11-18T18:21:41Z","transactionStatus":'
        '"FDSPendingReview","invoiceNumber":"INV-12345","accountType":"Mastercard","settleAmount":50000,'
        '"subscription":{"id":4415473,"payNum":2},"hasReturnedItemsSpecified":false,'
        '"fraudInformation":{"fraudFilterList":["Amount Filter"],"fraudAction":"Review"}}],"totalNumInResultSet":1,' + _OK + "}"
    )
    answer = answers.report_of(listed.encode())
    assert isinstance(answer, dict)
    page = reading.transaction_page(answer)
    assert page.total == 1
    assert page.rows[0] == results.TransactionRow(
        "60010736710",
        "FDSPendingReview",
        datetime(2016, 11, 18, 18, 21, 41, tzinfo=UTC),
        Decimal(50_000),
        "Mastercard",
        "INV-12345",
        results.SubscriptionPayment("4415473", 2),
        False,
    )
    batches = (
        '{"batchList":[{"batchId":"3990061","settlementTimeUTC":"2015-01-02T08:40:29Z","settlementTimeUTCSpecified":true,'
        '"settlementState":"settledSuccessfully","paymentMethod":"creditCard","statistics":[{"accountType":"MasterCard",'
        '"chargeAmount":98.00,"chargeCount":2,"refundAmount":0.00,"refundCount":0,"voidCount":0,"declineCount":0,'
        '"errorCount":0,"returnedItemAmountSpecified":false}]}],' + _OK + "}"
    )
    answer = answers.report_of(batches.encode())
    assert isinstance(answer, dict)
    (batch,) = reading.batches(answer)
    assert (batch.id, batch.statistics[0].charge_amount, batch.statistics[0].charge_count) == ("3990061", Decimal(98), 2)
    returned = (
        '{"transaction":{"transId":"2148382212","transactionType":"authCaptureTransaction","transactionStatus":'
        '"settledSuccessfully","responseCode":1,"batch":{"batchId":"10097820","settlementTimeUTC":"2012-01-12T02:21:55.237Z",'
        '"settlementState":"settledSuccessfully"},"settleAmount":12.10,"payment":{"bankAccount":{"nameOnAccount":'
        '"Ann Example"}},"returnedItems":[{"id":"2148382213","dateUTC":"2012-01-12T02:22:15Z","code":"R03"}]},' + _OK + "}"
    )
    answer = answers.report_of(returned.encode())
    assert isinstance(answer, dict)
    details = reading.transaction(answer)
    assert details.returned_items[0].code == "R03"
    assert details.payment_method == "bankAccount"
    assert "Ann" not in repr(details)


# Errors

_KINDS = {
    CredentialsRefusedError: ["E00005", "E00007", "E00008", "E00139"],
    FeatureOffError: ["E00011", "E00009", "E00025", "E00044"],
    RecordNotFoundError: ["E00040", "E00035", "NOT_FOUND"],
    CallRejectedError: ["E00003", "E00013", "E00094", "INVALID_DATA", "E99999", ""],
    ProviderUnavailableError: ["E00001", "E00053", "E00104"],
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in _KINDS.items() for code in codes])
def test_each_code_has_its_kind_of_error(kind: type[ProviderError], code: str) -> None:
    assert type(error_of("x", Refusal(code, ""), Feature.REPORTS)) is kind


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b"<html>", CallRejectedError),
        (400, b'{"reason":"INVALID_DATA"}', CallRejectedError),
        (401, b"", CredentialsRefusedError),
        (401, b"<html>", CredentialsRefusedError),
        (403, b"<html>", ProviderUnavailableError),
        (403, b"", ProviderUnavailableError),
        (403, b'{"message":"Forbidden"}', ProviderUnavailableError),
        (403, b'{"reason":"FORBIDDEN"}', CredentialsRefusedError),
        (404, b"<html>", ProviderUnavailableError),
        (404, b'{"reason":"NOT_FOUND"}', RecordNotFoundError),
        (404, b'{"reason":"RESOURCE_NOT_FOUND"}', CallRejectedError),
        (302, b"", ProviderUnavailableError),
        (429, b"", ProviderUnavailableError),
        (500, b"<html>", ProviderUnavailableError),
        (500, b'{"messages":{"resultCode":"Error","message":[{"code":"E00007"}]}}', CredentialsRefusedError),
        (500, b'{"reason":"E00007"}', CredentialsRefusedError),
        (502, b"<html>", ProviderUnavailableError),
    ],
)
def test_each_status_has_its_kind_of_error(status: int, body: bytes, kind: type[ProviderError]) -> None:
    error = error_of("x", answers.refusal_of(status, body), Feature.WEBHOOKS)
    assert type(error) is kind
    if status == 403 and kind is ProviderUnavailableError:
        assert "firewall" in str(error)


def test_an_error_is_found_behind_other_messages() -> None:
    for first in ("I00001", "I00004", "E00087"):
        body = f'{{"messages":{{"resultCode":"Error","message":[{{"code":"{first}"}},{{"code":"E00007","text":"no"}}]}}}}'
        assert answers.report_of(body.encode()) == Refusal("E00007", "no")


def test_the_remedy_for_reports_that_are_switched_off_is_named() -> None:
    assert "Transaction Details API" in str(error_of("x", Refusal("E00011", ""), Feature.REPORTS))


# Limits


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


def test_the_rate_holds_and_a_burst_may_go_at_once() -> None:
    time = Time()
    bucket = Bucket(2.0, time.now)
    waits = [bucket.reserve() for _ in range(9)]
    assert waits == [0.0] * BURST + [0.5, 1.0, 1.5, 2.0]
    time.at += 2.0
    assert bucket.reserve() == 0.5
    time.at += 3600
    assert [bucket.reserve() for _ in range(BURST + 1)] == [0.0] * BURST + [0.5]


@pytest.mark.parametrize(
    "error", [FeatureOffError("no", "E00011"), CredentialsRefusedError("no", "E00007"), CallRejectedError("no", "E00003")]
)
def test_an_answer_that_is_an_error_shows_that_the_provider_is_there(error: ProviderError) -> None:
    time = Time()
    gate = Gate(time.now)
    gate.failed(ProviderUnavailableError("away"), Feature.REPORTS)
    time.at += 60
    gate.failed(error, Feature.REPORTS)
    assert gate.state.failing_for is None
    gate.check(Feature.WEBHOOKS)


def test_only_a_success_switches_a_part_on_again() -> None:
    time = Time()
    gate = Gate(time.now)
    gate.failed(FeatureOffError("no", "E00011"), Feature.REPORTS)
    gate.failed(CallRejectedError("no", "E00003"), Feature.REPORTS)
    with pytest.raises(FeatureOffError):
        gate.check(Feature.REPORTS)
    gate.succeeded(Feature.REPORTS)
    gate.check(Feature.REPORTS)


def test_a_part_that_is_switched_off_is_asked_once_a_day_and_the_others_go_on() -> None:
    time = Time()
    gate = Gate(time.now)
    gate.failed(FeatureOffError("no", "E00011"), Feature.REPORTS)
    gate.check(Feature.WEBHOOKS)
    time.at += FEATURE_AGAIN - 1
    with pytest.raises(FeatureOffError):
        gate.check(Feature.REPORTS)
    assert gate.state.features_off == (Feature.REPORTS,)
    time.at += 1
    gate.check(Feature.REPORTS)


def test_pauses_double_up_to_15_minutes_and_a_success_ends_them() -> None:
    time = Time()
    gate = Gate(time.now)
    pauses = []
    for _ in range(12):
        error = ProviderUnavailableError("away")
        gate.failed(error, Feature.REPORTS)
        pauses.append(error.retry_in)
        with pytest.raises(ProviderUnavailableError) as stopped:
            gate.check(Feature.WEBHOOKS)
        assert not stopped.value.sent
        time.at += error.retry_in
        gate.check(Feature.WEBHOOKS)
    for number, pause in enumerate(pauses):
        assert 0.8 * min(900, 5 * 2**number) <= pause <= 1.2 * min(900, 5 * 2**number)
    gate.succeeded(Feature.REPORTS)
    error = ProviderUnavailableError("away", retry_in=120.0)
    gate.failed(error, Feature.REPORTS)
    assert error.retry_in == 120.0
    error = ProviderUnavailableError("away", retry_in=1e9)
    gate.failed(error, Feature.REPORTS)
    assert error.retry_in == 3600.0
