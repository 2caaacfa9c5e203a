"""Data for the dashboard: webhooks with the fields that matter, and handlers that fail when the test says so."""

from __future__ import annotations

import uuid
from typing import Any

import aiohttp
import orjson

from tests.helpers.operator import AUTHCAPTURE
from tests.helpers.running import KEY
from webhookd.authorizenet.signature import sign
from webhookd.daemon import Daemon
from webhookd.event import Event
from webhookd.process.handlers import Registry

TRANSACTION = "60155504711"


class Shop:
    """Handlers for every type. They raise `failure`, or the failure of the type in `failures`, while one is set."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.failures: dict[str, Exception] = {}
        self.booked: list[str] = []
        self.registry = Registry()
        self.registry.add("*", self._handle)

    async def _handle(self, event: Event, _: Any) -> None:
        failure = self.failures.get(event.event_type, self.failure)
        if failure is not None:
            raise failure
        self.booked.append(str(event.id))


def notification(event_type: str = AUTHCAPTURE, **payload: Any) -> dict[str, Any]:
    """Returns a notification as Authorize.Net makes it."""
    return {
        "notificationId": str(uuid.uuid4()),
        "eventType": event_type,
        "webhookId": str(uuid.uuid4()),
        "payload": {"responseCode": 1, "authAmount": 12.5, "entityName": "transaction", "id": TRANSACTION, **payload},
    }


async def deliver(daemon: Daemon, *bodies: dict[str, Any] | bytes) -> list[str]:
    """Sends webhooks, one after the other; returns the ids that the receiver gave them."""
    ids = []
    async with aiohttp.ClientSession() as session:
        for body in bodies:
            raw = body if isinstance(body, bytes) else orjson.dumps(body)
            headers = {"X-ANET-Signature": sign(raw, KEY), "Content-Type": "application/json"}
            async with session.post(f"{daemon.public_url}/webhooks/authorize-net", data=raw, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                ids.append((await answer.json())["id"])
    return ids


async def refuse(daemon: Daemon, path: str, headers: dict[str, str], body: bytes = b"{}") -> None:
    """Sends a webhook that the receiver refuses."""
    async with aiohttp.ClientSession(daemon.public_url) as session, session.post(path, data=body, headers=headers) as answer:
        assert 400 <= answer.status < 500, await answer.text()
