"""Where the admin API is, and the token for it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from webhookd.console import err
from webhookd.errors import SettingsError
from webhookd.sources import PREFIX, config_file, secret_files, variables

_DEFAULT_LISTEN = "127.0.0.1:9090"
_TOKENS = ("ADMIN_TOKENS", "READ_TOKENS")


@dataclass(slots=True, frozen=True)
class Target:
    """The API's base URL, without a slash at its end, and the token, or None where none is known."""

    url: str
    token: str | None

    def __repr__(self) -> str:
        return f"Target({self.url!r})"


def find(url: str | None, folder: Path) -> Target:
    """`url`, else WEBHOOKD_API_URL, else this machine's daemon, else the `webhookd dev` of `folder`.

    This machine's own tokens go to loopback and to WEBHOOKD_ADMIN_LISTEN only, never to a URL that was given and leads
    elsewhere. Raises SettingsError where no address is known, no token for another machine, or one of them cannot work.
    """
    given = _given()
    own = _own(folder, given)
    named = _named(url, given)
    if named:
        address = named
    elif "ADMIN_LISTEN" in own or given.keys() & set(_TOKENS):
        address = _reachable(str(own.get("ADMIN_LISTEN", _DEFAULT_LISTEN)))
    else:
        raise SettingsError(
            "WEBHOOKD_API_URL is not set: give the admin API's address, there or as --url, and its token as "
            f"WEBHOOKD_API_TOKEN; or run this in the folder of a `webhookd dev` ({folder / 'dev.env'} is not there)"
        )
    token = _api_token(given)
    if token is None and (not named or _is_loopback(address)):
        token = next((first for setting in _TOKENS if (first := _first(own.get(setting)))), None)
    elif token is None:
        raise SettingsError("WEBHOOKD_API_TOKEN is not set: give a token of the admin API, or its file's path in …_FILE")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise SettingsError("WEBHOOKD_API_TOKEN holds white space, or what is not ASCII: see that it was copied whole")
    if address.startswith("http://") and token is not None and not _is_loopback(address):
        err.print(
            f"warning: the token goes unencrypted to {address}; use https://", style="yellow", markup=False, soft_wrap=True
        )
    return Target(address, token)


def find_open(url: str | None, folder: Path) -> str:
    """The address alone, for what needs no token; where none is known, that at which a daemon listens by default.

    No file of a secret is read. Raises SettingsError where the address cannot work.
    """
    given = {**{name.upper(): value for name, value in config_file().items()}, **_listed()}
    own = _own(folder, given)
    return _named(url, given) or _reachable(str(own.get("ADMIN_LISTEN", _DEFAULT_LISTEN)))


def _own(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """This machine's settings: those given, and beneath them those of the `webhookd dev` of `folder`."""
    kept = {_name(variable): value for variable, value in dotenv_values(folder / "dev.env").items() if value}
    return {**kept, **given}


def _named(url: str | None, given: Mapping[str, Any]) -> str | None:
    named, name = (url, "--url") if url else (given.get("API_URL"), "WEBHOOKD_API_URL")
    return _checked(str(named), name) if named else None


def _listed() -> dict[str, Any]:
    return {_name(name): value for name, value in variables().items() if value}


def _given() -> dict[str, Any]:
    """Settings that some source gives, by their names without WEBHOOKD_; which source wins is as for the daemon.

    Only read, not checked: a laptop has no database, and another setting's fault is no matter of these commands.
    """
    files = {name.upper(): value for name, value in secret_files().items()}
    return {**{name.upper(): value for name, value in config_file().items()}, **files, **_listed()}


def _name(variable: str) -> str:
    return variable.upper().removeprefix(PREFIX)


def _api_token(given: Mapping[str, Any]) -> str | None:
    path = given.get("API_TOKEN_FILE")
    if "API_TOKEN" in given or not path:
        return given.get("API_TOKEN")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"WEBHOOKD_API_TOKEN_FILE: cannot read {path} ({type(error).__name__})") from None


def _first(tokens: Any) -> str | None:
    """The first token of `name:token,…`, or of a TOML file's list or table."""
    if isinstance(tokens, dict):
        return next((str(token) for token in tokens.values()), None)
    part = str(tokens or "").partition(",")[0] if not isinstance(tokens, list) else str(next(iter(tokens), ""))
    name, colon, token = part.strip().partition(":")
    return (token.strip() if colon else name) or None


def _checked(url: str, name: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    # The URL is not quoted: it may hold a password.
    if not good:
        raise SettingsError(f"{name}: give the whole address, as https://webhooks.example.com or http://127.0.0.1:9090")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(f"{name}: give the address without user, password, ? and #; the token is WEBHOOKD_API_TOKEN")
    return url.rstrip("/")


def _reachable(listen: str) -> str:
    """The URL of an address that is listened on: one listens on every address, but connects to one."""
    host, _, port = listen.removeprefix("http://").rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104  connected to, not bound
    return _checked(f"http://{here}:{port}", "WEBHOOKD_ADMIN_LISTEN")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
