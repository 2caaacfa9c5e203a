"""The simulator's JSON API: reports on transactions, batches and subscriptions, with the provider's checks and their order.

Scenarios fill the books. The API creates no transaction: this is a double for tests, and no emulator of money.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from aiohttp import web

from webhookd.authorizenet.body import load
from webhookd.simulate.answering import report, report_error
from webhookd.simulate.books import Account, Transaction
from webhookd.simulate.faults import Faults

_SPACE = "AnetApi/xml/v1/schema/AnetApiSchema.xsd"
_MOST_DAYS = 31
_LISTS = ("sorting", "paging")
# Contract: AnetApiSchema.xsd. Kept apart from the client's own list, so that a mistake in one of them shows.
SEQUENCES: dict[str, tuple[str, ...]] = {
    "isAliveRequest": ("refId",),
    "authenticateTestRequest": ("merchantAuthentication", "refId"),
    "getMerchantDetailsRequest": ("merchantAuthentication", "refId"),
    "getTransactionDetailsRequest": ("merchantAuthentication", "refId", "transId"),
    "getTransactionSummaryRequest": ("merchantAuthentication", "refId", "transId"),
    "getUnsettledTransactionListRequest": ("merchantAuthentication", "refId", "status", *_LISTS),
    "getSettledBatchListRequest": (
        "merchantAuthentication",
        "refId",
        "includeStatistics",
        "firstSettlementDate",
        "lastSettlementDate",
    ),
    "getBatchStatisticsRequest": ("merchantAuthentication", "refId", "batchId"),
    "getTransactionListRequest": ("merchantAuthentication", "refId", "batchId", *_LISTS),
    "ARBGetSubscriptionRequest": ("merchantAuthentication", "refId", "subscriptionId", "includeTransactions"),
    "ARBGetSubscriptionStatusRequest": ("merchantAuthentication", "refId", "subscriptionId"),
    "ARBGetSubscriptionListRequest": ("merchantAuthentication", "refId", "searchType", *_LISTS),
}
_INNER = {
    "merchantAuthentication": ("name", "transactionKey"),
    "paging": ("limit", "offset"),
    "sorting": ("orderBy", "orderDescending"),
}
_NOT_FOUND = ("E00040", "The record cannot be found.")
_NOTHING = ("I00004", "No records found.")
_SUMMARY = ("transId", "submitTimeUTC", "submitTimeLocal", "transactionStatus", "settleAmount", "subscription", "profile")


def problem(name: str, fields: Mapping[str, Any], known: tuple[str, ...]) -> str | None:
    """Returns the text of E00003 if the keys of a request are not in the schema's order; None if they are."""
    left = list(known)
    for key in fields:
        if key not in left:
            expected = ", ".join(left) or "none"
            return (
                f"The element '{name}' in namespace '{_SPACE}' has invalid child element '{key}' in namespace '{_SPACE}'. "
                f"List of possible elements expected: '{expected}' in namespace '{_SPACE}'."
            )
        left = left[left.index(key) + 1 :]
    for key, inner in _INNER.items():
        if (own := fields.get(key)) is None:
            continue
        if not isinstance(own, dict):
            return f"The '{_SPACE}:{key}' element is invalid - The value is invalid according to its datatype."
        if found := problem(key, own, inner):
            return found
    if not all(isinstance(one, int) for one in (fields.get("paging") or {}).values()):
        return f"The '{_SPACE}:paging' element is invalid - The string is not a valid Int32 value."
    key = str((fields.get("merchantAuthentication") or {}).get("transactionKey", ""))
    if len(key) > 16:
        return (
            f"The '{_SPACE}:transactionKey' element is invalid - The value &#39;{key}&#39; is invalid according to its "
            "datatype 'String' - The actual length is greater than the MaxLength value."
        )
    return None


