"""The public listener's certificate, for those who have no proxy in front; a renewed one is taken without a restart."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from webhookd.errors import SettingsError
from webhookd.lifecycle import Loop, Watch
from webhookd.logs import logger
from webhookd.metrics import Metrics

_EVERY = 30.0  # seconds between two looks at the files

_State = tuple[tuple[int, ...], ...]


class Certificate:
    """A certificate and its key, in PEM files. A handshake is made by `context`; connections keep the one that they have."""

    def __init__(self, certificate: Path, key: Path, *, metrics: Metrics, watch: Watch) -> None:
        self._certificate = certificate
        self._key = key
        self._ends = metrics.certificate_ends
        self._seen: _State | None = None
        self.context: ssl.SSLContext | None = None  # for the next handshake; None before `start`
        self._loop = Loop("certificate", self._look, watch, every=_EVERY)

    async def start(self) -> None:
        """Loads the files, and looks after them from then on. Raises SettingsError where they cannot be used."""
        self.load()
        await self._loop.start()

    async def stop(self) -> None:
        """Looks no more."""
        await self._loop.stop()

    def load(self) -> None:
        """Takes what the files hold now. Raises SettingsError where they cannot be used; what was in force stays so then."""
        seen = self._state()
        found = usable(self._certificate, self._key)
        self.context = found.context
        self._seen = seen
        self._ends.set(found.ends)

    async def _look(self) -> None:
        seen = self._state()
        if seen == self._seen:
            return
        self._seen = seen  # one complaint for each change; the two files seldom change at the same moment
        try:
            self.load()
        except SettingsError as error:
            logger.error("a changed certificate cannot be used; the one before stays", problem=str(error))
        else:
            logger.info("a changed certificate is in use")

    def _state(self) -> _State:
        # What a path leads to, since certificate managers change a link.
        found: list[tuple[int, ...]] = []
        for path in (self._certificate, self._key):
            try:
                of = path.stat()
            except OSError:
                found.append(())
            else:
                # With the time of a change of owner or mode: they are often set after the content.
                found.append((of.st_ino, of.st_mtime_ns, of.st_ctime_ns, of.st_size))
        return tuple(found)


class Usable(NamedTuple):
    """What a certificate and its key come to: whose it is, and when it ends (seconds since 1970)."""

    context: ssl.SSLContext
    names: list[str]
    ends: float


def usable(certificate: Path, key: Path) -> Usable:
    """What the files hold. Raises SettingsError, naming the setting, where a server cannot use them."""
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
        # A passphrase is never asked for: there is nobody to give it.
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
    except (x509.ExtensionNotFound, x509.UnsupportedGeneralNameType, ValueError):  # it can be served all the same
        return []
