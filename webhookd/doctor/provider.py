"""The doctor's findings about the provider: each account's credentials, and its webhook. Some calls, and none that changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CredentialsRefusedError, FeatureOffError, ProviderError
from webhookd.authorizenet.api.refusals import Refusals
from webhookd.authorizenet.api.results import Merchant
from webhookd.doctor.finding import Finding, Verdict
from webhookd.doctor.stored import refused_until, stored
from webhookd.settings import Role, Settings
from webhookd.settings.provider import NAMED, ProviderAccess, provider_accesses
from webhookd.settings.sources import PREFIX
from webhookd.store.provider_webhooks import Known
from webhookd.sync.finding import WebhookState, find, unreadable

_TIMEOUT = 5.0  # seconds of a call
_NAMES = {url: name for name, url in NAMED.items()}
_OTHER = {NAMED["production"]: NAMED["sandbox"], NAMED["sandbox"]: NAMED["production"]}


async def examine_provider(settings: Settings) -> list[Finding]:
    """Checks the credentials and the webhook of each account that has credentials."""
    if Role.SYNC not in settings.roles:
        return []
    accesses = provider_accesses(settings)
    if not accesses:
        return []
    async with stored(settings) as memory:
        known = await memory.webhooks(accesses)
        checked = [examine_account(access, known.get(name), memory.refusals) for name, access in accesses.items()]
        return [finding for findings in await asyncio.gather(*checked) for finding in findings]


async def examine_account(
    access: ProviderAccess, known: Known | None = None, refusals: Refusals | None = None
) -> list[Finding]:
    """Checks the credentials and the webhook of one account.

    known: the webhook's id and the event types that it is to have. Without them, lost event types are not found.
    refusals: the memory of refused credentials, so that the checks of one person after another do not lock the account. If
        None, they are tried.
    """
    check = f"provider {access.account}"
    async with ProviderClient(_brief(access), refusals=refusals, patience=0) as client:
        try:
            await client.check_credentials()
        except CredentialsRefusedError as error:
            reason = await _other_host(access, error, refusals) or str(error)
            if refusals is not None and reason == str(error):
                reason = refused_until(error, access.account, client.state.next_call_in)
            return [Finding(check, Verdict.FAILED, reason)]
        except ProviderError as error:
            return [Finding(check, Verdict.FAILED, f"{error}: check the network to {access.url}, and try again later")]
        findings = []
        webhook = partial(_webhook, known=known or Known(None, None))
        for name, examine in (
            ("", _account),
            (" reports", _reports),
            (" webhook", webhook),
        ):
            try:
                finding = await examine(client, access)
            except ProviderError as error:
                finding = Verdict.WARNING, f"not known: {error}"
            findings.append(Finding(f"{check}{name}", *finding))
        return findings


def _brief(access: ProviderAccess) -> ProviderAccess:
    return replace(access, timeout=min(access.timeout, _TIMEOUT))


async def _other_host(access: ProviderAccess, error: CredentialsRefusedError, refusals: Refusals | None) -> str | None:
    """Returns the reason and the remedy, if the credentials are those of the provider's other host: they are often mixed up."""
    other = _OTHER.get(access.url)
    if other is None or error.code not in ("E00007", "401"):
        return None
    # With one key, this is one call: each refused call may count towards a lock of the account.
    once = replace(_brief(access), url=other, keys=access.keys[:1])
    try:
        async with ProviderClient(once, refusals=refusals, patience=0) as client:
            await client.check_credentials()
    except ProviderError:
        return None
    prefix = PREFIX if access.account == "default" else f"{PREFIX}ACCOUNTS__{access.account.upper()}__"
    return (
        f"the credentials are those of {_NAMES[other]}, and {prefix}PROVIDER is {_NAMES[access.url]}: set "
        f"{prefix}PROVIDER={_NAMES[other]}, or give the credentials of {_NAMES[access.url]}"
    )


def _told(merchant: Merchant, access: ProviderAccess) -> str:
    name = merchant.name or "an account without a name"
    return f"{name} (gateway id {merchant.gateway_id or 'not given'}) at {_NAMES.get(access.url, access.url)}"


async def _account(client: ProviderClient, access: ProviderAccess) -> tuple[Verdict, str]:
    merchant = await client.merchant()
    if merchant.test_mode:
        return Verdict.WARNING, (
            f"{_told(merchant, access)}: the account is in test mode, so no payment settles, and notifications with the "
            "payload id 0 are kept as tests and become no events: switch the test mode off in the Merchant Interface "
            "(Account, Settings, Test Mode)"
        )
    return Verdict.OK, f"{_told(merchant, access)}; its credentials are good"


async def _reports(client: ProviderClient, _: ProviderAccess) -> tuple[Verdict, str]:
    now = datetime.now(UTC)
    try:
        await client.batches(now - timedelta(hours=1), now, statistics=False)
    except FeatureOffError as error:
        return Verdict.WARNING, str(error)
    return Verdict.OK, "the Transaction Details API is on"


async def _webhook(client: ProviderClient, access: ProviderAccess, *, known: Known) -> tuple[Verdict, str]:
    webhooks = await client.webhooks()
    if access.public_url is None and known.webhook_id is None:
        return Verdict.WARNING, (
            f"no setting names the webhook's URL, so webhookd cannot watch it: set {PREFIX}PUBLIC_URL; the account's webhooks: "
            + (", ".join(f"{one.url} ({one.status})" for one in webhooks) or "none")
        )
    found = find(webhooks, access.public_url, known.webhook_id, known.event_types)
    if found.state is WebhookState.MISSING and found.others:
        listed = ", ".join(f"{one.url} ({one.status})" for one in found.others[:5])
        return Verdict.WARNING, f"{found.detail}, or correct {PREFIX}PUBLIC_URL; the account's webhooks: {listed}"
    if found.webhook is None or found.state is not WebhookState.OK:
        return Verdict.WARNING, str(found.detail)
    if odd := [one for one in webhooks if one.problem]:
        return Verdict.WARNING, f"{found.webhook.url} is active; {unreadable(odd)}"
    number = len(found.webhook.event_types)
    return Verdict.OK, f"{found.webhook.url} is active, with {number} event type{'' if number == 1 else 's'}"
