"""Events for a program on this machine: read from the admin API, and posted as a destination would post them.

This module sends GET requests to webhookd, and nothing else: it changes nothing there.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from webhookd.cli.operator import tail
from webhookd.cli.operator.api import Api, Json
from webhookd.cli.operator.failures import ApiError, Exit
from webhookd.deliver.answers import accepted
from webhookd.deliver.client import Answer, HttpClient
from webhookd.deliver.destination import Destination, Payload
from webhookd.deliver.sender import request_of
from webhookd.deliver.signing import Message

MOST = 4000  # past events that `--since` can choose


@dataclass(slots=True, eq=False)
class Sent:
    """An event with its last request and the answer. `number` counts the events of this session."""

    number: int
    event: Json
    body: bytes | None
    origin: str
    attempts: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    answer: Answer | None = None

    @property
    def accepted(self) -> bool:
        """Returns whether the program accepted the event."""
        return self.answer is not None and self.answer.status is not None and accepted(self.answer.status)

    @property
    def outcome(self) -> str:
        """Returns the status of the answer, or the reason why there is none."""
        if self.answer is None:
            return "sending" if self.body is not None else "the body is no longer kept"
        return self.answer.error or f"HTTP status {self.answer.status}"

    def as_json(self) -> Json:
        """Returns the line of `--json`. The body, which is customer data, is not part of the line."""
        names = ("id", "account", "event_type", "received_at", "entity_id")
        answer = self.answer or Answer(0.0, error=self.outcome)
        return {name: self.event[name] for name in names} | {
            "attempt": self.attempts,
            "accepted": self.accepted,
            "status": answer.status,
            "seconds": round(answer.seconds, 4),
            "error": answer.error,
            "answer": answer.text,
        }


class Listener:
    """Takes events from the API, and posts them to the destination. Use it as an async context manager.

    signature_key: the key of the header X-ANET-Signature; None leaves the header out.
    """

    def __init__(self, api: Api, destination: Destination, *, signature_key: str | None) -> None:
        self._api = api
        self._destination = destination
        self._signature_key = signature_key
        self._numbers = 0

    async def __aenter__(self) -> Listener:
        self._client = HttpClient(self._destination)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def events(self, since: str | None, **query: Any) -> AsyncGenerator[Sent, None]:
        """Yields the events since `since`, then each new event, for ever. An event without a body cannot be sent.

        Raises ApiError if the API is away at first, or refuses the token. Later, waits until the API is back.
        """
        last, most_pages = (0, tail.MOST_PAGES) if since is None else (MOST, None)
        async for row in tail.follow(self._api, last, most_pages=most_pages, received_from=since, **query):
            found = await self._in_full(row["id"])
            body, origin = (None, "") if found is None else (_bytes(found["body"]), found["origin"])
            if body is None or self._destination.takes(row["account"], row["event_type"], Payload(body)):
                self._numbers += 1
                yield Sent(self._numbers, row, body, origin)

    async def send(self, sent: Sent) -> None:
        """Posts an event, and keeps the request and the answer in `sent`. The event's id stays the same at each attempt."""
        if sent.body is None:
            return
        sent.attempts += 1
        row = sent.event
        received_at = datetime.fromisoformat(row["received_at"])
        message = Message(
            UUID(row["id"]), row["account"], row["event_type"], received_at, sent.attempts, sent.body, origin=sent.origin
        )
        now = datetime.now(UTC)
        content, sent.headers = request_of(self._destination, message, at=now, signature_key=self._signature_key)
        sent.answer = await self._client.send(content, sent.headers)

    async def _in_full(self, event_id: str) -> Json | None:
        """Reads an event with its body and origin. Waits while the API is away: `tail` reports that."""
        while True:
            try:
                found: Json = await self._api.get("events", event_id)
            except ApiError as error:
                if error.exit_code is Exit.NOT_FOUND:  # retention removed the event meanwhile
                    return None
                if error.exit_code is not Exit.UNAVAILABLE:
                    raise
                await asyncio.sleep(tail.PAUSE)
            else:
                return found


def _bytes(body: Json | None) -> bytes | None:
    if body is None:
        return None
    text: str = body["text"]
    return base64.b64decode(text) if body["encoding"] == "base64" else text.encode()
