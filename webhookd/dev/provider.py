"""The simulated provider of a development session: it delivers samples, and its history lists some that it never delivered."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Self

import aiohttp

from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import PREFIX
from webhookd.dev import traffic
from webhookd.dev.child import free_port
from webhookd.dev.known import Receiver, reachable
from webhookd.settings import Role, Settings
from webhookd.settings.provider import WEBHOOK_PATH, provider_accesses
from webhookd.simulate import Simulator

# The types of the notifications that the provider withholds.
WITHHELD = tuple(f"{PREFIX}{name}.created" for name in ("payment.priorAuthCapture", "customer", "customer.paymentProfile"))
# Seconds between two comparisons with the history, and seconds for which a webhook may be on its way.
TIMING = {"gap_every": 2, "gap_grace": 2}
_ACCOUNT = "default"
_LOGIN_ID = "sim00000000de"  # the same in each session, since the id of the gateway follows from it


class Provider:
    """Authorize.Net, simulated, with a webhook at the session's receiver. Use it as `async with`."""

    def __init__(self, aim: Receiver) -> None:
        self._aim = aim
        self._port = free_port(0)
        self._simulator = Simulator(secrets.randbits(32), port=self._port, post=self._post)
        self._simulator.account(signature_key=aim.key, only_to=aim.url).login_id = _LOGIN_ID
        self._answers: dict[str, traffic.Answer] = {}
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Returns a provider for a session with these settings; None if they name a provider, or cannot work with one."""
        named = provider_accesses(settings) or settings.public_url or not {Role.SYNC, Role.RECEIVE} <= settings.roles
        keys, (host, port) = settings.keys_by_account.get(_ACCOUNT), settings.public_address
        if named or not keys or not port:
            return None
        place = f"[{host}]" if ":" in host else host
        return cls(Receiver(f"{reachable(f'http://{place}:{port}')}{WEBHOOK_PATH}", keys[0]))

    @property
    def url(self) -> str:
        """Returns the address of the API."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the settings of a daemon that asks this provider, by field."""
        own = self._simulator.account()
        credentials = {"api_login_id": own.login_id, "transaction_key": own.transaction_key}
        return {"provider": self.url, "public_url": self._aim.url, **credentials, **TIMING}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        await self._simulator.start()
        self._simulator.register(self._aim.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._simulator.stop()
        if self._session is not None:
            await self._session.close()

    async def deliver(self, event_type: str, number: int) -> tuple[sampling.Sample, traffic.Answer]:
        """Makes a notification and delivers it. Returns it, and the receiver's answer to its first delivery."""
        (made,) = self._simulator.make(event_type, number=number)
        await self._simulator.idle()
        return sampling.sample_of(made.body), self._answers.pop(made.id)

    def withhold(self, event_type: str, number: int) -> str:
        """Makes a notification that stands in the history, and is never delivered. Returns its id."""
        (made,) = self._simulator.make(event_type, number=number, withheld=True)
        return made.id

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        assert self._session is not None, "the provider has not started"  # noqa: S101
        sent = sampling.sample_of(body)
        answer = await traffic.post(self._session, url, sent, signature=headers["X-ANET-Signature"])
        self._answers.setdefault(sent.notification_id, answer)
        return answer.status
