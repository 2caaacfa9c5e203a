"""Routes of quarantine: authentic bodies that could not become events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from webhookd.admin.access import AccessLevel
from webhookd.admin.event_routes import Id, Reason
from webhookd.admin.filters import chosen, filtered
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import Body, CursorText, Limit, Time, body_of
from webhookd.errors import Unusable
from webhookd.operate.cursor import decode_cursor
from webhookd.operate.filter import QuarantineFilter
from webhookd.operate.quarantine import Quarantine, release_refused

State = Literal["waiting", "released", "discarded"]


@filtered(QuarantineFilter)
class QuarantineQuery(Shape):
    """The filter of the list. Every given field must match."""

    reason: Unusable | None = None
    state: State = "waiting"
    limit: Limit = 50
    cursor: CursorText | None = None


class Quarantined(Shape):
    """A body in quarantine, as a list shows it."""

    id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    account: str
    reason: str
    detail: str
    received_at: Time
    times_received: int
    size: Annotated[int, Field(description="The size in bytes.")]
    state: State
    event_id: Annotated[str | None, Field(description="The event that the released body became, or whose duplicate it is.")]
    handled_at: Time | None
    handled_by: str | None
    note: str | None


class QuarantinePage(Shape):
    """A page of bodies, the newest first.

    A page may hold fewer than `limit` bodies, or none, while `next` is not null: then continue the search with `next`.
    """

    bodies: list[Quarantined]
    next: str | None
    searched_to: Annotated[
        Time | None, Field(description="The search has looked at all bodies back to this time; null at the end.")
    ]


class ReleaseAdvice(Shape):
    """Advice about a release: whether the body can be released, and why or why not."""

    allowed: bool
    reason: str


class QuarantinedInFull(Quarantined):
    """A body in quarantine with its bytes."""

    body: Body | None
    release: ReleaseAdvice


class ReleaseAnswer(Shape):
    """The result of a release."""

    outcome: Literal["released", "duplicate"]
    event_id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    mended: Annotated[
        list[str], Field(description="What had to be mended to read the body; the stored bytes stay as received.")
    ]


class DiscardAnswer(Shape):
    """The result of a discard."""

    outcome: Literal["discarded"]


def _fields(row: Any) -> dict[str, Any]:
    fields = {name: row[name] for name in Quarantined.model_fields}
    return fields | {"id": str(row["id"]), "event_id": None if row["event_id"] is None else str(row["event_id"])}


class QuarantineRoutes:
    """Routes of quarantine."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        path = "/webhooks/quarantine"
        changes: dict[str, Any] = {"takes": Id, "body": Reason, "body_required": False, "problems": (404, 409)}
        return [
            Route("GET", path, AccessLevel.READ, self.list_quarantine, QuarantinePage, query=QuarantineQuery),
            Route(
                "GET", f"{path}/{{id}}", AccessLevel.READ, self.show_quarantined, QuarantinedInFull, takes=Id, problems=(404,)
            ),
            Route("POST", f"{path}/{{id}}/release", AccessLevel.OPERATE, self.release_quarantined, ReleaseAnswer, **changes),
            Route("POST", f"{path}/{{id}}/discard", AccessLevel.OPERATE, self.discard_quarantined, DiscardAnswer, **changes),
        ]

    async def list_quarantine(self, call: Call) -> QuarantinePage:
        """List bodies in quarantine, the newest first.

        The work of a call has a bound. If the filters choose few bodies, a page ends after the search has looked at some
        thousands, and `next` continues from there.
        """
        query = call.query
        page = await self._quarantine.newest(
            chosen(QuarantineFilter, query),
            decode_cursor(query.cursor),
            query.limit,
            state=query.state,
            reason=query.reason,
        )
        return QuarantinePage(
            bodies=[Quarantined(**_fields(row)) for row in page.rows],
            next=None if page.next is None else page.next.encode(),
            searched_to=page.searched_to,
        )

    async def show_quarantined(self, call: Call) -> QuarantinedInFull:
        """Show a body in quarantine: the reason, the exact bytes, and whether the body can be released."""
        row = await self._quarantine.show(call.path.id)
        refused = release_refused(row)
        body = body_of(row["body"])
        mended = body.mended if body is not None else []
        how = f"; the stored bytes stay as received; mended to read them: {'; '.join(mended)}" if mended else ""
        advice = ReleaseAdvice(
            allowed=refused is None, reason=refused or f"a release makes the body an event, which is processed{how}"
        )
        return QuarantinedInFull(**_fields(row), body=body, release=advice)

    async def release_quarantined(self, call: Call) -> ReleaseAnswer:
        """Make an event of a body, however old its date is. If its event exists already, the body is a duplicate."""
        released = await self._quarantine.release(call.path.id, actor=call.caller.actor, note=call.body.reason)
        return ReleaseAnswer(
            outcome="duplicate" if released.duplicate else "released",
            event_id=str(released.event_id),
            mended=list(released.mended),
        )

    async def discard_quarantined(self, call: Call) -> DiscardAnswer:
        """Discard a body; retention removes it later."""
        await self._quarantine.discard(call.path.id, actor=call.caller.actor, note=call.body.reason)
        return DiscardAnswer(outcome="discarded")
