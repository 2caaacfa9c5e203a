"""The conditions that settings must meet together, beyond those that each must meet alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from webhookd.settings.destinations import destination_problems
from webhookd.settings.provider import provider_problems
from webhookd.settings.sources import PREFIX
from webhookd.settings.values import likely_kind, revealed

if TYPE_CHECKING:
    from pydantic import SecretStr

    from webhookd.settings.model import Settings

_ACCOUNT = re.compile(r"[a-z0-9_-]{1,64}")
_KEY_DIGITS = 128
_KEY = re.compile(f"[0-9A-Fa-f]{{{_KEY_DIGITS}}}")
_PROVIDER_RETRIES = 10 * 86_400  # seconds; the provider's schedule of retries takes about nine days


def problems(settings: Settings) -> Iterator[str]:
    """Yields a line for each set of settings that cannot work together: the setting, what is wrong, and the remedy."""
    yield from _accounts(settings)
    yield from _keys(settings)
    yield from _tokens(settings)
    yield from destination_problems(settings)
    yield from provider_problems(settings)
    yield from _alerts(settings)
    yield from _ages(settings)
    yield from _shutdown(settings)
    yield from database_problems(settings.database_url, settings.database_auth)
    if not settings.roles:
        yield "WEBHOOKD_ROLES is empty: name any of receive, relay, work, deliver, sync"
    if settings.retry_base > settings.retry_cap:
        yield "WEBHOOKD_RETRY_BASE is above WEBHOOKD_RETRY_CAP: lower the one or raise the other"
    if _collide(settings.public_address, settings.admin_address):
        yield "WEBHOOKD_LISTEN and WEBHOOKD_ADMIN_LISTEN use the same port: give each its own"
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        yield "WEBHOOKD_TLS_CERTIFICATE and WEBHOOKD_TLS_KEY go together: set both, or neither"
    if settings.sqs_queue == settings.sqs_dead_letter_queue:
        yield "WEBHOOKD_SQS_DEAD_LETTER_QUEUE is WEBHOOKD_SQS_QUEUE: workers would receive the dead letters; name another queue"
    if settings.max_body_memory < settings.max_body_bytes:
        yield "WEBHOOKD_MAX_BODY_MEMORY is below WEBHOOKD_MAX_BODY_BYTES: webhookd could accept no body of that size; raise it"


def database_problems(url: SecretStr, auth: str) -> Iterator[str]:
    """Yields a line for each reason for which PostgreSQL's URL does not go with WEBHOOKD_DATABASE_AUTH."""
    if auth != "rds-iam":
        return
    try:
        parts = urlsplit(url.get_secret_value())
        _ = parts.port
    except ValueError:  # its message quotes the URL
        yield "WEBHOOKD_DATABASE_URL cannot be read: write it as postgresql://user@host:5432/name?sslmode=verify-full&sslrootcert=…"
        return
    query = parse_qs(parts.query)
    if parts.password or "password" in query:
        yield "WEBHOOKD_DATABASE_URL holds a password, which WEBHOOKD_DATABASE_AUTH=rds-iam does not use: remove the password"
    if not parts.username or not parts.hostname or "," in parts.netloc:
        yield "WEBHOOKD_DATABASE_URL must name one user and one host, since WEBHOOKD_DATABASE_AUTH=rds-iam signs for them"
    if query.get("sslmode", [""])[-1] not in ("require", "verify-ca", "verify-full"):
        yield (
            "WEBHOOKD_DATABASE_URL admits connections without TLS, and WEBHOOKD_DATABASE_AUTH=rds-iam needs TLS: "
            "end the URL in ?sslmode=verify-full&sslrootcert=/path/to/the/CA/of/RDS.pem"
        )


def _accounts(settings: Settings) -> Iterator[str]:
    for name in settings.accounts:
        variable = f"{PREFIX}ACCOUNTS__{name.upper()}__SIGNATURE_KEYS"
        if not _ACCOUNT.fullmatch(name):
            yield f"{variable}: an account's name has 1 to 64 of the characters a-z, 0-9, _ and -; rename the account"
        if not settings.keys_by_account[name]:
            yield f"{variable} has no key: set one, or remove the account"
    if "receive" in settings.roles and not settings.keys_by_account:
        yield (
            "WEBHOOKD_SIGNATURE_KEYS is not set: give the Signature Key from the Merchant Interface (Account, "
            "API Credentials & Keys), or name its file in WEBHOOKD_SIGNATURE_KEYS_FILE (`webhookd dev` makes its own key)"
        )


