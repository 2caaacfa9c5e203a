"""Routes of quarantine: authentic bodies that could not become events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from webhookd.admin.access import Role
from webhookd.admin.events import Id, Reason
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import Body, Cursor, GivenTime, Limit, Text, Time, body_of
from webhookd.errors import Unusable
from webhookd.operate.place import place_of
from webhookd.operate.quarantine import Quarantine, release_refused

State = Literal["waiting", "released", "discarded"]


class QuarantineQuery(Shape):
    """Which bodies; all that is given must hold."""

    account: Text | None = None
    reason: Unusable | None = None
    state: State = "waiting"
    received_from: GivenTime | None = None
    received_to: GivenTime | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class Quarantined(Shape):
    """A body in quarantine, as a list shows it."""

    id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    account: str
    reason: str
    detail: str
    received_at: Time
    times_received: int
    size: Annotated[int, Field(description="Bytes.")]
    state: State
    event_id: Annotated[str | None, Field(description="The event that a released body became, or repeats.")]
    handled_at: Time | None
    handled_by: str | None
    note: str | None


class QuarantinePage(Shape):
    """A page of bodies, the newest first.

    It may hold fewer than `limit`, or none, with `next` not null: then the search goes on with `next`.
    """

    bodies: list[Quarantined]
    next: str | None
    searched_to: Annotated[Time | None, Field(description="How far back the search came.")]


class ReleaseAdvice(Shape):
    """Whether the body can be released."""

    allowed: bool
    reason: str


class QuarantinedInFull(Quarantined):
    """A body in quarantine with its bytes."""

    body: Body | None
    release: ReleaseAdvice


class ReleaseAnswer(Shape):
    """What became of a released body."""

    outcome: Literal["released", "duplicate"]
    event_id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    mended: Annotated[
        list[str], Field(description="What of the body had to be mended to read it; its bytes stay as they came.")
    ]


class DiscardAnswer(Shape):
    """What became of a discarded body."""

    outcome: Literal["discarded"]


def _fields(row: Any) -> dict[str, Any]:
    fields = {name: row[name] for name in Quarantined.model_fields}
    return fields | {"id": str(row["id"]), "event_id": None if row["event_id"] is None else str(row["event_id"])}


class QuarantineRoutes:
    """What is done with bodies in quarantine."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    def routes(self) -> list[Route]:
        """The table."""
        path = "/webhooks/quarantine"
        changes: dict[str, Any] = {"takes": Id, "body": Reason, "body_required": False, "problems": (404, 409)}
        return [
            Route("GET", path, Role.LOOK, self.list_quarantine, QuarantinePage, query=QuarantineQuery),
            Route("GET", f"{path}/{{id}}", Role.LOOK, self.show_quarantined, QuarantinedInFull, takes=Id, problems=(404,)),
            Route("POST", f"{path}/{{id}}/release", Role.OPERATE, self.release_quarantined, ReleaseAnswer, **changes),
            Route("POST", f"{path}/{{id}}/discard", Role.OPERATE, self.discard_quarantined, DiscardAnswer, **changes),
        ]

    async def list_quarantine(self, call: Call) -> QuarantinePage:
        """List bodies in quarantine, the newest first.

        The work of a call has a bound: if the filters choose few bodies, a page ends after some thousands that were looked at,
        and `next` goes on from there.
        """
        query = call.query
        page = await self._quarantine.newest(
            place_of(query.cursor),
            query.limit,
            state=query.state,
            account=query.account,
            reason=query.reason,
            received_from=query.received_from,
            received_to=query.received_to,
        )
        return QuarantinePage(
            bodies=[Quarantined(**_fields(row)) for row in page.rows],
            next=None if page.next is None else page.next.cursor(),
            searched_to=page.searched_to,
        )

    async def show_quarantined(self, call: Call) -> QuarantinedInFull:
        """Show a body in quarantine: why it is there, its exact bytes, whether it can be released."""
        row = await self._quarantine.show(call.path.id)
        refused = release_refused(row)
        body = body_of(row["body"])
        mended = body.mended if body is not None else []
        how = f"; its bytes stay as they are, and it is read so: {'; '.join(mended)}" if mended else ""
        advice = ReleaseAdvice(allowed=refused is None, reason=refused or f"released, it becomes an event and is handled{how}")
        return QuarantinedInFull(**_fields(row), body=body, release=advice)

    async def release_quarantined(self, call: Call) -> ReleaseAnswer:
        """Make an event of a body, however old its date is. One that an event has come of meanwhile is a duplicate."""
        released = await self._quarantine.release(call.path.id, actor=call.caller.actor, note=call.body.reason)
        return ReleaseAnswer(
            outcome="duplicate" if released.duplicate else "released",
            event_id=str(released.event_id),
            mended=list(released.mended),
        )

    async def discard_quarantined(self, call: Call) -> DiscardAnswer:
        """Discard a body; retention removes it in its time."""
        await self._quarantine.discard(call.path.id, actor=call.caller.actor, note=call.body.reason)
        return DiscardAnswer(outcome="discarded")
