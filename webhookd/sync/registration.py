"""Registers the webhook of an account: each change is shown first, made once, and kept with its actor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import ProviderUnavailableError, RecordNotFoundError, UnreadableAnswerError
from webhookd.authorizenet.api.operations import ForbiddenCallError
from webhookd.authorizenet.api.results import Webhook
from webhookd.errors import ConflictError, NotFoundError
from webhookd.store.provider_webhooks import Known, Sample, WebhookRecords
from webhookd.sync.finding import Found, WebhookState, find, is_active, lacking_types, unreadable
from webhookd.sync.pings import HeldNotifications, Sleep, ping, wait_for_open_ping
from webhookd.sync.webhook_url import same_url

Tell = Callable[[str], None]


class Difference(NamedTuple):
    """A field of a webhook that a change would change. `before` is None for a new webhook."""

    field: str
    before: str | None
    after: str

    def __str__(self) -> str:
        return f"{self.field}: {self.after}" if self.before is None else f"{self.field}: {self.before} → {self.after}"


class Outcome(NamedTuple):
    """The result of a command: the webhook as it is now, and what was changed, or with `dry_run` would be."""

    webhook: Webhook | None
    changes: tuple[Difference, ...]
    sample: Sample | None = None


def differences(
    webhook: Webhook | None,
    *,
    url: str | None = None,
    event_types: Sequence[str] | None = None,
    status: str | None = None,
    name: str | None = None,
) -> list[Difference]:
    """Returns the fields that would change. A field that is None stays as it is."""
    found = []
    if url is not None and (webhook is None or webhook.url != url):
        found.append(Difference("url", None if webhook is None else webhook.url, url))
    if name is not None and (webhook is None or webhook.name != name):
        found.append(Difference("name", None if webhook is None else webhook.name or "none", name))
    if webhook is None:
        found += [Difference("event type", None, one) for one in event_types or ()]
    elif event_types is not None:
        now, then = set(webhook.event_types), set(event_types)
        found += [Difference("event type", one, "removed") for one in sorted(now - then)]
        found += [Difference("event type", "none", one) for one in sorted(then - now)]
    if status is not None and (webhook is None or webhook.status != status):
        found.append(Difference("status", None if webhook is None else webhook.status, status))
    return found


class Registrar:
    """Changes the webhooks of one account.

    tell: is called with each step, as a sentence. dry_run: nothing is changed, and the changes are shown only.
    """

    def __init__(
        self,
        client: ProviderClient,
        records: WebhookRecords,
        held: HeldNotifications,
        tell: Tell = lambda _: None,
        *,
        dry_run: bool = False,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client = client
        self._records = records
        self._held = held
        self._tell = tell
        self._dry_run = dry_run
        self._sleep = sleep

    async def setup(self, url: str, event_types: Sequence[str] | None = None) -> Outcome:
        """Registers a webhook for a URL, proves that its pings arrive, and activates it. Done again, changes nothing.

        event_types: those that the webhook is to have. None leaves those of a webhook that is there, and takes all that the
        provider has for a new one.
        """
        async with self._alone():
            webhooks = await self._webhooks()
            known = await self._records.known()
            found = find(webhooks, url, known.webhook_id)
            webhook, changes = found.webhook, list[Difference]()
            # An odd webhook may be active, and have this URL: then another active one would double each event.
            may_double = found.odd and (webhook is None or found.state is not WebhookState.OK)
            if found.state is WebhookState.DOUBLED or may_double:
                raise ConflictError(str(found.detail))
            if webhook is None or found.state is WebhookState.URL:
                self._warn_of_others(found, url)
                webhook, made = await self._create(url, event_types)
                changes += made
            else:
                self._tell(f"the webhook {webhook.id} of {webhook.url} is registered, and {webhook.status}")
                webhook, changed = await self._change(webhook, event_types=event_types or _lacking(webhook, known))
                changes += changed
            if webhook is None or (self._dry_run and not is_active(webhook)):
                changes += [Difference("status", "inactive", "active")]
                self._tell("then the webhook would be pinged, and activated once the ping has come and is verified")
                return Outcome(webhook, tuple(changes))
            sample = None
            if not is_active(webhook):
                webhook, sample = await self._ping(webhook, [one for one in webhooks if one.id != webhook.id])
                webhook, changed = await self._set_active(webhook)
                changes += changed
            if not self._dry_run:
                types = event_types or (webhook.event_types if changes or known.event_types is None else None) or None
                await self._records.note(WebhookState.OK, webhook.id, None, types)
            if not changes:
                self._tell("there is nothing to change")
            return Outcome(webhook, tuple(changes), sample)

    async def create(self, url: str, event_types: Sequence[str] | None = None, *, name: str | None = None) -> Outcome:
        """Registers an inactive webhook. Raises ConflictError if the URL has one."""
        async with self._alone():
            _refuse_second(await self._webhooks(), url)
            webhook, changes = await self._create(url, event_types, name=name)
            return Outcome(webhook, tuple(changes))

    async def update(
        self, identifier: str, *, url: str | None = None, event_types: Sequence[str] | None = None, name: str | None = None
    ) -> Outcome:
        """Changes a webhook. Its event types are from now on those that it is to have.

        Without any value, puts back the event types that the webhook is to have and no longer has.
        """
        async with self._alone():
            webhooks = await self._client.webhooks()
            webhook = _chosen(webhooks, identifier)
            if url is not None:
                _refuse_second([one for one in webhooks if one is not webhook], url)
            if url is None and event_types is None and name is None:
                event_types = _lacking(webhook, await self._records.known())
            changed, changes = await self._change(webhook, url=url, event_types=event_types, name=name)
            if not changes:
                self._tell("there is nothing to change")
            if not self._dry_run and event_types is not None and (await self._records.known()).webhook_id == webhook.id:
                await self._records.note(_state_of(changed), webhook.id, None, event_types)
            return Outcome(changed, tuple(changes))

    async def delete(self, identifier: str) -> Outcome:
        """Removes a webhook. Authorize.Net sends nothing more to its URL."""
        async with self._alone():
            webhook = _chosen(await self._client.webhooks(), identifier)
            change = Difference("webhook", f"{webhook.id} of {webhook.url}", "removed")
            if await self._may(f"remove the webhook {webhook.id} of {webhook.url}"):
                await self._client.delete_webhook(webhook.id)
                await self._records.note_change("delete", webhook.id, f"url: {webhook.url}")
            return Outcome(None, (change,))

    async def ping(self, identifier: str) -> Outcome:
        """Pings an inactive webhook. Raises PingFailedError."""
        async with self._alone():
            webhooks = await self._client.webhooks()
            webhook = _chosen(webhooks, identifier)
            sample = None
            if not is_active(webhook) and not self._dry_run:
                webhook, sample = await self._ping(webhook, [one for one in webhooks if one.id != webhook.id])
            if is_active(webhook):
                raise ConflictError(
                    f"the webhook {webhook.id} is active, and Authorize.Net pings inactive ones only; while it is inactive, "
                    f"events do not come: run `webhookd provider webhooks deactivate {webhook.id}` first, if you want that"
                )
            return Outcome(webhook, (), sample)

    async def switch(self, identifier: str, *, active: bool) -> Outcome:
        """Activates or deactivates a webhook. Raises ConflictError if activating it would double each event."""
        async with self._alone():
            webhooks = await self._client.webhooks()
            webhook = _chosen(webhooks, identifier)
            if active:
                others = [one for one in webhooks if one is not webhook and (is_active(one) or one.problem)]
                _refuse_second(others, webhook.url)
            changed, changes = await self._set_active(webhook, active=active)
            if not changes:
                self._tell(f"the webhook {webhook.id} is {webhook.status}: there is nothing to change")
            return Outcome(changed, tuple(changes))

    async def heal(self, webhook: Webhook, others: Sequence[Webhook]) -> bool:
        """Pings an inactive webhook, and activates it. Returns False if it was healed too often. Raises PingFailedError.

        Somebody may have activated it since `webhook` was read, or deactivated it on purpose.
        """
        async with self._alone():
            if is_active(await self._client.webhook(webhook.id)):
                return True
            if not await self._records.may_heal(webhook.id):
                raise ConflictError("webhookd does not heal it, since it was left inactive on purpose")
            # Count before anything else: a process that dies in the middle must not begin again and again. The ping that comes
            # is kept before the activation, and counts for the day.
            if not await self._records.begin_healing(webhook.id):
                return False
            webhook, _ = await self._ping(webhook, others)
            await self._set_active(webhook)
            return True

    # The steps

    async def _webhooks(self) -> tuple[Webhook, ...]:
        """Returns the account's webhooks. One list that lacks the webhook that webhookd knows, or all, is no proof."""
        webhooks = await self._client.webhooks()
        known = (await self._records.known()).webhook_id
        if known is not None and all(one.id != known for one in webhooks):
            with contextlib.suppress(RecordNotFoundError, ForbiddenCallError):  # no call can ask for an odd id
                return (*webhooks, await self._client.webhook(known))
        return webhooks or await self._client.webhooks()

    def _alone(self) -> Any:
        return self._records.alone()

    async def _may(self, what: str) -> bool:
        """Returns whether a change is to be made; shows it if not."""
        if self._dry_run:
            self._tell(f"would {what}")
        return not self._dry_run

    async def _create(
        self, url: str, event_types: Sequence[str] | None, *, name: str | None = None
    ) -> tuple[Webhook | None, list[Difference]]:
        types = tuple(event_types) if event_types is not None else await self._client.event_types()
        changes = differences(None, url=url, event_types=types, status="inactive", name=name)
        if not await self._may(f"register an inactive webhook for {url}, with {len(types)} event types"):
            return None, changes
        detail = f"url: {url}; event types: {', '.join(types)}"
        try:
            webhook = await self._client.create_webhook(url, types, name=name)
        except (ProviderUnavailableError, UnreadableAnswerError) as error:
            if isinstance(error, ProviderUnavailableError) and not error.sent:
                raise
            # The webhook may be there nevertheless: look before it is made a second time.
            self._tell("Authorize.Net gave no answer that webhookd can read: looking whether the webhook is there")
            await self._records.note_change("create", None, f"{detail}; without an answer")
            found = find(await self._client.webhooks(), url)
            if found.odd or (isinstance(error, UnreadableAnswerError) and found.webhook is None):
                raise ConflictError(str(found.detail if found.odd else error)) from error
            webhook = found.webhook or await self._client.create_webhook(url, types, name=name)
        await self._records.note_change("create", webhook.id, detail)
        await self._records.note(_state_of(webhook), webhook.id, None, types)
        self._tell(f"registered the webhook {webhook.id} of {url}, {webhook.status}")
        return webhook, changes

    async def _change(
        self,
        webhook: Webhook,
        *,
        url: str | None = None,
        event_types: Sequence[str] | None = None,
        name: str | None = None,
    ) -> tuple[Webhook, list[Difference]]:
        changes = differences(webhook, url=url, event_types=event_types, name=name)
        text = "; ".join(map(str, changes))
        if not changes or not await self._may(f"change the webhook {webhook.id}: {text}"):
            return webhook, changes
        changed = await self._client.change_webhook(webhook.id, url=url, event_types=event_types, name=name)
        await self._records.note_change("update", webhook.id, text)
        self._tell(f"changed the webhook {webhook.id}: {text}")
        return changed, changes

    async def _ping(self, webhook: Webhook, others: Sequence[Webhook]) -> tuple[Webhook, Sample | None]:
        """Pings a webhook. Returns the webhook and the sample; an active webhook and None if it is active meanwhile."""
        await wait_for_open_ping(self._records, webhook, self._tell, self._sleep)
        await self._held.decide()  # a ping that somebody left open
        sample = None
        if not is_active(await self._client.webhook(webhook.id)):  # `webhook` may have been read a while ago
            self._tell(f"pinging the webhook {webhook.id}")
            sample = await ping(self._client, self._records, self._held, webhook, others, self._sleep)
        if sample is None:
            self._tell(f"the webhook {webhook.id} is active already, so it is not pinged")
            return webhook._replace(status="active"), None
        await self._records.note_change("ping", webhook.id, f"verified by the key {sample.key_fingerprint}")
        self._tell(f"the ping has come, and the key {sample.key_fingerprint} verified it")
        return webhook, sample

    async def _set_active(self, webhook: Webhook, *, active: bool = True) -> tuple[Webhook, list[Difference]]:
        status = "active" if active else "inactive"
        changes = differences(webhook, status=status)
        if not changes or not await self._may(f"{'activate' if active else 'deactivate'} the webhook {webhook.id}"):
            return webhook, changes
        if active:
            # While a ping is open, a receiver takes a notification of this webhook for its sample.
            await wait_for_open_ping(self._records, webhook, self._tell, self._sleep)
        changed = await self._client.change_webhook(webhook.id, active=active)
        await self._records.note_change("activate" if active else "deactivate", webhook.id)
        if changed.status != status:
            raise ConflictError(
                f"Authorize.Net answered that the webhook {webhook.id} is {changed.status}, and not {status}: look at it in "
                "the Merchant Interface"
            )
        self._tell(f"the webhook {webhook.id} is {status}")
        return changed, changes

    def _warn_of_others(self, found: Found, url: str) -> None:
        if found.webhook is not None:
            self._tell(
                f"the webhook {found.webhook.id} sends to {found.webhook.url}, and stays as it is: once {url} works, delete it "
                f"by `webhookd provider webhooks delete {found.webhook.id}`"
            )


