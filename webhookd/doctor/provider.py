"""The doctor's findings about the provider: each account's credentials, and its webhook. Some calls, and none that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import CredentialsRefusedError, FeatureOffError, ProviderError
from webhookd.authorizenet.api.results import Merchant
from webhookd.doctor.finding import Finding, Verdict
from webhookd.errors import WebhookdError
from webhookd.settings import Role, Settings
from webhookd.settings.provider import NAMED, ProviderAccess, provider_accesses
from webhookd.settings.sources import PREFIX
from webhookd.sqs.rds import RdsTokens
from webhookd.store.postgresql_problem import explained
from webhookd.store.provider_webhooks import Known, known_of
from webhookd.store.queries import queries
from webhookd.store.session import Server
from webhookd.sync.finding import WebhookState, find

_TIMEOUT = 5.0  # seconds of a call
_NAMES = {url: name for name, url in NAMED.items()}
_OTHER = {NAMED["production"]: NAMED["sandbox"], NAMED["sandbox"]: NAMED["production"]}


async def examine_provider(settings: Settings) -> list[Finding]:
    """Checks the credentials and the webhook of each account that has credentials."""
    if Role.SYNC not in settings.roles:
        return []
    accesses = provider_accesses(settings)
    known = await known_webhooks(settings, list(accesses))
    checked = [examine_account(access, known.get(name)) for name, access in accesses.items()]
    return [finding for findings in await asyncio.gather(*checked) for finding in findings]


async def known_webhooks(settings: Settings, accounts: Sequence[str]) -> dict[str, Known]:
    """Returns what is known of each account's webhook: nothing if PostgreSQL does not answer, or has no tables."""
    if not accounts:
        return {}
    url = settings.database_url.get_secret_value()
    queries.use(settings.database_schema)
    try:
        async with asyncio.timeout(_TIMEOUT), RdsTokens.password(settings.database_auth, settings.sqs_region) as password:
            with explained(url):
                # Prepare no statement ahead: there may be a pooler in between.
                connection = await Server(url, password).connect(timeout=_TIMEOUT, statement_cache_size=0)
                try:
                    rows = [await queries.webhook_of_account(connection, account=account) for account in accounts]
                finally:
                    await connection.close(timeout=_TIMEOUT)
    except (WebhookdError, TimeoutError):
        return {}  # the check of PostgreSQL names the reason
    return {name: known_of(row) for name, row in zip(accounts, rows, strict=True)}


async def examine_account(access: ProviderAccess, known: Known | None = None) -> list[Finding]:
    """Checks the credentials and the webhook of one account.

    known: the webhook's id and the event types that it is to have. Without them, lost event types are not found.
    """
    check = f"provider {access.account}"
    async with ProviderClient(replace(access, timeout=min(access.timeout, _TIMEOUT)), patience=0) as client:
        try:
            await client.check_credentials()
        except CredentialsRefusedError as error:
            return [Finding(check, Verdict.FAILED, await _why_refused(access, error))]
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


async def _why_refused(access: ProviderAccess, error: CredentialsRefusedError) -> str:
    """Returns the reason and the remedy. Tries the credentials once at the provider's other host: they are often mixed up."""
    other = _OTHER.get(access.url)
    if other is not None and error.code in ("E00007", "401"):
        # With one key, this is one call: each refused call may count towards a lock of the account.
        once = replace(access, url=other, keys=access.keys[:1], timeout=min(access.timeout, _TIMEOUT))
        try:
            async with ProviderClient(once, patience=0) as client:
                await client.check_credentials()
        except ProviderError:
            pass
        else:
            prefix = PREFIX if access.account == "default" else f"{PREFIX}ACCOUNTS__{access.account.upper()}__"
            return (
                f"the credentials are those of {_NAMES[other]}, and {prefix}PROVIDER is {_NAMES[access.url]}: set "
                f"{prefix}PROVIDER={_NAMES[other]}, or give the credentials of {_NAMES[access.url]}"
            )
    return str(error)


def _told(merchant: Merchant, access: ProviderAccess) -> str:
    name = merchant.name or "an account without a name"
    return f"{name} (gateway id {merchant.gateway_id or 'not given'}) at {_NAMES.get(access.url, access.url)}"


async def _account(client: ProviderClient, access: ProviderAccess) -> tuple[Verdict, str]:
    merchant = await client.merchant()
    if merchant.test_mode:
        return Verdict.WARNING, (
            f"{_told(merchant, access)}: the account is in test mode, so no payment settles: switch the test mode off in the "
            "Merchant Interface (Account, Settings, Test Mode)"
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
    number = len(found.webhook.event_types)
    return Verdict.OK, f"{found.webhook.url} is active, with {number} event type{'' if number == 1 else 's'}"
