"""A message about a change of state, and its forms: for Slack, Teams, Discord, a signed JSON POST, and e-mail.

No form holds data of a customer or a secret: a message has a condition's own words, numbers, and names of the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import orjson

from webhookd.alerts.catalogue import CONDITIONS, Severity
from webhookd.deliver.signing import signature
from webhookd.settings.destinations import secret_bytes

FIRES, RESOLVED, TEST = "fires", "resolved", "test"
_LONGEST = 1_900  # characters; Discord takes 2,000


@dataclass(slots=True, frozen=True)
class Message:
    """A message. `id` stays the same if the message is sent again. `condition` is empty for a test."""

    id: UUID
    change: str
    condition: str
    subject: str
    detail: str
    at: datetime
    dashboard: str = ""  # the dashboard's public address; empty if the settings name none

    @property
    def title(self) -> str:
        """Returns the first line."""
        if self.change == TEST:
            return "webhookd: this is a test"
        condition = CONDITIONS[self.condition]
        what = f"{condition.summary} ({self.subject})" if self.subject else condition.summary
        return f"webhookd: resolved: {what}" if self.change == RESOLVED else f"webhookd: {condition.severity}: {what}"

    @property
    def severity(self) -> str:
        """Returns the condition's severity."""
        return CONDITIONS[self.condition].severity if self.condition else Severity.TICKET

    @property
    def links(self) -> dict[str, str]:
        """Returns the addresses that help, by their names. They are paths if the settings name no dashboard."""
        condition = CONDITIONS.get(self.condition)
        if condition is None:
            return {"The guide": f"{self.dashboard}/guide/alerts"}
        links = {"What to do": self.dashboard + condition.guide}
        if condition.view and self.dashboard:
            links["Dashboard"] = f"{self.dashboard}/#/{condition.view}"
        return links

    @property
    def text(self) -> str:
        """Returns the message as plain text."""
        return "\n".join((self.title, self.detail, *(f"{name}: {url}" for name, url in self.links.items())))[:_LONGEST]


def slack(message: Message) -> Any:
    """Returns the body of a message for Slack.

    Contract: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks. Slack wants &, < and > escaped.
    """
    text = message.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": text, "unfurl_links": False}


def discord(message: Message) -> Any:
    """Returns the body of a message for Discord; the message notifies nobody by a name in its text.

    Contract: https://discord.com/developers/docs/resources/webhook#execute-webhook.
    """
    return {"content": message.text, "allowed_mentions": {"parse": []}}


def teams(message: Message) -> Any:
    """Returns the body of a message for a workflow of Teams: an Adaptive Card.

    Contract: https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using.
    """
    lines = [
        {"type": "TextBlock", "text": message.title, "weight": "Bolder", "wrap": True},
        {"type": "TextBlock", "text": message.detail, "wrap": True},
    ]
    links = message.links.items()
    lines += [
        {"type": "TextBlock", "text": f"{name}: {url}", "wrap": True} for name, url in links if not url.startswith("http")
    ]
    actions = [{"type": "Action.OpenUrl", "title": name, "url": url} for name, url in links if url.startswith("http")]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": lines,
        "actions": actions,
    }
    return {
        "type": "message",
        "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}],
    }


def plain_json(message: Message) -> Any:
    """Returns the body of a signed POST. `type`, `timestamp` and `data` are the names that Standard Webhooks recommends."""
    return {
        "type": f"webhookd.alert.{message.change}",
        "timestamp": message.at.isoformat(),
        "data": {
            "condition": message.condition or None,
            "subject": message.subject or None,
            "severity": message.severity,
            "title": message.title,
            "detail": message.detail,
            "links": message.links,
        },
    }


FORMS = {"slack": slack, "teams": teams, "discord": discord, "json": plain_json}


def body(message: Message, form: str) -> bytes:
    """Returns the body of a POST in one of FORMS."""
    return orjson.dumps(FORMS[form](message))


def signed(message: Message, sent: bytes, secret: str, *, now: int) -> Mapping[str, str]:
    """Returns the header fields that sign a body. `secret`: whsec_ and base64. `now`: seconds since 1970.

    The contract is that of deliveries (Standard Webhooks).
    """
    return {
        "webhook-id": str(message.id),
        "webhook-timestamp": str(now),
        "webhook-signature": signature(str(message.id), now, sent, [secret_bytes(secret)]),
    }


def mail(message: Message, *, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    """Returns an e-mail. Its Message-ID stays the same if the message is sent again.

    Contract: RFC 3834: Auto-Submitted stops automatic answers.
    """
    sent = EmailMessage()
    sent["Subject"] = message.title[:200]
    sent["From"] = sender
    sent["To"] = ", ".join(recipients)
    sent["Date"] = format_datetime(message.at)
    sent["Message-ID"] = f"<{message.id}@{sender.rpartition('@')[2].rstrip('>') or 'webhookd'}>"
    sent["Auto-Submitted"] = "auto-generated"
    sent.set_content(message.text + "\n")
    return sent
