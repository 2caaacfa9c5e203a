"""Routes of destinations: the list, one destination, a test, redrive and drop, pause and resume."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, FailFast, Field, JsonValue, StringConstraints, model_validator

from webhookd.admin.access import AccessLevel
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import Note, Time, left_out
from webhookd.deliver.answers import accepted
from webhookd.deliver.role import DeliverRole
from webhookd.errors import ConflictError
from webhookd.operate.destination_figures import LATENCIES, OUTCOMES, WINDOW, Figures
from webhookd.operate.destinations import Destinations, DestinationState
from webhookd.operate.statistics import percentiles
from webhookd.store.deliveries import MOST, WELL, Counts
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import ATTEMPT_BOUNDS, DELIVERY_BOUNDS

_COUNTED = f"Counted up to {MOST}."


class Name(Shape):
    """The name of a destination, in the path."""

    name: Annotated[str, StringConstraints(pattern="^[a-z0-9_-]{1,64}$")]


class Seconds(Shape):
    """Percentiles of a latency in seconds, estimated from the buckets of a histogram; null if nothing was counted."""

    p50: float | None
    p99: float | None


class LastHour(Shape):
    """The deliveries and attempts of all replicas in the last hour."""

    delivered: int
    failed: Annotated[int, Field(description="Failed attempts, those that made deliveries dead among them.")]
    died: Annotated[int, Field(description="Deliveries that were given up.")]
    per_second: Annotated[float, Field(description="Accepted deliveries per second, averaged over the hour.")]
    latency: Annotated[
        Seconds, Field(description="From the receipt, or the redrive, until the destination accepted the event.")
    ]
    attempt: Annotated[Seconds, Field(description="One request.")]


class Oldest(Shape):
    """Since when the oldest deliveries wait and are retried, and when the first dead one died; null if there is none.

    Of more than 100,000 deliveries in one status, those that are due first are looked at.
    """

    waiting: Time | None
    retrying: Time | None
    dead: Time | None


class DestinationSummary(Shape):
    """The state of a destination after a change."""

    name: str
    state: Annotated[
        Literal["active", "failing", "paused", "removed"],
        Field(
            description="failing: the circuit of the destination is open, so the destination gets only probes. removed: the "
            "settings of this process do not name the destination, and its deliveries are kept."
        ),
    ]
    place: Annotated[str | None, Field(description="Scheme, host and port of the address; null if it is not set.")]
    waiting: Annotated[int, Field(description=f"Deliveries that were not tried yet, or redriven. {_COUNTED}")]
    retrying: Annotated[int, Field(description=f"Deliveries that failed, and are tried again. {_COUNTED}")]
    dead: Annotated[int, Field(description=f"Deliveries that were given up. {_COUNTED}")]
    paused_at: Time | None
    paused_by: str | None
    opened_at: Annotated[Time | None, Field(description="The time from which the circuit is open; null if it is closed.")]
    probe_at: Annotated[Time | None, Field(description="When the next probe may begin, if the circuit is open.")]
    failures: Annotated[int, Field(description="Different events that failed in a row, and failed probes.")]


class ResumedDestination(DestinationSummary):
    """The state of a destination after a resume."""

    hastened: Annotated[int, Field(description="Retries that were due later, and are due now.")]
    more: Annotated[
        bool,
        Field(
            description="There may be more such retries, because one call changes 10,000 at most. Call again when these are "
            "over: each failed one spends an attempt."
        ),
    ]


class DestinationRow(DestinationSummary):
    """A destination, as a list shows it."""

    oldest: Oldest
    last_hour: LastHour


class DestinationList(Shape):
    """All destinations, by name."""

    destinations: list[DestinationRow]


class DeliveryRow(Shape):
    """A delivery that has not ended."""

    event_id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    account: str | None
    event_type: str | None
    status: Literal["waiting", "retrying", "dead"]
    attempts: int
    since: Annotated[Time, Field(description="The receipt, or the last redrive.")]
    due: Annotated[Time, Field(description="When the next attempt may begin; of a dead delivery, when it died.")]
    last_status: Annotated[int | None, Field(description="The HTTP status of the last failed attempt.")]
    last_seconds: float | None
    last_error: str | None
    last_answer: Annotated[str | None, Field(description="The beginning of the answer. It may quote customer data.")]


class DestinationInFull(DestinationRow):
    """A destination with its settings, without secrets, and the first deliveries of each status."""

    settings: Annotated[dict[str, Any] | None, Field(description="Null if the destination is not set.")]
    deliveries: Annotated[list[DeliveryRow], Field(description="20 of each status: the next due, and the newest deaths.")]


class Tested(Shape):
    """The answer of a destination to a test event."""

    event_id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    accepted: bool
    status: int | None
    seconds: float
    error: str | None
    answer: Annotated[str | None, Field(description="The beginning of the answer's body.")]


_CHOICES: list[JsonValue] = [{"required": [name]} for name in ("ids", "all")]


class ChosenDeliveries(Shape):
    """A choice of dead deliveries, by exactly one of `ids` (of events) and `all`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _CHOICES})

    ids: Annotated[list[UUID], FailFast()] = left_out(min_length=1, max_length=1000)
    all: Literal[True] = left_out()
    reason: Annotated[Note, Field(description="The reason, for the audit trail.")] = ""

    @model_validator(mode="after")
    def _one_choice(self) -> ChosenDeliveries:
        if len(self.model_fields_set & {"ids", "all"}) != 1:
            raise ValueError("ids, all: give exactly one of them")
        return self

    @property
    def chosen(self) -> list[UUID] | None:
        """Returns the ids; None for all."""
        return self.ids if "ids" in self.model_fields_set else None