class Reports:
    """Answers the JSON API. `account_of` finds an account by its API Login ID."""

    def __init__(self, account_of: Callable[[str], Account | None], now: Callable[[], datetime], faults: Faults) -> None:
        self._account_of = account_of
        self._now = now
        self._faults = faults

    def answer(self, body: bytes) -> tuple[str, str, web.Response]:
        """Returns the account's name, the call's name, and the answer."""
        try:
            document = load(body.decode("utf-8-sig"))
            ((name, fields),) = document.items()
        except (ValueError, AttributeError):
            return "", "", report_error("E00003", "Root element is missing.")
        if name not in SEQUENCES or (self._faults.no_summaries and name == "getTransactionSummaryRequest"):
            return "", name, report_error("E00004", "The name of the requested API method is invalid.")
        if not isinstance(fields, dict) or (found := problem(name, fields, SEQUENCES[name])):
            return "", name, report_error("E00003", found or "Root element is missing.")
        if name == "isAliveRequest":
            return "", name, report({})
        given = fields.get("merchantAuthentication") or {}
        account = self._account_of(str(given.get("name", "")))
        if account is None or not account.accepts(str(given.get("transactionKey", "")), self._now()):
            wrong = report_error("E00007", "User authentication failed due to invalid authentication values.")
            return account.name if account else "", name, wrong
        if not account.active:
            inactive = report_error("E00008", "User authentication failed. The merchant account or user is inactive.")
            return account.name, name, inactive
        return account.name, name, self._report(account, name, fields)

    def _report(self, account: Account, name: str, fields: Mapping[str, Any]) -> web.Response:
        if self._faults.reports_off and name.removeprefix("get").startswith(("Trans", "Unsett", "Settled", "Batch")):
            return report_error("E00011", "Access denied. You do not have permissions to call the Transaction Details API.")
        match name:
            case "authenticateTestRequest":
                return report({})
            case "getMerchantDetailsRequest":
                return report(_merchant(account))
            case "getTransactionDetailsRequest" | "getTransactionSummaryRequest":
                found = account.transactions.get(str(fields.get("transId")))
                if found is None or self._now() < found.known_from:
                    return report_error(*_NOT_FOUND)
                whole = name == "getTransactionDetailsRequest"
                return report({"transaction": found.details if whole else _summary(found)})
            case "getUnsettledTransactionListRequest":
                held = fields.get("status") == "pendingApproval"
                rows = [one for one in self._known(account) if one.unsettled]
                rows = [one for one in rows if not held or "PendingReview" in one.details["transactionStatus"]]
                return self._page("transactions", "transaction", list(map(_row, rows)), fields)
            case "getTransactionListRequest":
                batch = str(fields.get("batchId", ""))
                if not batch:
                    return report_error("E00003", f"The '{_SPACE}:batchId' element is invalid - The Pattern constraint failed.")
                rows = [one for one in self._known(account) if one.details.get("batch", {}).get("batchId") == batch]
                return self._page("transactions", "transaction", list(map(_row, rows)), fields)
            case "getSettledBatchListRequest":
                return self._batches(account, fields)
            case "getBatchStatisticsRequest":
                found_batch = account.batches.get(str(fields.get("batchId")))
                return report_error(*_NOT_FOUND) if found_batch is None else report({"batch": found_batch})
            case "ARBGetSubscriptionListRequest":
                return self._page("subscriptionDetails", "subscriptionDetail", _subscriptions(account, fields), fields)
            case _:
                own = account.subscriptions.get(str(fields.get("subscriptionId")))
                if own is None:
                    return report_error("E00035", "The subscription cannot be found.")
                if name == "ARBGetSubscriptionStatusRequest":
                    return report({"status": own["status"], "note": "Status with a capital 'S' is obsolete."})
                return report({"subscription": {key: value for key, value in own.items() if key != "id"}})

    def _known(self, account: Account) -> list[Transaction]:
        now = self._now()
        return sorted((one for one in account.transactions.values() if one.known_from <= now), key=lambda one: int(one.id))

    def _page(self, name: str, item: str, rows: list[Any], fields: Mapping[str, Any]) -> web.Response:
        """Returns a page of rows. `offset` is the page's number, from 1. Without paging: the latest 1000."""
        paging = fields.get("paging") or {}
        limit, number = paging.get("limit", 1000), paging.get("offset", 1)
        if not (1 <= limit <= 1000 and 1 <= number <= 100_000):
            return report_error("E00094", "The paging values are out of range.")
        if fields.get("sorting", {}).get("orderDescending"):
            rows.reverse()
        found = rows[(number - 1) * limit : number * limit] if paging else rows[-1000:]
        if not found:
            return report({}, *_NOTHING)
        listed: Any = found if self._faults.collapsed else {item: found if len(found) > 1 else found[0]}
        return report({name: listed, "totalNumInResultSet": len(rows)})

    def _batches(self, account: Account, fields: Mapping[str, Any]) -> web.Response:
        first, last = (fields.get(f"{end}SettlementDate") for end in ("first", "last"))
        if (first is None) != (last is None):
            return report_error("E00003", "Both dates or none of them must be given.")
        rows = list(account.batches.values())
        if first is not None and last is not None:
            begin, end = _moment(first), _moment(last)
            if begin is None or end is None:
                return report_error(
                    "E00003", f"The '{_SPACE}:SettlementDate' element is invalid - It is no valid DateTime value."
                )
            if (end - begin).days >= _MOST_DAYS:
                return report_error("E00003", f"The dates must be at most {_MOST_DAYS} days apart.")
            rows = [one for one in rows if begin <= datetime.fromisoformat(one["settlementTimeUTC"]) <= end]
        if not fields.get("includeStatistics"):
            rows = [{key: value for key, value in one.items() if key != "statistics"} for one in rows]
        if not rows:
            return report({}, *_NOTHING)
        return report({"batchList": rows if self._faults.collapsed else {"batch": rows if len(rows) > 1 else rows[0]}})


