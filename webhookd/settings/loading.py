"""Settings from every source. Every problem is found before anything starts, and no message holds a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ValidationError

from webhookd import sources
from webhookd.errors import SettingsError
from webhookd.settings.listing import shown
from webhookd.settings.model import CONFIGURATION, Settings
from webhookd.settings.values import DatabaseUrl
from webhookd.sources import PREFIX, Found, Layer

_OUT_OF_BOUNDS = ("greater_than_equal", "less_than_equal", "finite_number")
_ACCOUNT = re.compile(r"accounts__(?P<name>.+)__(?P<field>signature_keys)")


def load(**overrides: Any) -> Settings:
    """The settings from every source; `overrides` go first. Raises SettingsError, a line for each problem.

    No line holds a secret, nor what was given for one.
    """
    return load_from(sources.layers(), **overrides)


def load_from(layers: list[Layer], **overrides: Any) -> Settings:
    """The settings from `layers`, the strongest first; else as `load`."""
    problems = sources.slips(Settings.model_fields, layers)
    settings = None
    try:
        found = sources.find_all(Settings.model_fields, layers)
        problems += _borrowed_password(found.get("database_url"))
        settings = Settings.model_validate(_nested({name: one.value for name, one in found.items()} | overrides))
    except SettingsError as error:
        problems.append(str(error))
    except ValidationError as error:
        problems += _explained(error)
    if problems or settings is None:
        raise SettingsError("\n".join(problems)) from None
    return settings


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`accounts__eu__signature_keys` as {"accounts": {"eu": {"signature_keys": …}}}."""
    nested: dict[str, Any] = {}
    accounts: dict[str, Any] = {}
    for name, value in values.items():
        if match := _ACCOUNT.fullmatch(name):
            accounts[match["name"]] = {match["field"]: value}
        else:
            nested[name] = value
    if accounts and isinstance(nested.setdefault("accounts", {}), dict):
        nested["accounts"] = accounts | nested["accounts"]
    return nested


class _DatabaseUrl(BaseModel):
    """The one setting that a migration needs."""

    model_config = CONFIGURATION

    database_url: DatabaseUrl


def load_database_url() -> str:
    """The database's URL, for what needs no other setting and should not be given any. Raises SettingsError.

    No other secret's file is opened.
    """
    found = sources.find("database_url", sources.layers())
    if problems := list(_borrowed_password(found)):
        raise SettingsError("\n".join(problems))
    try:
        settings = _DatabaseUrl.model_validate({"database_url": found.value} if found else {})
    except ValidationError as error:
        raise SettingsError("\n".join(_explained(error))) from None
    return settings.database_url.get_secret_value()


def _borrowed_password(url: Found | None) -> Iterator[str]:
    """A line if the PostgreSQL client would send the user's PGPASSWORD to a database that a folder names."""
    if url is None or url.named_by is None or not os.environ.get("PGPASSWORD"):
        return
    try:
        parts = urlsplit(str(url.value))
        has_password = bool(parts.password or parse_qs(parts.query).get("password"))
    except ValueError:
        has_password = False
    if not has_password:
        yield (
            f"WEBHOOKD_DATABASE_URL: {url.source} names a database and no password, and PGPASSWORD of the environment goes to "
            "no address that a folder names: write the password into that URL, set the URL in the "
            "environment, or unset PGPASSWORD"
        )


def _explained(errors: ValidationError) -> list[str]:
    return [_explain(error) for error in errors.errors(include_input=False, include_url=False)]


def _explain(error: Any) -> str:
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    # Beyond the setting's own name stand positions, or names that were given: of use for accounts only.
    parts = error["loc"] if error["loc"][0] == "accounts" else error["loc"][:1]
    name = PREFIX + "__".join(str(part).upper() for part in parts)
    if error["type"] == "missing":
        meaning = Settings.model_fields[error["loc"][0]].description
        return f"{name} is not set: it names {meaning} (`webhookd dev` brings its own)"
    if error["loc"][0] in Settings.model_fields and error["type"] in _OUT_OF_BOUNDS:
        field = Settings.model_fields[error["loc"][0]]
        least, most = (
            next((getattr(bound, end) for bound in field.metadata if hasattr(bound, end)), None) for end in ("ge", "le")
        )
        return f"{name}: must be a number from {least:g} to {most:g}; the default is {shown(field.default) or 'none'}"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"
