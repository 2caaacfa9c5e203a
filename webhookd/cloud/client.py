"""The client of a cloud destination: sends events in batches, and gives each event its own answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from webhookd.cloud.services import MOST_BYTES, MOST_ENTRIES, REQUEST_BYTES, Entry, channel_of, is_refusal
from webhookd.cloud.session import CloudSession
from webhookd.deliver.client import Answer, Client, HttpClient
from webhookd.deliver.destination import Destination
from webhookd.errors import WebhookdError
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.loops import Watch
from webhookd.settings.cloud import Target
from webhookd.sqs.errors import ERRORS, ODD_ANSWERS, code_of
from webhookd.sqs.problem import is_throttled, problem_of

_SENT, _ASKED_TO_WAIT = 200, 429


def connector(session: CloudSession, watch: Watch) -> Callable[[Destination], Client]:
    """Returns a function that makes the client of any destination, in the cloud or not."""

    def connect(destination: Destination) -> Client:
        if destination.target is None:
            return HttpClient(destination)
        return CloudClient(destination, destination.target, session, watch)

    return connect


class CloudClient:
    """The client of a queue, a topic or a bus. Up to `concurrency` requests at a time, each with up to ten events."""

    def __init__(self, destination: Destination, target: Target, session: CloudSession, watch: Watch) -> None:
        settings = destination.settings
        self._target = target
        self._setting = f"WEBHOOKD_DESTINATIONS__{destination.name.upper()}__URL"
        self._timeout = settings.timeout
        self._concurrency = settings.concurrency
        self._session = session
        self._place = session.place(destination, target)
        self._channel = channel_of(target)
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._making = asyncio.Lock()
        self._calls: set[asyncio.Timeout] = set()
        self._batches: Batcher[Entry, Answer] = Batcher(
            f"destination {destination.name}",
            self._flush,
            watch,
            max_batch=MOST_ENTRIES,
            max_pending=destination.places + 1,
            workers=settings.concurrency,
            fill=MOST_ENTRIES,
        )

    async def send(self, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Sends one event, together with others that are sent at the same time."""
        began = time.monotonic()
        entry = self._channel.entry(content, headers)
        if entry.size > MOST_BYTES:
            return Answer(
                0.0,
                error=f"the event has {entry.size} bytes, and {self._channel.api.name} takes {MOST_BYTES} at most",
                final=True,
            )
        await self._batches.start()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._batches.submit(entry)
        except TimeoutError:
            answer = Answer(0.0, error=f"no answer within {self._timeout:g} s")
        except WebhookdError as error:  # the client is being closed
            answer = Answer(0.0, error=str(error))
        return replace(answer, seconds=time.monotonic() - began)

    async def close(self) -> None:
        """Cuts off the requests under way, and closes the connections."""
        for call in self._calls:
            call.reschedule(0.0)
        await self._batches.stop()
        await self._stack.aclose()

    async def _flush(self, entries: list[Entry]) -> list[Answer | BaseException]:
        return [answer for part in _requests(entries) for answer in await self._request(entries[part])]

    async def _request(self, entries: Sequence[Entry]) -> list[Answer]:
        """Sends one request. If the service refuses the whole request because of an event, sends each event alone."""
        try:
            async with asyncio.timeout(self._timeout) as call:
                self._calls.add(call)
                try:
                    codes = await self._channel.put(await self._connected(), entries)
                finally:
                    self._calls.discard(call)
        except ClientError as error:
            if is_refusal(code_of(error)) and len(entries) > 1:
                return [answer for entry in entries for answer in await self._request([entry])]
            return [self._answer(error, entry) for entry in entries]
        except (*ERRORS, *ODD_ANSWERS) as error:
            return [self._answer(error, entry) for entry in entries]
        return [
            Answer(0.0, _SENT) if code is None else self._answer(self._failure(code), entry)
            for code, entry in zip(codes, entries, strict=True)
        ]

    async def _connected(self) -> Any:
        async with self._making:
            if self._client is None:
                self._client = await self._session.open(
                    self._target, self._place, self._stack, timeout=self._timeout, connections=self._concurrency
                )
        return self._client

    def _failure(self, code: str) -> ClientError:
        return ClientError({"Error": {"Code": code}}, self._channel.operation)

    def _answer(self, error: BaseException, entry: Entry) -> Answer:
        """Returns the answer of a failed attempt, with the reason and the remedy. No text of AWS is quoted."""
        api, name = self._channel.api, self._target.name
        if isinstance(error, ClientError):
            code = code_of(error)
            if is_refusal(code):
                return Answer(
                    0.0,
                    error=f"{api.name} refuses the event of {entry.size} bytes ({code}): let the {api.thing} {name} take such "
                    "events, and redrive the delivery",
                    final=True,
                )
            if is_throttled(code):
                return Answer(0.0, _ASKED_TO_WAIT, problem_of(error, name, self._setting, self._place, api))
        return Answer(0.0, error=problem_of(error, name, self._setting, self._place, api))


def _requests(entries: Sequence[Entry]) -> Iterator[slice]:
    """Cuts events into requests that each service takes."""
    begin = total = 0
    for end, entry in enumerate(entries):
        if end > begin and total + entry.size > REQUEST_BYTES:
            yield slice(begin, end)
            begin, total = end, 0
        total += entry.size
    yield slice(begin, len(entries))
