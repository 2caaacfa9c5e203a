"""Routes of events: the list, one event, its retry."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from webhookd.admin.access import AccessLevel
from webhookd.admin.filters import chosen, filtered
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import (
    Body,
    Boolean,
    CursorText,
    EventRow,
    Limit,
    Note,
    StatusName,
    Text,
    Time,
    body_of,
    event_fields,
    event_row,
)
from webhookd.event import Origin, Status, origin_of
from webhookd.operate.cursor import decode_cursor
from webhookd.operate.events import Events, Shown, retry_of
from webhookd.operate.filter import Filter


class Id(Shape):
    """An id that webhookd gave, in the path."""

    id: UUID


@filtered(Filter, status=Annotated[list[StatusName], Field(min_length=1, max_length=5)])
class EventFilter(Shape):
    """The filter of the list. Every given field must match."""

    q: Annotated[
        Text | None,
        Field(description="The exact id, notification id, entity id, invoice number or merchant reference of an event."),
    ] = None
    notification_id: Text | None = None
    limit: Limit = 50
    cursor: CursorText | None = None


class EventPage(Shape):
    """A page of events.

    A page may hold fewer than `limit` events, or none, while `next` is not null: then continue the search with `next`.
    """

    events: list[EventRow]
    next: str | None
    searched_to: Annotated[
        Time | None, Field(description="The search has looked at all events back to this time; null at the end.")
    ]


class Alias(Shape):
    """Another notification id of the same event, from a second registered webhook."""

    notification_id: str
    received_at: Time


class Change(Shape):
    """A change of an event's status."""

    at: Time
    from_status: str | None
    to_status: str
    actor: str
    attempt: int | None
    reason: str | None
    consumer: Annotated[
        str | None, Field(description="The consumer whose work changed; null for the receipt, which concerns the whole event.")
    ]


class ConsumerState(Shape):
    """The state of an event's work for one consumer: the handlers, or a destination."""

    name: str
    status: Annotated[
        str,
        Field(
            description="Of `handlers`: the event's status. Of a destination: waiting, retrying, dead, delivered, or dropped "
            "by an operator."
        ),
    ]
    attempts: int
    last_error: Annotated[str | None, Field(description="It may quote customer data.")] = None
    last_answer: Annotated[str | None, Field(description="The beginning of a destination's last failed answer.")] = None
    due: Annotated[Time | None, Field(description="When the next attempt is due.")] = None


class FailedAttempt(Shape):
    """An attempt that failed."""

    at: Time
    attempt: int
    outcome: str
    error: str
    consumer: Annotated[str, Field(description="`handlers`, or the destination. Each consumer counts its own attempts.")]


class RetryAdvice(Shape):
    """Advice about a retry: whether the event can be tried again, and why or why not."""

    allowed: bool
    needs_force: bool
    reason: str


class EventInFull(EventRow):
    """An event with its body, its audit trail, its other notification ids, and related events."""

    last_error: Annotated[str | None, Field(description="The full error. It may quote customer data.")]
    dead_reason: str | None
    dead_letter_copy: Annotated[
        str | None,
        Field(
            description="Of a dead event: owed, or sent to the dead-letter queue. Null for other events, and once discarded."
        ),
    ]
    sends: Annotated[
        int | None, Field(description="How often the event was sent to the queue; null once the event is processed.")
    ]
    send_after: Annotated[
        Time | None, Field(description="When the event is due to be sent; if it is queued, when its message can count as lost.")
    ]
    origin: Annotated[
        Origin,
        Field(
            description="webhook; history, if no webhook came and webhookd took the event from Authorize.Net's history; "
            "synthetic, if webhookd made it of what no webhook reports; import, if it was imported without a signature."
        ),
    ]
    verified: Annotated[bool, Field(description="A Signature Key verified the body.")]
    body: Annotated[Body | None, Field(description="Null if the body is no longer kept.")]
    aliases: list[Alias]
    audit: Annotated[list[Change], Field(description="The oldest change first.")]
    failed_attempts: list[FailedAttempt]
    consumers: Annotated[list[ConsumerState], Field(description="The handlers, and each destination that gets the event.")]
    related: Annotated[list[EventRow], Field(description="The newest other events of the same entity.")]
    retry: RetryAdvice


class Force(Shape):
    """The option of a retry."""

    force: Annotated[Boolean, Field(description="Run a processed event again, too. Its effects happen again.")] = False


class Reason(Shape):
    """The reason of a change, for the audit trail."""

    reason: Note = ""


