"""The way of each call: the account's gate and rate, its credentials, the request, and the meaning of the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import orjson

from webhookd.authorizenet.api import operations
from webhookd.authorizenet.api.answers import (
    NoJsonError,
    UnreadableError,
    decoded,
    refusal_of,
    report_of,
    rest_error_in,
)
from webhookd.authorizenet.api.credentials import Credentials
from webhookd.authorizenet.api.errors import (
    CredentialsRefusedError,
    ProviderError,
    ProviderUnavailableError,
    RecordNotFoundError,
    Refusal,
    UnreadableAnswerError,
    error_of,
)
from webhookd.authorizenet.api.limits import AT_ONCE, Clock, Lane, State
from webhookd.authorizenet.api.operations import REPORTS, REST, Feature
from webhookd.authorizenet.api.transport import Answer, Transport
from webhookd.runtime.backoff import asked_wait
from webhookd.settings.provider import ProviderAccess
from webhookd.telemetry.logs import logger

T = TypeVar("T")

# The hook of a request that was sent: the call's name, the seconds until its answer, and the error that the answer is.
OnCall = Callable[[str, float, ProviderError | None], None]
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
    of_record: bool = False


class Caller:
    """Sends the calls of one account. `close` ends the connections.

    credentials: those of `access`, and whether they may be used.
    lane: the account's rate and pauses.
    patience: the seconds that a call may wait, in all, for pauses after failures that pass; then the failure is raised.
    on_call: is called after each request.
    now, sleep: the clock, which tests replace.
    """

    def __init__(
        self,
        access: ProviderAccess,
        credentials: Credentials,
        lane: Lane,
        patience: float,
        on_call: OnCall,
        now: Clock,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._access = access
        self._credentials = credentials
        self._lane = lane
        self._patience = patience
        self._on_call = on_call
        self._now = now
        self._sleep = sleep
        self._transport = Transport(access.url, access.timeout, AT_ONCE)

    @property
    def state(self) -> State:
        """Returns the state of the account's calls."""
        state = self._lane.gate.state
        if (refused := self._credentials.refused) is None:
            return state
        return state._replace(
            refused_for=refused.refused_for,
            refused_code=refused.code,
            next_call_in=max(state.next_call_in, refused.next_try_in),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def report(self, name: str, fields: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
        """Sends a call of the JSON API. `read` makes the result from the answer's fields."""
        report = REPORTS.get(name)

        def send(key: str | None) -> Awaitable[Answer]:
            credentials = None if key is None else (self._credentials.login_id, key)
            body = operations.json_body(name, fields, credentials)
            return self._transport.send("POST", _REPORTS_PATH, _JSON, body)

        def result(answer: Answer) -> T | Refusal:
            if answer.status != 200:
                return refusal_of(answer.status, answer.body)
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
            headers = _JSON | {"Authorization": self._credentials.basic(key or "")}
            return self._transport.send(method, target, headers, content)

        def result(answer: Answer) -> T | Refusal:
            if 200 <= answer.status < 300:
                found = decoded(answer.body) if answer.body.strip() else None
                return rest_error_in(found, answer.body) or read(found, answer)
            refusal = refusal_of(answer.status, answer.body)
            return refusal if answer.status != also or refusal.of_credentials else read(None, answer)

        known = REST[name]
        call = _Call(name, Feature.WEBHOOKS, send, result, repeatable=known.repeatable, of_record=known.of_record)
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
        self._lane.gate.check(call.feature)
        if call.credentials and not self._credentials.good:
            async with self._lane.first:
                if not self._credentials.good:
                    await self._credentials.check()
                    return await self._send(call, first=True)
        return await self._send(call)

    async def _send(self, call: _Call, *, first: bool = False) -> Any:
        """Sends a call in its turn. `first`: no answer has shown yet that the credentials are good."""
        credentials = self._credentials
        async with self._lane.in_flight:
            await self._sleep(self._lane.bucket.reserve())
            self._lane.gate.check(call.feature)  # another call may have failed meanwhile
            if first:
                await credentials.take_try()
            elif call.credentials and not credentials.good:
                raise credentials.error()
            keys = [*credentials.keys] if call.credentials else [None]
            for number, key in enumerate(keys):
                if number:
                    await self._sleep(self._lane.bucket.reserve())
                seen, began = credentials.refusals_seen, self._now()
                answer = await call.send(key)
                found = self._read(call, answer)
                other_key = isinstance(found, Refusal) and found.of_key
                if isinstance(found, Refusal):
                    found = error_of(call.name, found, call.feature, credentials.mask, of_record=call.of_record)
                error = found if isinstance(found, ProviderError) else None
                self._report(call.name, self._now() - began, error)
                if not other_key:
                    break
            if error is None:
                self._lane.gate.succeeded(call.feature)
            else:
                self._lane.gate.failed(error, call.feature)
            if key is not None and isinstance(error, CredentialsRefusedError):
                await credentials.failed(error.code)
            elif key is not None and (answer.status < 300 if error is None else isinstance(error, RecordNotFoundError)):
                await credentials.accepted(key, seen)
        if error is not None:
            raise error
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
            return found._replace(asked_wait=wait or 0.0, status=max(answer.status, found.status))
        return found

    def _report(self, name: str, seconds: float, error: ProviderError | None) -> None:
        try:
            self._on_call(name, seconds, error)
        except Exception:  # noqa: BLE001  the answer matters more for further calls than the hook
            logger.exception("the hook of the provider's calls failed", call=name)

    def __repr__(self) -> str:
        return f"Caller({self._access.account!r}, {self._access.url!r})"
