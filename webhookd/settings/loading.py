"""Loads settings from every source. Every problem is found before anything starts, and no message holds a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo

from webhookd.errors import SettingsError
from webhookd.settings import sources
from webhookd.settings.alerts import AlertSettings
from webhookd.settings.destinations import DestinationSettings
from webhookd.settings.fit import database_problems
from webhookd.settings.listing import shown
from webhookd.settings.model import CONFIGURATION, Settings
from webhookd.settings.provider import NAMED
from webhookd.settings.sources import NO_FILE, PREFIX, Found, Layer
from webhookd.settings.values import DatabaseAuth, DatabaseUrl, Region, SchemaName

# The types of pydantic's errors for a number, for one of several choices, and for other types in a TOML file.
_NUMBER = re.compile(r"greater_than_equal|less_than_equal|finite_number|int_.+|float_.+")
_CREDENTIALS = re.compile(r"(accounts__.+__)?(api_login_id|transaction_key)")  # of the provider's API
_CHOICE = re.compile(r"literal_error|enum|bool_.+")
_KINDS = {
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list, or text with commas between its parts",
    "frozen_set_type": "a list, or text with commas between its parts",
}


def load(**overrides: Any) -> Settings:
    """Returns the settings from every source; `overrides` are the strongest. Raises SettingsError, a line for each problem.

    No line holds a secret, nor a value that was given for a secret. Without the role `sync`, the credentials of the provider's
    API count as not given, and their files are not read: a command that needs them gives `roles`.
    """
    return load_from(sources.layers(), **overrides)


def secret_files() -> list[Path]:
    """Returns the files from which `load` reads secrets now. Raises SettingsError."""
    return sources.secret_files(sources.layers())


def load_from(layers: list[Layer], **overrides: Any) -> Settings:
    """Returns the settings from `layers`, the strongest first; else as `load`."""
    problems = sources.slips(Settings.model_fields, layers)
    settings = None
    given: dict[str, Found] = {}
    try:
        given = sources.find_all(Settings.model_fields, layers, None if _asks_the_provider(layers, overrides) else _CREDENTIALS)
        problems += _borrowed_password(given.get("database_url"))
        problems += _borrowed_password(given.get("shop_database_url"), "WEBHOOKD_SHOP_DATABASE_URL")
        problems += _stray_schema(given)
        problems += _stray_headers(given)
        problems += _stray_transaction_keys(given)
        settings = Settings.model_validate(_nested({name: one.value for name, one in given.items()} | overrides))
    except SettingsError as error:
        problems.append(str(error))
    except ValidationError as error:
        problems += _explained(error, {name: one for name, one in given.items() if name not in overrides})
    if problems or settings is None:
        raise SettingsError("\n".join(problems)) from None
    return settings


def _asks_the_provider(layers: list[Layer], overrides: Mapping[str, Any]) -> bool:
    """Returns whether this process has the role that asks the provider. A process that receives need not know those secrets."""
    roles = overrides.get("roles")
    if roles is None:
        found = sources.find("roles", layers)
        roles = None if found is None else found.value
    if isinstance(roles, str):
        roles = roles.split(",")
    return not isinstance(roles, Collection) or "sync" in {str(role).strip() for role in roles}


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turns `accounts__eu__signature_keys` into {"accounts": {"eu": {"signature_keys": …}}}."""
    nested: dict[str, Any] = {}
    sections: dict[str, dict[str, dict[str, Any]]] = {}
    for name, value in values.items():
        if (parts := sources.nested(name)) is not None:
            section, one, field = parts
            sections.setdefault(section, {}).setdefault(one, {})[field] = value
        else:
            nested[name] = value
    for section, found in sections.items():
        if isinstance(nested.setdefault(section, {}), dict):
            nested[section] = found | nested[section]
    return nested


class DatabaseSettings(BaseModel):
    """The settings that a migration needs."""

    model_config = CONFIGURATION

    database_url: DatabaseUrl
    database_schema: SchemaName = Settings.model_fields["database_schema"].default
    database_auth: DatabaseAuth = "password"
    sqs_region: Region | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> DatabaseSettings:
        if problems := list(database_problems(self.database_url, self.database_auth)):
            raise ValueError("\n".join(problems))
        return self


def load_database(**overrides: Any) -> DatabaseSettings:
    """Returns the settings of the database, for code that needs no other setting and should get none. Raises SettingsError.

    `overrides` are the strongest. No other secret's file is opened.
    """
    layers = sources.layers()
    wanted = DatabaseSettings.model_fields.keys() - overrides.keys()
    given = {name: one for name in wanted if (one := sources.find(name, layers))}
    if problems := [*_borrowed_password(given.get("database_url")), *_stray_schema(given)]:
        raise SettingsError("\n".join(problems))
    try:
        return DatabaseSettings.model_validate({name: one.value for name, one in given.items()} | overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_explained(error, given))) from None


