"""The settings for asking Authorize.Net: the credentials of each account, and the address of the provider's API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from webhookd.settings.sources import PREFIX, is_loopback
from webhookd.settings.values import Keys, revealed

if TYPE_CHECKING:
    from webhookd.settings.model import Settings

# Contract: AnetApiSchema.xsd, merchantAuthenticationType. A colon would end the user's name of HTTP Basic authentication.
_LOGIN_ID = re.compile(r"[!-9;-~]{1,25}")
_TRANSACTION_KEY = re.compile(r"[0-9A-Za-z]{1,16}")
_SIGNATURE_KEY = re.compile(r"[0-9A-Fa-f]{128}")
_MOST_KEYS = 2  # the new key and the one before: each further key would cost a refused call, and refusals may lock the account
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


def _setting(default: Any, meaning: str, **limits: Any) -> Any:
    return Field(default, description=meaning, **limits)


Provider = Annotated[str, AfterValidator(_provider)]


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


FIELDS = tuple(ProviderSettings.model_fields)


@dataclass(slots=True, frozen=True)
class ProviderAccess:
    """The address and the credentials of one account's client.

    url: scheme and host. timeout: seconds of a call. rate: calls per second.
    """

    account: str
    url: str
    login_id: SecretStr
    keys: tuple[SecretStr, ...]
    timeout: float = 20.0
    rate: float = 2.0

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
            found[name] = ProviderAccess(name, url, login_id, keys, settings.provider_timeout, settings.provider_rate)
    return found


def provider_problems(settings: Settings) -> Iterator[str]:
    """Yields a line for each account that has one half of its credentials: the setting, what is wrong, and the remedy."""
    given: dict[str, AccountProviderSettings] = {"": settings, **settings.accounts}
    for name, own in given.items():
        prefix = f"{PREFIX}ACCOUNTS__{name.upper()}__" if name else PREFIX
        if (own.api_login_id is None) != (not own.transaction_key):
            yield f"{prefix}API_LOGIN_ID and {prefix}TRANSACTION_KEY go together: set both, or neither"