def _moment(value: object) -> datetime | None:
    """Returns a time of a request; None if it is none, or has no zone."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _merchant(account: Account) -> dict[str, Any]:
    return {
        "isTestMode": account.test_mode,
        "processors": [{"name": "First Data Nashville", "id": 2, "cardTypes": ["V", "M"]}],
        "merchantName": f"Simulated {account.name}",
        "gatewayId": str(int(account.login_id.removeprefix("sim"), 16) % 1_000_000),
        "marketTypes": ["eCommerce"],
        "productCodes": ["CNP"],
        "paymentMethods": ["Visa", "MasterCard", "Echeck"],
        "currencies": ["USD"],
        "merchantTimeZone": "America/Los_Angeles",
    }


def _row(transaction: Transaction) -> dict[str, Any]:
    details = transaction.details
    return {
        **{key: details[key] for key in _SUMMARY if key in details},
        "invoiceNumber": details.get("order", {}).get("invoiceNumber"),
        "firstName": "Ann",
        "lastName": "Example",
        "accountType": details["payment"].get("creditCard", {}).get("cardType", "eCheck"),
        "accountNumber": "XXXX4444",
        "hasReturnedItems": bool(details.get("returnedItems")),
        "hasReturnedItemsSpecified": True,
    }


def _summary(transaction: Transaction) -> dict[str, Any]:
    keys = (*_SUMMARY, "responseCode", "responseReasonCode", "batch")
    return {key: transaction.details[key] for key in keys if key in transaction.details}


_INACTIVE = {"expired", "canceled", "terminated", "suspended"}


def _subscriptions(account: Account, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    inactive = fields.get("searchType") == "subscriptionInactive"
    return [
        {key: value for key, value in one.items() if key != "arbTransactions"} | {"id": int(identifier)}
        for identifier, one in sorted(account.subscriptions.items())
        if (one["status"] in _INACTIVE) is inactive
    ]
