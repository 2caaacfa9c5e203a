"""A channel: one address to which messages go. No error of it quotes the address, which is a secret.

The forms are few, so they stand here, on aiohttp and smtplib. apprise 2.3 was looked at: it brings requests and nine more
packages, blocks a thread for each POST, follows redirects, and cannot sign as Standard Webhooks does.
"""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from webhookd.alerts.message import Message, body, mail, signed
from webhookd.errors import WebhookdError
from webhookd.settings.sources import is_loopback

if TYPE_CHECKING:
    from webhookd.settings.alerts import AlertSettings, QuietHours

_TIMEOUT = 10.0  # seconds for a POST, or for one step of SMTP
_MAIL_TIMEOUT = 60.0  # seconds for all steps of SMTP
_LONGEST_DELAY = 3_600.0  # seconds; a server may ask for less


class NotSentError(WebhookdError):
    """A channel did not take a message. The text holds no address.

    `delay`: the seconds that the server asks to wait. `taken`: whether the channel took the message for some recipients.
    """

    def __init__(self, reason: str, delay: float = 0.0, *, taken: bool = False) -> None:
        super().__init__(reason)
        self.delay = delay
        self.taken = taken


@dataclass(slots=True, frozen=True)
class Channel:
    """A channel, made from its settings."""

    name: str
    format: str
    quiet_hours: QuietHours | None
    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    sender: str = ""
    recipients: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, settings: AlertSettings) -> Channel:
        """Makes the channel `name`."""
        return cls(
            name,
            settings.form,
            settings.quiet_hours,
            settings.url.get_secret_value(),
            "" if settings.secret is None else settings.secret.get_secret_value(),
            settings.sender,
            settings.recipients,
        )

    def is_quiet(self, now: datetime) -> bool:
        """Returns whether the channel takes pages only, at a time with a time zone."""
        return self.quiet_hours is not None and self.quiet_hours.include(now)

    async def send(self, message: Message) -> int:
        """Sends a message. Returns how many recipients the mail server refused, while it took others. Raises NotSentError."""
        try:
            return await (_in_thread(lambda: self._mail(message)) if self.format == "email" else self._post(message))
        except NotSentError:
            raise
        except Exception as error:  # noqa: BLE001  whatever a library raises may quote the address
            raise NotSentError(f"webhookd made a mistake ({type(error).__name__})") from None

    async def _post(self, message: Message) -> int:
        import aiohttp

        sent = body(message, self.format)
        header = {"Content-Type": "application/json", "User-Agent": "webhookd"}
        if self.secret:
            header |= signed(message, sent, self.secret, now=int(time.time()))
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        try:
            # Follow no redirect: whoever answers could send the message, and its signature, elsewhere.
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self.url, data=sent, headers=header, allow_redirects=False, proxy=_proxy(self.url)) as answer,
            ):
                status, later = answer.status, answer.headers.get("Retry-After", "")
        except TimeoutError:
            raise NotSentError(f"no answer within {_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # their texts may quote the URL
            raise NotSentError(f"no connection ({_kind(error)})") from None
        if not 200 <= status < 300:
            delay = min(float(later), _LONGEST_DELAY) if later.isascii() and later.isdigit() else 0.0
            raise NotSentError(f"the server answered {status}", delay)
        return 0

    def _mail(self, message: Message) -> int:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        context = ssl.create_default_context()
        try:
            server: smtplib.SMTP
            if parts.scheme == "smtps":
                server = smtplib.SMTP_SSL(host, parts.port or 465, timeout=_TIMEOUT, context=context)
            else:
                server = smtplib.SMTP(host, parts.port or 587, timeout=_TIMEOUT)
            with contextlib.closing(server):
                if parts.scheme == "smtp" and not is_loopback(self.url):
                    server.starttls(context=context)  # fails if the server has no TLS, so no password goes in the clear
                if parts.username:
                    server.login(unquote(parts.username), unquote(parts.password or ""))
                refused = server.send_message(mail(message, sender=self.sender, recipients=self.recipients))
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.quit()
                return len(refused)
        except TimeoutError:
            raise NotSentError(f"no answer within {_TIMEOUT:g} s") from None
        except smtplib.SMTPResponseException as error:
            raise NotSentError(f"the mail server answered {error.smtp_code}") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise NotSentError(f"the mail was not sent ({_kind(error)})") from None


async def _in_thread(work: Callable[[], int]) -> int:
    """Runs `work` in a thread that keeps no process alive: a mail server may be slow while webhookd stops."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()

    def settle(result: int | Exception) -> None:
        if not done.done():
            done.set_exception(result) if isinstance(result, Exception) else done.set_result(result)

    def run() -> None:
        result: int | Exception
        try:
            result = work()
        except Exception as raised:  # noqa: BLE001  the caller gets it
            result = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, name="mail", daemon=True).start()
    try:
        async with asyncio.timeout(_MAIL_TIMEOUT):
            return await done
    except TimeoutError:
        raise NotSentError(f"no answer within {_MAIL_TIMEOUT:g} s") from None


def _kind(error: Exception) -> str:
    return next((type(one).__name__ for one in (error.__cause__, error) if one is not None), "")


def _proxy(url: str) -> str | None:
    """Returns the proxy of the environment. aiohttp's `trust_env` would also send passwords of ~/.netrc."""
    parts = urlsplit(url)
    return None if is_loopback(url) or proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
