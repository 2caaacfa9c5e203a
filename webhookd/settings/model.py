"""Every setting: its name, its default, its bounds and its meaning."""

from __future__ import annotations

import hashlib
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from webhookd.errors import SettingsError
from webhookd.settings import fit
from webhookd.settings.alerts import AlertSettings
from webhookd.settings.destinations import DestinationSettings, destination_problems
from webhookd.settings.provider import FIELDS, AccountProviderSettings, ProviderSettings, provider_accesses
from webhookd.settings.values import (
    Address,
    CommaSeparated,
    DashboardUrl,
    DatabaseAuth,
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
    same_server,
    without_password,
)

_DAY = 86_400
_MIB = 1_048_576
_LONGEST_RETENTION = 20 * 365 * _DAY  # seconds; a longer retention would reach back before 1970, and no id has such a time

CONFIGURATION = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

_RENEWABLE = ("signature_keys", "accounts", "admin_tokens", "read_tokens", "alerts", "destinations", *FIELDS)
_RENEWABLE_URLS = ("database_url", "redis_url")


class Role(StrEnum):
    """A task of a process. In a small installation, one process has all roles."""

    RECEIVE = "receive"
    RELAY = "relay"
    WORK = "work"
    DELIVER = "deliver"
    SYNC = "sync"


class AccountSettings(AccountProviderSettings):
    """The settings of one Authorize.Net account."""

    model_config = CONFIGURATION

    signature_keys: Keys = ()


def _setting(default: Any, meaning: str, **limits: Any) -> Any:
    return Field(default, description=meaning, **limits)


