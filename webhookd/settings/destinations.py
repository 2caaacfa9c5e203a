"""The settings of a destination: an HTTP endpoint, or a queue, topic or bus of AWS, that gets events."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import jmespath
import jmespath.exceptions
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from webhookd.settings.cloud import Target, cloud_problems, target_of
from webhookd.settings.sources import PREFIX
from webhookd.settings.values import Names, revealed

if TYPE_CHECKING:
    from webhookd.settings.model import Settings

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\t -~]{0,2000}")
# Header fields that webhookd sets itself, or that belong to one connection.
_OWN_HEADERS = {
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-anet-signature",
}
_OWN_PREFIXES = ("webhook-", "webhookd-")
SECRET_PREFIX = "whsec_"  # noqa: S105  the beginning of each secret, by the specification of Standard Webhooks
_SECRET_BYTES = range(24, 65)  # the specification's bounds


def _url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if target_of(text) is not None:
        return value
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:  # its message quotes the URL
        raise ValueError("cannot be read as a URL: write https://host/path") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(
            "must be a URL such as https://shop.example.com/hooks, in ASCII and without spaces, or begin with sqs://, sns: or "
            "eventbridge://"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user and password: give them in a header (…__HEADERS)")
    return value


def _secret(value: object) -> object:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    for part in parts:
        try:
            length = len(secret_bytes(revealed(part)))
        except ValueError:
            length = 0
        if length not in _SECRET_BYTES:
            raise ValueError(
                "each secret must be whsec_ and the base64 of 24 to 64 random bytes, separated by commas: make one with "
                "`echo whsec_$(openssl rand -base64 32)`"
            )
    return parts


def secret_bytes(secret: str) -> bytes:
    """Returns the key of a secret `whsec_…`. Raises ValueError."""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError("a secret begins with whsec_")
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a secret is base64") from error


def _headers(value: object) -> object:
    if isinstance(value, str):
        pairs = [part.partition(":") for part in value.split(",") if part.strip()]
        if not all(colon for _, colon, _ in pairs):
            raise ValueError(
                "must be `Name: value`, with commas between several; a value with a comma can stand in the TOML file"
            )
        value = {name.strip(): text.strip() for name, _, text in pairs}
    for name, text in value.items() if isinstance(value, dict) else ():
        if not _HEADER.fullmatch(str(name)) or not _VALUE.fullmatch(revealed(text)):
            raise ValueError("holds a name or a value that no header can carry: use printable ASCII")
        if str(name).lower() in _OWN_HEADERS or str(name).lower().startswith(_OWN_PREFIXES):
            raise ValueError(f"webhookd sets the header {str(name).lower()} itself: remove it")
    return value


def _filter(value: str | None) -> str | None:
    if value is not None:
        try:
            _check_functions(jmespath.compile(value).parsed)
        except (jmespath.exceptions.JMESPathError, RecursionError):
            raise ValueError(
                'is no JMESPath expression on the payload, such as "responseCode == `1`", or calls a function that JMESPath '
                "lacks, or with another number of arguments: see https://jmespath.org"
            ) from None
    return value


def _check_functions(node: Any) -> None:
    """Raises JMESPathError if the parsed expression calls an unknown function, or one with a wrong number of arguments."""
    if node["type"] == "function_expression":
        with contextlib.suppress(jmespath.exceptions.JMESPathTypeError):  # null is of a wrong type for most functions
            jmespath.search(f"{node['value']}({', '.join('`null`' for _ in node['children'])})", None)
    for child in node["children"]:
        if isinstance(child, dict):
            _check_functions(child)


def _statuses(value: object) -> object:
    parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if isinstance(parts, list | tuple) and not all(re.fullmatch(r"[345][0-9][0-9]", str(part)) for part in parts):
        raise ValueError("must be HTTP statuses from 300 to 599, with commas between them")
    return parts


def _setting(default: Any, meaning: str, **limits: Any) -> Any:
    return Field(default, description=meaning, **limits)


class DestinationSettings(BaseModel):
    """The settings of one destination. Durations are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    url: Annotated[SecretStr, AfterValidator(_url)] = _setting(
        ..., "The address that gets each event by POST; or sqs://, sns: or eventbridge:// and a queue, topic or bus of AWS."
    )
    secrets: Annotated[tuple[SecretStr, ...], BeforeValidator(_secret)] = _setting(
        (), "Secrets `whsec_…` that sign each request by Standard Webhooks, comma-separated; several during a rotation."
    )
    event_types: Names = _setting(("*",), "Patterns of the event types that the destination gets, comma-separated.")
    accounts: Names = _setting((), "The accounts whose events the destination gets, comma-separated. If unset, all.")
    filter: Annotated[str | None, AfterValidator(_filter)] = _setting(
        None, "A condition on the payload in JMESPath. The destination gets the events for which the result is true."
    )
    headers: Annotated[dict[str, SecretStr], BeforeValidator(_headers)] = _setting(
        {}, "Further headers of each request, comma-separated, each `Name: value`."
    )
    timeout: float = _setting(10.0, "Seconds that a whole attempt may take.", ge=0.1, le=300)
    first_byte_timeout: float | None = _setting(
        None, "Seconds from the request to the first byte of the answer. If unset, only `timeout` limits them.", ge=0.1, le=300
    )
    concurrency: int = _setting(
        8,
        "Most requests at a time, for each process with the role deliver. A request to AWS has up to 10 events.",
        ge=1,
        le=1000,
    )
    rate: float | None = _setting(
        None,
        "Most requests (events, to AWS) per second, for each process with the role deliver. If unset, no limit.",
        ge=0.01,
        le=100_000,
    )
    max_attempts: int = _setting(
        20, "Number of attempts after which a delivery is dead. 20 take about three days.", ge=1, le=1000
    )
    body: Literal["exact", "envelope"] = _setting(
        "exact",
        "exact: the provider's bytes; envelope: a JSON object with the event's fields, and the provider's body as `data`. AWS "
        "always gets the envelope.",
    )
    ca_file: Path | None = _setting(
        None, "PEM file of the CAs that may sign the destination's certificate. If unset, the system's."
    )
    client_cert: Path | None = _setting(None, "PEM file of the certificate that webhookd shows to the destination.")
    client_key: Path | None = _setting(None, "PEM file of that certificate's private key, without a passphrase.")
    give_up_on: Annotated[tuple[int, ...], BeforeValidator(_statuses)] = _setting(
        (), "HTTP statuses, comma-separated, after which a delivery is dead at once. 410 always is such a status."
    )
    allow_private: bool = _setting(False, "true: the address may be a private or loopback address, and may begin with http://.")

    @property
    def has_files(self) -> bool:
        """Returns whether the settings of TLS name files."""
        return self.ca_file is not None or self.client_cert is not None

    @property
    def target(self) -> Target | None:
        """Returns the queue, topic or bus of AWS; None if the destination is an HTTP endpoint."""
        return target_of(self.url.get_secret_value())

    @property
    def form(self) -> Literal["exact", "envelope"]:
        """Returns the form of the body that the destination gets."""
        return "envelope" if self.target is not None else self.body

    @property
    def place(self) -> str:
        """Returns the address for people: without path and query, which may hold a token."""
        if self.target is not None:
            return self.url.get_secret_value()
        parts = urlsplit(self.url.get_secret_value())
        return f"{parts.scheme}://{parts.netloc}"

    def redacted(self) -> dict[str, object]:
        """Returns the settings for a log, without a secret."""
        shown: dict[str, object] = {name: getattr(self, name) for name in type(self).model_fields}
        return shown | {
            "url": self.place,
            "body": self.form,
            "secrets": len(self.secrets),
            "headers": sorted(self.headers),
        }


