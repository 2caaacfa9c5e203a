"""The route of the reconciliation of an account's settlement days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field

from webhookd.admin.access import AccessLevel
from webhookd.admin.provider_routes import AccountName
from webhookd.admin.route import Call, Refused, Route, Shape
from webhookd.admin.shapes import Time, Whole
from webhookd.authorizenet.batches import Totals
from webhookd.authorizenet.findings import Books, Finding, Kind
from webhookd.authorizenet.subscription_books import SubscriptionFinding, SubscriptionKind
from webhookd.operate.reconciling import ReconciledDay, Reconciler

MOST_DAYS = 92
_MOST = 10_000  # differences of a day that an answer can have
_MOST_REASONS = 50


class Days(Shape):
    """The days of a reconciliation."""

    from_: Annotated[date, Field(alias="from", description="The first day, in the account's own time zone.")]
    to: Annotated[date, Field(description=f"The last day: at most {MOST_DAYS} days in all.")]
    most: Annotated[int, Field(ge=1, le=_MOST, description="The most differences of a day in the answer."), Whole] = 200


class DifferenceShape(Shape):
    """A difference between the provider's books and others."""

    kind: Kind
    books: Annotated[Books, Field(description="The books that differ from the provider's.")]
    subject: Annotated[str, Field(description="The transaction's id; for an invoice captured twice, the invoice number.")]
    transactions: Annotated[list[str], Field(description="The transactions concerned.")]
    provider: Annotated[str | None, Field(description="What the provider has: an amount, or a state in words.")]
    other: Annotated[str | None, Field(description="What the other books have.")]
    batch_id: str | None
    to_do: Annotated[str, Field(description="What a person should do.")]
    links: Annotated[
        list[str], Field(description="The dashboard's pages of the transactions that have one, below its address.")
    ]


class TotalShape(Shape):
    """The sum of the transactions of one batch and type of card, which its statistics confirm if the batch is closed."""

    batch_id: str
    account_type: Annotated[str, Field(description="The type of card, or echeck, in lower case.")]
    line: Annotated[str, Field(description="charge amount, charge count, refund amount, refund count, …")]
    value: str


class ReconciledDayShape(Shape):
    """The reconciliation of a settlement day. Amounts are exact decimal numbers."""

    day: Annotated[date, Field(description="The day in the account's own time zone, by the settlement times of the batches.")]
    zone: str
    begins: Annotated[Time, Field(description="The beginning of the day, in UTC.")]
    ends: Annotated[Time, Field(description="The end of the day, in UTC: a day has 23 or 25 hours if the clock changes.")]
    as_of: Annotated[Time, Field(description="The instant of all that the report has read.")]
    result: Annotated[
        Literal["green", "differences", "not known"],
        Field(description="Green only if all is known and nothing differs. Not known: nothing differs, and something is open."),
    ]
    matched: Annotated[int, Field(description="The transactions with money on which all books agree.")]
    without_money: Annotated[int, Field(description="The transactions that moved no money: declined, voided, failed.")]
    charged: str
    refunded: str
    shop_compared: bool
    batches: list[str]
    totals: list[TotalShape]
    difference_count: int
    differences: Annotated[list[DifferenceShape], Field(description="The first differences, in a stable order.")]
    reason_count: int
    reasons: Annotated[list[str], Field(description=f"Why the day is not known yet; the first {_MOST_REASONS}.")]


class Reconciliation(Shape):
    """The settlement days of an account, the oldest first."""

    account: str
    days: list[ReconciledDayShape]
    by_kind: Annotated[dict[str, int], Field(description="The number of differences of each kind, of all days.")]


class Most(Shape):
    """The size of an answer."""

    most: Annotated[int, Field(ge=1, le=_MOST, description="The most differences in the answer."), Whole] = 200


class SubscriptionDifferenceShape(Shape):
    """A difference between the provider's subscriptions and webhookd's."""

    kind: SubscriptionKind
    subscription_id: str
    provider: Annotated[str | None, Field(description="What the provider has: an amount, a status or the day of a renewal.")]
    other: Annotated[str | None, Field(description="What webhookd has, by the events.")]
    to_do: str
    link: Annotated[str, Field(description="The subscription's page of the dashboard.")]


class ReconciledSubscriptions(Shape):
    """The subscriptions of an account, compared with the provider's lists."""

    account: str
    as_of: Time
    listed_at: Annotated[Time | None, Field(description="When the lists were last read to the end. Null: never.")]
    result: Annotated[
        Literal["green", "differences", "not known"], Field(description="Not known: the lists are missing or old.")
    ]
    difference_count: int
    differences: Annotated[list[SubscriptionDifferenceShape], Field(description="The first differences, in a stable order.")]
    reasons: Annotated[list[str], Field(description="Why the subscriptions are not known.")]


