"""The address of the admin API, and its token.

A token goes only to an address whose source could have named the token as well: see `sources.may_go`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from webhookd.errors import SettingsError
from webhookd.runtime.console import err
from webhookd.settings import sources
from webhookd.settings.sources import PREFIX, Found, Layer

_DEFAULT_LISTEN = "127.0.0.1:9090"
_TOKENS = ("admin_tokens", "read_tokens")


@dataclass(slots=True, frozen=True)
class ApiTarget:
    """The API's base URL, without a slash at its end, and the token, or None if none is known."""

    url: str
    token: str | None

    def __repr__(self) -> str:
        return f"ApiTarget({self.url!r})"


@dataclass(slots=True, frozen=True)
class _Address:
    """An address of the API.

    setting, source: the setting and the source that name the address.
    named_by: the folder of that source, None if the user names the address.
    explicit: whether the setting is the API's address, and not the address where a daemon listens.
    """

    url: str
    setting: str
    source: str = ""
    named_by: Path | None = None
    explicit: bool = False


def find(url: str | None, folder: Path) -> ApiTarget:
    """Finds the API: at `url`, else WEBHOOKD_API_URL, else this machine's daemon, else the `webhookd dev` of `folder`.

    This machine's own tokens go to loopback and to WEBHOOKD_ADMIN_LISTEN only, never to a given URL that leads elsewhere. An
    address that a folder names gets that folder's tokens only, on loopback only. Raises SettingsError if no address is known,
    if no token for another machine is known, or if the address or the token cannot work.
    """
    layers = sources.layers(folder)
    address = _address(url, layers)
    if address is None:
        raise SettingsError(
            "WEBHOOKD_API_URL is not set: set it to the admin API's address, or give --url, and set WEBHOOKD_API_TOKEN to "
            f"its token; or run this command in the folder of a `webhookd dev` ({folder / 'dev.env'} does not exist)"
        )
    loopback = sources.is_loopback(address.url)
    own = loopback or not address.explicit
    token, withheld = None, ""
    for setting, secret, text in _tokens(layers, own=own):
        if sources.may_go(secret, named_by=address.named_by, loopback=loopback):
            token = text
            break
        withheld = withheld or PREFIX + setting.upper()
    if token is None and withheld:
        raise SettingsError(_refusal(address, withheld, loopback=loopback))
    if token is None and not own:
        raise SettingsError(
            "WEBHOOKD_API_TOKEN is not set: give a token of the admin API, or its file's path in WEBHOOKD_API_TOKEN_FILE"
        )
    if withheld:
        _warn(_refusal(address, withheld, loopback=loopback) + f"; webhookd uses a token of {address.source}")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise SettingsError("WEBHOOKD_API_TOKEN holds white space, or characters that are not ASCII: copy the whole token")
    if address.url.startswith("http://") and token is not None and not loopback:
        _warn(f"the token goes unencrypted to {address.url}; use https://")
    return ApiTarget(address.url, token)


def _warn(text: str) -> None:
    err.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)


def _refusal(address: _Address, token: str, *, loopback: bool) -> str:
    remedy = "give the address as --url, or as WEBHOOKD_API_URL in the environment"
    if not loopback:
        return (
            f"{address.setting}: {address.source} names {address.url}, and an address that a folder names gets a token "
            f"only on this machine (127.0.0.1): {remedy}"
        )
    return (
        f"{token} is not sent to {address.url}, which {address.source} names: a folder's address gets only that "
        f"folder's tokens; {remedy}"
    )


def find_open(url: str | None, folder: Path) -> str:
    """Returns the address alone, for a command that needs no token. If none is known, returns a daemon's default address.

    Reads no file of a secret. Raises SettingsError if the address cannot work.
    """
    address = _address(url, sources.layers(folder))
    return address.url if address else _reachable(_DEFAULT_LISTEN)


def _address(url: str | None, layers: list[Layer]) -> _Address | None:
    if url:
        return _Address(_checked(url, "--url"), "--url", explicit=True)
    if found := sources.find("api_url", layers):
        name = "WEBHOOKD_API_URL"
        return _Address(_checked(str(found.value), name), name, found.source, found.named_by, explicit=True)
    listens = sources.find("admin_listen", layers)
    if listens is None and not sources.given(_TOKENS, layers):
        return None
    return _Address(
        _reachable(str(listens.value) if listens else _DEFAULT_LISTEN),
        "WEBHOOKD_ADMIN_LISTEN",
        listens.source if listens else "",
        sources.folder_that_names("admin_listen", layers, _DEFAULT_LISTEN),
    )


def _tokens(layers: list[Layer], *, own: bool) -> Iterator[tuple[str, Found, str]]:
    """Yields the known tokens, each with its setting and its source, the preferred token first. `own`: this machine's, too.

    Settings are read and not checked: a laptop has no database, and mistakes in other settings do not concern a command.
    """
    for setting in ("api_token", *(_TOKENS if own else ())):
        for found in sources.find_each(setting, layers):
            if text := _first(found.value) if setting in _TOKENS else str(found.value):
                yield setting, found, text


def _first(tokens: Any) -> str | None:
    """Returns the first token of `name:token,…`, or of a TOML file's list or table."""
    if isinstance(tokens, dict):
        return next((str(token) for token in tokens.values()), None)
    part = str(tokens or "").partition(",")[0] if not isinstance(tokens, list) else str(next(iter(tokens), ""))
    name, colon, token = part.strip().partition(":")
    return (token.strip() if colon else name) or None


def _checked(url: str, name: str) -> str:
    try:
        parts = urlsplit(url)
        # Libraries read white space and backslashes in different ways.
        good = (
            url.isprintable()
            and not re.search(r"[\s\\]", url)
            and parts.scheme in ("http", "https")
            and parts.hostname
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        good = False
    # The URL is not quoted: it may hold a password.
    if not good:
        raise SettingsError(f"{name}: give the full address, for example https://webhooks.example.com or http://127.0.0.1:9090")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(f"{name}: give the address without user, password, ? and #; the token is WEBHOOKD_API_TOKEN")
    return url.rstrip("/")


def _reachable(listen: str) -> str:
    """Returns the URL of a listener's address. A daemon may listen on every address, but a client connects to one."""
    host, _, port = listen.removeprefix("http://").rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104  connected to, not bound
    return _checked(f"http://{here}:{port}", "WEBHOOKD_ADMIN_LISTEN")
