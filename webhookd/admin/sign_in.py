"""Routes of the dashboard's session: sign in with a token, and sign out."""

from __future__ import annotations

from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field, StringConstraints

from webhookd.admin.access import Access, AccessLevel, WrongTokenError
from webhookd.admin.cookies import COOKIE, SESSION
from webhookd.admin.route import Call, Refused, Route, Shape

_LARGEST_BODY = 8192  # bytes: a token of 1000 characters, each escaped; strangers may send one


class SignIn(Shape):
    """A token."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=1000), Field(json_schema_extra={"format": "password"})]


class Who(Shape):
    """The caller that is signed in."""

    name: str
    role: Literal["look", "operate"]


class SignInRoutes:
    """Routes that sign in and out."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def routes(self) -> list[Route]:
        """Returns the table of routes."""
        return [
            Route(
                "POST",
                "/session",
                AccessLevel.OPEN,
                self.sign_in,
                Who,
                body=SignIn,
                largest_body=_LARGEST_BODY,
                problems=(401,),
            ),
            Route("GET", "/session", AccessLevel.READ, self.show_session, Who),
            Route("DELETE", "/session", AccessLevel.OPEN, self.sign_out, None, 204),
        ]

    async def sign_in(self, call: Call) -> web.StreamResponse:
        """Exchange a token for a session cookie. The session ends after twelve hours, or with its token."""
        try:
            caller = await self._access.prove(call.request, call.body.token)
        except WrongTokenError as error:
            raise Refused(401, "the token is unknown") from error
        who = Who(name=caller.name, role=caller.role.value)  # type: ignore[arg-type]
        answer = web.Response(body=who.model_dump_json().encode(), content_type="application/json")
        answer.set_cookie(
            COOKIE,
            self._access.cookie(caller),
            max_age=SESSION,
            httponly=True,
            samesite="Strict",
            # If a proxy ends TLS, the request itself arrives without TLS.
            secure="https" in (call.request.scheme, call.request.headers.get("X-Forwarded-Proto", "").lower()),
        )
        return answer

    async def show_session(self, call: Call) -> Who:
        """Show the name and the role of the request's caller."""
        return Who(name=call.caller.name, role=call.caller.role.value)  # type: ignore[arg-type]

    async def sign_out(self, call: Call) -> web.StreamResponse:
        """End the session for every holder of its cookie, on every replica. Without PostgreSQL, the session continues: 503."""
        await self._access.sign_out(call.request)
        answer = web.Response(status=204)
        answer.del_cookie(COOKIE, httponly=True, samesite="Strict")
        return answer
