"""Settings: `WEBHOOKD_…` environment variables, files that hold secrets, `.env`, and a TOML file, in this order.

Every problem is found before anything starts, and told without a secret.
"""

from __future__ import annotations

import hashlib
import math
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic_settings
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from webhookd.errors import SettingsError
from webhookd.sources import CONFIG, PREFIX, config_file, misspelt, secret_files

_ACCOUNT = re.compile(r"[a-z0-9_-]{1,64}")
_ACCOUNT_KEYS = "accounts__{}__signature_keys"
# At most one @, and that before the host: where a password is not percent-encoded nothing beyond the scheme is safe to show.
_URL = re.compile(r"(?P<scheme>\w+)://(?:[^/?#@]*@)?(?P<place>[^@?#]*)(?:[?#][^@]*)?")
_DAY = 86_400
_TOKEN = 16  # characters, below which a token could be guessed
_LONGEST_RETENTION = 20 * 365 * _DAY  # longer ones would reach back before 1970, where no id is
_PROVIDER_RETRIES = 10 * _DAY  # the provider's schedule of retries takes about nine days

Secrets = Annotated[tuple[SecretStr, ...], NoDecode]
Tokens = Annotated[dict[str, SecretStr], NoDecode]


# What a running daemon takes anew at a SIGHUP, beside the content of the certificate's files.
RENEWABLE = ("signature_keys", "accounts", "admin_tokens", "read_tokens")


class Role(StrEnum):
    """What a process does; a small installation does all of it in one."""

    RECEIVE = "receive"
    RELAY = "relay"
    WORK = "work"


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _keys(value: object) -> object:
    keys = _split(value)
    if isinstance(keys, list) and any(len(_revealed(key).split()) != 1 for key in keys):
        raise ValueError("one of the keys is empty, or holds white space; separate keys by commas, and end with none")
    return keys


def _revealed(secret: object) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else str(secret)


class AccountSettings(BaseModel):
    """One Authorize.Net account."""

    # extra: the environment's source brings SIGNATURE_KEYS_FILE along, which another source reads.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    signature_keys: Secrets = ()

    _comma_separated = field_validator("signature_keys", mode="before")(_keys)


def _setting(default: Any, meaning: str, **limits: Any) -> Any:
    return Field(default, description=meaning, **limits)


