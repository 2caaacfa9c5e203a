"""Deliveries as the provider makes them: signed, retried on its schedule, until the webhook goes inactive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

import aiohttp

from webhookd.authorizenet.signature import sign
from webhookd.simulate.books import Account, Notification, Webhook
from webhookd.simulate.clock import Clock
from webhookd.simulate.faults import Dice, Faults

# Seconds between the attempts, as two secondary sources have it. After the last, the webhook becomes inactive.
RETRIES = (180.0,) * 3 + (28_800.0,) * 3 + (172_800.0,) * 4
_DELAY = 3600.0  # seconds; the longest delay of the fault `delay`
_PATIENCE = 10.0  # seconds that a receiver may take, by the machine's clock
_AT_ONCE = 16  # requests
_LOOK_EVERY = 60.0  # seconds between two looks at a webhook that is inactive, with the fault `resend`

Told = Callable[[Account, Notification, int], None]
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]  # URL, body and headers: returns the status, 0 without answer


class Deliverer:
    """Sends the notifications of all accounts. `told` is called with each attempt and its answer's status, 0 if none came.

    post: sends a request; by default over HTTP.
    `busy` is the number of deliveries that are under way and wait for no later time.
    """

    def __init__(
        self, clock: Clock, dice: Dice, faults: Faults, retries: tuple[float, ...], told: Told, post: Post | None = None
    ) -> None:
        self._post = post or self._over_http
        self._clock = clock
        self._dice = dice
        self._faults = faults
        self._retries = retries
        self._told = told
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[object, datetime] = {}

    async def start(self) -> None:
        """Makes the client."""
        timeout = aiohttp.ClientTimeout(total=_PATIENCE)
        self._session = aiohttp.ClientSession(timeout=timeout, skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"))

    async def stop(self) -> None:
        """Ends all deliveries, and closes the client."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    @property
    def busy(self) -> int:
        """Returns the number of deliveries that wait for no later time."""
        now = self._clock.now()
        return len(self._tasks) - sum(moment > now for moment in self._waiting.values())

    def begin(self, account: Account, webhook: Webhook, notification: Notification) -> None:
        """Begins the delivery of a notification, with the faults of its seed."""
        faults, chance = self._faults, self._dice.of("delivery")
        dropped, doubled = self._dice.hit("drop", faults.drop), self._dice.hit("double", faults.double)
        late = self._dice.hit("delay", faults.delay)
        wait = chance.random() * _DELAY if late else 0.0
        if dropped:
            notification.status = "Delivered"
            return
        for _ in range(2 if doubled else 1):
            at = self._clock.now() + timedelta(seconds=wait)
            task = asyncio.create_task(self._deliver(account, webhook, notification, at), name=f"delivery {notification.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def ping(self, account: Account, webhook: Webhook, notification: Notification) -> bool:
        """Sends a sample at once, without a retry. Returns whether the receiver answered 200."""
        return await self._send(account, webhook, notification) == 200

    async def _deliver(self, account: Account, webhook: Webhook, notification: Notification, at: datetime) -> None:
        left, waiting = list(self._retries), object()
        while True:
            self._waiting[waiting] = at
            await self._clock.sleep_until(at)
            del self._waiting[waiting]
            if webhook.id not in account.webhooks:
                notification.status = "Failed"
                return
            if webhook.status != "active":
                notification.status = "Failed"
                if not self._faults.resend:
                    return
                at = self._clock.now() + timedelta(seconds=_LOOK_EVERY)
                continue
            if await self._send(account, webhook, notification) == 200:
                notification.status = "Delivered"
                return
            if not left:
                notification.status, webhook.status = "Failed", "inactive"
                return
            notification.status = "Retrying"
            at += timedelta(seconds=left.pop(0))

    async def _send(self, account: Account, webhook: Webhook, notification: Notification) -> int:
        body, key = notification.body, account.signing_key(self._clock.now(), old=self._faults.old_key_signs)
        headers = {"Content-Type": "application/json", "X-ANET-Signature": sign(body, key)}
        async with self._turn:
            # A request that a key of the user signs goes only to the address that the user gave.
            may_go = account.only_to in (None, webhook.url)
            status = await self._post(webhook.url, body, headers) if may_go else 0
        notification.attempts.append((self._clock.now(), status))
        self._told(account, notification, status)
        return status

    async def _over_http(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        assert self._session is not None, "start() comes first"  # noqa: S101
        try:
            async with self._session.post(url, data=body, headers=headers, expect100=True, allow_redirects=False) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, OSError, ValueError):
            return 0
