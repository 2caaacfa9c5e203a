"""Routes of the provider's side: the accounts, one account, and its days."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from webhookd.admin.access import AccessLevel
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import Time, Whole
from webhookd.errors import NotFoundError
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.store.queries import queries

_MOST_COUNTED = 10_000  # tests of an account
_SHOWN = 20  # calls, changes, tests and unreadable notifications that an account shows


class ProviderDay(Shape):
    """The result of the last comparison of a day, in UTC."""

    day: date
    completeness: Annotated[str, Field(description="whole, missing, unreadable, open or not known.")]
    listed: Annotated[int, Field(description="Notifications that the provider's history lists for this webhook.")]
    ours: Annotated[int, Field(description="Those of them that are events in the ledger.")]
    recovered: Annotated[int, Field(description="Those events that came from the history, not as webhooks.")]
    missing: int
    waiting: Annotated[int, Field(description="Notifications that may be on their way.")]
    unreadable: int
    unlisted: Annotated[int, Field(description="Events that came as webhooks and that the history does not list.")]
    looks: Annotated[int, Field(description="Comparisons in a row that found the same list after the day's end.")]
    looked_at: Time | None


class ProviderAccount(Shape):
    """An account's credentials, webhook and days, as far as they are known."""

    account: str
    provider: Annotated[str | None, Field(description="The host of the provider's API.")]
    held: Annotated[bool, Field(description="Whether a replica asks the provider for the account.")]
    unattended: Annotated[bool, Field(description="Whether a replica asked within three days, and none does now.")]
    credentials: Annotated[str, Field(description="unknown, good or refused.")]
    credentials_since: Time
    checked_at: Annotated[Time | None, Field(description="When the provider last accepted the credentials.")]
    gateway_id: str | None
    merchant_name: str | None
    test_mode: bool | None
    features_off: Annotated[list[str], Field(description="Parts of the API that the account may not use.")]
    compared_to: Annotated[date | None, Field(description="The newest day of those that need no further look every time.")]
    compared_at: Annotated[Time | None, Field(description="When a comparison last ended.")]
    uncompared: Annotated[bool, Field(description="Whether no comparison has ended for two hours.")]
    webhook_id: str | None
    webhook_state: Annotated[
        str, Field(description="ok, inactive, missing, url (another one), event_types (some are gone), doubled or unknown.")
    ]
    webhook_since: Time
    webhook_detail: Annotated[str | None, Field(description="What is wrong, and what to do.")]
    webhook_seen_at: Time | None
    first_day: Annotated[date | None, Field(description="The oldest day that has a result.")]
    days_not_whole: Annotated[
        int,
        Field(
            description="Of the last 14 days, without today, those since `first_day` that are missing, unreadable or not "
            "known, have no result, or are open more than six hours after their end."
        ),
    ]
    last_day: Annotated[ProviderDay | None, Field(description="The newest day that is over.")]


class ProviderAccounts(Shape):
    """The accounts that have, or had, API credentials, by name."""

    accounts: list[ProviderAccount]


class ProviderCall(Shape):
    """A call of the provider's API."""

    at: Time
    name: str
    seconds: float
    error: str | None


class ProviderChange(Shape):
    """A change that webhookd made at the provider."""

    at: Time
    actor: str
    change: str
    webhook_id: str | None
    detail: str | None


class ProviderTest(Shape):
    """A notification that is a test: a ping's sample, or one with the payload id 0. No handler and no destination gets it."""

    received_at: Time
    notification_id: str
    event_type: str
    webhook_id: str | None
    key_fingerprint: str


class UnreadableNotification(Shape):
    """A notification of the history that cannot become an event."""

    notification_id: str
    reason: str
    event_type: str | None
    event_date: Time | None
    tries: int
    last_at: Time


class ProviderAccountInFull(ProviderAccount):
    """An account with the newest calls, changes, tests and unreadable notifications, 20 of each, the newest first."""

    calls: list[ProviderCall]
    changes: list[ProviderChange]
    tests: list[ProviderTest]
    tests_in_a_week: Annotated[
        int,
        Field(
            description="The notifications of the last seven days that were kept as tests and became no events, at most "
            "10,000: samples of pings, and notifications with the payload id 0, as in test mode."
        ),
    ]
    unreadable: list[UnreadableNotification]


class AccountName(Shape):
    """The name of an account, in the path."""

    account: Annotated[str, StringConstraints(pattern="^[a-z0-9_-]{1,64}$")]


class Span(Shape):
    """The number of days."""

    days: Annotated[int, Field(ge=1, le=400, description="Days until today, which is one of them."), Whole] = 28


class ProviderDays(Shape):
    """The days of an account that were compared, the newest first."""

    days: list[ProviderDay]


class ProviderRoutes:
    """Routes of the provider's side. All of them only show."""

    def __init__(self, statements: OperatorQueries) -> None:
        self._statements = statements

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        path, read = "/webhooks/provider/accounts", AccessLevel.READ
        return [
            Route("GET", path, read, self.list_accounts, ProviderAccounts),
            Route(
                "GET",
                f"{path}/{{account}}",
                read,
                self.show_account,
                ProviderAccountInFull,
                takes=AccountName,
                problems=(404,),
            ),
            Route(
                "GET",
                f"{path}/{{account}}/days",
                read,
                self.list_days,
                ProviderDays,
                takes=AccountName,
                query=Span,
                problems=(404,),
            ),
        ]

    async def list_accounts(self, _: Call) -> ProviderAccounts:
        """List what is known of the provider's side of each account."""
        return ProviderAccounts(accounts=[ProviderAccount(**fields) for fields in await self._accounts(None)])

    async def show_account(self, call: Call) -> ProviderAccountInFull:
        """Show one account: its credentials, its webhook, the last calls of the provider's API, and what webhookd changed."""
        name = call.path.account
        found = await self._account(name)
        lists: dict[str, tuple[Any, type[Shape]]] = {
            "calls": (queries.list_provider_calls, ProviderCall),
            "changes": (queries.list_provider_changes, ProviderChange),
            "tests": (queries.list_provider_tests, ProviderTest),
            "unreadable": (queries.list_unreadable_notifications, UnreadableNotification),
        }
        rows: dict[str, Any] = {
            key: [shape(**row) for row in await self._statements.all(query, account=name, limit=_SHOWN)]
            for key, (query, shape) in lists.items()
        }
        kept = await self._statements.one(queries.count_provider_tests, account=name, most=_MOST_COUNTED)
        return ProviderAccountInFull(**found, **rows, tests_in_a_week=kept)

    async def list_days(self, call: Call) -> ProviderDays:
        """List the days of an account: what the provider's history lists, what webhookd has, and whether the day is whole."""
        await self._account(call.path.account)
        rows = await self._statements.all(queries.list_provider_days, account=call.path.account, days=call.query.days)
        return ProviderDays(days=[ProviderDay(**row) for row in rows])

    async def _account(self, name: str) -> dict[str, Any]:
        found = await self._accounts(name)
        if not found:
            raise NotFoundError(f"no account {name} has API credentials")
        return found[0]

    async def _accounts(self, name: str | None) -> list[dict[str, Any]]:
        last = {row["account"]: dict(row) for row in await self._statements.all(queries.last_provider_days)}
        days = {account: ProviderDay(**{name: row[name] for name in ProviderDay.model_fields}) for account, row in last.items()}
        rows = await self._statements.all(queries.list_provider_accounts, account=name)
        return [dict(row) | {"last_day": days.get(row["account"])} for row in rows]
