"""What settings must hold together, beyond what each must hold alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from webhookd.sources import PREFIX

if TYPE_CHECKING:
    from webhookd.settings.model import Settings

_ACCOUNT = re.compile(r"[a-z0-9_-]{1,64}")
_PROVIDER_RETRIES = 10 * 86_400  # seconds; the provider's schedule of retries takes about nine days


def problems(settings: Settings) -> Iterator[str]:
    """A line for each pair of settings that cannot work together: the setting, what is wrong, and the remedy."""
    yield from _accounts(settings)
    yield from _ages(settings)
    if not settings.roles:
        yield "WEBHOOKD_ROLES is empty: name any of receive, relay, work"
    if settings.retry_base > settings.retry_cap:
        yield "WEBHOOKD_RETRY_BASE is above WEBHOOKD_RETRY_CAP: lower the one or raise the other"
    if _collide(settings.public_address, settings.admin_address):
        yield "WEBHOOKD_LISTEN and WEBHOOKD_ADMIN_LISTEN take the same port: give each its own"
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        yield "WEBHOOKD_TLS_CERTIFICATE and WEBHOOKD_TLS_KEY go together: set both, or neither"
    if settings.max_body_memory < settings.max_body_bytes:
        yield "WEBHOOKD_MAX_BODY_MEMORY is below WEBHOOKD_MAX_BODY_BYTES: no body of that size could be taken; raise it"


def _accounts(settings: Settings) -> Iterator[str]:
    for name, account in settings.accounts.items():
        variable = f"{PREFIX}ACCOUNTS__{name.upper()}__SIGNATURE_KEYS"
        if not _ACCOUNT.fullmatch(name):
            yield f"{variable}: an account's name has 1 to 64 of the characters a-z, 0-9, _ and -"
        if not account.signature_keys:
            yield f"{variable}: has no key; set one, or drop the account"
    if "receive" in settings.roles and not settings.keys_by_account:
        yield (
            "WEBHOOKD_SIGNATURE_KEYS is not set: give the Signature Key from the Merchant Interface (Account, "
            "API Credentials & Keys), or its file in WEBHOOKD_SIGNATURE_KEYS_FILE (`webhookd dev` makes its own)"
        )


def _ages(settings: Settings) -> Iterator[str]:
    if settings.max_event_age < _PROVIDER_RETRIES:
        yield (
            f"WEBHOOKD_MAX_EVENT_AGE is below {_PROVIDER_RETRIES} (10 days): "
            "the provider's last retries would be quarantined as too old; raise it"
        )
    if settings.event_retention <= settings.max_event_age + settings.max_clock_skew:
        yield (
            "WEBHOOKD_EVENT_RETENTION is not above WEBHOOKD_MAX_EVENT_AGE and WEBHOOKD_MAX_CLOCK_SKEW together: "
            "a late repeat of a removed event would be processed anew; raise it"
        )
    if settings.event_retention < settings.body_retention:
        yield (
            "WEBHOOKD_EVENT_RETENTION is below WEBHOOKD_BODY_RETENTION: bodies would outlive their events; "
            "raise the one or lower the other"
        )


def _collide(one: tuple[str, int], other: tuple[str, int]) -> bool:
    everywhere = {"0.0.0.0", "::"}  # noqa: S104  compared, not bound
    # Port 0 is for the system to choose, and the system does not choose one twice.
    return one[1] == other[1] != 0 and (one[0] == other[0] or bool({one[0], other[0]} & everywhere))
