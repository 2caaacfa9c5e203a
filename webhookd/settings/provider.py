"""The settings for asking Authorize.Net: the credentials of each account, and the address of the provider's API."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from webhookd.settings.sources import PREFIX, is_loopback
from webhookd.settings.synthetic_types import check_patterns
from webhookd.settings.values import DatabaseUrl, Keys, Names, revealed

if TYPE_CHECKING:
    from webhookd.settings.model import Settings

# Contract: AnetApiSchema.xsd, merchantAuthenticationType. A colon would end the user's name of HTTP Basic authentication.
_LOGIN_ID = re.compile(r"[!-9;-~]{1,25}")
_TRANSACTION_KEY = re.compile(r"[0-9A-Za-z]{1,16}")
_SIGNATURE_KEY = re.compile(r"[0-9A-Fa-f]{128}")
_MOST_KEYS = 2  # the new key and the one before: each further key would cost a refused call, and refusals may lock the account
WEBHOOK_PATH = "/webhooks/authorize-net"  # of the account `default`; other accounts have `/name` after it
NAMED = {"production": "https://api.authorize.net", "sandbox": "https://apitest.authorize.net"}


def _login_id(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not _LOGIN_ID.fullmatch(text):
        raise ValueError("must be the API Login ID: at most 25 characters, without spaces and colons")
    return SecretStr(text)


def _transaction_keys(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for key in map(revealed, keys):
        if _SIGNATURE_KEY.fullmatch(key):
            raise ValueError(
                "one of the keys has the form of a Signature Key: give the Transaction Key, which has 16 characters at most"
            )
        if not _TRANSACTION_KEY.fullmatch(key):
            raise ValueError("each key must have at most 16 characters, which are letters and digits")
    if len(keys) > _MOST_KEYS:
        raise ValueError(f"must be one key, or {_MOST_KEYS} during a rotation: remove the oldest")
    return keys


def _provider(value: str) -> str:
    if value in NAMED:
        return value
    wrong = ValueError(
        "must be production, sandbox, or an address such as https://api2.authorize.net: without user, path and query, and "
        "with http:// only on this machine"
    )
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:  # its message quotes the URL
        raise wrong from None
    plain = not (parts.path.strip("/") or "?" in value or "#" in value or "@" in value) and re.fullmatch(r"[!-~]+", value)
    if not plain or not parts.hostname or parts.scheme not in ("http", "https"):
        raise wrong
    if parts.scheme == "http" and not is_loopback(value):  # the Transaction Key would go over the network unencrypted
        raise wrong
    return value.rstrip("/").lower()


def _public_url(value: str) -> str:
    wrong = ValueError("must be an address such as https://hooks.example.com, without user, query and fragment")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:  # its message quotes the URL
        raise wrong from None
    plain = re.fullmatch(r"[!-~]+", value) and not any(mark in value for mark in "?#@\\")
    if not plain or not parts.hostname or parts.scheme not in ("http", "https"):
        raise wrong
    return value


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError("must be a time zone that this system knows, such as America/Los_Angeles") from None
    return value


def _shop_query(value: SecretStr) -> SecretStr:
    # A part of the query could hold a secret, so no message quotes it.
    if missing := [f"${number}" for number in range(1, 5) if not re.search(rf"\${number}\b", value.get_secret_value())]:
        raise ValueError(
            f"does not use {' and '.join(missing)}: $1 is the account, $2 and $3 are the span of time, $4 are transaction ids"
        )
    return value


def _setting(default: Any, meaning: str, **limits: Any) -> Any:
    return Field(default, description=meaning, **limits)


Provider = Annotated[str, AfterValidator(_provider)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
ShopQuery = Annotated[SecretStr, AfterValidator(_shop_query)]
Guardian = Literal["off", "watch", "heal"]
SyntheticEvents = Annotated[Names, AfterValidator(check_patterns)]


class AccountProviderSettings(BaseModel):
    """The provider's side of one account."""

    api_login_id: Annotated[SecretStr, AfterValidator(_login_id)] | None = _setting(
        None, "API Login ID of the account, for asking Authorize.Net. If unset, webhookd asks nothing."
    )
    transaction_key: Annotated[Keys, AfterValidator(_transaction_keys)] = _setting(
        (),
        "Transaction Key that goes with the API Login ID; two, comma-separated, during a rotation. It can move money. Only "
        "processes with the role sync read it.",
    )
    provider: Provider | None = _setting(None, "As WEBHOOKD_PROVIDER, for this account. If unset, WEBHOOKD_PROVIDER.")
    public_url: PublicUrl | None = _setting(
        None, "As WEBHOOKD_PUBLIC_URL, for this account. If unset, WEBHOOKD_PUBLIC_URL with the account's own path."
    )
    time_zone: TimeZone | None = _setting(
        None,
        "The account's time zone, such as America/Los_Angeles, for its settlement days. It counts only if Authorize.Net names "
        "no zone that webhookd knows.",
    )


