"""The public listener's certificate, for installations without a proxy. A renewed certificate needs no restart."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from webhookd.errors import SettingsError
from webhookd.runtime.files import Versions, versions
from webhookd.runtime.loops import Loop, Watch
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

_EVERY = 30.0  # seconds between two checks of the files


class Certificate:
    """A certificate and its key in PEM files. Each handshake uses `context`; open connections keep their own context."""

    def __init__(self, certificate: Path, key: Path, *, metrics: Metrics, watch: Watch) -> None:
        self._certificate = certificate
        self._key = key
        self._ends = metrics.certificate_ends
        self._seen: Versions | None = None
        self.context: ssl.SSLContext | None = None  # the context for the next handshake; None before `start`
        self._loop = Loop("certificate", self._look, watch, every=_EVERY)

    async def start(self) -> None:
        """Loads the files, and watches them from then on. Raises SettingsError if they cannot be used."""
        self.load()
        await self._loop.start()

    async def stop(self) -> None:
        """Stops watching the files."""
        await self._loop.stop()

    def load(self) -> None:
        """Loads the files as they are now. If they cannot be used, keeps the earlier certificate and raises SettingsError."""
        seen = self._versions()
        found = usable(self._certificate, self._key)
        self.context = found.context
        self._seen = seen
        self._ends.set(found.ends)

    async def _look(self) -> None:
        seen = self._versions()
        if seen == self._seen:
            return
        self._seen = seen  # log one error for each change; the two files seldom change at the same moment
        try:
            self.load()
        except SettingsError as error:
            logger.error("a changed certificate cannot be used; the one before stays", problem=str(error))
        else:
            logger.info("a changed certificate is in use")

    def _versions(self) -> Versions:
        return versions((self._certificate, self._key))


class Usable(NamedTuple):
    """A certificate and key that a server can use: the TLS context, the names, and the expiry (seconds since 1970)."""

    context: ssl.SSLContext
    names: list[str]
    ends: float


def usable(certificate: Path, key: Path) -> Usable:
    """Loads the files. If a server cannot use them, raises SettingsError, which names the setting."""
    try:
        leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"WEBHOOKD_TLS_CERTIFICATE: cannot use {certificate} ({type(error).__name__}): it must be a readable PEM file, "
            "the server's certificate first, its chain after it"
        ) from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password: OpenSSL must not ask for a passphrase, since nobody is there to type it.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or type(error).__name__
        raise SettingsError(
            f"WEBHOOKD_TLS_KEY: cannot use {key} with {certificate} ({reason}): it must be that certificate's private key, "
            "a PEM file without a passphrase that webhookd's user may read"
        ) from None
    return Usable(context, _names(leaf), leaf.not_valid_after_utc.timestamp())


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name.value) for name in names]
    except (x509.ExtensionNotFound, x509.UnsupportedGeneralNameType, ValueError):  # a certificate can be used without names
        return []