class Drop(ChosenDeliveries):
    """A choice of deliveries that are dropped."""

    unfinished: Annotated[bool, Field(description="Also drop deliveries that wait or are tried again.")] = False


class Handled(Shape):
    """The number of deliveries that one call changed."""

    count: int
    more: Annotated[bool, Field(description="There may be more, because one call changes some thousands at most: call again.")]


class DestinationRoutes:
    """Routes of destinations."""

    def __init__(self, deliver: DeliverRole, destinations: Destinations) -> None:
        self._deliver = deliver
        self._destinations = destinations

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        path = "/webhooks/destinations"
        one: dict[str, Any] = {"takes": Name, "problems": (404,)}
        change: dict[str, Any] = {"takes": Name, "problems": (404, 409)}
        operate, chosen = AccessLevel.OPERATE, ChosenDeliveries
        return [
            Route("GET", path, AccessLevel.READ, self.list_destinations, DestinationList),
            Route("GET", f"{path}/{{name}}", AccessLevel.READ, self.show_destination, DestinationInFull, **one),
            Route("POST", f"{path}/{{name}}/test", operate, self.test_destination, Tested, **change),
            Route("POST", f"{path}/{{name}}/redrive", operate, self.redrive_deliveries, Handled, body=chosen, **change),
            Route("POST", f"{path}/{{name}}/drop", operate, self.drop_deliveries, Handled, body=Drop, **one),
            Route("POST", f"{path}/{{name}}/pause", operate, self.pause_destination, DestinationSummary, **one),
            Route("POST", f"{path}/{{name}}/resume", operate, self.resume_destination, ResumedDestination, **one),
        ]

    async def list_destinations(self, call: Call) -> DestinationList:
        """List the destinations: those that are set, and those that are not set any more and still have deliveries."""
        found = await self._destinations.all()
        figures = await self._destinations.figures([one.name for one in found])
        rows = [DestinationRow(**self._row(one), **_shapes(figures[one.name])) for one in found]
        return DestinationList(destinations=rows)

    async def show_destination(self, call: Call) -> DestinationInFull:
        """Show a destination: its settings without secrets, its counts, and deliveries that wait, failed or are dead."""
        name = call.path.name
        found = await self._destinations.one(name)
        rows = [row for status in ("dead", "retrying", "waiting") for row in await self._destinations.newest(name, status)]
        figures = await self._destinations.figures([name])
        destination = self._deliver.destinations.get(name)
        return DestinationInFull(
            **self._row(found),
            **_shapes(figures[name]),
            settings=None if destination is None else _plain(destination.settings.redacted()),
            deliveries=[DeliveryRow(**dict(row) | {"event_id": str(row["event_id"])}) for row in rows],
        )

    async def test_destination(self, call: Call) -> Tested:
        """Send a test event.

        Its type is `webhookd.test`, and its header `webhookd-origin` is `test`. Nothing is stored, and nothing is tried again.
        """
        name = call.path.name
        destination = self._deliver.destinations.get(name)
        if destination is None:
            await self._destinations.one(name)
            raise ConflictError(f"the destination {name} is no longer set, so its address is not known: set it again")
        event_id, answer = await self._deliver.test(destination)
        logger.info("an operator sent a test event", destination=name, actor=call.caller.actor, event_id=str(event_id))
        return Tested(
            event_id=str(event_id),
            accepted=answer.status is not None and accepted(answer.status),
            status=answer.status,
            seconds=round(answer.seconds, 3),
            error=answer.error,
            answer=answer.text,
        )

    async def redrive_deliveries(self, call: Call) -> Handled:
        """Have dead deliveries tried again, with all their attempts, the oldest death first."""
        body = call.body
        count, more = await self._destinations.redrive(call.path.name, body.chosen, actor=call.caller.actor, note=body.reason)
        return Handled(count=count, more=more)

    async def drop_deliveries(self, call: Call) -> Handled:
        """Drop dead deliveries, or all that have not ended: the destination never gets these events."""
        body = call.body
        count, more = await self._destinations.drop(
            call.path.name, body.chosen, unfinished=body.unfinished, actor=call.caller.actor, note=body.reason
        )
        return Handled(count=count, more=more)

    async def pause_destination(self, call: Call) -> DestinationSummary:
        """Pause a destination on every replica. Its deliveries wait, and no attempt is counted."""
        await self._destinations.pause(call.path.name, actor=call.caller.actor)
        logger.info("an operator paused a destination", destination=call.path.name, actor=call.caller.actor)
        return await self._shown(call.path.name)

    async def resume_destination(self, call: Call) -> ResumedDestination:
        """Resume a destination that was paused, or that was repaired.

        Its retries are due now. If its circuit is open, the next probe is sent at once.
        """
        name = call.path.name
        hastened, more = await self._destinations.resume(name)
        logger.info("an operator resumed a destination", destination=name, actor=call.caller.actor, hastened=hastened)
        return ResumedDestination(**(await self._shown(name)).model_dump(), hastened=hastened, more=more)

    async def _shown(self, name: str) -> DestinationSummary:
        # A removed destination without deliveries is gone once its pause ends.
        for found in await self._destinations.all():
            if found.name == name:
                return DestinationSummary(**self._row(found))
        return DestinationSummary(**self._row(DestinationState(name, False, Counts(), None, None, WELL)))

    def _row(self, found: DestinationState) -> dict[str, Any]:
        destination = self._deliver.destinations.get(found.name)
        return {
            "name": found.name,
            "state": found.state,
            "place": None if destination is None else destination.settings.place,
            **found.counts._asdict(),
            "paused_at": found.paused_at,
            "paused_by": found.paused_by,
            "opened_at": found.circuit.opened_at,
            "probe_at": found.circuit.probe_at if found.circuit.opened_at is not None else None,
            "failures": found.circuit.failures,
        }


def _shapes(figures: Figures) -> dict[str, Any]:
    delivered, retrying, died = (sum(figures.counts.get(outcome, ())) for outcome in OUTCOMES)
    latency, attempt = (
        [None if part is None else round(part, 6) for part in percentiles(figures.counts.get(name, ()), bounds, (0.5, 0.99))]
        for name, bounds in zip(LATENCIES, (DELIVERY_BOUNDS, ATTEMPT_BOUNDS), strict=True)
    )
    return {
        "oldest": Oldest(waiting=figures.waiting, retrying=figures.retrying, dead=figures.dead),
        "last_hour": LastHour(
            delivered=delivered,
            failed=retrying + died,
            died=died,
            per_second=round(delivered / WINDOW, 4),
            latency=Seconds(p50=latency[0], p99=latency[1]),
            attempt=Seconds(p50=attempt[0], p99=attempt[1]),
        ),
    }


def _plain(settings: dict[str, object]) -> dict[str, Any]:
    """Returns settings as JSON has them."""
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, tuple):
            plain[name] = list(value)
        else:
            plain[name] = value if value is None or isinstance(value, int | float | list) else str(value)
    return plain
