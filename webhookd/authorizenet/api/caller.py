"""The way of each call: the account's gate and rate, its credentials, the request, and the meaning of the answer."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import orjson

from webhookd.authorizenet.api import operations
from webhookd.authorizenet.api.answers import NoJsonError, UnreadableError, decoded, report_of, rest_refusal
from webhookd.authorizenet.api.errors import (
    OTHER_KEY,
    ProviderError,
    ProviderUnavailableError,
    Refusal,
    UnreadableAnswerError,
    error_of,
)
from webhookd.authorizenet.api.limits import Bucket, Clock, Gate, State
from webhookd.authorizenet.api.operations import REPORTS, REST, Feature
from webhookd.authorizenet.api.transport import Answer, Transport
from webhookd.runtime.backoff import asked_wait
from webhookd.settings.provider import ProviderAccess

T = TypeVar("T")

_AT_ONCE = 2  # calls of one account that are in flight together
_REPORTS_PATH, _REST_PATH = "/xml/v1/request.api", "/rest/v1/"
_JSON = {"Content-Type": "application/json"}


class _Call(NamedTuple):
    """One call. `send`: sends it with the Transaction Key, or without a key. `read`: makes the result from the answer."""

    name: str
    feature: Feature
    send: Callable[[str | None], Awaitable[Answer]]
    read: Callable[[Answer], Any]
    credentials: bool = True
    repeatable: bool = True


class Caller:
    """Sends the calls of one account. `close` ends the connections.

    patience: the seconds that a call may wait, in all, for pauses after failures that pass; then the failure is raised.
    now, sleep: the clock, which tests replace.
    """

    def __init__(
        self,
        access: ProviderAccess,
        patience: float,
        now: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._access = access
        self._patience = patience
        self._now = now
        self._sleep = sleep
        self._gate = Gate(now)
        self._bucket = Bucket(access.rate, now)
        self._in_flight = asyncio.Semaphore(_AT_ONCE)
        self._keys = list(access.keys)  # the one that worked last comes first
        self._secrets = _pattern(access)
        self._transport = Transport(access.url, access.timeout, _AT_ONCE)

    @property
    def state(self) -> State:
        """Returns the state of the account's calls."""
        return self._gate.state

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def report(self, name: str, fields: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
        """Sends a call of the JSON API. `read` makes the result from the answer's fields."""
        report = REPORTS.get(name)

        def send(key: str | None) -> Awaitable[Answer]:
            credentials = None if key is None else (self._access.login_id.get_secret_value(), key)
            body = operations.json_body(name, fields, credentials)
            return self._transport.send("POST", _REPORTS_PATH, _JSON, body)

        def result(answer: Answer) -> T | Refusal:
            if answer.status != 200:
                return rest_refusal(answer.status, answer.body)
            found = report_of(answer.body)
            return found if isinstance(found, Refusal) else read(found)

        feature, credentials = (report.feature, report.credentials) if report else (Feature.ACCOUNT, True)
        return await self._patiently(_Call(name, feature, send, result, credentials))  # type: ignore[no-any-return]

    async def rest(
        self,
        name: str,
        read: Callable[[Any, Answer], T],
        identifier: str | None = None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        also: int | None = None,
    ) -> T:
        """Sends a call of the REST API. `read` makes the result from the answer's JSON, which is None if it is empty.

        also: an HTTP status that is no failure of the call, besides 2xx; `read` gets no JSON of such an answer.
        """
        method, path = operations.rest_path(name, identifier)
        target = f"{_REST_PATH}{path}" + (f"?{urlencode(query)}" if query else "")
        content = None if body is None else orjson.dumps(body)

        def send(key: str | None) -> Awaitable[Answer]:
            pair = f"{self._access.login_id.get_secret_value()}:{key}".encode()
            headers = _JSON | {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
            return self._transport.send(method, target, headers, content)

        def result(answer: Answer) -> T | Refusal:
            good = 200 <= answer.status < 300
            if not good and answer.status != also:
                return rest_refusal(answer.status, answer.body)
            return read(decoded(answer.body) if good and answer.body.strip() else None, answer)

        call = _Call(name, Feature.WEBHOOKS, send, result, repeatable=REST[name].repeatable)
        return await self._patiently(call)  # type: ignore[no-any-return]

    async def _patiently(self, call: _Call) -> Any:
        """Sends a call. If the provider is away for a short time, waits, and sends the call again if that is safe."""
        until = self._now() + self._patience
        while True:
            try:
                return await self._once(call)
            except ProviderUnavailableError as error:
                if (error.sent and not call.repeatable) or self._now() + error.retry_in > until:
                    raise
                wait = error.retry_in
            await self._sleep(wait)

    async def _once(self, call: _Call) -> Any:
        self._gate.check(call.feature, credentials=call.credentials)
        async with self._in_flight:
            await self._sleep(self._bucket.reserve())
            self._gate.begin(call.feature, credentials=call.credentials)  # another call may have failed meanwhile
            keys = [key.get_secret_value() for key in self._keys] if call.credentials else [None]
            for number, key in enumerate(keys):
                if number:
                    await self._sleep(self._bucket.reserve())
                found = self._read(call, await call.send(key))
                refused = isinstance(found, Refusal) and (found.code in OTHER_KEY or found.status in (401, 403))
                if not refused and number:
                    self._keys.reverse()
                if not refused or number == len(keys) - 1:
                    break
        if isinstance(found, Refusal):
            found = error_of(call.name, found._replace(text=self._secrets.sub("***", found.text)), call.feature)
        if isinstance(found, ProviderError):
            self._gate.failed(found, call.feature)
            raise found
        self._gate.succeeded(call.feature, credentials=call.credentials)
        return found

    def _read(self, call: _Call, answer: Answer) -> Any:
        """Returns the result, the Refusal, or the error that an answer is."""
        if answer.problem:
            return ProviderUnavailableError(f"{call.name}: {answer.problem}")
        try:
            found = call.read(answer)
        except NoJsonError as error:
            return ProviderUnavailableError(f"{call.name}: {error}")
        except UnreadableError as error:
            return UnreadableAnswerError(f"{call.name}: {error}")
        if isinstance(found, Refusal):
            wait = asked_wait(answer.retry_after or "", datetime.now(UTC))
            return found._replace(asked_wait=wait or 0.0, status=answer.status)
        return found

    def __repr__(self) -> str:
        return f"Caller({self._access.account!r}, {self._access.url!r})"


def _pattern(access: ProviderAccess) -> re.Pattern[str]:
    """Returns a pattern of the account's secrets: the provider's texts may quote what a request holds."""
    texts = {access.login_id.get_secret_value(), *(key.get_secret_value() for key in access.keys)}
    pairs = (f"{access.login_id.get_secret_value()}:{key.get_secret_value()}" for key in access.keys)
    texts |= {base64.b64encode(pair.encode()).decode() for pair in pairs}
    return re.compile("|".join(re.escape(one) for one in sorted(texts, key=len, reverse=True)), re.IGNORECASE)
