"""The client of a cloud destination: sends events in batches, and gives each event its own answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from webhookd.cloud.services import MOST_BYTES, MOST_ENTRIES, REQUEST_BYTES, Entry, channel_of, is_refusal, may_be_refusal
from webhookd.cloud.session import CloudSession
from webhookd.deliver.client import Answer, Client, HttpClient
from webhookd.deliver.destination import Destination
from webhookd.errors import SettingsError, WebhookdError
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.loops import Watch
from webhookd.settings.cloud import Target, in_clear
from webhookd.sqs.errors import ERRORS, ODD_ANSWERS, code_of
from webhookd.sqs.problem import is_throttled, problem_of

_SENT, _ASKED_TO_WAIT = 200, 429
_LEFT = 0.1  # of an event's time, which its request needs at least


def connector(session: CloudSession, watch: Watch) -> Callable[[Destination], Client]:
    """Returns a function that makes the client of any destination, in the cloud or not."""

    def connect(destination: Destination) -> Client:
        if destination.target is None:
            return HttpClient(destination)
        return CloudClient(destination, destination.target, session, watch)

    return connect


@dataclass(slots=True)
class _Item:
    """An event that is to be sent.

    deadline: the time by the loop's clock after which nobody waits for the answer.
    begun: a request has the event, so the service may have taken it.
    """

    entry: Entry
    deadline: float
    answer: asyncio.Future[Answer]
    begun: bool = False


class CloudClient:
    """The client of a queue, a topic or a bus. Up to `concurrency` requests at a time, each with up to ten events."""

    def __init__(self, destination: Destination, target: Target, session: CloudSession, watch: Watch) -> None:
        settings = destination.settings
        self._target = target
        self._prefix = f"WEBHOOKD_DESTINATIONS__{destination.name.upper()}__"
        self._setting = f"{self._prefix}URL"
        self._may_be_in_clear = settings.allow_private
        self._timeout = settings.timeout
        self._concurrency = settings.concurrency
        self._session = session
        self._place = session.place(destination, target)
        self._channel = channel = channel_of(target)
        # The address of a queue by URL stands in the destination's own setting.
        self._api = channel.api if target.endpoint is None else channel.api._replace(endpoint=self._setting)
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._making = asyncio.Lock()
        self._closing = False
        self._calls: set[asyncio.Timeout] = set()
        self._batches: Batcher[_Item, None] = Batcher(
            f"destination {destination.name}",
            self._flush,
            watch,
            max_batch=MOST_ENTRIES,
            max_pending=2 * destination.places + 1,  # those that are sent, and those whose waiters gave up
            workers=settings.concurrency,
            fill=MOST_ENTRIES,
        )

    async def send(self, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Sends one event, together with others that are sent at the same time."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        entry = self._channel.entry(content, headers)
        if entry.size > MOST_BYTES:
            return Answer(
                0.0,
                error=f"the event has {entry.size} bytes, and {self._channel.api.name} takes {MOST_BYTES} at most",
                final=True,
            )
        item = _Item(entry, loop.time() + self._timeout, loop.create_future())
        await self._batches.start()
        try:
            async with asyncio.timeout(self._timeout):
                self._batches.post(item)
                answer = await item.answer
        except TimeoutError:
            said = "no answer" if item.begun else "not sent, because earlier requests were not answered"
            answer = Answer(0.0, error=f"{said} within {self._timeout:g} s", sent=item.begun)
        except WebhookdError:
            answer = Answer(0.0, error="the event was not sent, because webhookd stops or has too much to send", sent=False)
        return answer._replace(seconds=time.monotonic() - began)

    async def close(self) -> None:
        """Cuts off the requests under way, and closes the connections."""
        self._closing = True
        for call in self._calls:
            if not call.expired():
                call.reschedule(0.0)
        await self._batches.stop()
        await self._stack.aclose()

    async def _flush(self, items: list[_Item]) -> list[BaseException | None]:
        for part in _requests([item.entry for item in items]):
            await self._request(items[part])
        return [None] * len(items)

    async def _request(self, items: Sequence[_Item], *, accepted: bool = False) -> bool:
        """Sends one request, and gives the answers to those who wait. Returns whether the service accepted an event.

        If the service refuses the whole request because of an event, sends each event alone.
        accepted: the service has accepted a neighbour of these events.
        """
        # A request that begins at the end of an event's time would be cut off, and would spend an attempt.
        latest = asyncio.get_running_loop().time() + _LEFT * self._timeout
        waiting = [item for item in items if not item.answer.done() and (item.begun or item.deadline > latest)]
        if self._closing or not waiting:
            return accepted
        entries = [item.entry for item in waiting]
        for item in waiting:
            item.begun = True
        error: BaseException
        try:
            async with asyncio.timeout_at(max(item.deadline for item in waiting)) as call:
                self._calls.add(call)
                try:
                    codes = await self._channel.put(await self._connected(), entries)
                finally:
                    self._calls.discard(call)
        except ClientError as found:
            error = found
            is_of_events = error.operation_name == self._channel.operation and may_be_refusal(code_of(error))
            if is_of_events and len(waiting) > 1:
                for item in waiting:
                    accepted = await self._request([item], accepted=accepted)
                return accepted
        except (*ERRORS, *ODD_ANSWERS, LookupError, ResponseParserError, SettingsError) as found:
            error = found
        else:
            accepted = accepted or None in codes
            for item, code in zip(waiting, codes, strict=True):
                self._give(item, Answer(0.0, _SENT) if code is None else self._answer(self._failure(code), item, accepted))
            return accepted
        for item in waiting:
            self._give(item, self._answer(error, item, accepted))
        return accepted

    @staticmethod
    def _give(item: _Item, answer: Answer) -> None:
        if not item.answer.done():
            item.answer.set_result(answer)

    async def _connected(self) -> Any:
        async with self._making:
            if self._client is None:
                self._client = await self._session.open(
                    self._target, self._place, self._stack, timeout=self._timeout, connections=self._concurrency
                )
        if not self._may_be_in_clear and self._client.meta.endpoint_url.startswith("http://"):
            raise SettingsError(in_clear("the endpoint in the AWS configuration file", self._prefix))
        return self._client

    def _failure(self, code: str) -> ClientError:
        return ClientError({"Error": {"Code": code}}, self._channel.operation)

    def _answer(self, error: BaseException, item: _Item, accepted: bool) -> Answer:
        """Returns the answer of a failed attempt, with the reason and the remedy. No text of AWS is quoted."""
        if isinstance(error, SettingsError):
            return Answer(0.0, error=str(error))
        api, name, size = self._api, self._target.name, item.entry.size
        if isinstance(error, ClientError):
            code = code_of(error)
            is_large = may_be_refusal(code) and size > REQUEST_BYTES
            is_final = is_refusal(code) or is_large or (accepted and may_be_refusal(code))
            if is_final and error.operation_name == self._channel.operation:
                return Answer(
                    0.0,
                    error=f"{api.name} refuses the event of {size} bytes ({code}): let the {api.thing} {name} take such "
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