class ProviderSettings(AccountProviderSettings):
    """The provider's side of the account `default`, and what is common to all accounts."""

    provider: Provider = _setting(
        "production",
        "Where Authorize.Net's API is: production, sandbox, or an address such as https://api2.authorize.net.",
    )
    provider_timeout: float = _setting(20.0, "Seconds that a call of Authorize.Net's API may take.", ge=0.1, le=300)
    provider_rate: float = _setting(
        2.0, "Most calls of Authorize.Net's API per second, for each account. Five may go at once.", ge=0.01, le=100
    )
    public_url: PublicUrl | None = _setting(
        None,
        "The webhook's address as Authorize.Net knows it: https://hooks.example.com, to which the account's path is added, or "
        "the whole URL of the account `default`.",
    )
    gap_every: float = _setting(
        600.0, "Seconds between two comparisons of Authorize.Net's history with the ledger.", ge=1, le=3_600
    )
    gap_grace: float = _setting(
        900.0,
        "Seconds that a notification of the history may be on its way. Then webhookd takes it from the history.",
        ge=0,
        le=86_400,
    )
    guardian_every: float = _setting(300.0, "Seconds between two looks at the webhook's registration.", ge=1, le=86_400)
    webhook_guardian: Guardian = _setting(
        "watch",
        "What webhookd does about the webhook's registration: off, watch (alerts of a problem), or heal (also activates a "
        "webhook that became inactive).",
    )
    shop_query: ShopQuery | None = _setting(
        None,
        "SQL that returns the shop's own payments and refunds for a reconciliation: id of the transaction, amount, state. See "
        "*Do the books agree?* in the guide.",
    )
    shop_database_url: DatabaseUrl | None = _setting(
        None, "The PostgreSQL database of that query. If unset, webhookd's own. Give it a role that may only read."
    )
    settlement_every: float = _setting(
        3_600.0,
        "Seconds between two sweeps of the settlement, which no webhook reports: batches and their transactions. 0: no sweep.",
        ge=0,
        le=21_600,
    )
    synthetic_events: SyntheticEvents = _setting(
        (),
        "Types of synthetic events that webhookd makes of what no webhook reports, or patterns such as webhookd.transaction.*, "
        "comma-separated. If unset, none.",
    )


FIELDS = tuple(ProviderSettings.model_fields)


@dataclass(slots=True, frozen=True)
class ProviderAccess:
    """The address and the credentials of one account's client.

    url: scheme and host. timeout: seconds of a call. rate: calls per second.
    public_url: the webhook's URL as the provider knows it; None if no setting names it.
    """

    account: str
    url: str
    login_id: SecretStr
    keys: tuple[SecretStr, ...]
    timeout: float = 20.0
    rate: float = 2.0
    public_url: str | None = None

    def redacted(self) -> dict[str, object]:
        """Returns what a log may show."""
        return {"url": self.url, "keys": len(self.keys)}


def provider_accesses(settings: Settings) -> dict[str, ProviderAccess]:
    """Returns the access of each account that has credentials. The settings of `accounts` are stronger for `default`."""
    given: dict[str, AccountProviderSettings] = {"default": settings, **settings.accounts}
    found = {}
    for name, own in given.items():
        base = settings if name == "default" else own
        login_id, keys = own.api_login_id or base.api_login_id, own.transaction_key or base.transaction_key
        if login_id is not None and keys:
            provider = own.provider or settings.provider
            url = NAMED.get(provider, provider)
            found[name] = ProviderAccess(
                name, url, login_id, keys, settings.provider_timeout, settings.provider_rate, public_url(settings, name)
            )
    return found


def public_url(settings: Settings, account: str) -> str | None:
    """Returns the URL of an account's webhook as the provider knows it; None if no setting names it."""
    own = settings.accounts.get(account)
    given = own.public_url if own is not None else None
    if given is None:
        given = settings.public_url
        if given is None or (_has_path(given) and account != "default"):  # a whole URL is that of `default`
            return None
    if _has_path(given):
        return given
    return given.rstrip("/") + WEBHOOK_PATH + ("" if account == "default" else f"/{account}")


def _has_path(url: str) -> bool:
    return urlsplit(url).path not in ("", "/")


def time_zone(settings: Settings, account: str) -> str | None:
    """Returns the time zone that the settings name for an account; None if they name none."""
    own = settings.accounts.get(account)
    given = own.time_zone if own is not None else None
    return given or (settings.time_zone if account == "default" else None)


def provider_problems(settings: Settings) -> Iterator[str]:
    """Yields a line for each account that has one half of its credentials: the setting, what is wrong, and the remedy."""
    given: dict[str, AccountProviderSettings] = {"": settings, **settings.accounts}
    for name, own in given.items():
        prefix = f"{PREFIX}ACCOUNTS__{name.upper()}__" if name else PREFIX
        if (own.api_login_id is None) != (not own.transaction_key):
            yield f"{prefix}API_LOGIN_ID and {prefix}TRANSACTION_KEY go together: set both, or neither"
        if not name and settings.shop_database_url is not None and settings.shop_query is None:
            yield f"{PREFIX}SHOP_DATABASE_URL is set without {PREFIX}SHOP_QUERY: set the query, or neither"
        if own.public_url is not None and (problem := unreachable(own.public_url, own.provider or settings.provider)):
            yield f"{prefix}PUBLIC_URL {problem}"


def unreachable(url: str, provider: str) -> str | None:
    """Returns why the provider would not deliver to a URL, and the remedy; None if it may. `provider`: as WEBHOOKD_PROVIDER.

    A provider on this machine, which is a simulator, reaches every address.
    """
    if is_loopback(NAMED.get(provider, provider)):
        return None
    parts = urlsplit(url)
    if parts.scheme != "https":
        return "begins with http://, and Authorize.Net delivers by https:// only: give the address with https://"
    host = (parts.hostname or "").rstrip(".")
    try:
        public = ipaddress.ip_address(host).is_global
    except ValueError:
        public = "." in host and not host.endswith((".local", ".internal", ".localhost"))
    return None if public else f"names {host}, which Authorize.Net cannot reach: give the public name of the receiver"
