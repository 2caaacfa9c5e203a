"""The settings in force: each value and its source, without a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from webhookd.authorizenet.signature import fingerprint

if TYPE_CHECKING:
    from webhookd.settings import Settings
    from webhookd.settings.alerts import AlertSettings
    from webhookd.settings.destinations import DestinationSettings
    from webhookd.settings.sources import Layer

_URLS = ("database_url", "redis_url", "shop_database_url")
_TOKENS = ("admin_tokens", "read_tokens")
_OF_THE_PROVIDER = ("api_login_id", "transaction_key", "provider", "public_url", "time_zone")
_KEYS = ("signature_keys", "api_login_id", "transaction_key", "shop_query")
_DEFAULT = "default"


def effective(settings: Settings, layers: list[Layer]) -> list[tuple[str, str, str]]:
    """Returns (variable, value, source) of every setting.

    URLs are shown without user, password and options, keys, tokens and addresses for alerts as fingerprints.
    """
    from webhookd.settings.listing import in_order
    from webhookd.settings.sources import PREFIX

    rows = []
    for name in in_order():
        if name == "accounts":
            for account, own in settings.accounts.items():
                for field in ("signature_keys", *(name for name in _OF_THE_PROVIDER if getattr(own, name))):
                    variable = f"accounts__{account}__{field}"
                    rows.append((variable, _shown(field, getattr(own, field)), _source(variable, layers)))
        elif name in ("alerts", "destinations"):
            for own, section in getattr(settings, name).items():
                for field in type(section).model_fields:
                    variable = f"{name}__{own}__{field}"
                    rows.append((variable, _shown_field(field, section), _source(variable, layers)))
        else:
            rows.append((name, _shown(name, getattr(settings, name)), _source(name, layers)))
    return [(PREFIX + name.upper(), value, source) for name, value, source in rows]


def _shown(name: str, value: Any) -> str:
    from webhookd.settings.listing import shown
    from webhookd.settings.values import revealed, without_password

    if name in _URLS:
        return "" if value is None else without_password(value)
    if name in _KEYS:
        return _fingerprints(value if isinstance(value, tuple) else filter(None, [value]))
    if name in _TOKENS:
        return ",".join(f"{owner}:{fingerprint(revealed(token))}" for owner, token in sorted(value.items()))
    if isinstance(value, Mapping):
        return ",".join(sorted(value))  # a mapping's values could hold secrets
    return ",".join(map(str, value)) if isinstance(value, tuple) else shown(value)


def _shown_field(field: str, section: AlertSettings | DestinationSettings) -> str:
    from webhookd.settings.destinations import DestinationSettings
    from webhookd.settings.values import revealed

    value = getattr(section, field)
    if field == "url" and isinstance(section, DestinationSettings):
        return section.place
    if field in ("url", "secret"):
        return "" if value is None else fingerprint(revealed(value))  # a path of such a URL is a token
    return _fingerprints(value) if field == "secrets" else _shown(field, value)


def _fingerprints(keys: Any) -> str:
    from webhookd.settings.values import revealed

    return ",".join(fingerprint(revealed(key)) for key in keys)


def _source(name: str, layers: list[Layer]) -> str:
    for layer in layers:
        if name in layer.values:
            return layer.source
        if name in layer.files:
            return f"{layer.source}: the file {layer.files[name][1]}"
    return _DEFAULT
