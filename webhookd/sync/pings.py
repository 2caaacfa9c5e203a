"""A ping of an inactive webhook: the proof that what the provider sends arrives here, and that a key verifies it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CallRejectedError, ProviderError, ProviderUnavailableError
from webhookd.authorizenet.api.results import Webhook
from webhookd.errors import WebhookdError
from webhookd.store import provider_pings
from webhookd.store.provider_webhooks import Sample, WebhookRecords

OPEN = 90.0  # seconds for which a ping stays open, unless it is closed
_CALL = 45.0  # seconds for the provider's answer. Then the sample may still be on its way, for as long as the ping is open
_ARRIVAL = 15.0  # seconds for the sample after the provider's answer
_LOOK = 0.25  # seconds between two looks for the sample
_LATE = 10.0  # seconds after the provider's answer, in which a receiver can still be at work on the sample

Sleep = Callable[[float], Awaitable[object]]


class PingFailedError(WebhookdError):
    """A ping did not arrive, or nothing verified it; the message says what to mend."""


async def ping(
    client: ProviderClient, records: WebhookRecords, webhook: Webhook, others: Sequence[Webhook], sleep: Sleep = asyncio.sleep
) -> Sample:
    """Pings a webhook. Returns the sample once a receiver has verified and kept it; then the ping is closed.

    others: the account's other webhooks, whose notifications are no samples. Call this inside `records.alone`.
    Raises PingFailedError if no sample came; then the ping stays open for a while, since the sample may be on its way.
    """
    opened = await records.open_ping(webhook.id, [one.id for one in others], OPEN)
    # Longer than a receiver's knowledge may be old, so that every receiver knows of the ping when the sample comes.
    await sleep(provider_pings.LEAD)
    answered = await _order(client, records, webhook, opened)
    sample = await _arrival(records, opened, sleep)
    if sample is None:
        await records.close_ping(opened, _LATE)
        raise PingFailedError(await _why(records, opened, webhook, answered=answered))
    await records.close_ping(opened)
    return sample


async def wait_for_open_ping(
    records: WebhookRecords, webhook: Webhook, tell: Callable[[str], None], sleep: Sleep = asyncio.sleep
) -> None:
    """Returns when no ping of a webhook is open any more: an earlier one failed, and its sample may be on its way."""
    while (left := await records.open_for(webhook.id)) > 0:
        tell(f"waiting {left:.0f} s until the earlier ping of the webhook {webhook.id} has ended")
        await sleep(left)


async def _order(client: ProviderClient, records: WebhookRecords, webhook: Webhook, opened: UUID) -> bool:
    """Makes the provider send the sample. Returns whether the webhook's address answered it."""
    try:
        async with asyncio.timeout(_CALL):
            return await client.ping(webhook.id)
    except TimeoutError:
        raise PingFailedError(
            f"Authorize.Net did not answer within {_CALL:g} s whether it pinged the webhook: try again"
        ) from None
    except ProviderError as error:
        unsent = isinstance(error, CallRejectedError) or (isinstance(error, ProviderUnavailableError) and not error.sent)
        if unsent:
            await records.close_ping(opened)
        raise


async def _arrival(records: WebhookRecords, opened: UUID, sleep: Sleep) -> Sample | None:
    until = time.monotonic() + _ARRIVAL
    while True:
        if (sample := await records.sample(opened)) is not None or time.monotonic() >= until:
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
            f"{webhook.url} answered the ping, but no webhookd with this database got it: the URL leads to another program, or "
            "to a webhookd with another database, account or release. Correct the URL, or the proxy before webhookd"
        )
    return (
        f"{webhook.url} did not answer the ping: check from outside that the address leads to a running webhookd, its "
        "certificate, and the proxy and firewall before it"
    )
