"""The doctor's checks that ask no dependency: signature keys, handlers, operators, certificate, and listening addresses."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

from webhookd.authorizenet.signature import fingerprint
from webhookd.doctor.finding import Finding, Verdict
from webhookd.errors import SettingsError
from webhookd.http.certificate import usable
from webhookd.process import handlers, loading
from webhookd.process.callables import told
from webhookd.process.retry import Policy
from webhookd.settings import Role, Settings
from webhookd.settings.provider import provider_accesses

_CERTIFICATE_DAYS = 14  # certificate managers renew a month ahead
_KEY_SHAPE = "a Signature Key of Authorize.Net has 128 hexadecimal digits: copy the whole key"


def examine_settings(settings: Settings) -> list[Finding]:
    """Returns the findings about the settings themselves."""
    findings = []
    for account, keys in settings.keys_by_account.items():
        for key in keys:
            well_formed = len(key) == 128 and all(c in "0123456789abcdefABCDEF" for c in key)
            verdict = Verdict.OK if well_formed else Verdict.WARNING
            detail = "128 hexadecimal digits" if well_formed else f"{len(key)} characters, but {_KEY_SHAPE}"
            findings.append(Finding(f"signature key of {account}", verdict, f"fingerprint {fingerprint(key)}; {detail}"))
    findings += _handlers(settings)
    findings.append(_operators(settings))
    if settings.tls_certificate is not None and settings.tls_key is not None:
        findings.append(_certificate(settings.tls_certificate, settings.tls_key))
    for name, address in (
        ("WEBHOOKD_LISTEN", settings.public_address),
        ("WEBHOOKD_ADMIN_LISTEN", settings.admin_address),
    ):
        findings.append(_address(name, address))
    return findings


def _handlers(settings: Settings) -> list[Finding]:
    try:
        loading.load(settings.handlers, Policy.of(settings))
    except SettingsError as error:
        return [Finding("handlers", Verdict.FAILED, str(error))]
    registered = handlers.registered
    detail = f"{len(registered)} registered" if settings.handlers else "none: webhookd keeps only the timeline"
    return [
        Finding("handlers", Verdict.OK, detail),
        *(
            Finding(f"handler {one.name}", Verdict.OK, f"{', '.join(one.patterns)}; in {one.module}, {one.path}:{one.line}")
            for one in registered.listed()
        ),
        *(
            Finding(f"hook {hook.name}", Verdict.OK, f"starts with the daemon; {told(hook.function)}")
            for hook in registered.hooks
        ),
        *_details(settings),
    ]


def _details(settings: Settings) -> list[Finding]:
    """Returns a warning for each account whose handlers wait for details that nobody can fetch.

    A process without the role `sync` does not read the credentials, so its settings prove nothing.
    """
    waiting = sorted({one.name for one in handlers.registered if one.details})
    if not waiting or Role.SYNC not in settings.roles:
        return []
    names = ", ".join(waiting)
    return [
        Finding(
            f"details of {account}",
            Verdict.WARNING,
            f"{names} has details=True, and the account has no API credentials, so its events would wait and then be dead: set "
            "its API Login ID and its Transaction Key (WEBHOOKD_API_LOGIN_ID, WEBHOOKD_TRANSACTION_KEY)",
        )
        for account in sorted(settings.keys_by_account.keys() - provider_accesses(settings).keys())
    ]


def _operators(settings: Settings) -> Finding:
    roles = {"operate": settings.admin_tokens, "look": settings.read_tokens}
    told = [f"{role}: {', '.join(sorted(tokens))}" for role, tokens in roles.items() if tokens]
    if settings.admin_anonymous != "nothing":
        told.append(f"{settings.admin_anonymous}: whoever reaches WEBHOOKD_ADMIN_LISTEN, without a token")
    nobody = "nobody may use the API and the dashboard: set WEBHOOKD_ADMIN_TOKENS"
    return Finding("operators", Verdict.OK, "; ".join(told) or nobody)


def _certificate(certificate: Path, key: Path) -> Finding:
    check = "WEBHOOKD_TLS_CERTIFICATE"
    try:
        pair = usable(certificate, key)
    except SettingsError as error:
        return Finding(check, Verdict.FAILED, str(error).removeprefix(f"{check}: "))
    left = (pair.ends - time.time()) / 86_400
    names = f"of {', '.join(pair.names) or 'no name'}"
    if left < 0:
        return Finding(check, Verdict.FAILED, f"{names}, expired {-left:.0f} days ago: renew it; no restart is necessary")
    verdict = Verdict.WARNING if left < _CERTIFICATE_DAYS else Verdict.OK
    return Finding(check, verdict, f"{names}, expires in {int(left)} days" + ("" if verdict is Verdict.OK else ": renew it"))


def _address(name: str, address: tuple[str, int]) -> Finding:
    host, port = address
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return Finding(name, Verdict.WARNING, f"{host}:{port}: {error.strerror}; this is right if webhookd is running now")
    return Finding(name, Verdict.OK, f"{host}:{port} is free")
