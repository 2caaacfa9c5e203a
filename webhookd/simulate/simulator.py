"""The simulator: its accounts, its server, its deliveries, and a log of every request."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from aiohttp import web
from pydantic import SecretStr

from webhookd.admin.hosts import Hosts
from webhookd.authorizenet.notification import EVENT_TYPES, PREFIX
from webhookd.authorizenet.shapes import make_payload
from webhookd.errors import SettingsError
from webhookd.settings.provider import ProviderAccess
from webhookd.simulate import books
from webhookd.simulate.answering import Spoiler, json
from webhookd.simulate.books import Account, Notification, Webhook
from webhookd.simulate.clock import Clock
from webhookd.simulate.delivery import RETRIES, Deliverer, Post
from webhookd.simulate.faults import Dice, Faults
from webhookd.simulate.records import reported
from webhookd.simulate.reports import Reports
from webhookd.simulate.rest import Rest, fields_of, spoil
from webhookd.simulate.settlement import catch_up, enter
from webhookd.simulate.till import Till

_SALE = f"{PREFIX}payment.authcapture.created"
_MOST_CALLS = 100_000  # calls that are remembered
_QUIET = 0.002  # seconds between two looks at whether deliveries are under way
_SPINS = 200  # looks at once, before these pauses begin
_HOSTS = Hosts("127.0.0.1", ())


class Call(NamedTuple):
    """A request that the simulator got. `name`: a report's name, or the method and the path of the REST API."""

    at: datetime
    account: str
    name: str
    status: int


