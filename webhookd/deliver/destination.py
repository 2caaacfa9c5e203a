"""A destination: its settings, ready for use, and the events that it gets."""

from __future__ import annotations

import base64
import fnmatch
import re
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from html import escape
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import jmespath
import orjson

from webhookd.authorizenet.payload import load_payload
from webhookd.errors import SettingsError
from webhookd.settings.destinations import SECRET_PREFIX, DestinationSettings, secret_bytes
from webhookd.settings.sources import PREFIX

_MOST_PLACES = 1000  # attempts at a time to AWS
_SHORTEST_SECRET = 4  # characters of a secret or header that an answer does not show
_SHORTEST_TOKEN = 8  # characters of a part of the URL's path that may be a token


class Destination:
    """A destination. `tls` raises SettingsError if a file that the settings name cannot be used."""

    def __init__(self, name: str, settings: DestinationSettings) -> None:
        self.name = name
        self.settings = settings
        self.target = settings.target
        # Number of attempts at a time. A request to AWS takes up to ten events.
        self.places = settings.concurrency if self.target is None else min(settings.concurrency * 10, _MOST_PLACES)
        self.keys = [secret_bytes(secret.get_secret_value()) for secret in settings.secrets]
        self.headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        secrets = _secrets(settings)
        self._secrets = re.compile(
            "|".join(map(re.escape, secrets)) or "(?!)", re.IGNORECASE
        )  # percent signs go with a-f or A-F
        self._longest_secret = len(secrets[0]) if secrets else 0
        self._accounts = frozenset(settings.accounts)
        self._filter = None if settings.filter is None else jmespath.compile(settings.filter)

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The settings of TLS. They are made at the first use: a process that sends nothing needs no file of a key."""
        return _tls(self.name, self.settings)

    def takes(self, account: str, event_type: str, payload: Payload, failed: Callable[[str], None] = lambda _: None) -> bool:
        """Returns whether the destination gets an event. A filter that fails at this payload lets the event pass.

        failed: is called with the destination's name if the filter fails.
        """
        if not self.asks_for(account, event_type):
            return False
        if self._filter is None:
            return True
        try:
            found = self._filter.search(payload.value)
        except Exception:  # noqa: BLE001  better one delivery too many than one lost, or a whole batch of webhooks refused
            failed(self.name)
            return True
        return not (found is None or found is False or found in ("", [], {}))  # JMESPath counts these as false, and 0 as true

    def asks_for(self, account: str, event_type: str) -> bool:
        """Returns whether the settings name the account and the type. The filter, which needs the payload, is not asked."""
        if self._accounts and account not in self._accounts:
            return False
        return any(fnmatch.fnmatchcase(event_type, pattern) for pattern in self.settings.event_types)

    def hide(self, text: str, most: int) -> str:
        """Returns the first characters of a text, without the destination's secrets: a receiver may repeat what it got.

        most: characters of `text` that are shown. Of a secret that begins among them, no part is shown.
        """
        shown, at = "", 0
        for found in self._secrets.finditer(text, 0, self.needed_to_hide(most)):
            if found.start() >= most:
                break
            shown += text[at : found.start()] + "***"
            at = found.end()
        return (shown + text[at:most])[:most]

    def needed_to_hide(self, most: int) -> int:
        """Returns how many characters `hide` needs to see each secret that begins among the first characters as a whole."""
        return most + self._longest_secret

    def __repr__(self) -> str:
        return f"Destination({self.name!r}, {self.settings.place!r})"


class Payload:
    """The payload of a body, which is parsed at the first use."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._value: list[Any] = []

    @property
    def value(self) -> Any:
        """Returns the payload; {} if the body has none."""
        if not self._value:
            try:
                document = orjson.loads(self._body)
                found = document.get("payload") if isinstance(document, dict) else None
            except orjson.JSONDecodeError:
                try:
                    found = load_payload(self._body)
                except ValueError:
                    found = None
            self._value.append(found if isinstance(found, dict) else {})
        return self._value[0]


class Routes:
    """The destinations that are set now: chooses those that get an event, and wakes their senders (`wakes`, by name).

    failed: is called with the name of a destination whose filter fails at an event.
    """

    def __init__(self, destinations: Mapping[str, Destination], failed: Callable[[str], None] = lambda _: None) -> None:
        self.destinations = dict(destinations)
        self._failed = failed
        self.wakes: dict[str, Any] = {}

    def choose(self, account: str, event_type: str, body: bytes) -> Sequence[str]:
        """Returns the names of the destinations that get an event."""
        if not self.destinations:
            return ()
        payload = Payload(body)
        return [name for name, one in self.destinations.items() if one.takes(account, event_type, payload, self._failed)]

    def wake(self, destinations: Collection[str]) -> None:
        """Wakes the senders of these destinations, as far as they run in this process."""
        for name in destinations:
            if (wake := self.wakes.get(name)) is not None:
                wake()


def destinations_of(settings: Mapping[str, DestinationSettings], *, sends: bool) -> dict[str, Destination]:
    """Returns the destinations. Raises SettingsError with a line for each that cannot be used.

    sends: whether the process sends. If not, no file that the settings name is read.
    """
    made: dict[str, Destination] = {}
    problems = []
    for name, one in settings.items():
        try:
            made[name] = Destination(name, one)
            if sends and made[name].target is None:
                _ = made[name].tls
        except SettingsError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))
    return made


def _secrets(settings: DestinationSettings) -> list[str]:
    """Returns all that is secret in the settings, the longest first: also parts, and what HTML, JSON or a URL makes of them."""
    url = urlsplit(settings.url.get_secret_value())
    values = [value.get_secret_value() for value in settings.headers.values()]
    whole = values + [value.partition(" ")[2] for value in values] + [part for value in values for part in _password(value)]
    for secret in settings.secrets:
        key = secret.get_secret_value().removeprefix(SECRET_PREFIX)
        whole += [SECRET_PREFIX + key, key, key.rstrip("=")]
    whole += [url.path, url.query, *(value for _, value in parse_qsl(url.query))]
    texts = {text for text in whole if len(text) >= _SHORTEST_SECRET}
    texts |= {part for part in url.path.split("/") if len(part) >= _SHORTEST_TOKEN}
    texts |= {unquote(text) for text in texts}
    texts |= {
        form for text in texts for form in (quote(text), quote(text, safe=""), escape(text), orjson.dumps(text).decode()[1:-1])
    }
    return sorted(texts, key=len, reverse=True)  # a part must not hide that more of the text is secret


def _password(header: str) -> list[str]:
    """Returns `user:password` and the password of a header with the scheme Basic; nothing of another header."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        pair = base64.b64decode(encoded.strip()).decode("utf-8", "replace")
    except ValueError:
        return []
    return [encoded.strip().rstrip("="), pair, pair.partition(":")[2]]


def _tls(name: str, settings: DestinationSettings) -> ssl.SSLContext:
    prefix = f"{PREFIX}DESTINATIONS__{name.upper()}__"
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(f"{prefix}CA_FILE: {_why(settings.ca_file, error)}: name a PEM file of CA certificates") from None
    if settings.client_cert is not None and settings.client_key is not None:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key, password="")
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{prefix}CLIENT_CERT: {_why(settings.client_cert, error)}: name a PEM file, and in {prefix}CLIENT_KEY its key"
            ) from None
    return context


def _why(path: object, error: Exception) -> str:
    return (
        f"{path} cannot be used ({getattr(error, 'reason', None) or getattr(error, 'strerror', None) or type(error).__name__})"
    )
