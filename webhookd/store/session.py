"""The beginning of a PostgreSQL session, direct or through a pooler, and the remedy if it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.exceptions import ClientConfigurationError

from webhookd.errors import WebhookdError
from webhookd.store.network import unreadable
from webhookd.store.tls import POSTGRESQL, tls_problem

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:  # asyncpg's class is generic in its stubs alone
    Connection = asyncpg.Connection

POOLER_NOT_DECLARED = (
    "a connection pooler, such as PgBouncer, stands before PostgreSQL, but WEBHOOKD_DATABASE_POOLER does not declare it: "
    "set WEBHOOKD_DATABASE_POOLER=transaction"
)
# Errors for a statement that was prepared in one session and executed in another. If the other session has its own statement of
# that name, nobody notices: so without the setting, no session behind a pooler is used at all (see `is_pooled`).
STATEMENT_OF_ANOTHER_SESSION = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)

# A handler may leave locks, cursors and settings in a session. They would reach the session's next user, perhaps another
# application. The message that ends the transaction undoes them, since the next message may meet another session. Prepared
# statements have no name behind a pooler, and leave nothing. RESET ALL restores the settings with which the pooler began the
# session, so our own are set again.
_LEAVE = """;
SELECT pg_advisory_unlock_all();
CLOSE ALL;
UNLISTEN *;
RESET ALL;
SET client_encoding = 'UTF8';
"""


async def connect(dsn: str, **options: Any) -> Any:
    """Calls `asyncpg.connect`, but raises WebhookdError, which says what to do, if the URL or the certificates are wrong."""
    try:
        return await asyncpg.connect(dsn, **options)
    except KeyError as error:  # the user that this process runs as has no name
        raise WebhookdError("WEBHOOKD_DATABASE_URL names no user: write it as postgresql://user@host/name") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if problem := session_problem(error, dsn):
            raise WebhookdError(problem) from error
        raise
    except (TypeError, ValueError) as error:
        raise WebhookdError(unreadable(dsn, POSTGRESQL)) from error


Password = Callable[[str], Awaitable[str]]
_PASSWORD_TIMEOUT = 3.0  # seconds, less than a connection may take: otherwise PostgreSQL itself would count as away


class NoPasswordError(WebhookdError):
    """The source of passwords gives none. Open sessions go on."""


class Server:
    """The way to PostgreSQL. Each new connection uses the present value of `url`.

    password: called with the URL for each connection. The result is the connection's password.
    """

    def __init__(self, url: str, password: Password | None = None) -> None:
        self.url = url
        self._password = password

    def with_url(self, url: str) -> Server:
        """Returns the server with another URL, and the same source of passwords."""
        return Server(url, self._password)

    async def connect(self, **options: Any) -> Any:
        """Opens a connection; raises as `connect` does, and NoPasswordError."""
        if self._password is not None:
            try:
                async with asyncio.timeout(_PASSWORD_TIMEOUT):
                    options["password"] = await self._password(self.url)
            except WebhookdError as error:
                raise NoPasswordError(str(error)) from error
            except TimeoutError as error:
                raise NoPasswordError(
                    f"the source of the AWS credentials gave none within {_PASSWORD_TIMEOUT:g} s: check the network to it"
                ) from error
        return await connect(self.url, **options)


def session_options(name: str, settings: dict[str, str], *, pooled: bool, runs_user_code: bool) -> dict[str, Any]:
    """Returns the options of a pool that name its sessions `name` and give them `settings`.

    `runs_user_code`: handlers run in these sessions, and may leave something there.

    Through a pooler, consecutive transactions meet different sessions. So nothing is prepared ahead, and `settings` hold in
    transactions only. They are in the message that begins the transaction, and cost no round trip.
    """
    if not pooled:
        return {"server_settings": {"application_name": name, **settings}}
    begin = "".join(f" SET LOCAL {key} = '{value}';" for key, value in settings.items() if not key.startswith("tcp_"))
    return {
        "server_settings": {"application_name": name},
        "statement_cache_size": 0,
        "connection_class": _pooled(begin, f"{_LEAVE}SET application_name = '{name}'" if runs_user_code else ""),
    }


def is_pooled(connection: Any, backend: int) -> bool:
    """Returns whether a pooler stands before PostgreSQL: `backend`, PostgreSQL's process, is not the one named at the start."""
    return int(connection.get_server_pid()) != backend


def _pooled(begin: str, end: str) -> type[Connection]:
    class Pooled(Connection):
        __slots__ = ()

        async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
            # These are the texts that asyncpg's own transactions send.
            if query.startswith("BEGIN"):
                query += begin
            elif query.rstrip(";") in ("COMMIT", "ROLLBACK"):
                query += end
            return await super().execute(query, *args, timeout=timeout)

    return Pooled


def session_problem(error: BaseException, url: str) -> str | None:
    """Returns what to mend if a pooler, TLS or an option of `url` prevents a session; else None."""
    # Other libraries' messages are examined, and never shown: they quote the URL, and PostgreSQL's messages the role.
    message = str(error)
    if isinstance(error, STATEMENT_OF_ANOTHER_SESSION) or (
        isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in message
    ):
        return POOLER_NOT_DECLARED
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in message:
        return "PostgreSQL offers no TLS, but sslmode in WEBHOOKD_DATABASE_URL requires TLS: set ssl = on in PostgreSQL"
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        if "client certificate" in message or "certificate authentication" in message:
            return "PostgreSQL requires a client certificate: name its files in WEBHOOKD_DATABASE_URL, as sslcert and sslkey"
        # With other modes, asyncpg has tried TLS, too: then no line admits this machine, or the server offers no TLS.
        if "no encryption" in message and "sslmode=disable" in url:
            return "PostgreSQL's pg_hba.conf admits no session without TLS: set sslmode=verify-full in WEBHOOKD_DATABASE_URL"
    if isinstance(error, ClientConfigurationError):
        if "sslmode" in message:
            return "sslmode in WEBHOOKD_DATABASE_URL must be one of disable, allow, prefer, require, verify-ca and verify-full"
        if "root certificate" in message:
            return "sslmode in WEBHOOKD_DATABASE_URL requires a trusted certificate: name its CA's file there, as sslrootcert"
    if problem := tls_problem(error, url, POSTGRESQL):
        return problem
    if isinstance(error, PermissionError) and _home_is_closed():
        return (
            "webhookd's user may not read the folder .postgresql in its home: set HOME to a folder that the user may read, or "
            "to a folder that does not exist, such as /nonexistent"
        )
    return None


def _home_is_closed() -> bool:
    # asyncpg looks for certificates in that folder, as libpq does.
    try:
        (Path.home() / ".postgresql" / "postgresql.key").exists()
    except PermissionError:
        return True
    except RuntimeError:  # there is no home
        pass
    return False
