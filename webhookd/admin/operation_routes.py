"""Routes of operations: the replay, and the progress of all bulk work."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from webhookd.admin.access import AccessLevel
from webhookd.admin.filters import filtered
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import CursorText, Limit, Most, NarrowTypes, Note, Time, left_out
from webhookd.errors import ConflictError
from webhookd.operate.cursor import Cursor, decode_cursor
from webhookd.operate.filter import Filter
from webhookd.operate.operations import Kind, Operations, Order


class OperationId(Shape):
    """An operation's id, in the path."""

    id: UUID


class OperationShape(Shape):
    """Bulk work and its progress."""

    id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    kind: Literal["replay", "redrive", "discard", "gaps"]
    state: Literal["counting", "working", "done", "cancelled", "failed"]
    dry_run: bool
    actor: str
    reason: str
    selection: Annotated[
        dict[str, Any],
        Field(description="The choice of events, as ordered. `destination`: the replay sends them there, and runs no handler."),
    ]
    rate: Annotated[float, Field(description="At most this many events per second.")]
    limit: int | None
    total: Annotated[int, Field(description="How many events are chosen; in the state `counting`, so far. Of `gaps`: days.")]
    done: int
    skipped: Annotated[
        int, Field(description="How many chosen events had changed before their turn came, and were left alone.")
    ]
    held_by: Annotated[str | None, Field(description="Why the operation waits now; null if it does not wait.")]
    error: str | None
    event_types: Annotated[dict[str, int], Field(description="How many events are chosen, by type.")]
    reasons: Annotated[
        dict[str, int],
        Field(
            description="How many events the operation has looked at, by a reason. Dead events: why they died. Events of a "
            "replay to a destination: what became of their last delivery. Reasons that begin with `left out: ` say why a "
            "replay leaves events alone; `total` does not count these events."
        ),
    ]
    created_at: Time
    updated_at: Time
    finished_at: Time | None


class OperationPage(Shape):
    """A page of operations, the newest first."""

    operations: list[OperationShape]
    next: str | None


class OperationQuery(Shape):
    """The page of the list."""

    limit: Limit = 50
    cursor: CursorText | None = None


BROAD = ("status", "imported")  # filters that alone choose too much


def besides_status(schema: dict[str, Any]) -> None:
    """Describes in a filter's schema that one field besides `status` is required."""
    schema["anyOf"] = [{"required": [name]} for name in schema["properties"] if name not in BROAD]


@filtered(Filter, event_type=NarrowTypes)
class ReplayFilter(Shape):
    """A filter of ended events. Every given field must match, and at least one field besides `status` is required.

    To choose everything, give `received_from` with an early time.
    """

    model_config = ConfigDict(json_schema_extra=besides_status)

    status: list[Literal["processed", "dead"]] = left_out(
        min_length=1, max_length=2, description="By default, only dead events."
    )
    imported: bool = left_out(
        description="Also choose events that another program has processed, and that `webhookd import` took as history. No "
        "handler of webhookd ran for them. By default, the operation only counts them among `reasons`."
    )

    @model_validator(mode="after")
    def _narrows(self) -> ReplayFilter:
        if not self.model_fields_set.difference(BROAD):
            raise ValueError("give a filter besides the status; received_from with an early time chooses every event")
        return self


class Replay(Shape):
    """A replay of ended events."""

    filter: ReplayFilter
    reason: Annotated[Note, Field(min_length=1, description="The reason, for the audit trail.")]
    dry_run: Annotated[bool, Field(description="Only count the events, by type and reason.")] = True
    force: Annotated[bool, Field(description="Required to run processed events again. Their effects happen again.")] = False
    rate: Annotated[float, Field(ge=0.1, le=10_000, description="At most this many events per second.")] = 20.0
    limit: Annotated[Most, Field(description="At most this many events, the oldest first.")] = None


def operation_of(row: Any, destinations: Collection[str] = ()) -> OperationShape:
    """Returns the JSON shape of an operation's row. `destinations`: the names that are set in this process."""
    fields = {name: row[name] for name in OperationShape.model_fields if name not in ("id", "limit")}
    for name in ("selection", "event_types", "reasons"):
        fields[name] = json.loads(row[name])
    if fields["selection"].pop("gaps", False):
        fields["kind"] = "gaps"
    destination = fields["selection"].get("destination")
    if destination is not None and destination not in destinations and row.get("idle") and row["finished_at"] is None:
        fields["held_by"] = f"the settings do not name {destination}: set it again, or cancel the operation"
    return OperationShape(**fields, id=str(row["id"]), limit=row["max_events"])


class OperationRoutes:
    """Routes of operations."""

    def __init__(self, operations: Operations, destinations: Callable[[], Collection[str]]) -> None:
        self._operations = operations
        self._destinations = destinations

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        path = "/webhooks/operations"
        return [
            Route(
                "POST",
                "/webhooks/events/replay",
                AccessLevel.OPERATE,
                self.replay_events,
                OperationShape,
                202,
                body=Replay,
                problems=(409,),
            ),
            Route("GET", path, AccessLevel.READ, self.list_operations, OperationPage, query=OperationQuery),
            Route(
                "GET",
                f"{path}/{{id}}",
                AccessLevel.READ,
                self.show_operation,
                OperationShape,
                takes=OperationId,
                problems=(404,),
            ),
            Route(
                "POST",
                f"{path}/{{id}}/cancel",
                AccessLevel.OPERATE,
                self.cancel_operation,
                OperationShape,
                202,
                takes=OperationId,
                problems=(404, 409),
            ),
        ]

    async def replay_events(self, call: Call) -> OperationShape:
        """Run ended events again, the oldest first.

        Only dead events are chosen, unless the filter's status names processed events and `force` is given. Events that end
        after the replay was ordered are not chosen. Fresh events go first. The answer is an operation;
        `GET /webhooks/operations/{id}` shows its progress. A dry run, which is the default, only counts.
        """
        body = call.body
        if "processed" in (body.filter.status or ()) and not body.force and not body.dry_run:
            raise ConflictError("processed events need `force` (--force): they run again, and their effects happen again")
        selection = {"status": ["dead"]} | body.filter.model_dump(mode="json", exclude_none=True)
        order = Order(Kind.REPLAY, selection, call.caller.actor, body.reason, body.dry_run, body.rate, body.limit)
        return operation_of(await self._operations.order(order))

    async def list_operations(self, call: Call) -> OperationPage:
        """List operations, the newest first."""
        rows = await self._operations.newest(decode_cursor(call.query.cursor), call.query.limit + 1)
        more = len(rows) > call.query.limit
        rows = rows[: call.query.limit]
        last = Cursor(rows[-1]["created_at"], rows[-1]["id"]) if more else None
        operations = [operation_of(row, self._destinations()) for row in rows]
        return OperationPage(operations=operations, next=None if last is None else last.encode())

    async def show_operation(self, call: Call) -> OperationShape:
        """Show an operation and its progress."""
        return operation_of(await self._operations.get(call.path.id), self._destinations())

    async def cancel_operation(self, call: Call) -> OperationShape:
        """End an operation after its present batch; finished work stays done."""
        return operation_of(await self._operations.cancel(call.path.id))
