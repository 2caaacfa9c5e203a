"""The credentials of one account's client: whether they may be used, which Transaction Key works, and how they are masked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import re
from collections.abc import Awaitable
from typing import TypeVar

from webhookd.authorizenet.api.errors import CREDENTIALS_REMEDY, CredentialsRefusedError, ProviderUnavailableError
from webhookd.authorizenet.api.limits import Clock
from webhookd.authorizenet.api.refusals import CREDENTIALS_AGAIN, Refusals, Refused
from webhookd.errors import UnavailableError
from webhookd.settings.provider import ProviderAccess

T = TypeVar("T")

_ASK_AGAIN = 5.0  # seconds until the memory of refusals is asked again, if it is away


class Credentials:
    """The API Login ID and the Transaction Keys of one account.

    `good` is True from the first answer of this process to which the provider needed good credentials, until the provider
    refuses them. Until then, call `check` and `take_try` before each call.
    """

    def __init__(self, access: ProviderAccess, refusals: Refusals, now: Clock) -> None:
        self.login_id = access.login_id.get_secret_value()
        self.keys = [key.get_secret_value() for key in access.keys]  # the one that worked last comes first
        self.good = False
        self.refusals_seen = 0
        self._account = access.account
        self._fingerprint = fingerprint(access)
        self._refusals = refusals
        self._now = now
        self._refused: Refused | None = None  # as the memory, or this process, knew at `_known_at`
        self._known_at = 0.0
        self._unsaved = False  # the memory does not yet have the refusal
        self._secrets = _pattern(self.login_id, self.keys)

    @property
    def refused(self) -> Refused | None:
        """Returns the refusal that is in force, as far as this process knows."""
        if self.good or self._refused is None:
            return None
        passed = self._now() - self._known_at
        code, refused_for, next_try_in = self._refused
        return Refused(code, refused_for + passed, max(0.0, next_try_in - passed))

    async def check(self) -> None:
        """Returns if the credentials may be tried. Raises CredentialsRefusedError or ProviderUnavailableError."""
        if self._unsaved:
            await self._asked(self._save())
        self._note(await self._asked(self._refusals.read(self._fingerprint)))
        if self._refused is not None and self._refused.next_try_in > 0:
            raise self.error()

    async def take_try(self) -> None:
        """Takes the try of credentials that were refused, so that no other process sends one. Raises as `check`."""
        if self._refused is not None and not await self._asked(self._refusals.take_try(self._fingerprint)):
            self._note(self._refused._replace(next_try_in=CREDENTIALS_AGAIN))
            raise self.error()

    async def accepted(self, key: str, refusals_seen: int) -> None:
        """Notes that the provider accepted a key.

        refusals_seen: the count when the call was sent. An answer to a call from before a refusal does not end the refusal.
        """
        if refusals_seen != self.refusals_seen:
            return
        self.keys.sort(key=lambda one: one != key)
        self.good, self._unsaved = True, False
        if self._refused is not None:
            with contextlib.suppress(UnavailableError):  # then the next success notes it
                await self._refusals.accepted(self._fingerprint)
                self._refused = None

    async def failed(self, code: str) -> None:
        """Notes that the provider refuses the credentials."""
        self.good, self._unsaved = False, True
        self.refusals_seen += 1
        self._note(Refused(code, self._refused.refused_for if self._refused else 0.0, CREDENTIALS_AGAIN))
        with contextlib.suppress(UnavailableError):  # then `check` saves it before anything is sent
            await self._save()

    def error(self) -> CredentialsRefusedError:
        """Returns the error of a call that is not sent."""
        code, _, wait = self.refused or Refused("", 0.0, 0.0)
        return CredentialsRefusedError(
            f"Authorize.Net refused the credentials of the account {self._account} ({code}): {CREDENTIALS_REMEDY}; "
            f"the next try in {wait:.0f} s",
            code,
        )

    def basic(self, key: str) -> str:
        """Returns the value of the header for the REST API."""
        return f"Basic {_pair(self.login_id, key)}"

    def mask(self, text: str) -> str:
        """Returns a text without the secrets: the provider's texts may quote what a request holds."""
        return self._secrets.sub("***", text)

    def _note(self, refused: Refused | None) -> None:
        self._refused, self._known_at = refused, self._now()

    async def _save(self) -> None:
        code = self._refused.code if self._refused is not None else ""
        await self._refusals.refused(self._fingerprint, self._account, code)
        self._unsaved = False

    async def _asked(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except UnavailableError as error:
            raise ProviderUnavailableError(
                f"no call is sent, because PostgreSQL knows whether Authorize.Net refused the credentials: {error}",
                retry_in=_ASK_AGAIN,
                sent=False,
            ) from error

    def __repr__(self) -> str:
        return f"Credentials({self._account!r})"


def fingerprint(access: ProviderAccess) -> str:
    """Returns a hash of the host, the API Login ID and the Transaction Keys, in whatever order these are given."""
    keys = sorted(key.get_secret_value() for key in access.keys)
    parts = (access.url.lower(), access.login_id.get_secret_value(), *keys)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _pair(login_id: str, key: str) -> str:
    return base64.b64encode(f"{login_id}:{key}".encode()).decode()


def _pattern(login_id: str, keys: list[str]) -> re.Pattern[str]:
    """Returns a pattern of the secrets, as they are, and escaped for HTML, URLs and JSON, also twice."""
    pairs = [_pair(login_id, key) for key in keys]
    texts = {login_id, *keys, *pairs, *(pair.translate(str.maketrans("+/", "-_")) for pair in pairs)}
    return re.compile("|".join("".join(map(_escaped, one)) for one in sorted(texts, key=len, reverse=True)), re.IGNORECASE)


def _escaped(character: str) -> str:
    """Returns a pattern of one character in all its forms."""
    number = ord(character)
    # All repetitions are bounded: an answer that is made for it could take hours otherwise.
    forms = [
        rf"\\{{0,4}}{re.escape(character)}",
        f"%(?:25){{0,3}}{number:02x}",
        rf"\\{{1,4}}u{number:04x}",
        f"&(?:amp;){{0,3}}#0{{0,6}}{number};",
        f"&(?:amp;){{0,3}}#x0{{0,6}}{number:x};",
    ]
    if (named := html.escape(character)) != character:
        forms.append(f"&(?:amp;){{0,3}}{re.escape(named[1:])}")
    return f"(?:{'|'.join(forms)})"
