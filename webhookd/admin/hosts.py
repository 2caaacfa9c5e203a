"""The host names that the admin listener answers to, and the pages that may make changes through a browser.

Without this check, a page of any site could read events by DNS rebinding: the site points its own name at this listener, and
the browser takes both for one site.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from aiohttp import web

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_LONGEST = 300  # characters; a name has at most 253
_PORTS = {"http": 80, "https": 443}
_OURS = ("same-origin", "none")  # values of Sec-Fetch-Site; none: the person used the address bar or a bookmark


class Hosts:
    """The listener's host names: the loopback names, its own address, and the names in `given` (`host` or `host:port`)."""

    def __init__(self, listens_on: str, given: Iterable[str]) -> None:
        given = list(given)
        pairs = [pair for name in given if (pair := _parts(name)) is not None]
        self._names = {"localhost", _plain(listens_on), *(host for host, _ in pairs)} - {"0.0.0.0", "::"}  # noqa: S104
        self._given = set(pairs)

    def knows(self, request: web.BaseRequest) -> bool:
        """Returns whether the request's Host names this listener."""
        pair = _host(request)
        if pair is None:
            return False
        name = pair[0]
        own = request.get_extra_info("sockname")
        if name in self._names or (own and name == _plain(str(own[0]))):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def is_cross_origin(self, request: web.BaseRequest) -> bool:
        """Returns whether a browser reports that a page of another site, or of another port, sent the request."""
        if request.headers.get("Sec-Fetch-Site", "none") not in _OURS:
            return True
        origin = request.headers.get("Origin")
        if origin is None:
            return False
        scheme, _, authority = origin.partition("://")
        pair, own = _parts(authority), _host(request)
        if scheme not in _PORTS or pair is None or own is None:
            return True
        usual = _PORTS[scheme]
        page = pair[0], pair[1] or usual
        return page != (own[0], own[1] or usual) and page not in {(host, port or usual) for host, port in self._given}


def _host(request: web.BaseRequest) -> tuple[str, int | None] | None:
    given = request.headers.getall("Host", ())
    return _parts(given[0]) if len(given) == 1 else None


def _parts(text: str) -> tuple[str, int | None] | None:
    """Returns host and port of `host`, `host:port` or `[::1]:port`, in lower case, or None if `text` is none of these."""
    match = _HOST.fullmatch(text.lower()) if len(text) <= _LONGEST else None
    return None if match is None else (_plain(match[1]), None if match[2] is None else int(match[2]))


def _plain(host: str) -> str:
    """Returns a host in one spelling: an address as Python writes it, a name in lower case without the dot at its end."""
    host = host.strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().removesuffix(".")
    return str(getattr(address, "ipv4_mapped", None) or address)


def shown(request: web.BaseRequest) -> str:
    """Returns the request's host name for an error message, or nothing if Host is no host name."""
    pair = _host(request)
    return "" if pair is None else f" {pair[0]!r}"
