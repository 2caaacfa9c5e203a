"""The route of samples of refused webhooks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from webhookd.admin.access import AccessLevel
from webhookd.admin.event_routes import Id
from webhookd.admin.route import Call, Route, Shape
from webhookd.admin.shapes import CursorText, Limit, Text, Time
from webhookd.errors import NotFoundError
from webhookd.operate.cursor import Cursor, decode_cursor
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.receive.refusal import Rejection
from webhookd.receive.refused_samples import FINDINGS
from webhookd.store.queries import queries


def _known(finding: str | None) -> str | None:
    if finding is not None and finding not in FINDINGS:
        raise ValueError(f"must be one of {', '.join(FINDINGS)}")
    return finding


class RefusedQuery(Shape):
    """The filter of the list. Every given field must match."""

    account: Annotated[Text | None, Field(description="`unknown` for paths that name no account.")] = None
    reason: Rejection | None = None
    finding: Annotated[
        str | None,
        AfterValidator(_known),
        Field(description="What is likely wrong.", json_schema_extra={"enum": [*FINDINGS, None]}),
    ] = None
    limit: Limit = 50
    cursor: CursorText | None = None


class RefusedSample(Shape):
    """A refused webhook. Nothing in it is authentic: strangers chose path, headers and body, which are shown escaped."""

    id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    refused_at: Time
    account: str
    reason: str
    status: int
    path: Annotated[str, Field(description="The path without the query.")]
    peer: Annotated[str, Field(description="The address of the peer; behind a proxy, the proxy's address.")]
    forwarded_for: Annotated[str | None, Field(description="The header X-Forwarded-For. Anyone can write that header.")]
    header: Annotated[str, Field(description="The form of the header X-ANET-Signature, without its value.")]
    content_type: str | None
    size: Annotated[int | None, Field(description="The size of the body in bytes, as read or as announced.")]
    first_bytes: Annotated[
        str, Field(description="At most 200 bytes of the body, escaped. Text that may be customer data is masked.")
    ]
    finding: str
    likely: Annotated[str, Field(description="What is likely wrong, and what to do.")]


class RefusedPage(Shape):
    """A page of samples, the newest first."""

    samples: list[RefusedSample]
    next: str | None


_COLUMNS = {"reason": "outcome", "header": "header_shape", "size": "body_length"}


def _sample(row: Any) -> RefusedSample:
    fields = {name: row[_COLUMNS.get(name, name)] for name in RefusedSample.model_fields}
    return RefusedSample(**fields | {"id": str(row["id"])})


class RefusedRoutes:
    """Routes of refused webhooks."""

    def __init__(self, statements: OperatorQueries) -> None:
        self._statements = statements

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        path = "/webhooks/refused"
        return [
            Route("GET", path, AccessLevel.READ, self.list_refused, RefusedPage, query=RefusedQuery),
            Route("GET", f"{path}/{{id}}", AccessLevel.READ, self.show_refused, RefusedSample, takes=Id, problems=(404,)),
        ]

    async def show_refused(self, call: Call) -> RefusedSample:
        """Show one sample of a refused webhook, with what is likely wrong."""
        row = await self._statements.one(queries.refused_sample, id=call.path.id)
        if row is None:
            raise NotFoundError(
                f"no sample {call.path.id}: samples are kept for two weeks, and few of them; list the present ones"
            )
        return _sample(row)

    async def list_refused(self, call: Call) -> RefusedPage:
        """List samples of refused webhooks, the newest first, each with what is likely wrong."""
        query = call.query
        cursor = decode_cursor(query.cursor)
        rows = await self._statements.all(
            queries.list_refused,
            at=cursor.at,
            below=cursor.id,
            account=query.account,
            outcome=query.reason,
            finding=query.finding,
            limit=query.limit + 1,
        )
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        last = Cursor(rows[-1]["refused_at"], rows[-1]["id"]) if more else None
        return RefusedPage(samples=[_sample(row) for row in rows], next=None if last is None else last.encode())
