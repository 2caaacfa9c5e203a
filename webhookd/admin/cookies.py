"""Sessions: what the dashboard's cookie holds, and how a session ends before its time, for every replica."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

import orjson

from webhookd.operate.statements import Statements
from webhookd.store.queries import queries

COOKIE = "webhookd_session"
SESSION = 12 * 3600  # seconds
_CLOCKS_APART = 3600.0  # seconds that a replica's clock may be behind PostgreSQL's, and a session live longer

Owner = tuple[str, str]  # a token's name and its role


@dataclass(slots=True, frozen=True)
class Session:
    """A session whose cookie is genuine and in time."""

    id: UUID
    owner: Owner


class Sessions:
    """Makes and reads cookies, each signed with its token; keeps in PostgreSQL which sessions were ended."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._keys: dict[Owner, bytes] = {}

    def renew(self, tokens: Mapping[Owner, str]) -> None:
        """Knows these tokens from now on; the sessions of all others end."""
        self._keys = {owner: hashlib.sha256(b"session " + token.encode()).digest() for owner, token in tokens.items()}

    def cookie(self, owner: Owner) -> str:
        """A cookie for a new session; it ends with its time, with its token, or when it is ended."""
        said = base64.urlsafe_b64encode(orjson.dumps([*owner, int(time.time()) + SESSION, str(uuid4())]))
        return f"{said.decode()}.{self._signature(owner, said)}"

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None if the cookie is forged or too old, or if its token is no longer known."""
        said, _, signature = cookie.partition(".")
        try:
            name, role, until, session_id = orjson.loads(base64.urlsafe_b64decode(said))
            owner = str(name), str(role)
            good = hmac.compare_digest(self._signature(owner, said.encode()), signature)
            return Session(UUID(session_id), owner) if good and time.time() < until else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def _signature(self, owner: Owner, said: bytes) -> str:
        return hmac.new(self._keys[owner], said, hashlib.sha256).hexdigest()

    async def ended(self, session: Session) -> bool:
        """Whether somebody signed out of the session, on any replica. Raises UnavailableError."""
        return bool(await self._statements.one(queries.session_ended, id=session.id))

    async def end(self, session: Session) -> None:
        """Ends a session for every replica. Raises UnavailableError; then it goes on."""
        await self._statements.one(queries.end_session, id=session.id, seconds=SESSION + _CLOCKS_APART)
