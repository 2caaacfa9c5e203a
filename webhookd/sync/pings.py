"""A ping of an inactive webhook: the proof that what the provider sends arrives here, and that a key verifies it.

No real notification is lost to a ping: what comes while one is open is held, and released when the ping is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CallRejectedError, ProviderError, ProviderUnavailableError
from webhookd.authorizenet.api.results import Webhook
from webhookd.authorizenet.notification import check_age, parse
from webhookd.authorizenet.payload import load_payload, money
from webhookd.errors import RefusedError, Unusable, UnusableError, WebhookdError
from webhookd.store import provider_pings
from webhookd.store.keys import hash_of_body, new_id
from webhookd.store.provider_webhooks import Held, Sample, WebhookRecords
from webhookd.store.receipts import Arrival, Quarantined, Receipts, why_not_stored
from webhookd.sync.finding import is_active
from webhookd.telemetry.logs import logger

OPEN = 90.0  # seconds for which a ping stays open, unless it is closed
_CALL = 45.0  # seconds for the provider's answer. Then the sample may still be on its way, for as long as the ping is open
_ARRIVAL = 15.0  # seconds for the sample after the provider's answer
_LOOK = 0.25  # seconds between two looks for the sample
_BATCH = 100  # held notifications that one statement releases
_ASK = 10.0  # seconds for the provider's answer
_RELEASED = "released: it came while a ping was open"
_LATE = 10.0  # seconds after the provider's answer, in which a receiver can still be at work on the sample

Sleep = Callable[[float], Awaitable[object]]


class PingFailedError(WebhookdError):
    """A ping did not arrive, or nothing verified it; the message says what to mend."""


class HeldNotifications:
    """The notifications of one account that came while a ping was open, and that may be its sample.

    When a ping is over, one of them at most is its sample. All others become events, as webhooks do. They are held until their
    commit is certain; after a crash in between, they become events a second time, which is a duplicate and dropped.

    max_age, max_skew: the limits in seconds of an eventDate, as the receivers have them.
    client: asks the provider for the transactions of what is held. Without one, nothing shows which notification is real.
    """

    def __init__(
        self,
        records: WebhookRecords,
        receipts: Receipts,
        max_age: float,
        max_skew: float,
        client: ProviderClient | None = None,
    ) -> None:
        self._records = records
        self._receipts = receipts
        self._max_age = max_age
        self._max_skew = max_skew
        self._client = client
        self._asked: set[UUID] = set()  # ids of held notifications whose transaction the provider does not show

    async def decide(self) -> None:
        """Decides the pings that are over, and releases what is held. One statement, if there is nothing to do."""
        for ping in await self._records.pings_to_decide():
            await self._records.close_ping(ping)
            await self.release_real(ping)
            await self._records.decide_ping(ping)
            while held := await self._records.held(ping, _BATCH):
                await self._release(held)

    async def release_real(self, ping: UUID) -> bool:
        """Releases what is held for a ping and proven to be real. Returns whether there was any.

        The ids of a sample are made up. So a notification is real if the provider knows its transaction, with its amount.
        A transaction that the provider does not show proves nothing: it may be too new, or the part of the API is off.
        Only what counts as the sample next is asked for, once: the decision makes events of all others without a question.
        """
        released = False
        while self._client is not None and (likely := await self._records.undecided(ping, 1)):
            if likely[0].id in self._asked or not await _is_real(likely[0], self._records.account, self._client):
                self._asked.add(likely[0].id)
                break
            await self._release(likely)
            released = True
        return released

    async def _release(self, held: Sequence[Held]) -> None:
        account = self._records.account
        arrivals, odd = list[tuple[Held, Arrival]](), list[tuple[Held, Quarantined]]()
        for one in held:
            try:
                notification = parse(one.body, account)
                check_age(notification.event_date, one.received_at, self._max_age, self._max_skew)
            except UnusableError as error:
                odd.append((one, _quarantined(one, account, error)))
            else:
                arrival = Arrival(new_id(), account, notification, one.key_fingerprint, one.body, hash_of_body(one.body))
                arrivals.append((one, arrival))
        if arrivals:
            results = await self._receipts.accept(
                [arrival for _, arrival in arrivals], send_after=0.0, actor=self._records.actor, reason=_RELEASED
            )
            for (one, _), result in zip(arrivals, results, strict=True):
                if isinstance(result, BaseException):
                    why = UnusableError(Unusable.UNSTORABLE, why_not_stored(result))
                    odd.append((one, _quarantined(one, account, why)))
        kept = await self._receipts.quarantine([body for _, body in odd]) if odd else []
        lost = {one.id: why for (one, _), why in zip(odd, kept, strict=True) if isinstance(why, BaseException)}
        await self._records.forget_held([one.id for one in held if one.id not in lost])
        logger.info(
            "notifications that came while a ping was open are released",
            account=account,
            events=len(arrivals),
            quarantined=len(odd),
        )
        for unkept in lost.values():  # they stay held, and are tried again
            raise RefusedError("postgresql", why_not_stored(unkept))


async def _is_real(held: Held, account: str, client: ProviderClient) -> bool:
    """Returns whether the provider knows the transaction of a notification."""
    try:
        notification = parse(held.body, account)
        if notification.entity_name != "transaction" or notification.entity_id is None:
            return False
        async with asyncio.timeout(_ASK):
            transaction = await client.transaction(notification.entity_id)
    except (ProviderError, UnusableError, TimeoutError):
        return False
    amount = money(load_payload(held.body).get("authAmount"))
    return amount is not None and amount == transaction.auth_amount


def _quarantined(held: Held, account: str, why: UnusableError) -> Quarantined:
    return Quarantined(new_id(), account, why.reason, why.detail, held.key_fingerprint, held.body, hash_of_body(held.body))


async def ping(
    client: ProviderClient,
    records: WebhookRecords,
    held: HeldNotifications,
    webhook: Webhook,
    others: Sequence[Webhook],
    sleep: Sleep = asyncio.sleep,
) -> Sample | None:
    """Pings a webhook. Returns the sample once a receiver has verified and held it; then the ping is closed and decided.

    Returns None if the webhook became active meanwhile: then nothing was pinged, and what came is released.
    others: the account's other webhooks, whose notifications are no samples. Call this inside `records.alone`.
    Raises PingFailedError if no sample came.
    """
    opened = await records.open_ping(webhook.id, [one.id for one in others], OPEN)
    # Longer than a receiver's knowledge may be old, so that every receiver knows of the ping when the sample comes.
    await sleep(provider_pings.LEAD)
    if await _became_active(client, records, held, webhook, opened):
        return None
    answered = await _order(client, records, held, webhook, opened, sleep)
    if await _arrival(records, held, opened, sleep) is None:
        await _end(records, held, webhook, opened, _LATE, sleep)
        raise PingFailedError(await _why(records, opened, webhook, answered=answered))
    await records.close_ping(opened)
    await held.decide()
    if (sample := await records.sample(opened)) is None:
        raise PingFailedError("a real notification came while the ping was open, and no sample: try again")
    return sample


async def wait_for_open_ping(
    records: WebhookRecords, webhook: Webhook, tell: Callable[[str], None], sleep: Sleep = asyncio.sleep
) -> None:
    """Returns when no ping of a webhook is open any more: an earlier one failed, and its sample may be on its way."""
    while (left := await records.open_for(webhook.id)) > 0:
        tell(f"waiting {left:.0f} s until the earlier ping of the webhook {webhook.id} has ended")
        await sleep(left)


async def _became_active(
    client: ProviderClient, records: WebhookRecords, held: HeldNotifications, webhook: Webhook, opened: UUID
) -> bool:
    """Returns whether somebody has activated the webhook meanwhile. Then, and if nobody can tell, nothing is pinged."""
    inactive = False
    try:
        inactive = not is_active(await client.webhook(webhook.id))
    finally:
        if not inactive:
            await records.close_ping(opened, unsent=True)
            await held.decide()
    return not inactive


async def _order(
    client: ProviderClient, records: WebhookRecords, held: HeldNotifications, webhook: Webhook, opened: UUID, sleep: Sleep
) -> bool:
    """Makes the provider send the sample. Returns whether the webhook's address answered it."""
    try:
        async with asyncio.timeout(_CALL):
            return await client.ping(webhook.id)
    except TimeoutError:
        await _end(records, held, webhook, opened, OPEN, sleep)
        raise PingFailedError(
            f"Authorize.Net did not answer within {_CALL:g} s whether it pinged the webhook: try again"
        ) from None
    except ProviderError as error:
        if isinstance(error, CallRejectedError) or (isinstance(error, ProviderUnavailableError) and not error.sent):
            await records.close_ping(opened, unsent=True)
            await held.decide()
        else:
            await _end(records, held, webhook, opened, OPEN, sleep)
        raise


