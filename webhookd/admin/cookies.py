"""Sessions: the content of the dashboard's cookie, and how a session ends early, for every replica."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

import orjson

from webhookd.operate.operator_queries import OperatorQueries
from webhookd.store.queries import queries

COOKIE = "webhookd_session"
SESSION = 12 * 3600  # seconds
_CLOCKS_APART = 3600.0  # seconds that a replica's clock may be behind PostgreSQL's: there a session lives longer

Owner = tuple[str, str]  # a token's name and its role


@dataclass(slots=True, frozen=True)
class Session:
    """A session whose cookie is genuine and has not expired."""

    id: UUID
    owner: Owner


class Sessions:
    """The maker and reader of cookies. Each cookie is signed with its token. PostgreSQL keeps which sessions were ended."""

    def __init__(self, statements: OperatorQueries) -> None:
        self._statements = statements
        self._keys: dict[Owner, bytes] = {}

    def renew(self, tokens: Mapping[Owner, str]) -> None:
        """Replaces the known tokens; the sessions of all other tokens end."""
        self._keys = {owner: hashlib.sha256(b"session " + token.encode()).digest() for owner, token in tokens.items()}

    def cookie(self, owner: Owner) -> str:
        """Returns a cookie for a new session. The session ends by its time, with its token, or when somebody ends it."""
        said = base64.urlsafe_b64encode(orjson.dumps([*owner, int(time.time()) + SESSION, str(uuid4())]))
        return f"{said.decode()}.{self._signature(owner, said)}"

    def read(self, cookie: str) -> Session | None:
        """Returns the session of a cookie, or None if the cookie is forged or too old, or its token is no longer known."""
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
        """Returns whether somebody signed out of the session, on any replica. Raises UnavailableError."""
        return bool(await self._statements.one(queries.session_ended, id=session.id))

    async def end(self, session: Session) -> None:
        """Ends a session for every replica. Raises UnavailableError; then the session continues."""
        await self._statements.one(queries.end_session, id=session.id, seconds=SESSION + _CLOCKS_APART)
