"""The simulator's JSON API: reports on transactions, batches and subscriptions, with the provider's checks and their order.

Scenarios fill the books. The API creates no transaction: this is a double for tests, and no emulator of money.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from aiohttp import web

from webhookd.authorizenet.body import load
from webhookd.simulate.answering import report, report_error
from webhookd.simulate.books import Account
from webhookd.simulate.faults import Faults
from webhookd.simulate.records import Subscription, Transaction
from webhookd.simulate.settlement import ENDED, catch_up
from webhookd.simulate.wire import batch_of, details_of, row_of, subscription_of, subscription_row_of, summary_of

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
_INACTIVE = {"expired", "canceled", "terminated", "suspended"}

T = TypeVar("T")


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
        catch_up(account, self._now())
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
                show = details_of if name == "getTransactionDetailsRequest" else summary_of
                return report({"transaction": self._linked(found, show(found, account.rules.zone))})
            case "getUnsettledTransactionListRequest":
                held = fields.get("status") == "pendingApproval"
                rows = [one for one in account.open.values() if not held or "PendingReview" in one.status]
                if self._faults.ended_unlisted:
                    rows = [one for one in rows if one.status not in ENDED]
                return self._transactions(account, rows, fields)
            case "getTransactionListRequest":
                batch = str(fields.get("batchId", ""))
                if not batch:
                    return report_error("E00003", f"The '{_SPACE}:batchId' element is invalid - The Pattern constraint failed.")
                listed = account.batches.get(batch)
                return self._transactions(account, listed.transactions if listed else [], fields)
            case "getSettledBatchListRequest":
                return self._batches(account, fields)
            case "getBatchStatisticsRequest":
                asked = account.batches.get(str(fields.get("batchId")))
                return report_error(*_NOT_FOUND) if asked is None else report({"batch": batch_of(asked, account.rules.zone)})
            case "ARBGetSubscriptionListRequest":
                return self._subscriptions(account, fields)
            case _:
                own = account.subscriptions.get(str(fields.get("subscriptionId")))
                if own is None:
                    return report_error("E00035", "The subscription cannot be found.")
                if name == "ARBGetSubscriptionStatusRequest":
                    return report({"status": own.status, "note": "Status with a capital 'S' is obsolete."})
                return report({"subscription": subscription_of(own, with_attempts=fields.get("includeTransactions") is True)})

    def _transactions(self, account: Account, rows: list[Transaction], fields: Mapping[str, Any]) -> web.Response:
        now = self._now()
        by_time = (fields.get("sorting") or {}).get("orderBy") == "submitTimeUTC"
        known = sorted(
            (one for one in rows if one.known_from <= now), key=lambda one: (one.made_at if by_time else now, int(one.id))
        )
        return self._page(
            "transactions", "transaction", known, fields, lambda one: self._linked(one, row_of(one, account.rules.zone))
        )

    def _linked(self, own: Transaction, shown: dict[str, Any]) -> dict[str, Any]:
        """Returns what the API shows of a transaction, without its subscription while the link is too new."""
        if self._now() < own.made_at + timedelta(seconds=self._faults.unlinked_seconds):
            shown.pop("subscription", None)
        return shown

    def _subscriptions(self, account: Account, fields: Mapping[str, Any]) -> web.Response:
        today = self._now().astimezone(ZoneInfo(account.rules.zone))

        def is_listed(one: Subscription) -> bool:
            match fields.get("searchType"):
                case "subscriptionInactive":
                    return one.status in _INACTIVE
                case "cardExpiringThisMonth":
                    ends: date | None = one.card_ends
                case "subscriptionExpiringThisMonth":
                    ends = None if one.last_at is None else one.last_at.astimezone(today.tzinfo).date()
                case _:
                    ends = today.date()
            this_month = ends is not None and (ends.year, ends.month) == (today.year, today.month)
            return this_month and one.status not in _INACTIVE

        found = sorted(filter(is_listed, account.subscriptions.values()), key=lambda one: int(one.id))
        return self._page("subscriptionDetails", "subscriptionDetail", found, fields, subscription_row_of)

    def _page(
        self, name: str, item: str, rows: list[T], fields: Mapping[str, Any], show: Callable[[T], object]
    ) -> web.Response:
        """Returns a page of rows as `show` writes them. `offset` is its number, from 1. Without paging: the latest 1000."""
        paging = fields.get("paging") or {}
        limit, number = paging.get("limit", 1000), paging.get("offset", 1)
        if not (1 <= limit <= 1000 and 1 <= number <= 100_000):
            return report_error("E00094", "The paging values are out of range.")
        if fields.get("sorting", {}).get("orderDescending"):
            rows.reverse()
        found = [show(one) for one in (rows[(number - 1) * limit : number * limit] if paging else rows[-1000:])]
        if not found:
            return report({}, *_NOTHING)
        listed: Any = found if self._faults.collapsed else {item: found if len(found) > 1 else found[0]}
        return report({name: listed, "totalNumInResultSet": len(rows)})

    def _batches(self, account: Account, fields: Mapping[str, Any]) -> web.Response:
        first, last = (fields.get(f"{end}SettlementDate") for end in ("first", "last"))
        if (first is None) != (last is None):
            return report_error("E00003", "Both dates or none of them must be given.")
        now = self._now()
        begin, end = (now - timedelta(days=1), now) if first is None else (_moment(first), _moment(last))
        if begin is None or end is None:
            return report_error("E00003", f"The '{_SPACE}:SettlementDate' element is invalid - It is no valid DateTime value.")
        if (end - begin).days >= _MOST_DAYS:
            return report_error("E00003", f"The dates must be at most {_MOST_DAYS} days apart.")
        # A pending batch is listed by its cut-off: not known of the provider.
        found = [one for one in account.batches.values() if begin <= (one.settled_at or one.closed_at) <= end]
        if self._faults.pending_unlisted:
            found = [one for one in found if one.settled_at is not None]
        whole = fields.get("includeStatistics") is True
        rows = [batch_of(one, account.rules.zone, with_statistics=whole) for one in found]
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
        "merchantTimeZone": account.rules.zone,
    }