def _keys(settings: Settings) -> Iterator[str]:
    if settings.allow_odd_signature_keys:
        return
    given = {"SIGNATURE_KEYS": settings.signature_keys}
    given |= {
        f"ACCOUNTS__{name.upper()}__SIGNATURE_KEYS": account.signature_keys for name, account in settings.accounts.items()
    }
    for variable, keys in given.items():
        for number, key in enumerate(map(revealed, keys), 1):
            if not _KEY.fullmatch(key):
                which = f"key {number} of {len(keys)}" if len(keys) > 1 else "the key"
                wrong = f"has {len(key)} characters" if len(key) != _KEY_DIGITS else "holds a character other than 0-9 and A-F"
                yield (
                    f"{PREFIX}{variable}: {which} {wrong}, but a Signature Key has {_KEY_DIGITS} hexadecimal digits"
                    f"{_kind(key)}: copy "
                    "the whole key from the Merchant Interface (for tests, WEBHOOKD_ALLOW_ODD_SIGNATURE_KEYS=true accepts any "
                    "key)"
                )


def _kind(key: str) -> str:
    kind = likely_kind(key)
    return f" ({kind[0].lower()}{kind[1:-1]})" if "has the form" in kind else ""


def _tokens(settings: Settings) -> Iterator[str]:
    both = {revealed(token) for token in settings.admin_tokens.values()} & {
        revealed(token) for token in settings.read_tokens.values()
    }
    if both:
        yield (
            "WEBHOOKD_READ_TOKENS holds a token of WEBHOOKD_ADMIN_TOKENS: a token may either operate or only look; "
            "remove it from one of the two"
        )


def _alerts(settings: Settings) -> Iterator[str]:
    for name, channel in settings.alerts.items():
        variable = f"{PREFIX}ALERTS__{name.upper()}"
        if not _ACCOUNT.fullmatch(name):
            yield f"{variable}__URL: a channel's name has 1 to 64 of the characters a-z, 0-9, _ and -; rename the channel"
        yield from channel.problems(variable)


def _shutdown(settings: Settings) -> Iterator[str]:
    if "receive" in settings.roles and settings.commit_timeout >= settings.shutdown_grace:
        yield (
            f"WEBHOOKD_COMMIT_TIMEOUT is not below WEBHOOKD_SHUTDOWN_GRACE ({settings.shutdown_grace:g} s): a webhook that "
            "waits for its commit would not be answered before the process ends; lower the one or raise the other"
        )
    if "work" in settings.roles and settings.sqs_wait >= settings.shutdown_grace:
        yield (
            f"WEBHOOKD_SQS_WAIT is not below WEBHOOKD_SHUTDOWN_GRACE ({settings.shutdown_grace:g} s): a shutdown waits for "
            "the long polls to end; lower the one or raise the other"
        )


def _ages(settings: Settings) -> Iterator[str]:
    if settings.max_event_age < _PROVIDER_RETRIES:
        yield (
            f"WEBHOOKD_MAX_EVENT_AGE is below {_PROVIDER_RETRIES} s (10 days): "
            "the provider's last retries would be quarantined as too old; raise it"
        )
    if settings.event_retention <= settings.max_event_age + settings.max_clock_skew:
        yield (
            "WEBHOOKD_EVENT_RETENTION is not above the sum of WEBHOOKD_MAX_EVENT_AGE and WEBHOOKD_MAX_CLOCK_SKEW: "
            "a late repeat of a removed event would be processed anew; raise it"
        )
    if settings.event_retention < settings.body_retention:
        yield (
            "WEBHOOKD_EVENT_RETENTION is below WEBHOOKD_BODY_RETENTION: bodies would outlive their events; "
            "raise the one or lower the other"
        )
    if settings.audit_retention < settings.event_retention:
        yield (
            "WEBHOOKD_AUDIT_RETENTION is below WEBHOOKD_EVENT_RETENTION: retention reads from the audit trail when an "
            "event ended; raise the one or lower the other"
        )


def _collide(one: tuple[str, int], other: tuple[str, int]) -> bool:
    everywhere = {"0.0.0.0", "::"}  # noqa: S104  compared, not bound
    # For port 0, the system chooses a port, and never the same port twice.
    return one[1] == other[1] != 0 and (one[0] == other[0] or bool({one[0], other[0]} & everywhere))