FIELDS = tuple(DestinationSettings.model_fields)


def destination_problems(settings: Settings) -> Iterator[str]:
    """Yields a line for each destination that cannot work: the setting, what is wrong, and the remedy."""
    known: Mapping[str, object] = settings.keys_by_account
    for name, one in settings.destinations.items():
        prefix = f"{PREFIX}DESTINATIONS__{name.upper()}__"
        if not _NAME.fullmatch(name) or name == "handlers":
            yield (
                f"{prefix}URL: a destination's name has 1 to 64 of the characters a-z, 0-9, _ and -, and is not handlers: "
                "rename the destination"
            )
        if (target := one.target) is not None:
            yield from cloud_problems(prefix, one, target, settings)
        elif urlsplit(one.url.get_secret_value()).scheme == "http" and not one.allow_private:
            yield (
                f"{prefix}URL begins with http://, so everybody on the way could read the events: use https://, or set "
                f"{prefix}ALLOW_PRIVATE=true if the address is in your own network"
            )
        if (one.client_cert is None) != (one.client_key is None):
            yield f"{prefix}CLIENT_CERT and {prefix}CLIENT_KEY go together: set both, or neither"
        if missing := [account for account in one.accounts if known and account not in known]:
            yield f"{prefix}ACCOUNTS names {', '.join(missing)}, which is no account: set its keys, or remove the name"
        if not one.event_types:
            yield f"{prefix}EVENT_TYPES is empty: name a pattern, or leave the setting out for all types"