@web.middleware
async def _no_browser(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuses what a web page sends, also if its own name leads here: the simulator may sign with a key of the user's."""
    if "Origin" in request.headers or _HOSTS.is_cross_origin(request) or not _HOSTS.knows(request):
        return json({"error": "no web page may ask, and the host must be 127.0.0.1 or localhost"}, 403)
    return await handler(request)


class Simulator:
    """Authorize.Net on this machine. Use it as `async with`, or `start` and `stop` it.

    seed: makes the keys, the ids and the faults; the same seed makes them again.
    faults: the faults that it makes.
    clock: its clock; by default one that runs as the machine's.
    retries: the seconds between the attempts of a delivery.
    port: the port on 127.0.0.1; 0 for a free one.
    told: is called with each attempt of a delivery, and its answer's status (0 if none came).
    post: sends a delivery, and returns the answer's status; by default over HTTP. For tests with many seeds.

    `made` are all notifications that it ever made, without pings. `calls` are the latest requests of its API.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        faults: Faults | None = None,
        clock: Clock | None = None,
        retries: tuple[float, ...] = RETRIES,
        port: int = 0,
        told: Callable[[Account, Notification, int], None] = lambda *_: None,
        post: Post | None = None,
    ) -> None:
        self.seed = seed
        self.faults = faults or Faults()
        self.clock = clock or Clock()
        self.accounts: dict[str, Account] = {}
        self.made: list[Notification] = []
        self.calls: deque[Call] = deque(maxlen=_MOST_CALLS)
        self.url = ""
        self._port = port
        self._dice = Dice(seed)
        self._number = 0
        self._spoiler = Spoiler(self.faults, self._dice)
        self._deliverer = Deliverer(self.clock, self._dice, self.faults, retries, told, post)
        self._reports = Reports(self._account_of, self.clock.now, self.faults)
        ping = self._deliverer.ping
        self._rest = Rest(self._account_of, self.clock.now, self.faults, self._dice, ping, self._insert)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens on 127.0.0.1, and sets `url`. Raises SettingsError if the port is taken."""
        app = web.Application(client_max_size=1_048_576, middlewares=[_no_browser])
        app.router.add_post("/xml/v1/request.api", self._on_report)
        app.router.add_route("*", "/rest/v1/{path:.*}", self._on_rest)
        app.router.add_post("/_sim/clock", self._on_clock)
        app.router.add_post("/_sim/notifications", self._on_make)
        app.router.add_get("/_sim/notifications", self._on_list)
        app.router.add_get("/_sim/calls", self._on_calls)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(f"--port {self._port}: the port cannot be used ({error.strerror}): give another") from None
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        await self._deliverer.start()

    async def stop(self) -> None:
        """Ends the deliveries, and closes the port."""
        await self._deliverer.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    def account(self, name: str = "default", *, signature_key: str | None = None, only_to: str | None = None) -> Account:
        """Returns an account; makes it, if it is not there.

        signature_key: its key, if it is not to follow from the seed.
        only_to: the one address that its deliveries may go to.
        Its books are as of now: what the clock has made due, such as a settlement, has happened.
        """
        if name not in self.accounts:
            self.accounts[name] = books.account(name, self.seed, signature_key)
            self.accounts[name].only_to = only_to
        catch_up(self.accounts[name], self.clock.now())
        return self.accounts[name]

    def till(self, account: str = "default") -> Till:
        """Returns the till of an account, which makes transactions with their events."""
        return Till(self.account(account), self.clock.now, self.next_number, self.make, self.faults.unknown_seconds)

    def next_number(self) -> int:
        """Returns the number of a new entity."""
        self._number += 1
        return self._number

    def access(self, name: str = "default") -> ProviderAccess:
        """Returns what a client of an account needs."""
        own = self.account(name)
        return ProviderAccess(name, self.url, SecretStr(own.login_id), (SecretStr(own.transaction_key),))

    def register(self, url: str, event_types: Iterable[str] = EVENT_TYPES, account: str = "default") -> Webhook:
        """Registers an active webhook, as a person does in the Merchant Interface."""
        webhook = Webhook(self._dice.uuid("webhook"), url, tuple(event_types), "active")
        self.account(account).webhooks[webhook.id] = webhook
        return webhook

    def make(
        self,
        event_type: str = _SALE,
        account: str = "default",
        *,
        number: int | None = None,
        changes: Mapping[str, Any] | None = None,
        withheld: bool = False,
        in_books: bool = True,
    ) -> list[Notification]:
        """Makes an event, and a notification of it for each webhook that is subscribed. Deliveries begin at once.

        number: names the entity; by default a new one for each event. changes: other values of fields of the payload.
        withheld: the history lists the notification as delivered, and nobody gets it.
        in_books: False if the API is to know nothing of the event's transaction.
        While a webhook is inactive, its notifications stand in the history as failed.
        """
        own = self.account(account)
        if number is None:
            number = self.next_number()
        now = self.clock.now()
        made = []
        for webhook in own.webhooks.values():
            if not books.matches(webhook, event_type):
                continue
            dated = now + timedelta(seconds=self.faults.apart)
            one = books.notification(webhook, event_type, number, dated, self._dice, changes)
            own.notifications[one.id] = one
            spoil(one, now, self.faults, self._dice)
            made.append(one)
            if withheld:
                one.status = "Delivered"
            elif webhook.status != "active" and not self.faults.resend:
                one.status = "Failed"
            else:
                self._deliverer.begin(own, webhook, one)
        payload = made[0].payload if made else make_payload(event_type, number) | dict(changes or {})
        known_from = now + timedelta(seconds=self.faults.unknown_seconds)
        if in_books and payload["id"] not in own.transactions:
            transaction = reported(event_type, payload, now, known_from)
            if transaction is not None:
                enter(own, transaction, now)
        self.made += made
        return made

    async def make_over(self, days: float, count: int, account: str = "default", *, withheld: float = 0.0) -> None:
        """Makes events of all types in turn, evenly over days of the clock, and puts the clock forward.

        withheld: the fraction of the events that nobody gets. Each delivery has ended, or waits, before the next event.
        """
        for event_type in itertools.islice(itertools.cycle(EVENT_TYPES), count):
            self.make(event_type, account, withheld=self._dice.hit("withheld", withheld))
            await self.idle()
            self.clock.advance(days * 86_400 / count)
        await self.idle()

    def calls_by_hour(self, account: str = "default") -> Counter[datetime]:
        """Returns the number of an account's calls in each hour of the clock, by the hour's beginning."""
        own = (call.at for call in self.calls if call.account == account)
        return Counter(at.replace(minute=0, second=0, microsecond=0) for at in own)

    async def idle(self) -> None:
        """Returns when no delivery is under way: each has ended, or waits for a later time of the clock."""
        looks = 0
        while self._deliverer.busy:  # the clock ends a wait, too, and nobody hears of it
            await asyncio.sleep(0 if looks < _SPINS else _QUIET)
            looks += 1

    def _account_of(self, login_id: str) -> Account | None:
        return next((one for one in self.accounts.values() if one.login_id == login_id), None)

    def _insert(self, account: Account) -> None:
        self.make(account=account.name)

    async def _on_report(self, request: web.Request) -> web.StreamResponse:
        account, name, answer = self._reports.answer(await request.read())
        answer = self._spoiler.before(reports=True) or answer
        self.calls.append(Call(self.clock.now(), account, name, answer.status))
        return await self._spoiler.after(request, answer)

    async def _on_rest(self, request: web.Request) -> web.StreamResponse:
        spoiled = self._spoiler.before(reports=False)
        if spoiled is None:
            account, answer = await self._rest.answer(request)
        else:
            asking = self._rest.authenticated(request)
            account, answer = asking.name if asking else "", spoiled
        name = f"{request.method} {request.match_info['path']}"
        self.calls.append(Call(self.clock.now(), account, name, answer.status))
        return await self._spoiler.after(request, answer)

    # Control by a test in another process, or by a person with curl

    async def _on_clock(self, request: web.Request) -> web.Response:
        seconds = fields_of(await request.read()).get("advance", 0)
        if not isinstance(seconds, int | float) or not 0 <= seconds <= 10_000_000:
            return json({"error": "advance must be a number of seconds"}, 400)
        self.clock.advance(seconds)
        await self.idle()
        return json({"now": self.clock.now()})

    async def _on_make(self, request: web.Request) -> web.Response:
        fields = fields_of(await request.read())
        event_type, account = str(fields.get("eventType", _SALE)), str(fields.get("account", "default"))
        if event_type not in EVENT_TYPES or account not in self.accounts:
            return json({"error": "eventType or account is not known"}, 400)
        made = self.make(event_type, account, withheld=fields.get("withheld") is True)
        return json([one.listed() for one in made])

    async def _on_list(self, request: web.Request) -> web.Response:
        own = self.accounts.get(request.query.get("account", "default"))
        rows = own.notifications.values() if own else ()
        return json([one.listed() | {"attempts": [status for _, status in one.attempts]} for one in rows])

    async def _on_calls(self, _: web.Request) -> web.Response:
        return json([one._asdict() for one in self.calls])
