"""The sentence for each error of PostgreSQL: what is wrong, in which setting or place, and the remedy.

The doctor, the log, the health and the API show this sentence. PostgreSQL's own messages are examined, and never shown: they
quote the role and the values of rows.

Contract: PostgreSQL's appendix "PostgreSQL Error Codes", and for refused sessions the messages of src/backend/libpq/auth.c and
src/backend/utils/init. A server can write its messages in another language, so each kind of refusal has a sentence by its code.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched

from webhookd.errors import WebhookdError
from webhookd.store.network import network_problem, place_of
from webhookd.store.session import session_problem
from webhookd.store.tls import POSTGRESQL

_URL = POSTGRESQL.setting
_AWAY = {
    "57P01": "PostgreSQL ended the sessions, for example to restart: webhookd connects again by itself",
    "57P02": "PostgreSQL ended the sessions after one of them crashed: look into PostgreSQL's log",
    "57P03": "PostgreSQL starts, stops or recovers: wait, and webhookd connects by itself; if this lasts, look into its log",
    "57P05": "PostgreSQL ended an idle session: raise idle_session_timeout for the role",
    "57014": "PostgreSQL cancelled a statement that took too long: look for load and for locks of other sessions, and raise "
    "statement_timeout for the role if it is short",
    "53100": "PostgreSQL's disk is full: give it space",
    "53200": "PostgreSQL has no memory left: give its machine more, or lower work_mem or max_connections",
    "25006": f"PostgreSQL takes no writes: it is a replica, or read-only; name the primary in {_URL}",
    "42501": f"PostgreSQL's role in {_URL} lacks a right: run `webhookd doctor`, which names the statement and the remedy",
}
_CLASSES = {
    "08": f"the connection to PostgreSQL broke: check the network, and the pooler if {_URL} names one",
    "40": "PostgreSQL undid a transaction because of another one: webhookd tries again by itself",
    "53": "PostgreSQL lacks a resource: look into its log",
    "55": "PostgreSQL's object is in use or not ready: look into PostgreSQL's log",
    "57": "PostgreSQL's operator intervened: look into PostgreSQL's log",
    "58": "PostgreSQL's machine has an error: look into PostgreSQL's log",
}


def problem_of(error: BaseException, url: str = "") -> str:
    """Returns what is wrong with PostgreSQL, and the remedy, in one sentence without a secret.

    url: the URL for an error of the connection; empty for an error of a statement in an open session.
    """
    if isinstance(error, WebhookdError):
        return str(error)
    return (
        session_problem(error, url)
        or refusal(error, url)
        or _by_code(error)
        or (network_problem(error, url, POSTGRESQL) if url else _of_a_session(error))
        or f"PostgreSQL's answer was not as expected ({type(error).__name__}): check that {_URL} names a PostgreSQL server, "
        "and look into PostgreSQL's log"
    )


def _of_a_session(error: BaseException) -> str | None:
    if isinstance(error, TimeoutError):
        return "PostgreSQL has not answered a statement in time: look for load in PostgreSQL, and for locks of other sessions"
    if isinstance(error, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return "the connection to PostgreSQL broke: webhookd connects again by itself"
    return None


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns an error of PostgreSQL, or of the way to it, into WebhookdError with its sentence."""
    try:
        yield
    except WebhookdError:
        raise
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise WebhookdError(problem_of(error, url)) from error


def refusal(error: BaseException, url: str = "") -> str | None:
    """Returns why PostgreSQL opens no new session, and the remedy; None for an error with another meaning."""
    code = getattr(error, "sqlstate", None) or ""
    name = _database(url)
    database = f"the database {name}" if name else "the database"
    if isinstance(error, asyncpg.TooManyConnectionsError):
        reason = "too many connections): raise max_connections or the role's limit, or run fewer replicas"
    elif code == "28P01":
        reason = _password(url)
    elif code.startswith("28"):
        reason = _sign_in(str(error), database)
    elif code == "3D000":
        reason = f"no such database): create {database} in PostgreSQL, or correct the name at the end of {_URL}"
    elif code == "42501" and _concerns_database(error):
        reason = f"the role lacks the right to CONNECT): run GRANT CONNECT ON DATABASE {name or '…'} TO the role in {_URL}"
    else:
        return None
    return f"no new session ({code}, {reason}"


def _password(url: str) -> str:
    if url and not re.match(r"\w+://[^@/]*:[^@]*@", url) and "password=" not in url and not os.environ.get("PGPASSWORD"):
        return (
            f"the role may not sign in): {_URL} has no password; write it there, as postgresql://user:password@host/database, "
            "or for WEBHOOKD_DATABASE_AUTH=rds-iam, run GRANT rds_iam TO the role"
        )
    return (
        f"the role may not sign in): the user or the password in {_URL} is wrong; correct them, with @ / # % in the password "
        "as %40 %2F %23 %25, or set the password in PostgreSQL with ALTER ROLE"
    )


def _sign_in(message: str, database: str) -> str:
    if "pg_hba.conf" in message:  # the message holds this word in every language
        return (
            f"pg_hba.conf does not admit this machine): add a line to PostgreSQL's pg_hba.conf for {database}, the role in "
            f"{_URL} and this machine's address, and run SELECT pg_reload_conf()"
        )
    if message.startswith("PAM "):  # so Amazon RDS answers if it does not take a token
        return (
            "the role may not sign in): Amazon RDS takes no token for it; run GRANT rds_iam TO the role, allow rds-db:connect "
            "in the policy of the AWS credentials, and set WEBHOOKD_DATABASE_AUTH=rds-iam"
        )
    if "does not exist" in message:
        return f"no such role): create the role that {_URL} names with CREATE ROLE … LOGIN PASSWORD, or correct the user there"
    if "not permitted to log in" in message:
        return f"the role may not log in): run ALTER ROLE … LOGIN for the role in {_URL}"
    return f"the role may not sign in): check that the role in {_URL} exists and may log in, and its method in pg_hba.conf"


def _concerns_database(error: BaseException) -> bool:
    # A missing right to a table has the same code. Only the database's right is checked in this function of PostgreSQL.
    return getattr(error, "server_source_function", None) == "CheckMyDatabase" or "for database" in str(error)


def _by_code(error: BaseException) -> str | None:
    if isinstance(error, TargetServerAttributeNotMatched):
        return f"no server in {_URL} takes writes: name the primary there, or end its read-only mode"
    if not isinstance(error, asyncpg.PostgresError):
        return None
    code = getattr(error, "sqlstate", None) or ""
    if isinstance(error, asyncpg.PostgresConnectionError) and not code:
        code = "08"
    if code == "42704" and "configuration parameter" in str(error):
        return f"{_URL} names a parameter that PostgreSQL does not know ({code}): correct the names after the ? there"
    known = _AWAY.get(code) or _CLASSES.get(code[:2])
    return f"{known} ({code})" if known else f"PostgreSQL refuses a statement ({code or 'no code'}): look into PostgreSQL's log"


def _database(url: str) -> str:
    """Returns the name of the database that `url` names; empty if the URL names none, or if it may be a part of a password."""
    if not place_of(url):
        return ""
    match = re.match(r"\w+://[^/?#]*/([^/?#]*)", url)
    return unquote(match[1]) if match else ""
