"""Reports why TLS with a server fails, and the remedy: the file, the certificate or the host, and the setting."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL, which the ssl module does not name.
_ANOTHER_HOST = (62, 64)
_OF_FILES = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ssl.SSLError)


@dataclass(slots=True, frozen=True)
class Options:
    """The options of a URL for TLS: the URL's setting, the option that names the CA's file, and all that name files."""

    server: str
    setting: str
    authority: str
    files: tuple[str, ...]


POSTGRESQL = Options("PostgreSQL", "WEBHOOKD_DATABASE_URL", "sslrootcert", ("sslrootcert", "sslcert", "sslkey", "sslcrl"))
REDIS = Options("Redis", "WEBHOOKD_REDIS_URL", "ssl_ca_certs", ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))


def tls_problem(error: BaseException, url: str, options: Options) -> str | None:
    """Returns what to mend if TLS, or a file that it needs, caused `error`; else None. Quotes only the paths of `url`."""
    chain = list(_chain(error))
    if any(isinstance(one, _OF_FILES) for one in chain) and (problem := _unreadable(url, options)):
        return problem
    for one in chain:
        if isinstance(one, ssl.SSLCertVerificationError):
            if one.verify_code in _ANOTHER_HOST:
                return (
                    f"{options.server}'s certificate is not for the host that {options.setting} names: "
                    "write the host there as the certificate names it"
                )
            return (
                f"{options.server}'s certificate is not trusted ({one.verify_message}): in {options.setting}, set "
                f"{options.authority} to the file of the CA that issued the certificate"
            )
        if isinstance(one, ssl.SSLError):
            return (
                f"TLS with {options.server} fails ({one.reason or 'no reason given'}): "
                f"check the TLS options in {options.setting}"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unreadable(url: str, options: Options) -> str | None:
    # Do not use urlsplit, which raises on odd URLs.
    given = parse_qs(url.partition("?")[2])
    for name in options.files:
        for path in given.get(name, []):
            try:
                with Path(path).open("rb"):
                    pass
            except OSError as error:
                return f"{name}={path} in {options.setting} cannot be read ({error.strerror}): put a readable file there"
    return None