def _borrowed_password(url: Found | None, name: str = "WEBHOOKD_DATABASE_URL") -> Iterator[str]:
    """Yields a line if the PostgreSQL client would send a password of the user's to a database that a folder names.

    Passwords of a file (PGPASSFILE, ~/.pgpass) are kept from such a database without a message: most users have no such file.
    """
    if url is None or url.named_by is None:
        return
    os.environ["PGPASSFILE"] = NO_FILE
    try:
        parts = urlsplit(str(url.value))
        query = parse_qs(parts.query)
        has_password = bool(parts.password or query.get("password"))
    except ValueError:
        query, has_password = {}, False
    if "passfile" in query:
        yield f"{name}: {url.source} may not name a password file: set the URL in the environment"
    if os.environ.get("PGPASSWORD") and not has_password:
        yield (
            f"{name}: {url.source} names a database without a password, and webhookd sends the environment's "
            "PGPASSWORD to no address that a folder names: write the password into that URL, set the URL in the "
            "environment, or unset PGPASSWORD"
        )


def _stray_schema(found: Mapping[str, Found]) -> Iterator[str]:
    """Yields a line if a folder names the schema of the user's database: events would go where nobody looks for them."""
    url, schema = found.get("database_url"), found.get("database_schema")
    if url is not None and schema is not None and url.named_by is None and schema.named_by is not None:
        yield (
            f"WEBHOOKD_DATABASE_SCHEMA: {schema.source} names the schema, but not the database: "
            "set the schema where WEBHOOKD_DATABASE_URL is set"
        )


def _stray_headers(found: Mapping[str, Found]) -> Iterator[str]:
    """Yields a line for each destination whose address a folder names, and whose headers another source holds."""
    for name, headers in found.items():
        if not name.startswith("destinations__") or not name.endswith("__headers"):
            continue
        url = found.get(name.removesuffix("headers") + "url")
        if url is not None and url.named_by is not None and headers.kept_in != url.named_by:
            yield (
                f"{PREFIX}{name.upper()}: {url.source} names the address, and webhookd sends headers from elsewhere to no "
                "address that a folder names: set both in the environment, or both in that file"
            )


def _stray_transaction_keys(found: Mapping[str, Found]) -> Iterator[str]:
    """Yields a line for each Transaction Key of another source that would go to an address that a folder names."""
    for name, key in found.items():
        if not name.endswith("transaction_key"):
            continue
        place = found.get(name.removesuffix("transaction_key") + "provider", found.get("provider"))
        if place is not None and place.named_by is not None and place.value not in NAMED and key.kept_in != place.named_by:
            yield (
                f"{PREFIX}{name.upper()}: {place.source} names the provider's address, and webhookd sends a Transaction Key "
                "from elsewhere to no address that a folder names: set both in the environment, or both in that file"
            )


def _explained(errors: ValidationError, given: Mapping[str, Found]) -> list[str]:
    return [_explain(error, given) for error in errors.errors(include_input=False, include_url=False)]


_SECTIONS: dict[str, type[BaseModel]] = {"alerts": AlertSettings, "destinations": DestinationSettings}


def _explain(error: Any, given: Mapping[str, Found]) -> str:
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    # After the setting's own name come positions, or names that were given. They are of use for sections only.
    section = error["loc"][0]
    parts = error["loc"][:3] if section in sources.SECTIONS else error["loc"][:1]
    name = PREFIX + "__".join(str(part).upper() for part in parts)
    if error["type"] == "missing" and len(parts) > 1:
        return f"{name} is not set: set it, or drop the other settings of this name"
    field = Settings.model_fields.get(section)
    if section in _SECTIONS and len(parts) > 2:
        field = _SECTIONS[section].model_fields.get(parts[2])
    if error["type"] == "missing":
        meaning = ((field.description if field else "") or "").removesuffix(".")
        return f"{name} is not set: set it ({meaning}), or run `webhookd dev`, which sets its own"
    found = given.get(name.removeprefix(PREFIX).lower())
    place = f" ({found.source} sets it)" if found is not None and found.source != sources.ENVIRONMENT else ""
    if field is not None and (wanted := _wanted(error, field)):
        return f"{name}: must be {wanted}; the default is {shown(field.default) or 'none'}{place}"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}{place}"


def _wanted(error: Any, field: FieldInfo) -> str | None:
    """Returns what the setting must be, if its value is of another type or out of bounds. Does not quote the value."""
    if _NUMBER.fullmatch(error["type"]):
        least, most = (
            next((getattr(bound, end) for bound in field.metadata if hasattr(bound, end)), None) for end in ("ge", "le")
        )
        return f"a {'' if field.annotation in (float, float | None) else 'whole '}number from {least:g} to {most:g}"
    if _CHOICE.fullmatch(error["type"]):
        choices = str(error.get("ctx", {}).get("expected", "true or false")).replace("'", "")
        return (
            choices
            if not isinstance(error["loc"][-1], int)  # else it is one of a list
            else f"any of {choices}, with commas between them"
        )
    return _KINDS.get(error["type"])
