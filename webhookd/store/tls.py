"""Reports why TLS with a server fails, and the remedy: the file, the certificate or the host, and the setting."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

from webhookd.errors import causes_of

# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL, which the ssl module does not name.
_ANOTHER_HOST = (62, 64)
_OF_FILES = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ssl.SSLError)


@dataclass(slots=True, frozen=True)
class Options:
    """A server, the setting of its URL, and the form of that URL.

    authority: the option that names the CA's file.
    files: all options that name files.
    with_tls, without_tls: the parts of the URL that ask for TLS and for none.
    reserved: characters that change the URL's host or path if the password holds them and they are not escaped.
    """

    name: str
    setting: str
    example: str
    authority: str
    files: tuple[str, ...]
    with_tls: str
    without_tls: str
    reserved: str


POSTGRESQL = Options(
    "PostgreSQL",
    "WEBHOOKD_DATABASE_URL",
    example="postgresql://user:password@host:5432/database",
    authority="sslrootcert",
    files=("sslrootcert", "sslcert", "sslkey", "sslcrl"),
    with_tls="sslmode=verify-full",
    without_tls="sslmode=disable",
    reserved="@/#?[]",  # asyncpg takes the first @ for the end of the password
)
REDIS = Options(
    "Redis",
    "WEBHOOKD_REDIS_URL",
    example="redis://:password@host:6379/0",
    authority="ssl_ca_certs",
    files=("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    with_tls="rediss:// for TLS",
    without_tls="redis://",
    reserved="/#?[]",  # redis-py takes the last @ for the end of the password
)
# Reasons of OpenSSL if the answer to its first message is no TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "UNEXPECTED_MESSAGE")


def tls_problem(error: BaseException, url: str, options: Options) -> str | None:
    """Returns what to mend if TLS, or a file that it needs, caused `error`; else None. Quotes only the paths of `url`."""
    chain = causes_of(error)
    if any(isinstance(one, _OF_FILES) for one in chain) and (problem := _unreadable(url, options)):
        return problem
    for one in chain:
        if isinstance(one, ssl.SSLCertVerificationError):
            if one.verify_code in _ANOTHER_HOST:
                return (
                    f"{options.name}'s certificate is not for the host that {options.setting} names: "
                    "write the host there as the certificate names it"
                )
            return (
                f"{options.name}'s certificate is not trusted ({one.verify_message}): in {options.setting}, set "
                f"{options.authority} to the file of the CA that issued the certificate"
            )
        if isinstance(one, ssl.SSLError) and one.reason in _NO_TLS:
            return (
                f"{options.name} speaks no TLS at the port in {options.setting}: name its port for TLS there, "
                f"or write {options.without_tls} if the network is trusted"
            )
        if isinstance(one, ssl.SSLError):
            return (
                f"TLS with {options.name} fails ({one.reason or 'no reason given'}): check the TLS options in {options.setting}"
            )
    return None


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
