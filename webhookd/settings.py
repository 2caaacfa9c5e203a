"""Settings, checked before anything starts: `WEBHOOKD_…` variables, `.env`, a TOML file, and files that hold secrets."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from webhookd.errors import SettingsError

_PREFIX = "WEBHOOKD_"
_NOT_SETTINGS = ("WEBHOOKD_CONFIG", "WEBHOOKD_DEV_", "WEBHOOKD_TEST_")
_ACCOUNT = re.compile(r"[a-z0-9_-]{1,64}")
_DAY = 86_400
_PROVIDER_RETRIES = 10 * _DAY  # the provider's schedule of retries takes about nine days

Secrets = Annotated[tuple[SecretStr, ...], NoDecode]
Tokens = Annotated[dict[str, SecretStr], NoDecode]


class Role(StrEnum):
    """What a process does; a small installation does all of it in one."""

    RECEIVE = "receive"
    RELAY = "relay"
    WORK = "work"


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class AccountSettings(BaseModel):
    """One Authorize.Net account."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    signature_keys: Secrets = ()

    @field_validator("signature_keys", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return _split(value)


class _SecretFiles(PydanticBaseSettingsSource):
    """`WEBHOOKD_<NAME>_FILE` variables, and systemd credentials named after the setting, with or without `webhookd_`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
            for path in sorted(Path(folder).glob("*")):
                self._put(found, path.name.lower().removeprefix("webhookd_"), path)
        for name, value in os.environ.items():
            if name.upper().startswith(_PREFIX) and name.upper().endswith("_FILE") and value:
                self._put(found, name[len(_PREFIX) : -len("_FILE")].lower(), Path(value), named=name)
        return found

    def _put(self, found: dict[str, Any], name: str, path: Path, named: str | None = None) -> None:
        parts = name.split("__")
        if parts[0] not in _SECRET_FIELDS:
            return
        try:
            text = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{named or name}: cannot read {path} ({type(error).__name__}); check the path, and who may read it"
            ) from error
        for part in parts[:-1]:
            found = found.setdefault(part, {})
        found[parts[-1]] = text


def _setting(default: Any, meaning: str, **limits: Any) -> Any:
    return Field(default, description=meaning, **limits)


class Settings(BaseSettings):
    """Every setting, frozen. Durations are seconds. Field `x` is the environment variable `WEBHOOKD_X`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr = _setting(..., "PostgreSQL, as postgresql://user:password@host:5432/name.")
    redis_url: SecretStr = _setting(..., "Redis or Valkey, as redis://:password@host:6379/0 (rediss:// for TLS).")
    sqs_queue: str = _setting("webhookd", "The SQS queue, by name or URL.", min_length=1)
    sqs_dead_letter_queue: str = _setting("webhookd-dead-letters", "Its dead-letter queue, by name or URL.", min_length=1)
    sqs_endpoint_url: str | None = _setting(None, "Another address than AWS's for SQS.")
    sqs_region: str | None = _setting(None, "The queues' region, where it differs from the AWS SDK's own setting.")
    listen: str = _setting("127.0.0.1:8080", "Address of the public listener, which the provider posts to.")
    admin_listen: str = _setting("127.0.0.1:9090", "Address of the admin listener: health and metrics.")
    signature_keys: Secrets = _setting(
        (), "Signature Keys of the account `default`, comma-separated; several during a rotation."
    )
    accounts: dict[str, AccountSettings] = _setting(
        {}, "Further accounts: WEBHOOKD_ACCOUNTS__<NAME>__SIGNATURE_KEYS, posted to /webhooks/authorize-net/<name>."
    )
    admin_tokens: Tokens = _setting({}, "Bearer tokens that may operate, comma-separated, each `name:token` or a token.")
    read_tokens: Tokens = _setting({}, "Bearer tokens that may only look, in the same form.")
    handlers: Annotated[tuple[str, ...], NoDecode] = _setting((), "Modules to import, comma-separated, that register handlers.")
    roles: Annotated[frozenset[Role], NoDecode] = _setting(
        frozenset(Role), "What this process does, comma-separated: receive, relay, work."
    )
    concurrency: int = _setting(16, "Events worked on at a time.", ge=1, le=1000)
    handler_timeout: float = _setting(30.0, "Seconds that an event's handlers may take together.", gt=0, le=36_000)
    visibility_timeout: int = _setting(60, "Seconds that SQS hides a message in hand; extended at half of it.", ge=2, le=43_200)
    max_attempts: int = _setting(10, "Attempts until an event is dead.", ge=1, le=1000)
    retry_base: float = _setting(2.0, "Longest delay in seconds before the second attempt; doubles with each.", gt=0)
    retry_cap: float = _setting(3600.0, "Longest delay in seconds between attempts; at most SQS's 43200.", gt=0, le=43_200)
    relay_window: int | None = _setting(None, "Most unfinished events with a message in SQS; unlimited when unset.", ge=1)
    resend_after: float = _setting(
        600.0, "Seconds until an event that was sent and has not ended is sent again; doubles.", gt=0
    )
    sqs_wait: int = _setting(10, "Seconds of a long poll, which is also what an idle shutdown takes.", ge=0, le=20)
    dedupe_ttl: float = _setting(3.0 * _DAY, "Seconds that Redis remembers a committed notification.", ge=1)
    max_event_age: float = _setting(14.0 * _DAY, "Oldest eventDate in seconds that is processed rather than quarantined.", gt=0)
    max_clock_skew: float = _setting(1.0 * _DAY, "Seconds that an eventDate may lie in the future.", ge=0)
    max_body_bytes: int = _setting(1_048_576, "Largest body in bytes.", ge=1024)
    body_timeout: float = _setting(5.0, "Seconds that a body may take to arrive.", gt=0)
    max_pending: int = _setting(2000, "Webhooks that may wait for their commit; beyond it the answer is 503.", ge=1)
    commit_timeout: float = _setting(5.0, "Seconds until a webhook that could not be committed is answered 503.", gt=0)
    retry_after: int = _setting(5, "The Retry-After of a 503, in seconds.", ge=0)
    shutdown_grace: float = _setting(25.0, "Seconds that a shutdown may take; below Kubernetes' 30.", gt=0)
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "The least level that is logged.")
    log_format: Literal["json", "console"] = _setting("json", "json, an object a line; or console, for reading.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What stands earlier wins."""
        sources = [init_settings, env_settings, _SecretFiles(settings_cls), dotenv_settings]
        if config := os.environ.get("WEBHOOKD_CONFIG"):
            if not Path(config).is_file():
                raise SettingsError(f"WEBHOOKD_CONFIG: there is no file {config}; name a TOML file, or unset it")
            try:
                sources.append(TomlConfigSettingsSource(settings_cls, Path(config)))
            except tomllib.TOMLDecodeError as error:
                raise SettingsError(f"WEBHOOKD_CONFIG: {config} is not TOML: {error}") from error
        return tuple(sources)

    @field_validator("signature_keys", "handlers", "roles", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return _split(value)

    @field_validator("admin_tokens", "read_tokens", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        parts = _split(value)
        if not isinstance(parts, list):
            return value
        pairs = [part.rpartition(":") for part in parts]
        return {name or f"token{n}": token for n, (name, _, token) in enumerate(pairs, 1)}

    @field_validator("accounts", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return {str(name).lower(): account for name, account in value.items()} if isinstance(value, dict) else value

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
            if not _ACCOUNT.fullmatch(name):
                problems.append(f"WEBHOOKD_ACCOUNTS__{name.upper()}: an account's name has 1 to 64 of a-z, 0-9, _ and -")
            if not account.signature_keys:
                problems.append(f"WEBHOOKD_ACCOUNTS__{name.upper()}__SIGNATURE_KEYS: has no key; set one, or drop the account")
        if Role.RECEIVE in self.roles and not self.keys_by_account:
            problems.append(
                "WEBHOOKD_SIGNATURE_KEYS is not set: give the Signature Key from the Merchant Interface "
                "(Account, API Credentials & Keys), or WEBHOOKD_SIGNATURE_KEYS_FILE"
            )
        if not self.roles:
            problems.append("WEBHOOKD_ROLES is empty: name any of receive, relay, work")
        if self.retry_base > self.retry_cap:
            problems.append("WEBHOOKD_RETRY_BASE is above WEBHOOKD_RETRY_CAP: lower the one or raise the other")
        if self.max_event_age < _PROVIDER_RETRIES:
            problems.append(
                f"WEBHOOKD_MAX_EVENT_AGE is below {_PROVIDER_RETRIES} (10 days): the provider's last retry would be too old"
            )
        if self.public_address == self.admin_address and self.public_address[1]:
            problems.append("WEBHOOKD_LISTEN and WEBHOOKD_ADMIN_LISTEN are the same address: give each its own")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def keys_by_account(self) -> dict[str, tuple[str, ...]]:
        """Every account's keys, stripped of white space; the account `default` has those of WEBHOOKD_SIGNATURE_KEYS too."""
        keys = {"default": self.signature_keys} if self.signature_keys else {}
        for name, account in self.accounts.items():
            keys[name] = keys.get(name, ()) + account.signature_keys
        return {name: tuple(key.get_secret_value().strip() for key in of) for name, of in keys.items()}

    @property
    def public_address(self) -> tuple[str, int]:
        """Host and port of the public listener."""
        return _address(self.listen)

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of the admin listener."""
        return _address(self.admin_listen)

    @property
    def pollers(self) -> int:
        """Long polls side by side: enough for every permit, ten messages a poll."""
        return math.ceil(self.concurrency / 10) if Role.WORK in self.roles else 1

    @property
    def short_pool(self) -> int:
        """Connections for single statements: two group commits, the relay's record, the worker's bookkeeping, and spare."""
        return 8

    def redacted(self) -> dict[str, Any]:
        """Every setting for a log: URLs without user and password, keys as fingerprints, tokens as names."""
        shown: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in ("database_url", "redis_url"):
                parts = urlsplit(value.get_secret_value())
                shown[name] = f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
            elif name == "sqs_endpoint_url" and value:
                shown[name] = (
                    urlsplit(value)._replace(netloc=value.rpartition("@")[2].split("/")[0]).geturl() if "@" in value else value
                )
            elif name in ("admin_tokens", "read_tokens"):
                shown[name] = sorted(value)
            elif name == "signature_keys":
                continue
            elif name == "accounts":
                shown[name] = {
                    account: [hashlib.sha256(key.encode()).hexdigest()[:12] for key in keys]
                    for account, keys in self.keys_by_account.items()
                }
            elif name == "roles":
                shown[name] = sorted(value)
            else:
                shown[name] = value
        return shown


_SECRET_FIELDS = frozenset(("database_url", "redis_url", "signature_keys", "accounts", "admin_tokens", "read_tokens"))


def _with_scheme(value: SecretStr, *schemes: str) -> SecretStr:
    if urlsplit(value.get_secret_value()).scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return value


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"must be host:port, for example 127.0.0.1:8080 or [::1]:8080, unlike {text!r}")
    return host.strip("[]"), int(port)


def load(**overrides: Any) -> Settings:
    """The settings from every source. Raises SettingsError, a line for each problem; no line holds a secret."""
    problems = _misspelt()
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        problems += [_explain(one) for one in error.errors(include_input=False, include_url=False)]
    if problems:
        raise SettingsError("\n".join(problems)) from None
    return settings


def _misspelt() -> list[str]:
    known = {_PREFIX + name.upper() for name in Settings.model_fields}
    files = {_PREFIX + name.upper() + "_FILE" for name in _SECRET_FIELDS}
    problems = []
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(_PREFIX) or upper.startswith(_NOT_SETTINGS) or upper in known | files:
            continue
        if re.fullmatch(r"WEBHOOKD_ACCOUNTS__.+__SIGNATURE_KEYS(_FILE)?", upper):
            continue
        near = difflib.get_close_matches(upper, known | files, n=1)
        problems.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "; see `webhookd settings`"))
    return problems


def _explain(error: Any) -> str:
    name = _PREFIX + "__".join(str(part).upper() for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} is not set: see `webhookd settings` (`webhookd dev` brings servers of its own)"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if error["loc"] else message


def describe() -> list[tuple[str, str, str]]:
    """(environment variable, default, meaning) of every setting."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else _shown(field.default)
        rows.append((_PREFIX + name.upper(), default, field.description or ""))
    return rows


def _shown(default: object) -> str:
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, frozenset):
        return ",".join(role for role in Role if role in default)
    return f"{default:g}" if isinstance(default, float) else str(default)