class Retried(Shape):
    """The event after the retry was ordered."""

    event: EventRow


def in_full(shown: Shown) -> EventInFull:
    """Returns the JSON shape of an event."""
    row = shown.row
    retry = retry_of(row, has_body=row["body"] is not None)
    copy = None
    if row["status"] == Status.DEAD and row["discarded_at"] is None:
        copy = "owed" if row["dead_letter_sent_at"] is None else "sent"
    ended = Status(row["status"]).finished
    return EventInFull(
        **event_fields(row),
        last_error=row["last_error"],
        origin=(origin := origin_of(row["key_fingerprint"])),
        verified=origin == "webhook",
        dead_reason=row["dead_reason"],
        dead_letter_copy=copy,
        sends=row["sends"],
        send_after=None if ended else row["send_after"],
        body=body_of(row["body"]),
        aliases=[Alias(**dict(alias)) for alias in shown.aliases],
        audit=[Change(**dict(change)) for change in shown.audit],
        failed_attempts=[
            FailedAttempt(
                at=c["at"],
                attempt=c["attempt"],
                outcome=c["to_status"],
                error=c["reason"],
                consumer=c["consumer"] or "handlers",
            )
            for c in shown.audit
            if c["attempt"] is not None and c["reason"] is not None and c["from_status"] != Status.DEAD
        ],
        consumers=_consumers(shown),
        related=[event_row(other) for other in shown.related],
        retry=RetryAdvice(allowed=retry.allowed, needs_force=retry.needs_force, reason=retry.reason),
    )


def _consumers(shown: Shown) -> list[ConsumerState]:
    row = shown.row
    due = None if Status(row["status"]).finished else row["send_after"]
    found = {
        "handlers": ConsumerState(
            name="handlers", status=row["status"], attempts=row["attempts"], last_error=row["last_error"], due=due
        )
    }
    for change in shown.audit:  # an ended delivery has no row any more
        if change["consumer"] not in (None, "handlers") and change["to_status"] in ("delivered", "dropped"):
            found[change["consumer"]] = ConsumerState(
                name=change["consumer"], status=change["to_status"], attempts=change["attempt"] or 0
            )
    for one in shown.deliveries:
        found[one["destination"]] = ConsumerState(
            name=one["destination"],
            status=one["status"],
            attempts=one["attempts"],
            last_error=one["last_error"],
            last_answer=one["last_answer"],
            due=None if one["status"] == "dead" else one["due"],
        )
    return list(found.values())


class EventRoutes:
    """Routes of events."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        path = "/webhooks/events"
        return [
            Route("GET", path, AccessLevel.READ, self.list_events, EventPage, query=EventFilter),
            Route("GET", f"{path}/{{id}}", AccessLevel.READ, self.show_event, EventInFull, takes=Id, problems=(404,)),
            Route(
                "POST",
                f"{path}/{{id}}/retry",
                AccessLevel.OPERATE,
                self.retry_event,
                Retried,
                202,
                takes=Id,
                query=Force,
                body=Reason,
                body_required=False,
                problems=(404, 409),
            ),
        ]

    async def list_events(self, call: Call) -> EventPage:
        """Find events, the newest first.

        If only statuses other than `processed` are asked for, unfinished events are in the order in which they began to wait,
        and dead events in the order of their deaths. The work of a call has a bound. If the filters choose few events, a page
        ends after the search has looked at some thousands, and `next` continues from there.
        """
        query = call.query
        page = await self._events.search(
            chosen(Filter, query),
            decode_cursor(query.cursor),
            query.limit,
            anything=query.q,
            notification_id=query.notification_id,
        )
        return EventPage(
            events=[event_row(row) for row in page.rows],
            next=None if page.next is None else page.next.encode(),
            searched_to=page.searched_to,
        )

    async def show_event(self, call: Call) -> EventInFull:
        """Show an event: its status, audit trail, failed attempts, exact body, and related events."""
        return in_full(await self._events.show(call.path.id))

    async def retry_event(self, call: Call) -> Retried:
        """Have an event tried again.

        A dead event starts anew with all its attempts. An event that waits for its next attempt is tried at once. A processed
        event is refused, unless the retry is forced: then its handlers run again, and their effects happen again. An event
        that is on its way is refused.
        """
        row = await self._events.retry(call.path.id, actor=call.caller.actor, note=call.body.reason, force=call.query.force)
        return Retried(event=event_row(row))
