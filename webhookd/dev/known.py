"""What is known to a development session and to those who talk to it: the settings, and what the last session brought."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic_settings
from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

from webhookd.errors import SettingsError
from webhookd.settings import Settings, load

# Stands for what is required and the session will bring, while the rest of the settings is checked.
_STAND_INS: dict[str, Any] = {"database_url": "postgresql://", "redis_url": "redis://", "signature_keys": "none"}


class _Lenient(Settings):
    """The settings with none required: its `model_fields_set` tells which ones some source gives."""

    database_url: SecretStr = SecretStr(_STAND_INS["database_url"])
    redis_url: SecretStr = SecretStr(_STAND_INS["redis_url"])
    signature_keys: tuple[SecretStr, ...] = (SecretStr(_STAND_INS["signature_keys"]),)


def given_settings() -> tuple[set[str], Settings]:
    """The names of the settings that some source gives, and all of them, with stand-ins for what is required and not given.

    Raises SettingsError with every problem.
    """
    try:
        given = _Lenient().model_fields_set
    except ValidationError as error:
        given = {str(problem["loc"][0]) for problem in error.errors(include_input=False) if problem["loc"]}
    except pydantic_settings.SettingsError:
        given = set()
    return given, load(**{name: value for name, value in _STAND_INS.items() if name not in given})


def known(folder: Path, *, whole: bool = True) -> tuple[Settings, list[str]]:
    """The settings, and beneath them what the last session in `folder` brought; with the variables taken from there.

    Without `whole`, only a signature key is required. Raises SettingsError where one is missing, or wrong.
    """
    given, _ = given_settings()
    kept = {name: value for name, value in dotenv_values(folder / "dev.env").items() if value}
    taken = {name: value for name, value in kept.items() if _field(name) in Settings.model_fields.keys() - given}
    if "WEBHOOKD_SQS_ENDPOINT_URL" in taken:
        os.environ.update({name: value for name, value in kept.items() if name.startswith("AWS_")})
    lower: dict[str, Any] = {_field(name): value for name, value in taken.items()}
    for name in () if whole else ("database_url", "redis_url"):
        lower.setdefault(name, _STAND_INS[name])
    return load(**lower), sorted(taken)


def _field(variable: str) -> str:
    return variable.removeprefix("WEBHOOKD_").lower()


@dataclass(slots=True, frozen=True)
class Target:
    """Where sample traffic goes, and the key that signs it."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Target({self.url!r})"


def target(folder: Path, *, account: str, url: str | None) -> Target:
    """The receiver's address and an account's key: from the settings, else from the last session in `folder`.

    Raises SettingsError where neither knows a key.
    """
    settings, _ = known(folder, whole=False)
    keys = settings.keys_by_account.get(account.lower())
    if not keys:
        name = "WEBHOOKD_SIGNATURE_KEYS" if account == "default" else f"WEBHOOKD_ACCOUNTS__{account.upper()}__SIGNATURE_KEYS"
        raise SettingsError(f"no key of the account {account!r} to sign with: set {name}")
    host, port = settings.public_address
    path = "/webhooks/authorize-net" + ("" if account == "default" else f"/{account.lower()}")
    scheme = "http" if settings.tls_certificate is None else "https"
    own = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    return Target(url or reachable(own) + path, keys[0])


def reachable(url: str) -> str:
    """`url` from this machine: one listens on every address, but connects to one."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
