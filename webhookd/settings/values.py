"""The types of settings' values: how each is read from text, and what it must look like."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import parse_qsl

from pydantic import AfterValidator, BeforeValidator, SecretStr

_TOKEN = 16  # characters; a shorter token could be guessed
# At most one @, before the host. If a password is not percent-encoded, nothing beyond the scheme is safe to show.
_URL = re.compile(r"(?P<scheme>\w+)://(?:[^/?#@]*@)?(?P<place>[^@?#]*)(?:[?#][^@]*)?")

_HOST = re.compile(r"(?:\[[0-9a-f:.]+\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?", re.ASCII)


def revealed(secret: object) -> str:
    """Returns the text of a secret, or of a value that is to become a secret."""
    return secret.get_secret_value() if isinstance(secret, SecretStr) else str(secret)


def likely_kind(key: str) -> str:
    """Returns a sentence about the credential whose form a text has that is no Signature Key; quotes nothing of it.

    Contract: AnetApiSchema.xsd, merchantAuthenticationType: a Transaction Key has 16 characters, a login name 25 at most.
    """
    if re.fullmatch(r"[0-9A-Za-z]{16}", key):
        return "It has the form of a Transaction Key."
    if re.fullmatch(r"[0-9A-Za-z]{5,25}", key):
        return "It has the form of an API Login ID."
    return "It may be a part of the key, another credential, or a name."


def without_password(url: SecretStr) -> str:
    """Returns a URL for a log: no user, password or query. Only the scheme if the password's end is unclear."""
    parts = _URL.fullmatch(url.get_secret_value())
    return f"{parts['scheme']}://{parts['place']}" if parts else f"{url.get_secret_value().partition('://')[0]}://…"


def same_server(one: SecretStr, other: SecretStr) -> bool:
    """Returns whether two URLs differ at most in their user and password."""
    return _server(one) is not None and _server(one) == _server(other)


def _server(url: SecretStr) -> tuple[str, list[tuple[str, str]], str] | None:
    text = url.get_secret_value()
    parts = _URL.fullmatch(text)
    if not parts:
        return None
    query = parse_qsl(text.partition("?")[2], keep_blank_values=True)
    # A URL of PostgreSQL that names no database means the database of the user's name.
    named = parts["place"].partition("/")[2] or any(name in ("dbname", "database") for name, _ in query)
    user = ""
    if not named and parts["scheme"].startswith("postgres"):
        user = text.rpartition("@")[0].partition("://")[2].partition(":")[0] or dict(query).get("user", "")
    return without_password(url), sorted(pair for pair in query if pair[0] not in ("user", "username", "password")), user


def host_and_port(text: str) -> tuple[str, int]:
    """Splits `127.0.0.1:8080` or `[::1]:8080` into host and port. Raises ValueError."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", text, re.ASCII)
    if match is None or int(match[2]) > 65_535:
        raise ValueError(f"must be host:port, such as 127.0.0.1:8080 or [::1]:8080, not {text!r}")
    return match[1].strip("[]"), int(match[2])


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _names(value: object) -> object:
    parts = _split(value)
    return [part for part in parts if part] if isinstance(parts, list) else parts


def _keys(value: object) -> object:
    keys = _split(value)
    if isinstance(keys, list) and any(len(revealed(key).split()) != 1 for key in keys):
        raise ValueError("one of the keys is empty or holds white space: separate the keys by commas, with no comma at the end")
    return keys


def _tokens(value: object) -> object:
    parts = _split(value)
    if isinstance(parts, list):
        tokens: dict[str, str] = {}
        for number, part in enumerate(parts, 1):
            name, colon, token = revealed(part).partition(":")
            if not colon:
                name, token = f"token{number}", name
            if name in tokens:
                raise ValueError("two of the tokens have the same name: rename one")
            tokens[name] = token.strip()
        value = tokens
    if isinstance(value, dict) and not all(name and revealed(token) for name, token in value.items()):
        raise ValueError("one of the tokens, or the name of one, is empty: write no comma at the end")
    if isinstance(value, dict) and not all(re.fullmatch(r"[!-~]*", revealed(token)) for token in value.values()):
        raise ValueError(
            "one of the tokens holds white space or a character outside ASCII, which no header can carry: make another token"
        )
    if isinstance(value, dict) and any(len(revealed(token)) < _TOKEN for token in value.values()):
        raise ValueError(f"one of the tokens has fewer than {_TOKEN} characters: make a longer one (`openssl rand -hex 32`)")
    return value


def _address(value: str) -> str:
    host_and_port(value)
    return value


def _host_names(value: object) -> object:
    names = _names(value)
    for name in names if isinstance(names, (list, tuple)) else ():
        match = _HOST.fullmatch(str(name).lower())
        if match is None or int(match[1] or 0) > 65_535:
            raise ValueError(
                f"must be host names, such as ops.example.com or ops.example.com:8443, but one is {str(name)[:80]!r}"
            )
    return names


def _with_scheme(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        # Do not use urlsplit, whose errors quote the user and the password.
        if value.get_secret_value().partition("://")[0] not in schemes:
            raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(check)


def _queue(value: str) -> str:
    # SQS refuses each message without a group to a FIFO queue. FIFO queues, and no others, have this suffix.
    if value.rstrip("/").endswith(".fifo"):
        raise ValueError("must be a standard queue, but this is a FIFO queue: make a standard queue, and name it here")
    return value


def _looks(pattern: str, how: str) -> AfterValidator:
    def check(value: str) -> str:
        # The value is not quoted: a URL may hold a password.
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {how}")
        return value

    return AfterValidator(check)


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
HostNames = Annotated[tuple[str, ...], BeforeValidator(_host_names)]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_keys)]
Tokens = Annotated[dict[str, SecretStr], BeforeValidator(_tokens)]
Address = Annotated[str, AfterValidator(_address)]
Queue = Annotated[
    str,
    AfterValidator(_queue),
    _looks(r"https?://[^\s@]+|[A-Za-z0-9_-]{1,80}", "a queue's name (80 letters, digits, - and _ at most) or URL"),
]
DashboardUrl = Annotated[
    str,
    _looks(r"https?://[^@\s?#]+", "an address such as https://ops.example.com, without user, password, ? and #"),
    AfterValidator(lambda url: url.rstrip("/")),
]
Endpoint = Annotated[str, _looks(r"https?://[^@\s]+", "an address such as https://sqs.example.com, without user and password")]
Region = Annotated[str, _looks(r"[a-z0-9-]+", "a region's name, such as us-east-1")]
DatabaseUrl = Annotated[SecretStr, _with_scheme("postgresql", "postgres")]
DatabaseAuth = Literal["password", "rds-iam"]
RedisUrl = Annotated[SecretStr, _with_scheme("redis", "rediss", "unix")]
SchemaName = Annotated[
    str,
    # A name that needs no quotes in SQL. `pg_` is PostgreSQL's own.
    _looks(
        r"(?!pg_|information_schema$)[a-z_][a-z0-9_]{0,62}",
        "a name of lower-case letters, digits and _, such as webhookd_eu; PostgreSQL reserves names that begin with pg_",
    ),
]
CommaSeparated = BeforeValidator(_names)
