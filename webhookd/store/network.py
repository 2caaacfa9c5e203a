"""Reports why no connection to a server can be made, and the remedy: an unreadable URL, an unknown host, a closed port."""

from __future__ import annotations

import re
import socket

from webhookd.errors import causes_of
from webhookd.store.tls import Options

_ESCAPES = {"@": "%40", "/": "%2F", "#": "%23", "?": "%3F", "[": "%5B", "]": "%5D"}
_OPTIONS = re.compile(r"\?(?=[a-z_]+=)")
# At most one @, before the host: if a password is not escaped, no part of the URL is safe to show.
_PLACE = re.compile(r"\w+://(?:[^/?#@\[\]]*@)?(?P<host>[^/@?#]+)(?:[/?#][^@]*)?")


def network_problem(error: BaseException, url: str, server: Options) -> str | None:
    """Returns why `error` prevents a connection to the server at `url`, and the remedy; None if `error` has another meaning."""
    causes = causes_of(error)
    unread = isinstance(error, ValueError | TypeError) or isinstance(error.__cause__, ValueError | TypeError)
    known = next((reason for one in causes if (reason := _reason(one, url, server))), None)
    if known is None and not unread and not any(isinstance(one, OSError) for one in causes):
        return None
    if slip := unescaped(url, server):
        return slip
    if known is None and unread:
        return unreadable(url, server)
    return known


def unreadable(url: str, server: Options) -> str:
    """Returns the sentence for a URL that its library cannot read."""
    form = f"{server.setting} cannot be read: write it as {server.example}, and check the options after the question mark"
    return unescaped(url, server) or form


def unescaped(url: str, server: Options) -> str | None:
    """Returns which characters of the password in `url` must be escaped, if they change the host of the URL; else None."""
    place = _OPTIONS.split(url.partition("://")[2], maxsplit=1)[0]
    user, _, _ = place.rpartition("@")
    if user.startswith("/"):  # the path of a socket
        return None
    wrong = [sign for sign in server.reserved if sign in user]
    if not wrong:
        return None
    return (
        f"the password in {server.setting} holds {_listed(wrong)}, and there the URL's host or path seems to begin: "
        f"write {_listed([_ESCAPES[sign] for sign in wrong])} instead"
    )


def place_of(url: str) -> str:
    """Returns host and port of a URL for a message; empty if a part of a password could be among them."""
    match = _PLACE.fullmatch(url)
    return match["host"] if match else ""


def _listed(signs: list[str]) -> str:
    return " and ".join(signs)


def _reason(error: BaseException, url: str, server: Options) -> str | None:
    place = place_of(url)
    at = f" at {place}" if place else ""
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return f"the host in {server.setting}{_named(place)} cannot be looked up now: check the name server of this machine"
        return f"the host in {server.setting}{_named(place)} is unknown: correct the host there, or add it to the name server"
    if isinstance(error, TimeoutError):
        return (
            f"{server.name}{at} has not answered in time: correct host and port in {server.setting}, or let the firewalls in "
            "between admit this machine" + _without_tls(url, server)
        )
    if isinstance(error, FileNotFoundError):
        return f"the socket that {server.setting} names does not exist: start {server.name}, or correct the path"
    # asyncio joins the errors of several addresses into one, and keeps their numbers in its text only.
    if isinstance(error, ConnectionRefusedError) or (isinstance(error, OSError) and "Errno 111" in str(error)):
        return f"nothing listens{at}: start {server.name}, or correct host and port in {server.setting}"
    if isinstance(error, ConnectionError):
        return (
            f"{server.name}{at} closed the connection: look into its log, and check in {server.setting} that host and port are "
            f"its own, and that the URL asks for TLS if the server wants TLS ({server.with_tls})"
        )
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, PermissionError):
        return f"{server.name}{at} cannot be reached: check the network, and host and port in {server.setting}"
    return None


def _without_tls(url: str, server: Options) -> str:
    # Redis waits for the end of a line that a client's first message of TLS does not have.
    return f"; or write {server.without_tls} if {server.name} speaks no TLS there" if url.startswith("rediss://") else ""


def _named(place: str) -> str:
    return f" ({place})" if place else ""
