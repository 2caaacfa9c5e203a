"""The list of all settings, for `webhookd settings` and the guide."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from webhookd.settings.alerts import AlertSettings
from webhookd.settings.destinations import DestinationSettings
from webhookd.settings.model import Role, Settings
from webhookd.settings.provider import FIELDS, AccountProviderSettings
from webhookd.settings.sources import CONFIG, PREFIX

_SECTIONS: dict[str, type[BaseModel]] = {"alerts": AlertSettings, "destinations": DestinationSettings}


def describe() -> list[tuple[str, str, str]]:
    """Returns (environment variable, default, meaning) of every setting. A secret may also be a file's path, in `…_FILE`."""
    rows = [(CONFIG, "", "Path of a TOML file of settings: their names in lower case, without WEBHOOKD_.")]
    for name in in_order():
        field = Settings.model_fields[name]
        if (section := _SECTIONS.get(name)) is not None:
            rows += [_row(f"{name}__<name>__{own}", inner) for own, inner in section.model_fields.items()]
        elif name == "accounts":
            rows.append(_row("accounts__<name>__signature_keys", field))
            own_fields = AccountProviderSettings.model_fields
            rows += [_row(f"accounts__<name>__{own}", inner) for own, inner in own_fields.items()]
        else:
            rows.append(_row(name, field))
    return rows


def in_order() -> list[str]:
    """Returns the names of all settings in the order of lists: those of the provider before those of further accounts."""
    names = [name for name in Settings.model_fields if name not in FIELDS]
    at = names.index("accounts")
    return [*names[:at], *FIELDS, *names[at:]]


def _row(variable: str, field: FieldInfo) -> tuple[str, str, str]:
    default = "required" if field.is_required() else shown(field.default)
    return PREFIX + variable.upper(), default, field.description or ""


def shown(default: object) -> str:
    """Returns a default as it would be written in the environment."""
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    if isinstance(default, frozenset):
        return ",".join(role for role in Role if role in default)
    if isinstance(default, bool):
        return str(default).lower()
    return str(int(default)) if isinstance(default, float) and default.is_integer() else str(default)
