"""Which webhooks of an account are webhookd's own: the history lists the notifications of all of them."""

from __future__ import annotations

from urllib.parse import urlsplit

_PORTS = {"https": 443, "http": 80}


def same_place(one: str, other: str) -> bool:
    """Returns whether two URLs lead to one endpoint. The host's case, a default port and a slash at the end do not count."""
    try:
        return _place(one) == _place(other)
    except ValueError:  # a port that is none: the provider may list anything
        return False


def _place(url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(url.strip())
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(scheme), parts.path.rstrip("/")
