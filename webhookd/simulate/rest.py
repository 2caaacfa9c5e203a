"""The simulator's REST API: webhooks, pings, and the history of notifications."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from aiohttp import web

from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.settings.sources import is_loopback
from webhookd.simulate import books
from webhookd.simulate.answering import json, rest_error
from webhookd.simulate.books import Account, Notification, Webhook
from webhookd.simulate.faults import Dice, Faults

_LIMIT = 100  # rows of a page of the history, if the call asks for no number
_MOST = 1000
_MOST_INSERTED = 100  # notifications of the fault `insert`: with short pages, a list could grow faster than it can be read
_LATE = 3600.0  # seconds; the longest time by which the fault `late` holds a row back

Ping = Callable[[Account, Webhook, Notification], Awaitable[bool]]


class Rest:
    """Answers the REST API. `account_of` finds an account by its API Login ID; `insert` makes a new notification."""

    def __init__(
        self,
        account_of: Callable[[str], Account | None],
        now: Callable[[], datetime],
        faults: Faults,
        dice: Dice,
        ping: Ping,
        insert: Callable[[Account], object],
    ) -> None:
        self._account_of = account_of
        self._now = now
        self._faults = faults
        self._dice = dice
        self._ping = ping
        self._insert = insert
        self._inserted = 0

    async def answer(self, request: web.Request) -> tuple[str, web.Response]:
        """Returns the account's name and the answer."""
        account = self.authenticated(request)
        if account is None:
            return "", rest_error(401, "AUTHENTICATION_FAILED", "User authentication failed.")
        parts = request.match_info["path"].strip("/").split("/")
        match request.method, parts:
            case "GET", ["eventtypes"]:
                answer = json([{"name": name} for name in EVENT_TYPES])
            case "GET", ["webhooks"]:
                answer = json([one.shown() for one in account.webhooks.values()])
            case "POST", ["webhooks"]:
                answer = self._change(account, None, await request.read())
            case (_, ["webhooks", identifier, *_]) if identifier.lower() not in account.webhooks:
                answer = rest_error(404, "NOT_FOUND", "The webhook was not found.")
            case "GET", ["webhooks", identifier]:
                answer = json(account.webhooks[identifier.lower()].shown())
            case "PUT", ["webhooks", identifier]:
                answer = self._change(account, account.webhooks[identifier.lower()], await request.read())
            case "DELETE", ["webhooks", identifier]:
                del account.webhooks[identifier.lower()]
                answer = web.Response()
            case "POST", ["webhooks", identifier, "pings"]:
                answer = await self._pinged(account, account.webhooks[identifier.lower()])
            case "GET", ["notifications"]:
                answer = self._history(account, request)
            case "GET", ["notifications", identifier]:
                found = account.notifications.get(identifier.lower())
                gone = found is None or self._now() < found.listed_from
                missing = rest_error(404, "NOT_FOUND", "The notification was not found.")
                answer = missing if found is None or gone else json(found.detailed(self._faults))
            case _:
                answer = rest_error(404, "RESOURCE_NOT_FOUND", "No such resource.")
        return account.name, answer

    def authenticated(self, request: web.Request) -> Account | None:
        """Returns the account whose credentials a request has."""
        kind, _, text = request.headers.get("Authorization", "").partition(" ")
        try:
            login_id, _, key = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return None
        account = self._account_of(login_id) if kind == "Basic" else None
        return account if account is not None and account.active and account.accepts(key, self._now()) else None

    def _change(self, account: Account, webhook: Webhook | None, body: bytes) -> web.Response:
        try:
            fields = orjson.loads(body)
            before = webhook or Webhook(self._dice.uuid("webhook"), "", (), "active")
            changed = replace(
                before,
                url=str(fields.get("url", before.url)),
                event_types=tuple(fields.get("eventTypes", before.event_types)),
                status=str(fields.get("status", before.status)),
                name=fields.get("name", before.name),
            )
        except (ValueError, AttributeError, TypeError):
            return rest_error(400, "INVALID_DATA", "The body is no JSON object.")
        wrong = []
        if not changed.url.startswith("https://") and not is_loopback(changed.url):
            wrong.append("The url must begin with https.")
        if account.only_to not in (None, changed.url):
            wrong.append(f"The deliveries are signed with a key of yours, so the url can only be {account.only_to}")
        if unknown := set(changed.event_types) - set(EVENT_TYPES):
            wrong.append(f"Unknown event types: {', '.join(sorted(unknown))}")
        if not changed.event_types:
            wrong.append("At least one event type is needed.")
        if changed.status not in ("active", "inactive"):
            wrong.append("The status must be active or inactive.")
        if wrong:
            return rest_error(400, "INVALID_DATA", "Field validation errors", *wrong)
        if webhook is None:
            account.webhooks[changed.id] = changed
        else:  # deliveries that wait hold this object
            webhook.url, webhook.event_types = changed.url, changed.event_types
            webhook.status, webhook.name = changed.status, changed.name
        return json(changed.shown())

    async def _pinged(self, account: Account, webhook: Webhook) -> web.Response:
        if webhook.status != "inactive":
            return rest_error(400, "INVALID_DATA", "Only an inactive webhook can be pinged.")
        made_at = self._now() + timedelta(seconds=self._faults.apart)
        sample = books.notification(webhook, webhook.event_types[0], 1, made_at, self._dice)
        sample.ping = True
        sample.payload["id"] = "245"
        if self._faults.pings_listed:
            account.notifications[sample.id] = sample
        if await self._ping(account, webhook, sample):
            return web.Response()
        return rest_error(500, "INTERNAL_SERVER_ERROR", "The endpoint did not answer.")

    def _history(self, account: Account, request: web.Request) -> web.Response:
        try:
            first, last = (date.fromisoformat(request.query[name]) for name in ("from_date", "to_date"))
            offset, limit = int(request.query.get("offset", "0")), int(request.query.get("limit", str(_LIMIT)))
        except (KeyError, ValueError):
            return rest_error(400, "INVALID_DATA", "Field validation errors", "from_date and to_date are needed.")
        if offset < 0 or not 1 <= limit <= _MOST:
            return rest_error(400, "INVALID_DATA", "Field validation errors", "offset or limit is out of range.")
        if self._inserted < _MOST_INSERTED and self._dice.hit("insert", self._faults.insert):
            self._inserted += 1
            self._insert(account)
        zone, now = ZoneInfo(self._faults.day_zone), self._now()
        end = last if self._faults.exclusive else last + timedelta(days=1)
        rows = [
            one
            for one in account.notifications.values()
            if one.listed_from <= now and first <= one.made_at.astimezone(zone).date() < end
        ]
        if wanted := request.query.get("deliveryStatus"):
            rows = [one for one in rows if one.status == wanted]
        if self._faults.reverse:
            rows.reverse()
        if self._dice.hit("empty", self._faults.empty):
            rows = []
        offset = 0 if self._faults.offset_ignored else offset
        most = min(limit, self._faults.clamp or limit)
        links = {"self": {"href": f"/rest/v1/notifications?offset={offset}&limit={most}"}}
        return json({"_links": links, "notifications": [one.listed(self._faults) for one in rows[offset : offset + most]]})


def spoil(notification: Notification, now: datetime, faults: Faults, dice: Dice) -> None:
    """Sets how the history shows a notification, and from when, as the seed wants it."""
    notification.has_date = not dice.hit("undated", faults.undated)
    notification.has_type = not dice.hit("garbled", faults.garbled)
    notification.has_payload = not dice.hit("no payload", faults.no_payload)
    notification.listed_from = now
    if dice.hit("late", faults.late):
        notification.listed_from += timedelta(seconds=dice.of("late by").random() * _LATE)


def fields_of(body: bytes) -> dict[str, Any]:
    """Returns the JSON object of a body; {} if it is none."""
    try:
        found = orjson.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
