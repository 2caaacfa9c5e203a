"""Routes of dead letters: the list, one event, and bulk redrive and discard."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, FailFast, Field, JsonValue, model_validator

from webhookd.admin.access import AccessLevel
from webhookd.admin.event_routes import EventInFull, Id, in_full
from webhookd.admin.filters import chosen, filtered
from webhookd.admin.operation_routes import OperationShape, operation_of
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import (
    Boolean,
    CursorText,
    EventRow,
    Limit,
    Most,
    NarrowTypes,
    Note,
    Time,
    event_row,
    left_out,
)
from webhookd.errors import NotFoundError
from webhookd.event import Status
from webhookd.operate.cursor import decode_cursor
from webhookd.operate.dead_letters import search_dead
from webhookd.operate.events import Events
from webhookd.operate.filter import DeadEventFilter, filters_of
from webhookd.operate.operations import Kind, Operations, Order
from webhookd.operate.operator_queries import OperatorQueries


@filtered(DeadEventFilter)
class DeadQuery(Shape):
    """The query of the list: the filters, which must all match, and the page."""

    discarded: Annotated[
        Boolean, Field(description="true: only discarded events; false: only events that were not discarded.")
    ] = False
    limit: Limit = 50
    cursor: CursorText | None = None


class DeadPage(Shape):
    """A page of dead events, the newest death first.

    A page may hold fewer than `limit` events, or none, while `next` is not null: then continue the search with `next`.
    """

    events: list[EventRow]
    next: str | None
    searched_to: Annotated[
        Time | None, Field(description="The time of death down to which the search has looked; null at the end.")
    ]


_NARROWING = [one.name for one in filters_of(DeadEventFilter)]


@filtered(DeadEventFilter, event_type=NarrowTypes)
class DeadFilter(Shape):
    """A filter of dead events. At least one field is required, and every given field must match."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": [name]} for name in _NARROWING]})

    @model_validator(mode="after")
    def _narrows(self) -> DeadFilter:
        if not self.model_fields_set:
            raise ValueError(
                f"give at least one of {', '.join(_NARROWING)}; for every dead event, give all: true instead of the filter"
            )
        return self


_CHOICES: list[JsonValue] = [{"required": [name]} for name in ("ids", "filter", "all")]


class Chosen(Shape):
    """A choice of dead events, by exactly one of `ids`, `filter` and `all`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _CHOICES})

    ids: Annotated[list[UUID], FailFast()] = left_out(min_length=1, max_length=1000)
    filter: DeadFilter = left_out()
    all: Literal[True] = left_out()
    reason: Annotated[Note, Field(description="The reason, for the audit trail.")] = ""
    dry_run: Annotated[bool, Field(description="Only count the events, by type and reason.")] = True
    limit: Annotated[Most, Field(description="At most this many events, the oldest death first.")] = None

    @model_validator(mode="after")
    def _one_choice(self) -> Chosen:
        if len(self.model_fields_set & {"ids", "filter", "all"}) != 1:
            raise ValueError("ids, filter, all: give exactly one of them")
        return self

    def selection(self) -> dict[str, Any]:
        """Returns the choice as an operation stores it."""
        given = self.model_fields_set
        if "ids" in given:
            return {"ids": [str(one) for one in self.ids]}
        return self.filter.model_dump(mode="json", exclude_none=True) if "filter" in given else {}


class Redrive(Chosen):
    """A redrive of dead events."""

    rate: Annotated[float, Field(ge=0.1, le=10_000, description="At most this many events per second.")] = 20.0


class DeadLetterRoutes:
    """Routes of dead letters."""

    def __init__(self, statements: OperatorQueries, events: Events, operations: Operations) -> None:
        self._statements = statements
        self._events = events
        self._operations = operations

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        path = "/webhooks/dead-letters"
        return [
            Route("GET", path, AccessLevel.READ, self.list_dead_letters, DeadPage, query=DeadQuery),
            Route("GET", f"{path}/{{id}}", AccessLevel.READ, self.show_dead_letter, EventInFull, takes=Id, problems=(404,)),
            Route("POST", f"{path}/redrive", AccessLevel.OPERATE, self.redrive, OperationShape, 202, body=Redrive),
            Route("POST", f"{path}/discard", AccessLevel.OPERATE, self.discard, OperationShape, 202, body=Chosen),
        ]

    async def list_dead_letters(self, call: Call) -> DeadPage:
        """List dead events, the newest death first.

        The work of a call has a bound. If the filters choose few events, a page ends after the search has looked at some
        thousands, and `next` continues from there.
        """
        query = call.query
        dead = chosen(DeadEventFilter, query)
        cursor = decode_cursor(query.cursor)
        page = await search_dead(self._statements, dead, cursor, query.limit, discarded=query.discarded)
        return DeadPage(
            events=[event_row(row) for row in page.rows],
            next=None if page.next is None else page.next.encode(),
            searched_to=page.searched_to,
        )

    async def show_dead_letter(self, call: Call) -> EventInFull:
        """Show a dead event, as `GET /webhooks/events/{id}` does."""
        shown = await self._events.show(call.path.id)
        if shown.row["status"] != Status.DEAD:
            raise NotFoundError(f"the event {call.path.id} is not dead: it is {shown.row['status']}")
        return in_full(shown)

    async def redrive(self, call: Call) -> OperationShape:
        """Have dead events tried again, the oldest death first.

        Each event keeps its id, its body and its audit trail, and takes the way of a new event, with all its attempts. Fresh
        events go first. A discarded event is redriven by its id only. The answer is an operation;
        `GET /webhooks/operations/{id}` shows its progress.
        """
        return await self._order(call, Kind.REDRIVE, call.body.rate)

    async def discard(self, call: Call) -> OperationShape:
        """Discard dead events: they stay dead, lose their copy in the dead-letter queue, and retention may remove them."""
        return await self._order(call, Kind.DISCARD, 1.0)

    async def _order(self, call: Call, kind: Kind, rate: float) -> OperationShape:
        body = call.body
        order = Order(kind, body.selection(), call.caller.actor, body.reason, body.dry_run, rate, body.limit)
        return operation_of(await self._operations.order(order))
