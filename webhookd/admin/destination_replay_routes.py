"""The route of a replay to a destination."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from webhookd.admin.access import AccessLevel
from webhookd.admin.destination_routes import Name
from webhookd.admin.filters import filtered
from webhookd.admin.operation_routes import BROAD, OperationShape, besides_status, operation_of
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import Most, NarrowTypes, Note, StatusName, left_out
from webhookd.operate.destinations import Destinations
from webhookd.operate.filter import Filter
from webhookd.operate.operations import Kind, Operations, Order


@filtered(Filter, event_type=NarrowTypes, status=Annotated[list[StatusName], Field(min_length=1, max_length=5)])
class StoredFilter(Shape):
    """A filter of stored events. Every given field must match, and at least one field besides `status` is required.

    `status` is the status of the event's handlers. To choose everything, give `received_from` with an early time.
    """

    model_config = ConfigDict(json_schema_extra=besides_status)

    imported: bool = left_out(
        description="Also choose events that another program has processed, that `webhookd import` took as history, and that "
        "the destination never had. By default, the operation only counts them among `reasons`."
    )

    @model_validator(mode="after")
    def _narrows(self) -> StoredFilter:
        if not self.model_fields_set.difference(BROAD):
            raise ValueError("give a filter besides the status; received_from with an early time chooses every event")
        return self


class DestinationReplay(Shape):
    """A replay of stored events to a destination."""

    filter: StoredFilter
    reason: Annotated[Note, Field(min_length=1, description="The reason, for the audit trail.")]
    dry_run: Annotated[bool, Field(description="Only count the events, by type and reason.")] = True
    rate: Annotated[float, Field(ge=0.1, le=10_000, description="At most this many events per second.")] = 20.0
    limit: Annotated[Most, Field(description="At most this many events, the oldest first.")] = None


class DestinationReplayRoutes:
    """The route of a replay to a destination."""

    def __init__(self, destinations: Destinations, operations: Operations) -> None:
        self._destinations = destinations
        self._operations = operations

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        return [
            Route(
                "POST",
                "/webhooks/destinations/{name}/replay",
                AccessLevel.OPERATE,
                self.replay_to_destination,
                OperationShape,
                202,
                takes=Name,
                body=DestinationReplay,
                problems=(404, 409),
            )
        ]

    async def replay_to_destination(self, call: Call) -> OperationShape:
        """Send stored events to a destination again, the oldest first. No handler runs.

        The destination's settings still choose: an event that they do not ask for is left out. So is an event whose body is no
        longer kept, whose delivery is under way, or that came as history by an import; `reasons` counts these events. Each
        request has the event's own `webhook-id`, as before. Deliveries that are due go first. A destination has one replay at a
        time. The answer is an operation; `GET /webhooks/operations/{id}` shows its progress. A dry run, which is the default,
        only counts.
        """
        body, name = call.body, call.path.name
        await self._destinations.must_be_set(name, "so nobody would send: set it again")
        selection = {"destination": name} | body.filter.model_dump(mode="json", exclude_none=True)
        order = Order(Kind.REPLAY, selection, call.caller.actor, body.reason, body.dry_run, body.rate, body.limit)
        return operation_of(await self._operations.order(order))
