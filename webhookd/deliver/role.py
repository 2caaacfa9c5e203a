"""The destinations of a process: the routes for the receiver, and the senders of the role `deliver`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from uuid import UUID

from webhookd.deliver.client import Answer, Client, HttpClient
from webhookd.deliver.destination import Destination, Routes, destinations_of
from webhookd.deliver.sender import Ends, Sender, request_of
from webhookd.deliver.signing import Message
from webhookd.errors import SettingsError
from webhookd.runtime.batcher import Batcher
from webhookd.runtime.loops import Loop, Watch
from webhookd.settings import Role, Settings
from webhookd.store.database import Database
from webhookd.store.deliveries import Counts, Deliveries
from webhookd.store.keys import new_id
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

_STOP = 3.0  # seconds that a shutdown waits for the attempts under way; what is cut off is sent again
_POLL = 1.0  # seconds between two looks at what is due
_MEASURE = 10.0
_MOST_PENDING = 20_000  # ends that wait for their commit; a sender tries those again that find no room
TEST_TYPE = "webhookd.test"


class DeliverRole:
    """The destinations of a process. Without the role `deliver`, the process chooses destinations, and sends nothing.

    A destination that is no longer set keeps its deliveries. Nobody sends them until the destination comes back.
    Raises SettingsError if a file that a destination's settings name cannot be used.

    connect: returns a client of a destination. Raises SettingsError likewise.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        metrics: Metrics,
        watch: Watch,
        connect: Callable[[Destination], Client] = HttpClient,
    ) -> None:
        self._settings = settings
        self._keys = _first_keys(settings)
        self._connect = connect
        self._database = database
        self._metrics = metrics
        self._watch = watch
        self._sends = Role.DELIVER in settings.roles
        self._started = False
        self.deliveries = Deliveries(database)
        self.routes = Routes(destinations_of(settings.destinations, sends=self._sends), self._filter_failed)
        self._senders: dict[str, Sender] = {}
        self._leaving: dict[Sender, asyncio.Task[None]] = {}  # senders of former settings, which end their attempts
        self._failing: set[str] = set()  # the destinations whose filters have failed
        self._measured: set[str] = set()  # the destinations that have series
        self._ends: Ends = Batcher("ends of deliveries", self._end, watch, max_batch=256, max_pending=_MOST_PENDING)
        self._poll = Loop("deliveries that are due", self._wake_due, watch, every=_POLL)
        self._gauges = Loop("gauges of deliveries", self._measure, watch, every=_MEASURE)

    @property
    def destinations(self) -> Mapping[str, Destination]:
        """Returns the destinations that are set, by name."""
        return self.routes.destinations

    async def start(self) -> None:
        """Starts a sender for each destination, if the process has the role."""
        self._started = True
        await self._gauges.start()  # in each process: if nobody sends, somebody must see what waits
        if not self._sends:
            return
        await self._ends.start()
        for name, destination in self.destinations.items():
            await self._start_sender(name, destination)
        await self._poll.start()

    async def stop(self) -> None:
        """Stops sending, waits for the attempts under way, and records their results. A second call is fine."""
        self._started = False
        await self._poll.stop()
        await self._gauges.stop()
        senders, leaving = [*self._senders.values(), *self._leaving], list(self._leaving.values())
        self._senders.clear()
        self.routes.wakes.clear()
        await asyncio.gather(*(sender.stop(_STOP) for sender in senders))
        await self._watch.join(*leaving)
        await self._ends.stop()

    async def prepare(self, settings: Settings) -> dict[str, Destination]:
        """Returns the destinations of `settings`, for `renew`. Those without a change and without files stay the same.

        Raises SettingsError if a file that the settings of a destination name cannot be used.
        """
        before = self._settings.destinations
        # The files of TLS may have other contents under the same names.
        changed = {name: one for name, one in settings.destinations.items() if before.get(name) != one or one.has_files}
        made = await asyncio.to_thread(destinations_of, changed, sends=self._sends)  # reading CAs takes long
        return {name: made[name] if name in made else self.destinations[name] for name in settings.destinations}

    async def renew(self, settings: Settings, destinations: dict[str, Destination]) -> None:
        """Uses the keys of `settings` and the destinations from now on. Former senders end their attempts meanwhile."""
        before = self.destinations
        self._settings, self.routes.destinations = settings, destinations
        self._keys = _first_keys(settings)
        for name in [name for name in before if destinations.get(name) is not before[name]]:
            self._failing.discard(name)
            self.routes.wakes.pop(name, None)
            if (sender := self._senders.pop(name, None)) is not None:
                self._leaving[sender] = self._watch.spawn(self._leave(sender), f"former destination {name}")
        if self._sends and self._started:
            for name in [name for name in destinations if name not in self._senders]:
                await self._start_sender(name, destinations[name])

    async def _leave(self, sender: Sender) -> None:
        await sender.stop(max(self._settings.shutdown_grace / 2, 1.0))
        self._leaving.pop(sender, None)

    async def test(self, destination: Destination) -> tuple[UUID, Answer]:
        """Sends a test event, and returns its id and the answer. Nothing is stored, and nothing is tried again."""
        accounts = destination.settings.accounts or [*self._keys, "default"]
        account = next((account for account in accounts if account in self._keys), accounts[0])
        at, event_id = self._database.now(), new_id()
        body = b'{"notificationId":"%s","eventType":"%s","eventDate":"%s","webhookId":null,"payload":{"entityName":"test"}}' % (
            str(event_id).encode(),
            TEST_TYPE.encode(),
            at.isoformat().encode(),
        )
        message = Message(event_id, account, TEST_TYPE, at, 1, body, origin="test")
        content, headers = request_of(destination, message, at=at, signature_key=self._key_of(account))
        try:
            client = self._connect(destination)
        except SettingsError as error:  # in a process that sends nothing else
            return event_id, Answer(0.0, error=str(error))
        try:
            return event_id, await client.send(content, headers)
        finally:
            await client.close()

    def _key_of(self, account: str) -> str | None:
        return self._keys.get(account)

    def _now(self) -> datetime:
        return self._database.now()

    async def _start_sender(self, name: str, destination: Destination) -> None:
        sender = self._senders[name] = Sender(
            destination,
            self.deliveries,
            self._ends,
            key_of=self._key_of,
            now=self._now,
            metrics=self._metrics,
            watch=self._watch,
            connect=self._connect,
            largest_body=self._settings.max_body_bytes,
        )
        await sender.start()
        self.routes.wakes[name] = sender.wake

    def _filter_failed(self, name: str) -> None:
        self._metrics.filter_failures.labels(name).inc()
        if name not in self._failing:
            self._failing.add(name)
            logger.warning("a destination's filter failed at an event, which the destination gets therefore", destination=name)

    async def _end(self, accepted: list[tuple[UUID, str]]) -> list[float | BaseException | None]:
        return [*await self.deliveries.end(accepted)]

    async def _wake_due(self) -> None:
        if not self._senders:
            return
        due = await self.deliveries.due(list(self._senders))
        for name, sender in self._senders.items():
            sender.held = due.get(name, False)
        self.routes.wake([name for name, held in due.items() if not held])

    async def _measure(self) -> None:
        counts, circuits = await self.deliveries.counts(), await self.deliveries.circuits()
        waiting, dead = self._metrics.deliveries_waiting, self._metrics.deliveries_dead
        live = {*self.destinations, *counts}  # a removed destination without deliveries needs nobody
        failing = {name for name, circuit in circuits.items() if circuit.opened_at is not None and name in self.destinations}
        self._measured |= live
        for name in self._measured:
            found = counts.get(name, Counts())
            waiting.labels(name).set(found.waiting + found.retrying)
            dead.labels(name).set(found.dead)
            self._metrics.circuit_open.labels(name).set(name in failing)


def _first_keys(settings: Settings) -> dict[str, str]:
    """Returns the first Signature Key of each account."""
    return {account: keys[0] for account, keys in settings.keys_by_account.items() if keys}