class Settings(ProviderSettings):
    """Every setting, frozen. Durations are seconds. Field `x` is the environment variable `WEBHOOKD_X`."""

    model_config = CONFIGURATION

    database_url: DatabaseUrl = _setting(
        ...,
        "PostgreSQL, as postgresql://user:password@host:5432/name; for TLS, ?sslmode=verify-full&sslrootcert=/path/ca.pem.",
    )
    database_schema: SchemaName = _setting(
        "webhookd",
        "The PostgreSQL schema of webhookd's tables. Each further installation in the same database needs another one.",
    )
    database_pooler: Literal["none", "transaction"] = _setting(
        "none", "transaction: webhookd reaches PostgreSQL through a pooler, such as PgBouncer in transaction or session mode."
    )
    database_auth: DatabaseAuth = _setting(
        "password",
        "rds-iam: AWS credentials sign a password for each connection, for Amazon RDS and Aurora. The URL has none then.",
    )
    redis_url: RedisUrl = _setting(
        ...,
        "Redis or Valkey, as redis://:password@host:6379/0; for TLS, rediss://…?ssl_ca_certs=/path/ca.pem (without it, the "
        "system's CAs).",
    )
    sqs_queue: Queue = _setting("webhookd", "The SQS queue, by name or URL.")
    sqs_dead_letter_queue: Queue = _setting("webhookd-dead-letters", "The dead-letter queue of that queue, by name or URL.")
    sqs_endpoint_url: Endpoint | None = _setting(None, "The address of SQS, if it is not AWS's own.")
    sqs_region: Region | None = _setting(None, "The queues' region, if it differs from the AWS SDK's own setting.")
    listen: Address = _setting("127.0.0.1:8080", "Address of the public listener, to which the provider posts.")
    admin_listen: Address = _setting("127.0.0.1:9090", "Address of the admin listener: API, dashboard, health, metrics.")
    admin_hosts: HostNames = _setting(
        (),
        "Further host names of the admin listener, comma-separated: each `host` or `host:port`. It always answers to localhost "
        "and its own address.",
    )
    tls_certificate: Path | None = _setting(
        None, "PEM file of the public listener's certificate and its chain. If it is set, the listener speaks TLS only."
    )
    tls_key: Path | None = _setting(None, "PEM file of that certificate's private key, without a passphrase.")
    signature_keys: Keys = _setting(
        (), "Signature Keys of the account `default`, 128 hexadecimal digits each, comma-separated; several during a rotation."
    )
    allow_odd_signature_keys: bool = _setting(
        False,
        "For tests: accepts Signature Keys of another form than 128 hexadecimal digits. Authorize.Net never gives such keys.",
    )
    accounts: dict[str, AccountSettings] = _setting(
        {}, "Signature Keys of a further account, whose webhooks are posted to `/webhooks/authorize-net/<name>`."
    )
    destinations: dict[str, DestinationSettings] = _setting({}, "Addresses that get events; see Destinations.")
    admin_tokens: Tokens = _setting({}, "Bearer tokens of operators, comma-separated: each `name:token` or a token.")
    read_tokens: Tokens = _setting({}, "Bearer tokens that may only read, in the same form.")
    admin_anonymous: Literal["nothing", "look", "operate"] = _setting(
        "nothing", "What the admin listener allows without a token: nothing, look (read) or operate."
    )
    dashboard_url: DashboardUrl | None = _setting(
        None, "The dashboard's public address, for links in alerts, such as https://ops.example.com."
    )
    alerts: dict[str, AlertSettings] = _setting({}, "The channels for alerts, each with a name.")
    alert_database_bytes: int | None = _setting(
        None,
        "Bytes of the whole database, from which an alert fires. If unset, the size is not looked at: only you know the disk.",
        ge=1,
    )
    handlers: Names = _setting((), "Python modules with handlers, comma-separated.")
    roles: Annotated[frozenset[Role], CommaSeparated] = _setting(
        frozenset(Role), "Roles of this process, comma-separated: receive, relay, work, deliver, sync."
    )
    concurrency: int = _setting(16, "Number of events with handlers that this process works on at a time.", ge=1, le=1000)
    pollers: int = _setting(
        None,
        "Number of long polls of SQS at a time. If unset, one for each ten of WEBHOOKD_CONCURRENCY.",
        ge=1,
        le=100,
        validate_default=True,
    )
    handler_timeout: float = _setting(30.0, "Seconds that all handlers of an event may take together.", ge=0.1, le=36_000)
    visibility_timeout: int = _setting(
        60, "Seconds that SQS hides a message in hand. webhookd extends them after half the time.", ge=2, le=43_200
    )
    max_attempts: int = _setting(10, "Number of attempts after which an event is dead.", ge=1, le=1000)
    retry_base: float = _setting(
        2.0, "Longest delay in seconds before the second attempt. It doubles with each further attempt.", ge=0.01, le=43_200
    )
    retry_cap: float = _setting(3600.0, "Longest delay in seconds between attempts.", ge=0.01, le=43_200)
    relay_window: int | None = _setting(
        None,
        "Most fresh events that have a message in SQS, for all replicas together: for emulators that a long queue makes slow. "
        "If unset, there is no limit.",
        ge=1,
        le=10_000_000,
    )
    resend_after: float = _setting(
        600.0,
        "Seconds until an event that was sent and has not ended can count as lost and is sent again. They "
        "double with each send. "
        "Keep them above WEBHOOKD_HANDLER_TIMEOUT: otherwise retries that hang take workers from fresh events.",
        ge=1,
        le=14 * _DAY,
    )
    sqs_wait: int = _setting(
        10,
        "Seconds of a long poll. An idle shutdown takes as long. 0: one poll a second while the queue is empty.",
        ge=0,
        le=20,
    )
    dedupe_ttl: float = _setting(3.0 * _DAY, "Seconds for which Redis remembers a committed notification.", ge=1, le=365 * _DAY)
    max_event_age: float = _setting(
        14.0 * _DAY,
        "Greatest age in seconds of an event, by its eventDate. An older event goes to quarantine.",
        ge=1,
        le=_LONGEST_RETENTION,
    )
    max_clock_skew: float = _setting(
        1.0 * _DAY, "Seconds by which an eventDate may lie in the future.", ge=0, le=_LONGEST_RETENTION
    )
    body_retention: float = _setting(
        90.0 * _DAY,
        "Seconds for which the bodies of finished events are kept, and up to a week longer.",
        ge=_DAY,
        le=_LONGEST_RETENTION,
    )
    event_retention: float = _setting(
        400.0 * _DAY,
        "Seconds for which finished events are kept. A repeat is recognised as long as its event is kept.",
        ge=_DAY,
        le=_LONGEST_RETENTION,
    )
    audit_retention: float = _setting(
        400.0 * _DAY,
        "Seconds for which the audit trail of finished events is kept, and up to a week longer.",
        ge=_DAY,
        le=_LONGEST_RETENTION,
    )
    quarantine_retention: float = _setting(
        90.0 * _DAY, "Seconds for which bodies stay in quarantine.", ge=_DAY, le=_LONGEST_RETENTION
    )
    max_body_bytes: int = _setting(1_048_576, "Size in bytes of the largest body that is accepted.", ge=1024, le=64 * _MIB)
    max_body_memory: int = _setting(
        67_108_864,
        "Most bytes that bodies above 16384 bytes may take together. Further ones are answered 503.",
        ge=1024,
        le=16_384 * _MIB,
    )
    max_connections: int = _setting(
        4096,
        "Most connections to the public listener. For a further one, webhookd closes the connection whose request has been "
        "incomplete for longest, or that has been idle for longest.",
        ge=16,
        le=100_000,
    )
    head_timeout: float = _setting(
        10.0,
        "Seconds that a new connection may take to send a request's head, and any connection to read its answers.",
        ge=0.1,
        le=300,
    )
    body_timeout: float = _setting(5.0, "Seconds that a body may take to arrive.", ge=0.1, le=300)
    max_pending: int = _setting(
        2000, "Most webhooks that may wait for their answer. Further ones are answered 503.", ge=1, le=100_000
    )
    refused_samples: int = _setting(
        20,
        "Samples of refused webhooks that are kept for two weeks, for each account and reason. 0 keeps none, "
        "and removes old ones.",
        ge=0,
        le=1000,
    )
    commit_timeout: float = _setting(
        5.0,
        "Seconds after which a webhook that could not be committed is answered 503. Below WEBHOOKD_SHUTDOWN_GRACE.",
        ge=0.1,
        le=60,
    )
    retry_after: int = _setting(5, "Seconds of the header Retry-After of a 503.", ge=0, le=_DAY)
    shutdown_grace: float = _setting(
        25.0, "Seconds that a shutdown may take. Below Kubernetes' grace period of 30.", ge=1, le=3600
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "The lowest level that is logged.")
    failpoints: str = _setting(
        "", "For tests of webhookd itself: the failpoint at which the process crashes, as `name:nth pass`."
    )
    log_format: Literal["json", "console"] = _setting("json", "json: one object a line; console: for people.")
    tracing: bool = _setting(
        False,
        "true: sends spans to an OpenTelemetry collector, which OpenTelemetry's own variables name. Needs webhookd[tracing].",
    )

    @field_validator("accounts", "alerts", "destinations", mode="before")
    @classmethod
    def _lower_case(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, dict):
            section = info.field_name or ""
            variable = f"WEBHOOKD_{section.upper()}__<NAME>__{'SIGNATURE_KEYS' if section == 'accounts' else 'URL'}"
            raise ValueError(f"set {variable} instead, or [{section}.<name>] in the TOML file")  # noqa: TRY004
        return {str(name).lower(): one for name, one in value.items()}

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
        """Returns every account's keys. `default` has the keys of WEBHOOKD_SIGNATURE_KEYS, and its own keys in `accounts`."""
        keys = {"default": self.signature_keys} if self.signature_keys else {}
        for name, account in self.accounts.items():
            keys[name] = keys.get(name, ()) + account.signature_keys
        return {name: tuple(dict.fromkeys(revealed(key).strip() for key in own)) for name, own in keys.items()}

    @property
    def public_address(self) -> tuple[str, int]:
        """Returns the host and the port of the public listener."""
        return host_and_port(self.listen)

    @property
    def admin_address(self) -> tuple[str, int]:
        """Returns the host and the port of the admin listener."""
        return host_and_port(self.admin_listen)

    @property
    def short_pool(self) -> int:
        """Returns the number of connections for single statements: two group commits, the relay, bookkeeping, and spare."""
        return 8

    def redacted(self) -> dict[str, object]:
        """Returns every setting for a log: URLs without user and password, keys as fingerprints, tokens as their names."""
        elsewhere = {"signature_keys", "api_login_id", "transaction_key", "shop_query"}  # or in other words below
        urls = ("database_url", "redis_url", "shop_database_url")
        shown: dict[str, object] = {name: getattr(self, name) for name in type(self).model_fields if name not in elsewhere}
        return shown | {
            "provider": {name: access.redacted() for name, access in provider_accesses(self).items()},
            **{name: without_password(url) for name in urls if (url := getattr(self, name)) is not None},
            "accounts": {
                name: [hashlib.sha256(key.encode()).hexdigest()[:12] for key in keys]
                for name, keys in self.keys_by_account.items()
            },
            "destinations": {name: one.redacted() for name, one in self.destinations.items()},
            "alerts": {name: channel.form for name, channel in self.alerts.items()},
            "admin_tokens": sorted(self.admin_tokens),
            "read_tokens": sorted(self.read_tokens),
            "roles": sorted(self.roles),
        }


def renewed(before: Settings, after: Settings) -> dict[str, Any]:
    """Returns the settings that changed and that a running daemon can take.

    These are the signature keys, the tokens, the channels for alerts, the destinations, and a URL whose user or password
    changed. Another server needs a restart: events that this process has in hand are on the present server.

    Raises SettingsError if a destination cannot work with the other settings, which stay as they are.
    """
    changed = {
        name: getattr(after, name) for name in (*_RENEWABLE, *_RENEWABLE_URLS) if getattr(after, name) != getattr(before, name)
    }
    taken = {name: value for name, value in changed.items() if name in _RENEWABLE or same_server(getattr(before, name), value)}
    if problems := list(destination_problems(before.model_copy(update=taken))):
        raise SettingsError("\n".join(problems))
    return taken
