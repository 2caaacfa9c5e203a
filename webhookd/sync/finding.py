"""Finds our webhook in the list of an account's webhooks, and its state with the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from webhookd.authorizenet.api.results import Webhook
from webhookd.sync.webhook_url import same_url


class WebhookState(StrEnum):
    """The states of our webhook, the gravest first.

    `unknown`: webhookd does not know which webhook is its own, cannot read it, or has not seen it for long.
    """

    MISSING = "missing"
    URL = "url"
    DOUBLED = "doubled"
    INACTIVE = "inactive"
    EVENT_TYPES = "event_types"
    OK = "ok"
    UNKNOWN = "unknown"


class Found(NamedTuple):
    """Our webhook and its state. `detail` says what is wrong, and what to do. `others`: all other webhooks of the account.

    odd: the other webhooks that webhookd cannot read whole and that may have our URL. While there are some, change nothing.
    """

    state: WebhookState
    webhook: Webhook | None
    detail: str | None
    others: tuple[Webhook, ...]
    odd: tuple[Webhook, ...] = ()


def find(
    webhooks: Sequence[Webhook], url: str | None, webhook_id: str | None = None, event_types: Iterable[str] | None = None
) -> Found:
    """Returns our webhook and its state.

    url: ours, as the provider knows it. webhook_id: the id that ours had. Without a URL, the id alone decides.
    event_types: the types that ours is to have; None if nobody has said so.
    """
    with_url = [one for one in webhooks if url is not None and same_url(one.url, url)]
    with_url.sort(key=lambda one: one.problem is not None)
    active = [one for one in with_url if is_active(one)]
    by_id = next((one for one in webhooks if one.id == webhook_id), None)
    ours = by_id
    if with_url and by_id not in with_url:
        ours = (active or with_url)[0]
    elif active and by_id is not None and not is_active(by_id):  # somebody has registered the URL again
        ours = active[0]
    others = tuple(one for one in webhooks if one is not ours)
    odd = tuple(one for one in others if one.problem and (one in with_url or not (one.url if url is not None else one.id)))
    if ours is None and odd:
        return Found(WebhookState.UNKNOWN, None, unreadable(odd), others, odd)
    if ours is None:
        listed = f"{len(webhooks)} other webhooks" if len(webhooks) != 1 else "1 other webhook"
        place = f"with the URL {url}" if url is not None else "that webhookd knows"
        return Found(
            WebhookState.MISSING,
            None,
            f"the account has no webhook {place} ({listed}): run `webhookd provider setup`",
            others,
        )
    state, detail = _judge(ours, url, active, event_types)
    if ours.problem is not None:
        return Found(state, None, detail, tuple(webhooks), (ours, *odd))
    return Found(state, ours, "; ".join(filter(None, (detail, unreadable(odd)))) or None, others, odd)


def unreadable(webhooks: Sequence[Webhook]) -> str | None:
    """Returns which webhooks webhookd cannot read, and what to do; None if there is none."""
    if not webhooks:
        return None
    told = "; ".join(f"{one.id[:64] or 'a webhook without an id'} ({one.problem})" for one in webhooks)
    return f"webhookd cannot read {told}: correct or delete it in the Merchant Interface (Account, Settings, Webhooks)"


def _judge(
    ours: Webhook, url: str | None, active: Sequence[Webhook], event_types: Iterable[str] | None
) -> tuple[WebhookState, str | None]:
    if ours.problem is not None and len(active) < 2:
        return WebhookState.UNKNOWN, unreadable([ours])
    if url is not None and not same_url(ours.url, url):
        return WebhookState.URL, (
            f"the webhook {ours.id} sends to {ours.url}, and not to {url}: run `webhookd provider setup`, which "
            "registers a webhook with this URL, or correct WEBHOOKD_PUBLIC_URL"
        )
    if len(active) > 1:
        ids = ", ".join(one.id for one in active)
        return WebhookState.DOUBLED, (
            f"{len(active)} active webhooks have one URL, so each event comes {len(active)} times ({ids}): delete all but one "
            "by `webhookd provider webhooks delete ID`"
        )
    if not is_active(ours):
        return WebhookState.INACTIVE, (
            f"the webhook {ours.id} is {ours.status}, so Authorize.Net sends nothing: run `webhookd provider setup`, which "
            "pings it and activates it"
        )
    if lacking := lacking_types(ours, event_types):
        return WebhookState.EVENT_TYPES, (
            f"the webhook {ours.id} no longer has the event types {', '.join(lacking)}: run `webhookd provider webhooks "
            f"update {ours.id}`, which puts them back"
        )
    return WebhookState.OK, None


def lacking_types(webhook: Webhook, event_types: Iterable[str] | None) -> tuple[str, ...]:
    """Returns those of the event types that a webhook does not have. A webhook without types gets all of them."""
    return tuple(sorted(set(event_types or ()) - set(webhook.event_types))) if webhook.event_types else ()


def is_active(webhook: Webhook) -> bool:
    """Returns whether the provider sends to a webhook."""
    return webhook.status.lower() == "active"
