"""The route of orders to close gaps."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field, StringConstraints

from webhookd.admin.access import AccessLevel
from webhookd.admin.operation_routes import OperationShape, operation_of
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import Note
from webhookd.operate.gap_orders import GapOrders


class GapAccount(Shape):
    """The name of an account, in the path."""

    account: Annotated[str, StringConstraints(pattern="^[a-z0-9_-]{1,64}$")]


class GapOrder(Shape):
    """An order to take what is missing."""

    since: Annotated[
        date, Field(description="The first day, in UTC: 400 days ago at most. Older notifications stay as they are.")
    ]
    reason: Note = ""


class GapRoutes:
    """The route of orders to close gaps."""

    def __init__(self, orders: GapOrders) -> None:
        self._orders = orders

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        return [
            Route(
                "POST",
                "/webhooks/provider/accounts/{account}/close-gaps",
                AccessLevel.OPERATE,
                self.close_gaps,
                OperationShape,
                202,
                takes=GapAccount,
                body=GapOrder,
                problems=(404, 409),
            )
        ]

    async def close_gaps(self, call: Call) -> OperationShape:
        """Take from the provider's history what is missing since a day.

        webhookd looks only at notifications that were made since it had the account's credentials: another program may have
        processed older ones. This order takes older ones, too, and they are processed as any event. The answer is an operation
        of the kind `gaps`; its `total` and `done` are days.
        """
        body = call.body
        row = await self._orders.order(call.path.account, body.since, actor=call.caller.actor, reason=body.reason)
        return operation_of(row)
