"""The URL of a webhook: when two of them are the same, and which ones the provider cannot reach."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import SplitResult, unquote, urlsplit

from webhookd.deliver.addresses import is_public
from webhookd.errors import SettingsError

_PORTS = {"https": 443, "http": 80}
_LOOK_UP = 10.0  # seconds


def same_url(one: str, other: str) -> bool:
    """Returns whether two URLs lead to one place: scheme and host without case, the port, and the path as webhookd reads it."""
    return _place(one) == _place(other)


def _place(url: str) -> tuple[object, ...]:
    try:
        parts = urlsplit(url.strip())
        scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
        # A path with a slash at its end is served as the path without one.
        return scheme, host, parts.port or _PORTS.get(scheme), unquote(parts.path).rstrip("/"), parts.query
    except ValueError:
        return (url,)


async def check_url(url: str, *, private: bool = False) -> None:
    """Returns if the provider can deliver to a URL. Raises SettingsError with the reason and the remedy.

    private: the name may lead to private addresses here, because it leads to a public one on the internet.
    """
    parts = parts_of(url)
    if parts.scheme.lower() != "https":
        raise SettingsError(f"{url}: Authorize.Net delivers by https only: give a URL that begins with https://")
    host = parts.hostname or ""
    try:
        async with asyncio.timeout(_LOOK_UP):
            found = await asyncio.get_running_loop().getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
    except OSError as error:
        why = getattr(error, "strerror", None) or "no answer in time"
        raise SettingsError(f"{url}: the name {host} cannot be resolved ({why}): correct the URL, or the name's DNS") from None
    addresses = sorted({str(place[4][0]) for place in found})
    closed = [one for one in addresses if not is_public(one)]
    if closed and not private:
        raise SettingsError(
            f"{url}: {host} leads to {', '.join(closed)}, which is private, so Authorize.Net cannot reach it: give the URL as "
            "the internet knows it; if the name leads elsewhere on the internet than here, add --allow-private"
        )


def parts_of(url: str) -> SplitResult:
    """Returns the parts of a webhook's URL. Raises SettingsError, without the URL, if it cannot be one."""
    wrong = SettingsError("the webhook's URL must be as https://hooks.example.com/webhooks/authorize-net, without a user")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its message quotes the URL
        raise wrong from None
    odd = not url.isascii() or not url.isprintable() or any(mark in url for mark in " #@\\")
    if odd or parts.scheme.lower() not in _PORTS or not parts.hostname or not parts.path.strip("/"):
        raise wrong
    return parts