class ReconciliationRoutes:
    """The route of reconciliation. reconciler: returns the reconciler of the present settings."""

    def __init__(self, reconciler: Callable[[], Reconciler]) -> None:
        self._reconciler = reconciler

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        return [
            Route(
                "GET",
                "/webhooks/provider/accounts/{account}/reconciliation",
                AccessLevel.READ,
                self.reconcile_days,
                Reconciliation,
                takes=AccountName,
                query=Days,
                problems=(404, 409),
            ),
            Route(
                "GET",
                "/webhooks/provider/accounts/{account}/reconciliation/subscriptions",
                AccessLevel.READ,
                self.reconcile_subscriptions,
                ReconciledSubscriptions,
                takes=AccountName,
                query=Most,
                problems=(404,),
            ),
        ]

    async def reconcile_subscriptions(self, call: Call) -> ReconciledSubscriptions:
        """Compare the provider's subscriptions with webhookd's, and name the renewals that did not come.

        A subscription is compared a day after its last change. Renewals are those of the last 14 days.
        """
        account = call.path.account
        report = await self._reconciler().subscriptions(account)
        return ReconciledSubscriptions(
            account=account,
            as_of=report.as_of,
            listed_at=report.listed_at,
            result=report.result,
            difference_count=len(report.findings),
            differences=[_subscription(account, one) for one in report.findings[: call.query.most]],
            reasons=list(report.reasons),
        )

    async def reconcile_days(self, call: Call) -> Reconciliation:
        """Compare each settlement day of the provider with webhookd's books, and with the shop's.

        The report changes nothing. Each day is read at one instant, `as_of`.
        """
        account, first, last, most = call.path.account, call.query.from_, call.query.to, call.query.most
        if not timedelta(0) <= last - first < timedelta(days=MOST_DAYS):
            raise Refused(409, f"to: give a day that is not before `from`, and at most {MOST_DAYS} days in all")
        if not date(1970, 1, 2) <= first <= last <= date(9000, 1, 1):
            raise Refused(409, "from: give a day of this time")
        days, counts = [], Counter[str]()
        async for one in self._reconciler().days(account, first, last):
            counts.update(finding.kind.value for finding in one.report.findings)
            days.append(_day(account, one, most))
        return Reconciliation(account=account, days=days, by_kind={kind: counts[kind] for kind in Kind if counts[kind]})


def _day(account: str, one: ReconciledDay, most: int) -> ReconciledDayShape:
    report = one.report
    # Only the shop has these, so they have no page.
    unknown = {row.subject for row in report.findings if (row.kind, row.books) == (Kind.NOT_AT_PROVIDER, Books.SHOP)}
    return ReconciledDayShape(
        day=report.day,
        zone=one.zone,
        begins=report.begins,
        ends=report.ends,
        as_of=report.as_of,
        result=one.result,
        matched=report.in_agreement,
        without_money=report.without_money,
        charged=_exact(report.charged),
        refunded=_exact(report.refunded),
        shop_compared=one.shop,
        batches=list(report.batches),
        totals=list(_totals(report.totals.items())),
        difference_count=len(report.findings),
        differences=[_difference(account, finding, unknown) for finding in report.findings[:most]],
        reason_count=len(report.reasons),
        reasons=list(report.reasons[:_MOST_REASONS]),
    )


def _totals(batches: Iterable[tuple[str, Totals]]) -> Iterable[TotalShape]:
    for name, totals in sorted(batches):
        for account_type, lines in sorted(totals.items()):
            for line, value in sorted(lines.items()):
                yield TotalShape(batch_id=name, account_type=account_type, line=line.value, value=_exact(value))


def _difference(account: str, finding: Finding, unknown: Collection[str]) -> DifferenceShape:
    return DifferenceShape(
        kind=finding.kind,
        books=finding.books,
        subject=finding.subject,
        transactions=list(finding.transactions),
        provider=_side(finding.provider),
        other=_side(finding.other),
        batch_id=finding.batch_id,
        to_do=finding.to_do,
        links=[f"/#/transactions/{account}/{quote(one, safe='')}" for one in finding.transactions if one not in unknown],
    )


def _subscription(account: str, finding: SubscriptionFinding) -> SubscriptionDifferenceShape:
    return SubscriptionDifferenceShape(
        kind=finding.kind,
        subscription_id=finding.id,
        provider=finding.provider,
        other=finding.other,
        to_do=finding.to_do,
        link=f"/#/subscriptions/{account}/{quote(finding.id, safe='')}",
    )


def _side(value: Decimal | str | None) -> str | None:
    return _exact(value) if isinstance(value, Decimal) else value


def _exact(value: Decimal) -> str:
    return format(value, "f")