async def _end(
    records: WebhookRecords, held: HeldNotifications, webhook: Webhook, opened: UUID, after: float, sleep: Sleep
) -> None:
    """Waits until a ping whose sample may be on its way is over, and decides it."""
    await records.close_ping(opened, after)
    while (left := await records.open_for(webhook.id)) > 0:
        await sleep(left)
    await held.decide()


async def _arrival(records: WebhookRecords, held: HeldNotifications, opened: UUID, sleep: Sleep) -> Sample | None:
    until = time.monotonic() + _ARRIVAL
    while True:
        sample = await records.sample(opened)
        if sample is not None and await held.release_real(opened):
            sample = await records.sample(opened)
        if sample is not None or time.monotonic() >= until:
            return sample
        await sleep(_LOOK)


async def _why(records: WebhookRecords, opened: UUID, webhook: Webhook, *, answered: bool) -> str:
    refused = None
    with contextlib.suppress(WebhookdError):
        refused = await records.refused_since(opened)
    if refused is not None:
        return f"webhookd refused the ping of {webhook.url}. {refused}"
    if answered:
        return (
            f"{webhook.url} answered the ping, but no webhookd with this database knew a sample: the URL leads to another "
            "program, or to a webhookd with another database, account or release. Correct the URL, or the proxy before it. "
            "If a notification of this minute is among the events or in quarantine, it was the sample, in a form that webhookd "
            "does not know: report it, and activate the webhook by `webhookd provider webhooks activate`"
        )
    return (
        f"{webhook.url} did not answer the ping: check from outside that the address leads to a running webhookd, its "
        "certificate, and the proxy and firewall before it"
    )
