"""Where settings come from beside pydantic's own sources (files of secrets, a TOML file), and slips in their names."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from webhookd.errors import SettingsError

PREFIX = "WEBHOOKD_"
CONFIG = "WEBHOOKD_CONFIG"
CLIENT = ("WEBHOOKD_API_URL", "WEBHOOKD_API_TOKEN", "WEBHOOKD_API_TOKEN_FILE")  # of the operator's commands
SECRET = re.compile(r"(database_url|redis_url|signature_keys|admin_tokens|read_tokens|accounts__.+__signature_keys)")


def variables() -> dict[str, str | None]:
    """The environment's variables, and beneath them those of `.env`."""
    return {**dotenv_values(".env"), **os.environ}


def secret_files(only: str | None = None) -> dict[str, Any]:
    """What stands in the files of `WEBHOOKD_<NAME>_FILE`, and in systemd's credentials, named as the setting with or without
    `webhookd_`; where `only` one setting is asked for, no other one's file is read. Raises SettingsError.
    """
    files: dict[str, tuple[str, Path]] = {}
    if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
        for path in sorted(Path(folder).glob("*")):
            files[path.name.lower().removeprefix(PREFIX.lower())] = (path.name, path)
    for name, value in variables().items():
        if value and name.upper().startswith(PREFIX) and name.upper().endswith("_FILE"):
            files[name[len(PREFIX) : -len("_FILE")].lower()] = (name, Path(value))
    found: dict[str, Any] = {}
    for setting, (name, path) in files.items():
        if SECRET.fullmatch(setting) and (only is None or setting == only):
            *parents, last = setting.split("__")
            inner = found
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = _read(name, path).strip()
    return found


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{name}: cannot read {path} ({type(error).__name__}); "
            "check that it is there, is text, and that webhookd's user may read it"
        ) from None


def config_file() -> dict[str, Any]:
    """What stands in the TOML file that WEBHOOKD_CONFIG names; {} where it names none. Raises SettingsError."""
    path = variables().get(CONFIG)
    if not path:
        return {}
    try:
        return tomllib.loads(_read(CONFIG, Path(path)))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{CONFIG}: {path} is not TOML: {error}") from None


def misspelt(fields: Iterable[str]) -> list[str]:
    """A line for each name that looks like a setting and is none: a slip must not leave a default in force unseen."""
    known = {CONFIG, *CLIENT, *(PREFIX + name.upper() for name in fields)}
    files = {name + "_FILE" for name in known if SECRET.fullmatch(name.removeprefix(PREFIX).lower())}
    given_variables = variables()
    given = [(name, name.upper()) for name in given_variables]
    given += [(f"{given_variables[CONFIG]}: {name}", PREFIX + name.upper()) for name in config_file()]
    # Kubernetes tells every pod of a Service "webhookd" by WEBHOOKD_SERVICE_HOST, WEBHOOKD_PORT_8080_TCP and others.
    services = [name.removesuffix("SERVICE_HOST") for name in os.environ if name.endswith("_SERVICE_HOST")]
    foreign = ("WEBHOOKD_DEV_", "WEBHOOKD_TEST_", *(name + end for name in services for end in ("SERVICE_", "PORT")))
    problems = []
    for name, variable in sorted(given):
        if variable in known | files or not variable.startswith(PREFIX) or variable.startswith(foreign):
            continue
        if re.fullmatch(r"WEBHOOKD_ACCOUNTS__.+__SIGNATURE_KEYS(_FILE)?", variable):
            if not given_variables.get(name):  # would else count as not set, and the account's webhooks be answered 404
                problems.append(f"{name} is empty; set a key, or drop the account")
            continue
        # Without the prefix, which would make any two names look alike.
        names = sorted(name.removeprefix(PREFIX) for name in known | files)
        near = difflib.get_close_matches(variable.removeprefix(PREFIX), names, n=1)
        remedy = f"did you mean {PREFIX}{near[0]}?" if near else "`webhookd settings` lists them"
        problems.append(f"{name} is not a setting; {remedy}")
    return problems