def _refuse_second(webhooks: Iterable[Webhook], url: str) -> None:
    for one in webhooks:
        if one.problem and (not one.url or same_url(one.url, url)):
            raise ConflictError(str(unreadable([one])))
        if same_url(one.url, url):
            raise ConflictError(
                f"the webhook {one.id}, which is {one.status}, has the URL {one.url} already, and with a second one each "
                "event would come twice: change that webhook, or delete it"
            )


def _lacking(webhook: Webhook, known: Known) -> tuple[str, ...] | None:
    """Returns all event types that a webhook is to have, if it lacks some; else None."""
    if known.webhook_id != webhook.id or lacking_types(webhook, known.event_types) == ():
        return None
    return tuple(dict.fromkeys((*webhook.event_types, *sorted(known.event_types or ()))))


def _state_of(webhook: Webhook) -> WebhookState:
    return WebhookState.OK if is_active(webhook) else WebhookState.INACTIVE


def _chosen(webhooks: Sequence[Webhook], identifier: str) -> Webhook:
    """Returns the webhook with an id, or the only one whose id begins so."""
    wanted = identifier.strip().lower()
    found = [one for one in webhooks if one.id == wanted] or [one for one in webhooks if wanted and one.id.startswith(wanted)]
    if len(found) != 1:
        what = "several webhooks have ids that begin with" if found else "the account has no webhook"
        raise NotFoundError(f"{what} {identifier}: `webhookd provider webhooks list` shows their ids")
    return found[0]
