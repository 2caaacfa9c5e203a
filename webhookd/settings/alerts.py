"""The settings of a channel for alerts."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr

from webhookd.settings.sources import is_loopback
from webhookd.settings.values import Names

_SECRET = 24  # bytes; the least that Standard Webhooks allows
_HOSTS = {
    "slack": re.compile(r"hooks\.slack(-gov)?\.com"),
    "discord": re.compile(r"(.+\.)?discord(app)?\.com"),
    "teams": re.compile(r".+\.(webhook\.office\.com|logic\.azure\.com|api\.powerplatform\.com)"),
}
_QUIET = re.compile(r"(\d\d:\d\d)-(\d\d:\d\d)(?: (\S+))?", re.ASCII)
_ADDRESS = re.compile(r"[^@\s<>,;\r\n]+@[^@\s<>,;\r\n]+")


@dataclass(slots=True, frozen=True)
class QuietHours:
    """The hours in which a channel takes pages only. They may go over midnight."""

    start: time
    end: time
    zone: tzinfo

    def include(self, now: datetime) -> bool:
        """Returns whether a time (with its zone) is in the quiet hours."""
        at = now.astimezone(self.zone).time().replace(tzinfo=None)
        return self.start <= at < self.end if self.start < self.end else at >= self.start or at < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.zone}"


def _quiet(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _QUIET.fullmatch(value.strip())
    wrong = ValueError("must be two times and a time zone, such as 22:00-07:00 Europe/Berlin")
    if match is None:
        raise wrong
    try:
        start, end = time.fromisoformat(match[1]), time.fromisoformat(match[2])
        zone = UTC if match[3] in (None, "UTC") else ZoneInfo(match[3])  # some systems have no file of time zones
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise wrong from None
    if start == end:
        raise ValueError("must begin and end at different times")
    return QuietHours(start, end, zone)


def _url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        good = parts.scheme in ("http", "https", "smtp", "smtps") and bool(parts.hostname) and parts.port != 0
        good = good and value.get_secret_value().isprintable() and " " not in value.get_secret_value()
    except ValueError:  # its message quotes the URL
        good = False
    if not good:
        raise ValueError("must be a whole address that begins with https://, http://, smtps:// or smtp://")
    return value


def _secret(value: SecretStr) -> SecretStr:
    prefix, _, text = value.get_secret_value().partition("_")
    try:
        good = prefix == "whsec" and len(base64.b64decode(text, validate=True)) >= _SECRET
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f'must be whsec_ and at least {_SECRET} bytes in base64: make one with echo "whsec_$(openssl rand -base64 32)"'
        )
    return value


def _addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(_ADDRESS.fullmatch, value)):
        raise ValueError("must be e-mail addresses, such as ops@example.com, with commas between them")
    return value


def _setting(default: Any, meaning: str) -> Any:
    return Field(default, description=meaning)


class AlertSettings(BaseModel):
    """The settings of one channel for alerts."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)

    url: Annotated[SecretStr, AfterValidator(_url)] = _setting(
        ...,
        "Address of a channel for alerts: a webhook of Slack, Teams or Discord, any https:// address for a signed JSON POST, "
        "or smtps://user:password@host:465 (smtp:// uses STARTTLS). The address is a secret.",
    )
    format: Literal["slack", "teams", "discord", "json"] | None = _setting(
        None, "Format of the channel's messages: slack, teams, discord or json. If unset, the address's host decides."
    )
    secret: Annotated[SecretStr, AfterValidator(_secret)] | None = _setting(
        None, "Secret that signs the POSTs of the format json, as whsec_ and base64 (Standard Webhooks)."
    )
    sender: str = _setting("", "E-mail address from which the channel's mails come.")
    recipients: Annotated[Names, AfterValidator(_addresses)] = _setting(
        (), "E-mail addresses to which the channel's mails go, comma-separated."
    )
    quiet_hours: Annotated[QuietHours | None, BeforeValidator(_quiet), PlainSerializer(lambda hours: hours and str(hours))] = (
        _setting(
            None,
            "Hours in which only pages are sent, such as 22:00-07:00 Europe/Berlin. Tickets wait for the end of these hours.",
        )
    )

    @property
    def form(self) -> str:
        """Returns the format of the messages: slack, teams, discord, json or email."""
        parts = urlsplit(self.url.get_secret_value())
        if parts.scheme in ("smtp", "smtps"):
            return "email"
        host = parts.hostname or ""
        return self.format or next((form for form, pattern in _HOSTS.items() if pattern.fullmatch(host)), "json")

    def problems(self, variable: str) -> Iterator[str]:
        """Yields a line for each reason for which these settings cannot work. `variable`: the beginning of their names."""
        if self.form == "json" and self.secret is None:
            yield (
                f"{variable}__SECRET is not set: the JSON POSTs to this channel's address are signed; set a secret, or "
                f"{variable}__FORMAT to slack, teams or discord"
            )
        url = self.url.get_secret_value()
        if self.form in ("slack", "teams", "discord") and urlsplit(url).scheme == "http" and not is_loopback(url):
            yield f"{variable}__URL: the address holds a token, and http:// sends it unencrypted; begin the address with https://"
        if self.form == "email" and not (_ADDRESS.fullmatch(self.sender) and self.recipients):
            yield f"{variable}__SENDER and {variable}__RECIPIENTS: a channel of e-mail needs both; set e-mail addresses"


FIELDS = tuple(AlertSettings.model_fields)