class Settings(BaseSettings):
    """Every setting, frozen. Durations are seconds. Field `x` is the environment variable `WEBHOOKD_X`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",  # `_misspelt` refuses unknown names, with a suggestion
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    database_url: SecretStr = _setting(
        ...,
        "PostgreSQL, as postgresql://user:password@host:5432/name; for TLS, ?sslmode=verify-full&sslrootcert=/path/ca.pem.",
    )
    database_pooler: Literal["none", "transaction"] = _setting(
        "none", "transaction: where a pooler, such as PgBouncer in transaction or session mode, stands before PostgreSQL."
    )
    redis_url: SecretStr = _setting(
        ...,
        "Redis or Valkey, as redis://:password@host:6379/0; for TLS, rediss://…?ssl_ca_certs=/path/ca.pem (without it, the "
        "system's CAs).",
    )
    sqs_queue: str = _setting("webhookd", "The SQS queue, by name or URL.", min_length=1)
    sqs_dead_letter_queue: str = _setting("webhookd-dead-letters", "Its dead-letter queue, by name or URL.", min_length=1)
    sqs_endpoint_url: str | None = _setting(None, "Another address than AWS's for SQS.", pattern=r"^https?://[^@\s]+$")
    sqs_region: str | None = _setting(None, "The queues' region, where it differs from the AWS SDK's own setting.")
    listen: str = _setting("127.0.0.1:8080", "Address of the public listener, which the provider posts to.")
    admin_listen: str = _setting("127.0.0.1:9090", "Address of the admin listener: API, dashboard, health, metrics.")
    tls_certificate: Path | None = _setting(
        None, "PEM file of the public listener's certificate and its chain; with it, the listener speaks TLS only."
    )
    tls_key: Path | None = _setting(None, "PEM file of that certificate's private key, without a passphrase.")
    signature_keys: Secrets = _setting(
        (), "Signature Keys of the account `default`, comma-separated; several during a rotation."
    )
    accounts: dict[str, AccountSettings] = _setting(
        {}, "Signature Keys of a further account, posted to /webhooks/authorize-net/<name>."
    )
    admin_tokens: Tokens = _setting({}, "Bearer tokens that may operate, comma-separated: each `name:token` or a token.")
    read_tokens: Tokens = _setting({}, "Bearer tokens that may only look, in the same form.")
    admin_anonymous: Literal["nothing", "look", "operate"] = _setting(
        "nothing", "What may be done on the admin listener without a token: nothing, look or operate."
    )
    handlers: Annotated[tuple[str, ...], NoDecode] = _setting((), "Modules to import, comma-separated, that register handlers.")
    roles: Annotated[frozenset[Role], NoDecode] = _setting(
        frozenset(Role), "What this process does, comma-separated: any of receive, relay, work."
    )
    concurrency: int = _setting(16, "Events worked on at a time.", ge=1, le=1000)
    pollers: int = _setting(
        None, "Long polls side by side; one for each ten of concurrency when unset.", ge=1, le=100, validate_default=True
    )
    handler_timeout: float = _setting(30.0, "Seconds that an event's handlers may take together.", gt=0, le=36_000)
    visibility_timeout: int = _setting(60, "Seconds that SQS hides a message in hand; extended at half of it.", ge=2, le=43_200)
    max_attempts: int = _setting(10, "Attempts until an event is dead.", ge=1, le=1000)
    retry_base: float = _setting(2.0, "Longest delay in seconds before the second attempt; doubles with each.", gt=0)
    retry_cap: float = _setting(3600.0, "Longest delay in seconds between attempts; at most SQS's 43200.", gt=0, le=43_200)
    relay_window: int | None = _setting(None, "Most unfinished events with a message in SQS; no limit when unset.", ge=1)
    resend_after: float = _setting(
        600.0, "Seconds until an event that was sent and has not ended is sent again; doubles with each.", gt=0
    )
    sqs_wait: int = _setting(10, "Seconds of a long poll, which is also what an idle shutdown takes.", ge=0, le=20)
    dedupe_ttl: float = _setting(3.0 * _DAY, "Seconds that Redis remembers a committed notification.", ge=1)
    max_event_age: float = _setting(14.0 * _DAY, "Seconds; an event whose eventDate is older is quarantined.", gt=0)
    max_clock_skew: float = _setting(1.0 * _DAY, "Seconds that an eventDate may lie in the future.", ge=0)
    body_retention: float = _setting(
        90.0 * _DAY,
        "Seconds that the bodies of finished events are kept, and up to a week more.",
        ge=_DAY,
        le=_LONGEST_RETENTION,
    )
    event_retention: float = _setting(
        400.0 * _DAY,
        "Seconds that finished events are kept; a repeat is known by its event.",
        ge=_DAY,
        le=_LONGEST_RETENTION,
    )
    audit_retention: float = _setting(
        400.0 * _DAY,
        "Seconds that the audit trail of finished events is kept, and up to a week more.",
        ge=_DAY,
        le=_LONGEST_RETENTION,
    )
    quarantine_retention: float = _setting(
        90.0 * _DAY, "Seconds that bodies stay in quarantine.", ge=_DAY, le=_LONGEST_RETENTION
    )
    max_body_bytes: int = _setting(1_048_576, "Largest body in bytes.", ge=1024)
    max_body_memory: int = _setting(
        67_108_864, "Most bytes of bodies above 16384 bytes at once; beyond it, those are answered 503.", ge=1024
    )
    max_connections: int = _setting(
        4096, "Most connections to the public listener; beyond it the one that is idle longest is closed.", ge=16
    )
    head_timeout: float = _setting(
        10.0, "Seconds that a new connection may take to send a head, or any to read its answers.", gt=0
    )
    body_timeout: float = _setting(5.0, "Seconds that a body may take to arrive.", gt=0)
    max_pending: int = _setting(2000, "Webhooks that may wait for their answer; beyond it the answer is 503.", ge=1)
    commit_timeout: float = _setting(5.0, "Seconds until a webhook that could not be committed is answered 503.", gt=0)
    retry_after: int = _setting(5, "The Retry-After of a 503, in seconds.", ge=0)
    shutdown_grace: float = _setting(25.0, "Seconds that a shutdown may take; below Kubernetes' 30.", gt=0)
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "The least level that is logged.")
    failpoints: str = _setting("", "For tests of webhookd itself: where the process is to crash, as `name:nth pass`.")
    log_format: Literal["json", "console"] = _setting("json", "json: an object a line; console: for reading.")
    tracing: bool = _setting(
        False, "Sends spans to an OpenTelemetry collector, set up by OpenTelemetry's own variables; needs webhookd[tracing]."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What stands earlier wins: what the process was started with, secret files among it, over what lies about."""
        files = pydantic_settings.InitSettingsSource(settings_cls, secret_files())
        config = pydantic_settings.InitSettingsSource(settings_cls, config_file())
        return init_settings, env_settings, files, dotenv_settings, config

    _comma_separated_keys = field_validator("signature_keys", mode="before")(_keys)

    @field_validator("handlers", "roles", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        parts = _split(value)
        return [part for part in parts if part] if isinstance(parts, list) else parts

    @field_validator("admin_tokens", "read_tokens", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        parts = _split(value)
        if isinstance(parts, list):
            tokens: dict[str, str] = {}
            for number, part in enumerate(parts, 1):
                name, colon, token = _revealed(part).partition(":")
                if not colon:
                    name, token = f"token{number}", name
                if name in tokens:
                    raise ValueError("two of the tokens have the same name")
                tokens[name] = token.strip()
            value = tokens
        if isinstance(value, dict) and not all(name and _revealed(token) for name, token in value.items()):
            raise ValueError("one of the tokens, or of their names, is empty; end with no comma")
        if isinstance(value, dict) and any(len(_revealed(token)) < _TOKEN for token in value.values()):
            raise ValueError(f"one of the tokens has fewer than {_TOKEN} characters; `openssl rand -hex 32` makes a good one")
        return value

    @field_validator("accounts", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return {str(name).lower(): account for name, account in value.items()} if isinstance(value, dict) else value

    @field_validator("pollers", mode="before")
    @classmethod
    def _enough_pollers(cls, value: object, info: ValidationInfo) -> object:
        return math.ceil(info.data.get("concurrency", 1) / 10) if value is None else value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        return _with_scheme(value, "postgresql", "postgres")

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr) -> SecretStr:
        return _with_scheme(value, "redis", "rediss", "unix")

    @field_validator("listen", "admin_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        _address(value)
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        problems = []
        for name, account in self.accounts.items():
            variable = PREFIX + _ACCOUNT_KEYS.format(name).upper()
            if not _ACCOUNT.fullmatch(name):
                problems.append(f"{variable}: an account's name has 1 to 64 of the characters a-z, 0-9, _ and -")
            if not account.signature_keys:
                problems.append(f"{variable}: has no key; set one, or drop the account")
        if Role.RECEIVE in self.roles and not self.keys_by_account:
            problems.append(
                "WEBHOOKD_SIGNATURE_KEYS is not set: give the Signature Key from the Merchant Interface (Account, "
                "API Credentials & Keys), or its file in WEBHOOKD_SIGNATURE_KEYS_FILE (`webhookd dev` makes its own)"
            )
        if not self.roles:
            problems.append("WEBHOOKD_ROLES is empty: name any of receive, relay, work")
        if self.retry_base > self.retry_cap:
            problems.append("WEBHOOKD_RETRY_BASE is above WEBHOOKD_RETRY_CAP: lower the one or raise the other")
        if self.max_event_age < _PROVIDER_RETRIES:
            problems.append(
                f"WEBHOOKD_MAX_EVENT_AGE is below {_PROVIDER_RETRIES} (10 days): "
                "the provider's last retries would be quarantined as too old; raise it"
            )
        if self.event_retention <= self.max_event_age + self.max_clock_skew:
            problems.append(
                "WEBHOOKD_EVENT_RETENTION is not above WEBHOOKD_MAX_EVENT_AGE and WEBHOOKD_MAX_CLOCK_SKEW together: "
                "a late repeat of a removed event would be processed anew; raise it"
            )
        if self.event_retention < self.body_retention:
            problems.append(
                "WEBHOOKD_EVENT_RETENTION is below WEBHOOKD_BODY_RETENTION: bodies would outlive their events; "
                "raise the one or lower the other"
            )
        if _collide(self.public_address, self.admin_address):
            problems.append("WEBHOOKD_LISTEN and WEBHOOKD_ADMIN_LISTEN take the same port: give each its own")
        if (self.tls_certificate is None) != (self.tls_key is None):
            problems.append("WEBHOOKD_TLS_CERTIFICATE and WEBHOOKD_TLS_KEY go together: set both, or neither")
        if self.max_body_memory < self.max_body_bytes:
            problems.append(
                "WEBHOOKD_MAX_BODY_MEMORY is below WEBHOOKD_MAX_BODY_BYTES: no body of that size could be taken; raise it"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def keys_by_account(self) -> dict[str, tuple[str, ...]]:
        """Every account's keys; `default` has those of WEBHOOKD_SIGNATURE_KEYS, and its own among the accounts."""
        keys = {"default": self.signature_keys} if self.signature_keys else {}
        for name, account in self.accounts.items():
            keys[name] = keys.get(name, ()) + account.signature_keys
        return {name: tuple(dict.fromkeys(_revealed(key).strip() for key in of)) for name, of in keys.items()}

    @property
    def public_address(self) -> tuple[str, int]:
        """Host and port of the public listener."""
        return _address(self.listen)

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of the admin listener."""
        return _address(self.admin_listen)

    @property
    def short_pool(self) -> int:
        """Connections for single statements: two group commits, the relay, the worker's bookkeeping, and spare."""
        return 8

    def redacted(self) -> dict[str, object]:
        """Every setting for a log: URLs without user and password, keys as fingerprints, tokens as their names."""
        shown: dict[str, object] = {name: getattr(self, name) for name in type(self).model_fields}
        del shown["signature_keys"]  # among the accounts, as `default`
        return shown | {
            "database_url": _without_password(self.database_url),
            "redis_url": _without_password(self.redis_url),
            "accounts": {
                name: [hashlib.sha256(key.encode()).hexdigest()[:12] for key in keys]
                for name, keys in self.keys_by_account.items()
            },
            "admin_tokens": sorted(self.admin_tokens),
            "read_tokens": sorted(self.read_tokens),
            "roles": sorted(self.roles),
        }


def _with_scheme(value: SecretStr, *schemes: str) -> SecretStr:
    # Not urlsplit: its errors quote the user and password.
    if value.get_secret_value().partition("://")[0] not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return value


def _without_password(url: SecretStr) -> str:
    parts = _URL.fullmatch(url.get_secret_value())
    return f"{parts['scheme']}://{parts['place']}" if parts else f"{url.get_secret_value().partition('://')[0]}://…"


def _address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", text, re.ASCII)
    if match is None or int(match[2]) > 65_535:
        raise ValueError(f"must be host:port, as 127.0.0.1:8080 or [::1]:8080, and is {text!r}")
    return match[1].strip("[]"), int(match[2])


def _collide(one: tuple[str, int], other: tuple[str, int]) -> bool:
    everywhere = {"0.0.0.0", "::"}  # noqa: S104  compared, not bound
    # Port 0 is for the system to choose, and it does not choose one twice.
    return one[1] == other[1] != 0 and (one[0] == other[0] or bool({one[0], other[0]} & everywhere))


def load(**overrides: Any) -> Settings:
    """The settings from every source; `overrides` go first. Raises SettingsError, a line for each problem.

    No line holds a secret, nor what was given for one.
    """
    problems = []
    try:
        problems = misspelt(Settings.model_fields)
        settings = Settings(**overrides)
    except ValidationError as error:
        problems += [_explain(one) for one in error.errors(include_input=False, include_url=False)]
    except pydantic_settings.SettingsError as error:
        # Its cause holds the text that would not parse, so only the message goes on: the field's and source's names.
        problems.append(f"{PREFIX}ACCOUNTS: {error}; use {PREFIX}ACCOUNTS__<NAME>__SIGNATURE_KEYS, or a TOML file")
    except SettingsError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems)) from None
    return settings


class _DatabaseUrl(BaseSettings):
    """The one setting that a migration needs, from the same sources."""

    model_config = Settings.model_config

    database_url: SecretStr = _setting(..., "PostgreSQL.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """As those of all settings, but that no other secret's file is opened."""
        files = pydantic_settings.InitSettingsSource(settings_cls, secret_files("database_url"))
        return env_settings, files, dotenv_settings, pydantic_settings.InitSettingsSource(settings_cls, config_file())

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        return _with_scheme(value, "postgresql", "postgres")


def load_database_url() -> str:
    """The database's URL, for what needs no other setting and should not be given any. Raises SettingsError."""
    try:
        return _DatabaseUrl().database_url.get_secret_value()
    except ValidationError as error:
        problems = [_explain(one) for one in error.errors(include_input=False, include_url=False)]
        raise SettingsError("\n".join(problems)) from None


def _explain(error: Any) -> str:
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    # Beyond the setting's own name stand positions, or names that were given: of use for accounts only.
    parts = error["loc"] if error["loc"][0] == "accounts" else error["loc"][:1]
    name = PREFIX + "__".join(str(part).upper() for part in parts)
    if error["type"] == "missing":
        meaning = Settings.model_fields[error["loc"][0]].description
        return f"{name} is not set: it names {meaning} (`webhookd dev` brings its own)"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"


def describe() -> list[tuple[str, str, str]]:
    """(environment variable, default, meaning) of every setting; a secret's may be a file's path, in `…_FILE`."""
    rows = [(CONFIG, "", "Path of a TOML file of settings: their names in lower case, without WEBHOOKD_.")]
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else _shown(field.default)
        variable = _ACCOUNT_KEYS.format("<name>") if name == "accounts" else name
        rows.append((PREFIX + variable.upper(), default, field.description or ""))
    return rows


def _shown(default: object) -> str:
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, frozenset):
        return ",".join(role for role in Role if role in default)
    if isinstance(default, bool):
        return str(default).lower()
    return str(int(default)) if isinstance(default, float) and default.is_integer() else str(default)
