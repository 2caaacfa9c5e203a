"""The doctor's findings about destinations. No request is sent: `webhookd destinations test` sends one."""

from __future__ import annotations

import asyncio
import fnmatch
import socket
from urllib.parse import urlsplit

from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.deliver.addresses import is_public
from webhookd.deliver.destination import Destination
from webhookd.doctor.finding import Finding, Verdict
from webhookd.errors import SettingsError
from webhookd.settings import Role, Settings
from webhookd.settings.destinations import DestinationSettings
from webhookd.settings.sources import PREFIX


async def examine_destinations(settings: Settings) -> list[Finding]:
    """Checks the files of each destination, its patterns, and whether its name leads to an address that it may have.

    No queue, topic or bus is asked for: the right to look is not among those that a destination needs.
    """
    findings = [await _examine(name, one, settings) for name, one in settings.destinations.items()]
    if findings and set(Role) - settings.roles - {Role.SYNC} == {
        Role.DELIVER
    }:  # as a list of roles from before there were destinations
        findings.append(
            Finding(
                "role deliver",
                Verdict.WARNING,
                f"{PREFIX}ROLES has every role but deliver, so this process sends nothing to destinations: add deliver, or "
                "leave the setting out; ignore this if another process sends",
            )
        )
    return findings


async def _examine(name: str, one: DestinationSettings, settings: Settings) -> Finding:
    check, prefix = f"destination {name}", f"{PREFIX}DESTINATIONS__{name.upper()}__"
    if one.target is not None:
        detail = f"{one.place}; only a test event shows whether AWS takes its events: `webhookd destinations test {name}`"
        return _unmatched(check, prefix, one) or Finding(check, Verdict.OK, detail)
    try:
        _ = Destination(name, one).tls
    except SettingsError as error:
        return Finding(check, Verdict.FAILED, str(error))
    parts = urlsplit(one.url.get_secret_value())
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding(check, Verdict.FAILED, f"{prefix}URL: the name {parts.hostname} cannot be resolved ({error.strerror})")
    addresses = sorted({str(place[4][0]) for place in found})
    if not one.allow_private and not any(map(is_public, addresses)):
        return Finding(
            check,
            Verdict.FAILED,
            f"{prefix}URL: {parts.hostname} leads to {', '.join(addresses)}, which is private: webhookd sends nothing there; "
            f"correct the URL, or set {prefix}ALLOW_PRIVATE=true",
        )
    if (unmatched := _unmatched(check, prefix, one)) is not None:
        return unmatched
    signs = [f"{len(one.secrets)} secrets" if len(one.secrets) != 1 else "1 secret"] if one.secrets else []
    if settings.keys_by_account:
        signs.append("the Signature Key of the account")
    if not signs:
        detail = f"nothing signs its requests, so it cannot know that they are webhookd's: set {prefix}SECRETS"
        return Finding(check, Verdict.WARNING, detail)
    return Finding(check, Verdict.OK, f"{one.place}, {', '.join(addresses)}; signed by {' and '.join(signs)}")


def _unmatched(check: str, prefix: str, one: DestinationSettings) -> Finding | None:
    unmatched = [
        pattern for pattern in one.event_types if not any(fnmatch.fnmatchcase(known, pattern) for known in EVENT_TYPES)
    ]
    if not unmatched:
        return None
    detail = f"{prefix}EVENT_TYPES: no known event type matches {', '.join(unmatched)}: correct the pattern"
    return Finding(check, Verdict.WARNING, detail)
