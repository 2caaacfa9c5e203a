"""The list of all settings, for `webhookd settings` and the guide."""

from __future__ import annotations

from webhookd.settings.alerts import AlertSettings
from webhookd.settings.model import Role, Settings
from webhookd.settings.sources import CONFIG, PREFIX


def describe() -> list[tuple[str, str, str]]:
    """Returns (environment variable, default, meaning) of every setting. A secret may also be a file's path, in `…_FILE`."""
    rows = [(CONFIG, "", "Path of a TOML file of settings: their names in lower case, without WEBHOOKD_.")]
    for name, field in Settings.model_fields.items():
        if name == "alerts":
            for own, inner in AlertSettings.model_fields.items():
                rows.append((f"{PREFIX}ALERTS__<NAME>__{own.upper()}", "", inner.description or ""))
            continue
        default = "required" if field.is_required() else shown(field.default)
        variable = "accounts__<name>__signature_keys" if name == "accounts" else name
        rows.append((PREFIX + variable.upper(), default, field.description or ""))
    return rows


def shown(default: object) -> str:
    """Returns a default as it would be written in the environment."""
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, frozenset):
        return ",".join(role for role in Role if role in default)
    if isinstance(default, bool):
        return str(default).lower()
    return str(int(default)) if isinstance(default, float) and default.is_integer() else str(default)
