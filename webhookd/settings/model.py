"""Every setting: its name, its default, its bounds and its meaning."""

from __future__ import annotations

import hashlib
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from webhookd.settings import fit
from webhookd.settings.values import (
    Address,
    CommaSeparated,
    DatabaseUrl,
    Endpoint,
    HostNames,
    Keys,
    Names,
    Queue,
    RedisUrl,
    Region,
    SchemaName,
    Tokens,
    host_and_port,
    revealed,
    without_password,
)

_DAY = 86_400
_MIB = 1_048_576
_LONGEST_RETENTION = 20 * 365 * _DAY  # longer ones would reach back before 1970, where no id is

CONFIGURATION = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

# What a running daemon takes anew at a SIGHUP, beside the content of the certificate's files.
RENEWABLE = ("signature_keys", "accounts", "admin_tokens", "read_tokens")


class Role(StrEnum):
    """What a process does; a small installation does all of it in one."""

    RECEIVE = "receive"
    RELAY = "relay"
    WORK = "work"


class AccountSettings(BaseModel):
    """One Authorize.Net account."""

    model_config = CONFIGURATION

    signature_keys: Keys = ()


def _setting(default: Any, meaning: str, **limits: Any) -> Any:
    return Field(default, description=meaning, **limits)


class Settings(BaseModel):
    """Every setting, frozen. Durations are seconds. Field `x` is the environment variable `WEBHOOKD_X`."""

    model_config = CONFIGURATION

    database_url: DatabaseUrl = _setting(
        ...,
        "PostgreSQL, as postgresql://user:password@host:5432/name; for TLS, ?sslmode=verify-full&sslrootcert=/path/ca.pem.",
    )
    database_schema: SchemaName = _setting(
        "webhookd",
        "The schema of PostgreSQL that holds webhookd's tables; another one for each further installation in a database.",
    )
    database_pooler: Literal["none", "transaction"] = _setting(
        "none", "transaction: if a pooler, such as PgBouncer in transaction or session mode, stands before PostgreSQL."
    )
    redis_url: RedisUrl = _setting(
        ...,
        "Redis or Valkey, as redis://:password@host:6379/0; for TLS, rediss://…?ssl_ca_certs=/path/ca.pem (without it, the "
        "system's CAs).",
    )
    sqs_queue: Queue = _setting("webhookd", "The SQS queue, by name or URL.")
    sqs_dead_letter_queue: Queue = _setting("webhookd-dead-letters", "Its dead-letter queue, by name or URL.")
    sqs_endpoint_url: Endpoint | None = _setting(None, "Another address than AWS's for SQS.")
    sqs_region: Region | None = _setting(None, "The queues' region, if it differs from the AWS SDK's own setting.")
    listen: Address = _setting("127.0.0.1:8080", "Address of the public listener, which the provider posts to.")
    admin_listen: Address = _setting("127.0.0.1:9090", "Address of the admin listener: API, dashboard, health, metrics.")
    admin_hosts: HostNames = _setting(
        (),
        "Host names that the admin listener answers to beside localhost and its own address, comma-separated: each `host` or "
        "`host:port`.",
    )
    tls_certificate: Path | None = _setting(
        None, "PEM file of the public listener's certificate and its chain; with it, the listener speaks TLS only."
    )
    tls_key: Path | None = _setting(None, "PEM file of that certificate's private key, without a passphrase.")
    signature_keys: Keys = _setting(
        (), "Signature Keys of the account `default`, 128 hexadecimal digits each, comma-separated; several during a rotation."
    )
    allow_odd_signature_keys: bool = _setting(
        False, "For tests: takes Signature Keys that are not of 128 hexadecimal digits, which Authorize.Net never gives."
    )
    accounts: dict[str, AccountSettings] = _setting(
        {}, "Signature Keys of a further account, posted to /webhooks/authorize-net/<name>."
    )
    admin_tokens: Tokens = _setting({}, "Bearer tokens that may operate, comma-separated: each `name:token` or a token.")
    read_tokens: Tokens = _setting({}, "Bearer tokens that may only look, in the same form.")
    admin_anonymous: Literal["nothing", "look", "operate"] = _setting(
        "nothing", "What may be done on the admin listener without a token: nothing, look or operate."
    )
    handlers: Names = _setting((), "Modules to import, comma-separated, that register handlers.")
    roles: Annotated[frozenset[Role], CommaSeparated] = _setting(
        frozenset(Role), "What this process does, comma-separated: any of receive, relay, work."
    )
    concurrency: int = _setting(16, "Events with handlers that this process works on at a time.", ge=1, le=1000)
    pollers: int = _setting(
        None, "Long polls side by side; one for each ten of concurrency when unset.", ge=1, le=100, validate_default=True
    )
    handler_timeout: float = _setting(30.0, "Seconds that an event's handlers may take together.", ge=0.1, le=36_000)
    visibility_timeout: int = _setting(60, "Seconds that SQS hides a message in hand; extended at half of it.", ge=2, le=43_200)
    max_attempts: int = _setting(10, "Attempts until an event is dead.", ge=1, le=1000)
    retry_base: float = _setting(
        2.0, "Longest delay in seconds before the second attempt; doubles with each.", ge=0.01, le=43_200
    )
    retry_cap: float = _setting(3600.0, "Longest delay in seconds between attempts.", ge=0.01, le=43_200)
    relay_window: int | None = _setting(
        None,
        "Most fresh events with a message in SQS, of all replicas together; for an emulator that a long queue makes slow. "
        "No limit when unset.",
        ge=1,
        le=10_000_000,
    )
    resend_after: float = _setting(
        600.0,
        "Seconds until an event that was sent and has not ended can count as lost, and is sent again; doubles with each. "
        "Keep it above WEBHOOKD_HANDLER_TIMEOUT, or retries that hang take workers from fresh events.",
        ge=1,
        le=14 * _DAY,
    )
    sqs_wait: int = _setting(
        10,
        "Seconds of a long poll, which is also what an idle shutdown takes; 0 polls once a second while the queue is empty.",
        ge=0,
        le=20,
    )
    dedupe_ttl: float = _setting(3.0 * _DAY, "Seconds that Redis remembers a committed notification.", ge=1, le=365 * _DAY)
    max_event_age: float = _setting(
        14.0 * _DAY, "Seconds; an event whose eventDate is older is quarantined.", ge=1, le=_LONGEST_RETENTION
    )
    max_clock_skew: float = _setting(
        1.0 * _DAY, "Seconds that an eventDate may lie in the future.", ge=0, le=_LONGEST_RETENTION
    )
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
    max_body_bytes: int = _setting(1_048_576, "Largest body in bytes.", ge=1024, le=64 * _MIB)
    max_body_memory: int = _setting(
        67_108_864,
        "Most bytes of bodies above 16384 bytes at once; beyond it, those are answered 503.",
        ge=1024,
        le=16_384 * _MIB,
    )
    max_connections: int = _setting(
        4096,
        "Most connections to the public listener; beyond it the one whose request is incomplete for longest, or that is idle "
        "longest, is closed.",
        ge=16,
        le=100_000,
    )
    head_timeout: float = _setting(
        10.0, "Seconds that a new connection may take to send a head, or any to read its answers.", ge=0.1, le=300
    )
    body_timeout: float = _setting(5.0, "Seconds that a body may take to arrive.", ge=0.1, le=300)
    max_pending: int = _setting(2000, "Webhooks that may wait for their answer; beyond it the answer is 503.", ge=1, le=100_000)
    refused_samples: int = _setting(
        20,
        "Samples of refused webhooks, for each account and reason, kept for two weeks; 0 keeps none and removes those kept.",
        ge=0,
        le=1000,
    )
    commit_timeout: float = _setting(
        5.0, "Seconds until a webhook that could not be committed is answered 503; below the shutdown's.", ge=0.1, le=60
    )
    retry_after: int = _setting(5, "The Retry-After of a 503, in seconds.", ge=0, le=_DAY)
    shutdown_grace: float = _setting(25.0, "Seconds that a shutdown may take; below Kubernetes' 30.", ge=1, le=3600)
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "The least level that is logged.")
    failpoints: str = _setting("", "For tests of webhookd itself: where the process is to crash, as `name:nth pass`.")
    log_format: Literal["json", "console"] = _setting("json", "json: an object a line; console: for reading.")
    tracing: bool = _setting(
        False, "Sends spans to an OpenTelemetry collector, set up by OpenTelemetry's own variables; needs webhookd[tracing]."
    )

    @field_validator("accounts", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError("set WEBHOOKD_ACCOUNTS__<NAME>__SIGNATURE_KEYS instead, or [accounts.<name>] in the TOML file")  # noqa: TRY004
        return {str(name).lower(): account for name, account in value.items()}

    @field_validator("pollers", mode="before")
    @classmethod
    def _enough_pollers(cls, value: object, info: ValidationInfo) -> object:
        return math.ceil(info.data.get("concurrency", 1) / 10) if value is None else value

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if problems := list(fit.problems(self)):
            raise ValueError("\n".join(problems))
        return self

    @property
    def keys_by_account(self) -> dict[str, tuple[str, ...]]:
        """Every account's keys; `default` has those of WEBHOOKD_SIGNATURE_KEYS, and its own among the accounts."""
        keys = {"default": self.signature_keys} if self.signature_keys else {}
        for name, account in self.accounts.items():
            keys[name] = keys.get(name, ()) + account.signature_keys
        return {name: tuple(dict.fromkeys(revealed(key).strip() for key in of)) for name, of in keys.items()}

    @property
    def public_address(self) -> tuple[str, int]:
        """Host and port of the public listener."""
        return host_and_port(self.listen)

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of the admin listener."""
        return host_and_port(self.admin_listen)

    @property
    def short_pool(self) -> int:
        """Connections for single statements: two group commits, the relay, the worker's bookkeeping, and spare."""
        return 8

    def redacted(self) -> dict[str, object]:
        """Every setting for a log: URLs without user and password, keys as fingerprints, tokens as their names."""
        shown: dict[str, object] = {name: getattr(self, name) for name in type(self).model_fields}
        del shown["signature_keys"]  # among the accounts, as `default`
        return shown | {
            "database_url": without_password(self.database_url),
            "redis_url": without_password(self.redis_url),
            "accounts": {
                name: [hashlib.sha256(key.encode()).hexdigest()[:12] for key in keys]
                for name, keys in self.keys_by_account.items()
            },
            "admin_tokens": sorted(self.admin_tokens),
            "read_tokens": sorted(self.read_tokens),
            "roles": sorted(self.roles),
        }
