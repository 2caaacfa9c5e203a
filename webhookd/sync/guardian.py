"""The guardian of an account's webhook: notes its state, reports changes, and heals a webhook that became inactive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import ProviderError, RecordNotFoundError, UnreadableAnswerError
from webhookd.authorizenet.api.operations import ForbiddenCallError
from webhookd.authorizenet.api.results import Webhook
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.errors import ConflictError
from webhookd.settings.provider import ProviderAccess
from webhookd.store.database import Database
from webhookd.store.provider_webhooks import Known, WebhookRecords
from webhookd.store.receipts import Receipts
from webhookd.sync.finding import Found, WebhookState, find, lacking_types, unreadable
from webhookd.sync.pings import HeldNotifications, PingFailedError, Sleep
from webhookd.sync.registration import Registrar
from webhookd.telemetry.logs import logger

ACTOR = "guardian"
_FAILED = "webhookd tried to heal it"
_BLIND = 7200.0  # seconds without a look that showed the webhook; the alerts on the comparison wait as long


class Guardian:
    """The guardian of one account. Whoever holds the account's lease calls `look` every WEBHOOKD_GUARDIAN_EVERY seconds.

    access: names the account, and the webhook's URL. If no setting names the URL, the id of an earlier look decides.
    receipts, limits: for the notifications that come while a ping is open, see HeldNotifications.
    heal: whether to activate a webhook that became inactive. healed: is called after that, to close the gap in the events.
    noted: is called with the state that a look found, or None if nobody has set a webhook up yet.
    every: the seconds between two looks.
    """

    def __init__(
        self,
        client: ProviderClient,
        database: Database,
        access: ProviderAccess,
        receipts: Receipts,
        limits: tuple[float, float],
        *,
        heal: bool,
        healed: Callable[[], Awaitable[object]] | None = None,
        noted: Callable[[str | None], object] = lambda _: None,
        every: float = 300.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client = client
        self._now = database.now
        self._account = access.account
        self._url = access.public_url
        self._heals = heal
        self._healed = healed
        self._noted = noted
        self._blind = timedelta(seconds=max(_BLIND, 3 * every))  # one failed look of a slow guardian is no reason for an alert
        self._unreadable: str | None = None  # what was logged last of the webhooks that cannot be read
        self._records = WebhookRecords(database, access.account, ACTOR)
        held = HeldNotifications(self._records, receipts, *limits, client)
        self._registrar = Registrar(client, self._records, held, self._tell, sleep=sleep)

    async def look(self) -> WebhookState:
        """Notes the state of the webhook, and heals it if it is inactive and may be healed. Returns the state.

        One call of the provider, if nothing is to be done. Raises ProviderError; UnavailableError while PostgreSQL is away.
        """
        known = await self._records.known()
        if self._url is None and known.webhook_id is None:
            detail = "webhookd does not know which webhook is its own: set WEBHOOKD_PUBLIC_URL"
            await self._note(Found(WebhookState.UNKNOWN, None, detail, ()), known)
            return WebhookState.UNKNOWN
        try:
            found = await self._find(known)
        except ProviderError as error:
            await self._note_blind(known, str(error))
            raise
        if found is None:
            await self._note_blind(known, "the list of webhooks lacks it, although it is there")
            return WebhookState.UNKNOWN  # a later look has the whole list
        inactive = found.state is WebhookState.INACTIVE
        if inactive and found.webhook is not None and not found.odd:  # one of the odd ones may be active, and have our URL
            found = await self._heal(found, found.webhook, known)
        await self._note(found, known)
        if inactive and found.state is not WebhookState.INACTIVE and self._healed is not None:
            await self._healed()
        return found.state

    async def _find(self, known: Known) -> Found | None:
        """Returns what the provider shows of the webhook; None if the list of webhooks lacks it, although it is there."""
        webhooks = await self._client.webhooks()
        self._tell_unreadable([one for one in webhooks if one.problem])
        found = find(webhooks, self._url, known.webhook_id, known.event_types)
        if found.state is not WebhookState.MISSING or known.webhook_id is None:
            return found
        try:
            is_there = await self._is_there(known.webhook_id)
        except UnreadableAnswerError as error:
            detail = f"the list of webhooks lacks the webhook {known.webhook_id}, and webhookd cannot read it: {error}"
            return found._replace(state=WebhookState.UNKNOWN, detail=detail)
        if is_there:
            logger.warning(
                "the list of webhooks lacks a webhook that is there", account=self._account, webhook=known.webhook_id
            )
        return None if is_there else found

    async def _note_blind(self, known: Known, reason: str) -> None:
        """Notes a look that did not show the webhook. If no look has for long, a good state is unknown; a bad one stays."""
        if known.seen_at is not None and self._now() - known.seen_at < self._blind:
            self._tell_state(WebhookState(known.state or "unknown"), known)  # this replica may have just taken over the account
        elif known.seen_at is not None and known.state not in (None, WebhookState.OK):
            await self._note(Found(WebhookState(known.state), None, known.detail, ()), known)  # so that its alert goes on
        else:
            since = "yet" if known.seen_at is None else f"since {known.seen_at:%Y-%m-%d %H:%M} UTC"
            detail = f"webhookd has not seen the webhook {since}: {reason}"
            await self._note(Found(WebhookState.UNKNOWN, None, detail, ()), known)

    def _tell_state(self, state: WebhookState, known: Known) -> None:
        """Sets the metric, which raises an alert. A webhook that nobody has set up yet has no state there."""
        self._noted(state if state is not WebhookState.UNKNOWN or known.webhook_id is not None else None)

    async def _is_there(self, webhook_id: str) -> bool:
        try:
            await self._client.webhook(webhook_id)
        except (RecordNotFoundError, ForbiddenCallError):  # no call can ask for an odd id, which an earlier release noted
            return False
        return True

    def _tell_unreadable(self, webhooks: Sequence[Webhook]) -> None:
        """Logs which webhooks cannot be read, once for each list of them."""
        detail = unreadable(webhooks)
        if detail is not None and detail != self._unreadable:
            logger.warning("webhookd cannot read a webhook", account=self._account, detail=detail)
        self._unreadable = detail

    async def _note(self, found: Found, known: Known) -> None:
        webhook = found.webhook
        # Types that somebody adds belong to the webhook from now on. Types that are gone stay missed.
        types = None if webhook is None or found.state is not WebhookState.OK else webhook.event_types
        if types == ():  # a webhook without types gets all; the known types stay
            types = EVENT_TYPES if known.event_types is None else None
        try:
            before = await self._records.note(
                found.state, None if webhook is None else webhook.id, found.detail, types, known=known
            )
        except ConflictError as error:
            logger.info("a look at the webhook is not noted", account=self._account, reason=str(error))
            return  # the next look finds what the other process made
        self._tell_state(found.state, known)
        if before != found.state:
            good = found.state is WebhookState.OK
            logger.log(
                20 if good else 30,
                "the webhook's registration changed",
                account=self._account,
                state=str(found.state),
                before=before,
                detail=found.detail,
            )

    async def _heal(self, found: Found, webhook: Webhook, known: Known) -> Found:
        """Returns what is found after healing, or why the webhook is not healed."""
        if not self._heals:
            return found
        if not await self._records.may_heal(webhook.id):
            return found._replace(detail=f"{found.detail}; webhookd does not heal it, since it was left inactive on purpose")
        # The reason of a failed healing stays until another state, or a healing that succeeds.
        failed = known.detail if known.state == WebhookState.INACTIVE and _FAILED in (known.detail or "") else None
        try:
            healed = await self._registrar.heal(webhook, found.others)
        except ConflictError as error:
            return found._replace(detail=failed or f"{found.detail}; {error}")
        except (PingFailedError, ProviderError) as error:
            logger.warning("the webhook is not healed", account=self._account, webhook=webhook.id, reason=str(error))
            return found._replace(detail=f"{found.detail}; {_FAILED}: {error}")
        if not healed:
            return found._replace(detail=failed or f"{found.detail}; webhookd healed it too often within a day, and waits")
        logger.warning("the webhook was inactive, and is active again", account=self._account, webhook=webhook.id)
        lacks = lacking_types(webhook, (await self._records.known()).event_types)
        active = webhook._replace(status="active")
        return Found(WebhookState.EVENT_TYPES if lacks else WebhookState.OK, active, None, found.others)

    def _tell(self, step: str) -> None:
        logger.info("healing a webhook", account=self._account, step=step)
