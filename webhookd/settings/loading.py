"""Settings from every source. Every problem is found before anything starts, and no message holds a secret."""

from __future__ import annotations

from typing import Any, cast

import pydantic_settings
from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from webhookd.errors import SettingsError
from webhookd.settings.model import Settings
from webhookd.settings.values import DatabaseUrl
from webhookd.sources import PREFIX, config_file, misspelt, secret_files


def load(**overrides: Any) -> Settings:
    """The settings from every source; `overrides` go first. Raises SettingsError, a line for each problem.

    No line holds a secret, nor what was given for one.
    """
    problems = []
    try:
        problems = misspelt(Settings.model_fields)
        settings = Settings(**overrides)
    except ValidationError as error:
        problems += [_explain(one) for one in error.errors(include_input=False, include_url=False)]
    except pydantic_settings.SettingsError as error:
        # Its cause holds the text that would not parse, so only the message goes on: the field's and source's names.
        problems.append(f"{PREFIX}ACCOUNTS: {error}; use {PREFIX}ACCOUNTS__<NAME>__SIGNATURE_KEYS, or a TOML file")
    except SettingsError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems)) from None
    return settings


class _DatabaseUrl(BaseSettings):
    """The one setting that a migration needs, from the same sources."""

    model_config = Settings.model_config

    database_url: DatabaseUrl = cast(Any, ...)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources of all settings, but no other secret's file is opened."""
        files = pydantic_settings.InitSettingsSource(settings_cls, secret_files("database_url"))
        return env_settings, files, dotenv_settings, pydantic_settings.InitSettingsSource(settings_cls, config_file())


def load_database_url() -> str:
    """The database's URL, for what needs no other setting and should not be given any. Raises SettingsError."""
    try:
        return _DatabaseUrl().database_url.get_secret_value()
    except ValidationError as error:
        problems = [_explain(one) for one in error.errors(include_input=False, include_url=False)]
        raise SettingsError("\n".join(problems)) from None


def _explain(error: Any) -> str:
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    # Beyond the setting's own name stand positions, or names that were given: of use for accounts only.
    parts = error["loc"] if error["loc"][0] == "accounts" else error["loc"][:1]
    name = PREFIX + "__".join(str(part).upper() for part in parts)
    if error["type"] == "missing":
        meaning = Settings.model_fields[error["loc"][0]].description
        return f"{name} is not set: it names {meaning} (`webhookd dev` brings its own)"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"
