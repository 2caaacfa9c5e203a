"""The sender of one destination: takes what is due, sends it, and records the answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

from webhookd.deliver.answers import accepted, asked_to_wait, delay_after, is_down
from webhookd.deliver.client import Answer, Client, HttpClient
from webhookd.deliver.destination import Destination
from webhookd.deliver.pace import Pace
from webhookd.deliver.signing import Message, envelope, headers
from webhookd.errors import OverloadedError, UnavailableError
from webhookd.event import origin_of
from webhookd.runtime.backoff import Reconnect
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.loops import Loop, Watch
from webhookd.store.deliveries import Deliveries, Delivery, Failure
from webhookd.telemetry.logs import logger, where
from webhookd.telemetry.metrics import Metrics

Ends = Batcher[tuple[UUID, str], float | None]

_RECORD = 10.0  # seconds of the lease for recording, after the longest attempt
_BUSY = 0.02  # seconds until a sender claims again, if another statement held the circuit's row
_GATHER = 0.005  # seconds that a claim waits for more free places: a claim of many costs little more than a claim of one
_RECORDING = 2  # attempts of which the answer is being recorded, for each place
_MIB = 1_048_576
_BODIES = 32 * _MIB  # bytes of bodies that the sender of one destination holds, or four of the largest bodies
_NO_BODY = "the body is no longer kept, so it cannot be delivered"


def request_of(
    destination: Destination, message: Message, *, at: datetime, signature_key: str | None
) -> tuple[bytes, dict[str, str]]:
    """Returns the body and the headers of a request to `destination`."""
    content = envelope(message) if destination.settings.form == "envelope" else message.body
    return content, headers(message, content, at=at, keys=destination.keys, signature_key=signature_key)


class Sender:
    """The sender of one destination. It waits for no other destination, and for SQS and Redis not at all.

    key_of: returns the first Signature Key of an account.
    now: returns PostgreSQL's time.
    connect: returns a client of the destination.
    largest_body: bytes of the largest body that a claim may bring.
    """

    def __init__(
        self,
        destination: Destination,
        deliveries: Deliveries,
        ends: Ends,
        *,
        key_of: Callable[[str], str | None],
        now: Callable[[], datetime],
        metrics: Metrics,
        watch: Watch,
        connect: Callable[[Destination], Client] = HttpClient,
        largest_body: int = _MIB,
    ) -> None:
        self.destination = destination
        self._deliveries = deliveries
        self._ends = ends
        self._connect = connect
        self._key_of = key_of
        self._now = now
        self._watch = watch
        self._client: Client | None = None
        self._pace = Pace(destination.settings.rate)
        self._tasks: dict[asyncio.Task[None], int] = {}  # each attempt, and the bytes of its body
        self._bytes = 0  # of the bodies of all attempts
        self._recording = 0  # the attempts whose good answer is being recorded; the others have a place each
        self._largest_body = largest_body
        self.held = False  # the circuit is open, and no probe may begin: take nothing until the poll finds another state
        self._timer: asyncio.TimerHandle | None = None
        # The poll of all destinations, a new event and a free place wake the loop. So it need not look by itself.
        self._loop = Loop(f"destination {destination.name}", self._take, watch, every=60.0)
        self.wake = self._loop.wake
        outcomes = ("delivered", "retrying", "dead")
        self._outcomes = {outcome: metrics.deliveries.labels(destination.name, outcome) for outcome in outcomes}
        self._task_name = f"delivery to {destination.name}"
        self._repeated = metrics.deliveries_repeated.labels(destination.name)
        self._attempt_seconds = metrics.delivery_attempt_seconds.labels(destination.name)
        self._delivery_seconds = metrics.delivery_seconds.labels(destination.name)

    async def start(self) -> None:
        """Starts sending."""
        self._client = self._connect(self.destination)
        await self._loop.start()

    async def stop(self, grace: float = 10.0) -> None:
        """Takes no more, and waits up to `grace` seconds for the attempts under way. What is cut off is sent again later."""
        await self._loop.stop()
        self._cancel_timer()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            self._watch.cancel(task)
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def _take(self) -> bool:
        settings = self.destination.settings
        self._cancel_timer()
        free = self._free()
        if free <= 0 or self.held:
            return False  # an answer, the end of an attempt, or the poll, wakes the loop
        allowed = self._pace.take(free)
        if not allowed:
            self._wake_in(self._pace.seconds_to_next())
            return False
        taken: list[Delivery] | None = None
        try:
            taken = await self._deliveries.claim(self.destination.name, allowed, lease=settings.timeout + _RECORD)
        finally:
            self._pace.give_back(allowed - len(taken or ()))
        if taken is None:
            self._wake_in(_BUSY)
        for delivery in taken or ():
            task = self._watch.spawn(self._attempt(delivery), self._task_name)
            size = self._tasks[task] = len(delivery.body or b"")
            self._bytes += size
            task.add_done_callback(self._ended)
        if taken:
            self._wake_for_many()
        return False

    def _free(self) -> int:
        """Returns how many deliveries the sender may take now."""
        places = self.destination.places
        attempts = len(self._tasks)
        return min(places - (attempts - self._recording), (1 + _RECORDING) * places - attempts, self._room())

    def _room(self) -> int:
        """Returns how many deliveries the sender may take without holding too many bytes, if each has the largest body."""
        left = max(_BODIES, 4 * self._largest_body) - self._bytes
        return max(left // self._largest_body, 0)

    def _wake_for_many(self) -> None:
        """Wakes the loop if a quarter of the places is free, else in some milliseconds."""
        if 4 * self._free() >= self.destination.places:
            self.wake()
        elif self._timer is None:
            self._wake_in(_GATHER)

    def _wake_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self.wake)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._bytes -= self._tasks.pop(task)
        if self._timer is None:
            self._wake_for_many()

    async def _attempt(self, delivery: Delivery) -> None:
        recording = 0
        try:
            answer = await self._send(delivery)
            reach(Failpoint.DELIVER_AFTER_ANSWER)
            # A failed attempt keeps its place until its record, which may open the circuit.
            if answer.status is not None and accepted(answer.status):
                recording = 1
                self._recording += recording
                self._wake_for_many()
            await self._record(delivery, answer, own=answer.final, dead=answer.final)
        except Exception as error:  # noqa: BLE001  a defect of webhookd must not end the daemon
            logger.error("a delivery failed by a defect of webhookd", destination=self.destination.name, error=where(error))
            # The attempt counts. Otherwise the delivery would be sent again after each lease, without end.
            with contextlib.suppress(Exception):
                await self._record(delivery, Answer(0.0, error=f"webhookd itself failed ({type(error).__name__})"), own=True)
        finally:
            self._recording -= recording

    async def _send(self, delivery: Delivery) -> Answer:
        if delivery.repeated:
            self._repeated.inc()
        if delivery.body is None:
            return Answer(0.0, error=_NO_BODY, final=True)
        message = Message(
            delivery.event_id,
            delivery.account or "",
            delivery.event_type or "",
            delivery.received_at,
            delivery.attempts + 1,
            bytes(delivery.body),
            origin_of(delivery.key_fingerprint),
            traceparent=delivery.traceparent,
        )
        assert self._client is not None  # noqa: S101  `stop` waits for the attempts before it closes the client
        key = self._key_of(message.account)
        content, made = request_of(self.destination, message, at=self._now(), signature_key=key)
        answer = await self._client.send(content, made)
        self._attempt_seconds.observe(answer.seconds)
        return answer

    async def _record(self, delivery: Delivery, answer: Answer, *, own: bool = False, dead: bool = False) -> None:
        """Records the answer. While PostgreSQL is away, tries again: without an end if the destination accepted the event.

        The record of a failure is tried for 10 s. Then the delivery is sent again when its lease ends.
        own: the failure is webhookd's own, and shows nothing about the destination.
        """
        if answer.status is not None and accepted(answer.status):
            await _when_possible(lambda: self._end(delivery))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECORD):
                await _when_possible(lambda: self._fail(delivery, answer, own=own, dead=dead))

    async def _end(self, delivery: Delivery) -> None:
        seconds = await self._ends.submit((delivery.event_id, self.destination.name))
        self._closed(delivery)
        if seconds is not None:
            self._outcomes["delivered"].inc()
            self._delivery_seconds.observe(max(seconds, 0.0))

    def _closed(self, delivery: Delivery) -> None:
        """Notes that the circuit is closed: the destination accepted a delivery, or answered about one."""
        if delivery.probe or self.held:
            logger.info("a destination works again: its circuit is closed", destination=self.destination.name)
        self.held = False

    async def _fail(self, delivery: Delivery, answer: Answer, *, own: bool, dead: bool) -> None:
        settings, name = self.destination.settings, self.destination.name
        if not answer.sent:
            await self._deliveries.put_back(name, delivery)
            return
        attempt = delivery.attempts + 1
        asked = asked_to_wait(answer.status, answer.retry_after, now=self._now())
        down = None if own else is_down(answer.status, settings.give_up_on)
        delay = None
        if not dead:
            free = delivery.probe and down is not False  # the attempt does not count, and cannot be the last one
            most = attempt + 1 if free else settings.max_attempts
            delay = delay_after(attempt, most=most, status=answer.status, asked=asked, give_up_on=settings.give_up_on)
        error = f"{answer.error or f'HTTP status {answer.status}'} (after {answer.seconds:.2f} s)"
        failure = Failure(error, answer.status, answer.text, answer.seconds, down, asked)
        opened = await self._deliveries.fail(name, delivery, failure, delay=delay)
        if opened is not None:
            if down is False:
                self._closed(delivery)
            self.held = self.held or opened
            if opened and not delivery.probe:
                logger.warning(
                    "a destination fails: its circuit is open, and only probes are sent", destination=name, error=error
                )
            self._outcomes["dead" if delay is None else "retrying"].inc()
            if delay is None:
                logger.warning("a delivery is dead", destination=name, event_id=str(delivery.event_id), attempts=attempt)


async def _when_possible(record: Callable[[], Awaitable[None]]) -> None:
    """Calls `record`. While PostgreSQL is away, calls it again."""
    backoff = None
    while True:
        try:
            await record()
        except (UnavailableError, OverloadedError):
            backoff = backoff or Reconnect()
            await asyncio.sleep(backoff.failed())
        else:
            return
