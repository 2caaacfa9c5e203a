"""Cut-offs, batches, settlement and its errors, returns, and expiry: no webhook reports any of these.

`catch_up` lets everything happen that is due, in the order of its time. The simulator calls it before each look at the books.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from webhookd.simulate.books import Account
from webhookd.simulate.records import CHECK, Batch, Return, ReturnedItem, Rules, Statistic, Transaction, milliseconds

_CAPTURED, _REFUNDING = "capturedPendingSettlement", "refundPendingSettlement"
ENDED = ("declined", "voided", "generalError", "communicationError", "returnedItem")
_CLOSED = (_CAPTURED, _REFUNDING, *ENDED)
_CHARGES = (_CAPTURED, "pendingSettlement", "settledSuccessfully")
_REFUNDS = (_REFUNDING, "refundSettledSuccessfully")


def next_cut_off(rules: Rules, after: datetime) -> datetime:
    """Returns the first cut-off after a time, in UTC. Its local hour is the same on a day on which the clocks change."""
    zone = ZoneInfo(rules.zone)
    day = after.astimezone(zone).date()
    cut_offs = (datetime.combine(day + timedelta(days=ahead), rules.cut_off, zone) for ahead in itertools.count())
    return next(at for at in (one.astimezone(UTC) for one in cut_offs) if at > after)


def enter(account: Account, transaction: Transaction, now: datetime) -> None:
    """Puts a new transaction into the books."""
    account.transactions[transaction.id] = account.open[transaction.id] = transaction
    if not account.has_cut_offs:
        account.has_cut_offs = True
        _await_cut_off(account, now)
    if account.rules.ends_after(transaction.status) is not None:
        for age in (account.rules.held_ends, account.rules.authorized_ends):  # a held one may be approved, and expire later
            account.later(transaction.made_at + age, partial(_expire, account, transaction))


def catch_up(account: Account, now: datetime) -> None:
    """Lets everything happen that is due by now."""
    while account.due and account.due[0][0] <= now:
        at, _, action = heapq.heappop(account.due)
        action(at)


def _await_cut_off(account: Account, after: datetime) -> None:
    account.later(next_cut_off(account.rules, after), partial(_close, account))


def _expire(account: Account, transaction: Transaction, at: datetime) -> None:
    age = account.rules.ends_after(transaction.status)
    if age is not None and at >= transaction.made_at + age:
        transaction.status = "expired"
        del account.open[transaction.id]


def _close(account: Account, at: datetime) -> None:
    """Makes the batches of a cut-off, one for each payment method. What ended without money is in them, too."""
    _await_cut_off(account, at)
    ready = [one for one in account.open.values() if one.batch is None and one.batched and one.status in _CLOSED]
    for method in ("creditCard", CHECK):
        if own := [one for one in ready if one.method == method]:
            day = at.astimezone(ZoneInfo(account.rules.zone)).date()
            batch = Batch(str(9_000_001 + len(account.batches)), method, day, at, own)
            account.batches[batch.id] = batch
            for one in own:
                one.batch = batch
                if one.status in ENDED:
                    del account.open[one.id]
                elif one.status == _CAPTURED and method == CHECK:
                    one.status = "pendingSettlement"
            batch.statistics = statistics(own)
            wait = account.rules.check_settles if method == CHECK else account.rules.card_settles
            account.later(at + wait, partial(_settle, account, batch))


def _settle(account: Account, batch: Batch, at: datetime) -> None:
    failed = (batch.day, batch.method) in account.failing
    batch.state, batch.settled_at = "settlementError" if failed else "settledSuccessfully", at
    for one in batch.transactions:
        if one.status in ENDED:
            continue
        del account.open[one.id]
        if failed:
            one.status = "settlementError"
            continue
        one.status = "refundSettledSuccessfully" if one.is_refund else "settledSuccessfully"
        if one.returns is not None:
            account.later(at + one.returns.after, partial(_return, account, one, one.returns))
    batch.statistics = statistics(batch.transactions)


def _return(account: Account, original: Transaction, returns: Return, at: datetime) -> None:
    """Returns an eCheck. The original keeps its status; the return is a transaction of its own, in the next batch."""
    item = ReturnedItem(str(int(original.id) + 9), milliseconds(at), returns.code, returns.description)
    original.returned.append(item)
    amount = original.settle_amount
    own = Transaction(item.id, None, "returnedItem", item.at, at, amount, amount, CHECK, ref_id=original.id)
    enter(account, own, at)


def statistics(transactions: Iterable[Transaction]) -> tuple[Statistic, ...]:
    """Returns the sums of a batch, by type of card. What could not be settled counts as an error, and in no amount."""
    found: dict[str, Statistic] = {}
    for one in transactions:
        own = found.setdefault(one.account_type, Statistic(one.account_type))
        if one.status in _CHARGES:
            own.charge_amount += one.settle_amount
            own.charge_count += 1
        elif one.status in _REFUNDS:
            own.refund_amount += one.settle_amount
            own.refund_count += 1
        elif one.status == "voided":
            own.void_count += 1
        elif one.status == "declined":
            own.decline_count += 1
        elif one.status == "returnedItem":
            own.returned_amount += one.settle_amount
            own.returned_count += 1
        else:
            own.error_count += 1
    return tuple(found[name] for name in sorted(found))
