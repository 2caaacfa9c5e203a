"""Access to the admin listener: bearer tokens, the dashboard's session cookie, and the role that each route needs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web

from webhookd.admin.cookies import COOKIE, Sessions
from webhookd.admin.guesses import Guesses
from webhookd.errors import UnavailableError
from webhookd.telemetry.metrics import Metrics

HEADER = "X-Webhookd"  # a change without a bearer token must carry this header; no other site can send it
_LOOK_SECONDS = 0.1  # how often a waiting peer is checked: the peer may have hung up


class AccessLevel(StrEnum):
    """A role that a route needs and a caller has: `open` needs no token, `look` reads, `operate` reads and changes.

    The values stand in settings, in the API and in stored sessions.
    """

    OPEN = "open"
    READ = "look"
    OPERATE = "operate"

    def allows(self, needed: AccessLevel) -> bool:
        """Returns whether a caller with this role may use a route that needs `needed`."""
        return needed is AccessLevel.OPEN or self is AccessLevel.OPERATE or self is needed


@dataclass(slots=True, frozen=True)
class Caller:
    """The sender of a request. `safe`: no page of another site can have made the request."""

    name: str
    role: AccessLevel
    safe: bool = True

    @property
    def actor(self) -> str:
        """Returns the caller's name in the audit trail."""
        return f"operator ({self.name})"


CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)


class WrongTokenError(Exception):
    """The token is none of WEBHOOKD_ADMIN_TOKENS or WEBHOOKD_READ_TOKENS."""


class Access:
    """The check of tokens and roles. A given token is compared in constant time with every known token."""

    def __init__(
        self,
        sessions: Sessions,
        operate: Mapping[str, str],
        read: Mapping[str, str],
        *,
        anonymous: AccessLevel | None,
        metrics: Metrics,
    ) -> None:
        self._tokens: list[tuple[Caller, bytes]] = []
        self._sessions = sessions
        self.renew(operate, read)
        self._anonymous = None if anonymous is None else Caller("anonymous", anonymous, safe=False)
        self._refused = metrics.admin_refused
        self._delayed = metrics.admin_delayed
        self._guesses = Guesses()

    def renew(self, operate: Mapping[str, str], read: Mapping[str, str]) -> None:
        """Replaces the known tokens; the sessions of all other tokens end."""
        tokens = [(name, AccessLevel.READ, token) for name, token in read.items()]
        tokens += [(name, AccessLevel.OPERATE, token) for name, token in operate.items()]
        self._tokens = [(Caller(name, role), _digest(token.encode())) for name, role, token in tokens]
        self._sessions.renew({(name, role.value): token for name, role, token in tokens})

    async def prove(self, request: web.BaseRequest, token: str) -> Caller:
        """Returns the caller that has the token. Waits first if many wrong tokens came before. Raises WrongTokenError."""
        loop = asyncio.get_running_loop()
        wait = self._guesses.charge(request.remote)
        if wait:
            self._delayed.inc()
        until = loop.time() + wait
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, _LOOK_SECONDS))
            if request.transport is None:
                raise WrongTokenError  # the peer has hung up, so its token is not checked
        try:
            caller = self.token(token)
        except WrongTokenError:
            self.count("wrong_token")
            raise
        self._guesses.prove(request.remote)
        return caller

    def token(self, token: str) -> Caller:
        """Returns the caller that has this token. Raises WrongTokenError."""
        given = _digest(token.encode("utf-8", "replace"))
        found = None
        for caller, digest in self._tokens:
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None:
            raise WrongTokenError
        return found

    def cookie(self, caller: Caller) -> str:
        """Returns a cookie for a new session of a caller."""
        return self._sessions.cookie((caller.name, caller.role.value))

    async def sign_out(self, request: web.BaseRequest) -> None:
        """Ends the request's session, if the request has one, for every replica. Raises UnavailableError."""
        session = self._sessions.read(request.cookies.get(COOKIE, ""))
        if session is not None:
            await self._sessions.end(session)

    def count(self, reason: str) -> None:
        """Counts a refusal."""
        self._refused.labels(reason).inc()

    async def caller(self, request: web.BaseRequest, *, bears_no_event: bool = False) -> Caller | None:
        """Returns the caller that sent the request, or None if the request needs a token and has none. Raises WrongTokenError.

        Raises UnavailableError if PostgreSQL does not report whether a session was ended. With `bears_no_event` (the answer
        holds no event's data) the session then counts: an operator must be able to see that PostgreSQL is away.
        """
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            if scheme.lower() != "bearer":
                self.count("wrong_token")
                raise WrongTokenError
            return await self.prove(request, token.strip())
        session = self._sessions.read(request.cookies.get(COOKIE, ""))
        if session is None:
            return self._anonymous
        try:
            ended = await self._sessions.ended(session)
        except (UnavailableError, TimeoutError):
            if not bears_no_event:
                raise
            ended = False
        name, role = session.owner
        return self._anonymous if ended else Caller(name, AccessLevel(role), safe=False)

    async def refuses(
        self, request: web.BaseRequest, needed: AccessLevel, *, bears_no_event: bool = False
    ) -> tuple[int, str] | None:
        """Returns the status and the detail of a refusal, or None. An allowed caller becomes the request's CALLER."""
        if needed is AccessLevel.OPEN:
            return None
        try:
            caller = await self.caller(request, bears_no_event=bears_no_event)
        except WrongTokenError:
            return 401, "the token is unknown: it is neither in WEBHOOKD_ADMIN_TOKENS nor in WEBHOOKD_READ_TOKENS"
        if caller is None:
            self.count("no_token")
            return (
                401,
                "a token is needed: send Authorization: Bearer … with a token of WEBHOOKD_ADMIN_TOKENS or WEBHOOKD_READ_TOKENS",
            )
        if not caller.role.allows(needed):
            self.count("not_allowed")
            return 403, f"{caller.name} may look, but not operate: use a token of WEBHOOKD_ADMIN_TOKENS"
        if needed is AccessLevel.OPERATE and not caller.safe and HEADER not in request.headers:
            self.count("cross_site")
            return 403, f"without a bearer token, a change needs the header {HEADER}: dashboard"
        request[CALLER] = caller
        return None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
