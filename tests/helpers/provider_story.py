"""A story of a seed: a simulated provider, a receiver that fails at times, and the gap closer, for days of a fast clock."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
from pydantic import SecretStr

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import ProviderError, ProviderUnavailableError
from webhookd.authorizenet.api.results import PastNotification
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.daemon import Daemon
from webhookd.errors import UnavailableError
from webhookd.simulate import Clock, Faults, Notification, Simulator
from webhookd.simulate.books import Account
from webhookd.simulate.books import account as account_of
from webhookd.simulate.delivery import RETRIES
from webhookd.store.provider_gaps import ProviderGaps
from webhookd.sync.gap_closer import GapCloser
from webhookd.sync.takeover import Limits, Takeover

AGO = timedelta(days=25)  # the stories begin so long ago, so that none reaches the future
GRACE = timedelta(minutes=15)
_HOUR = 3600.0
_SOON = (180.0,) * 3 + (_HOUR,) * 3  # a schedule after which a webhook becomes inactive within hours
_RECEIVER = "https://hooks.example.com/webhooks/authorize-net"
_OTHER = "https://other.example.com/notify"  # another program of the same account
_NOWHERE = "http://127.0.0.1:9"
_MOST_LOOKS = 100
_MOST_MADE = 60  # notifications; the fault `insert` could make more, and each one costs time
_MOST_POISONED = 6  # each look gives up after three in a row, and looks are hours apart here
_FATES = ("away", "refused", "no answer", "a proxy's 200")

_IDS = """
SELECT l.notification_id, k.key_fingerprint = 'history' AS recovered, w.status
FROM webhookd.ledger l JOIN webhookd.kinds k ON k.id = l.kind JOIN webhookd.events w ON w.id = l.id
WHERE k.account = $1
ORDER BY l.id
"""
_ALIASES = "SELECT notification_id FROM webhookd.notification_aliases WHERE account = $1"
# PostgreSQL's clock does not run as fast as the story's.
_AGE = """
UPDATE webhookd.provider_notifications SET first_at = first_at - $2::interval, last_at = last_at - $2::interval
WHERE account = $1
"""
_NOTED = "SELECT * FROM webhookd.provider_notifications WHERE account = $1"
_LATER_KEYS = 2


def name_of(seed: int) -> str:
    """Returns the account of a seed."""
    return f"s{seed}"


def keys_of(seed: int, number: int = _LATER_KEYS) -> list[str]:
    """Returns the Signature Keys of a seed's account: the first, or also the one that a rotation makes."""
    twin = account_of(name_of(seed), seed)
    twin.rotate_signature_key(datetime.now(UTC))
    return [key for key, _ in twin.signature_keys][:number]


class _Provider(Simulator):
    """The provider. When `quiet`, it makes no new notification, not even while a list is read."""

    quiet = False

    def make(self, *given: Any, **named: Any) -> list[Notification]:
        """Makes an event, unless the last one was made."""
        return [] if self.quiet or len(self.made) >= _MOST_MADE else super().make(*given, **named)


class _Client(ProviderClient):
    """The client of a story."""

    story: Story

    async def notification(self, identifier: str) -> PastNotification:
        """Returns a notification, unless the provider does not show any."""
        if self.story.hides_details or identifier in self.story.poisoned:
            raise ProviderUnavailableError("notification: not now")
        found = await super().notification(identifier)
        self.story.shown.add(identifier)
        return found


class Story:
    """The story of one seed. `run` lets it happen, and checks after each look that no day is called whole too early.

    daemon: receives, and processes. It does not ask the provider: the story does, by a gap closer of its own.
    """

    def __init__(self, seed: int, daemon: Daemon, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.seed = seed
        self.account = name_of(seed)
        self.lasting = seed % 5 == 4  # with faults that no client can recover from
        self.faults = Faults.drawn(seed, lasting=self.lasting)
        self.log: list[str] = []  # what happened, for the message of a failed assertion
        self._rows: list[str] = []  # for the same message: the days, and what is not in the ledger
        self._daemon = daemon
        self._connection = connection
        self._holder = uuid4()  # the replicas of a story share the lease: their looks overlap
        self._dice = dice = random.Random(f"{seed}:story")
        midnight = datetime.combine(datetime.now(UTC).date() - AGO, time(), UTC)
        self.clock = Clock(midnight + timedelta(seconds=dice.random() * 86_400), speed=0)
        self._began = self.clock.now()
        self.simulator = _Provider(
            seed, faults=self.faults, clock=self.clock, retries=dice.choice((RETRIES, _SOON)), post=self._post
        )
        self._bad = dice.choice((0.0, 0.1, 0.5))  # fraction of the requests that the receiver does not answer as it should
        self._outage = (self._began, self._began)  # of the receiver
        self.hides_details = False
        self.poisoned: set[str] = set()  # the ids of notifications that the provider never shows
        self.shown: set[str] = set()  # the ids of notifications that the provider has shown
        self._poison = dice.choice((0.0, 0.0, 0.1, 0.4))
        # The history names the same event for two webhooks by its date, which has to have milliseconds.
        self._twins = not self.faults.short_dates and dice.random() < 0.3
        self._known: set[str] = set()  # ids of notifications that are events, or aliases of events
        self._own: Account = self.simulator.account(self.account)
        self._aged = self._began
        self._skew = timedelta()  # of PostgreSQL's clock

    def now(self) -> datetime:
        """Returns the time by PostgreSQL's clock, which may be wrong."""
        return self.clock.now() + self._skew

    @property
    def ours(self) -> list[Notification]:
        """Returns the notifications that the provider made for our webhook."""
        return [one for one in self.simulator.made if self._own.webhooks[one.webhook_id].url == _RECEIVER]

    async def run(self) -> None:
        """Lets the days pass."""
        await self._connection.execute(
            "INSERT INTO webhookd.provider_accounts (account, holder, compared_from) VALUES ($1, $2, $3)",
            self.account,
            self._holder,
            self._began - timedelta(hours=1),  # the provider's dates may be behind
        )
        async with self.simulator as simulator:
            simulator.register(_RECEIVER, account=self.account)
            if self._twins:  # somebody registered the address once more
                simulator.register(_RECEIVER, account=self.account).status = self._dice.choice(("active", "inactive"))
            if self._dice.random() < 0.3:
                simulator.register(_OTHER, account=self.account)
            async with contextlib.AsyncExitStack() as stack:
                self._stack = stack
                self._http = await stack.enter_async_context(aiohttp.ClientSession())
                await self._use(simulator.access(self.account))
                await self._days()
                self.simulator.quiet = True
                self._note("the last event was made")
                await self._settle()
                await self._wait_for_the_last_call()

    # Events, and the mistakes of people and machines

    async def _days(self) -> None:
        """Makes events, mistakes of people, and looks, in the order of their times."""
        dice = self._dice
        days, count = dice.uniform(0.5, 2.2) * 24 * _HOUR, dice.choice((3, 10, 25))
        every = dice.choice((1, 2, 4)) * _HOUR
        plan: list[tuple[float, str]] = [(dice.uniform(0, days), "event") for _ in range(count)]
        plan += [(number * every, "look") for number in range(int(days / every) + 1)]
        for happening in ("receiver", "signature key", "transaction key", "deactivated", "provider", "details", "clock"):
            if dice.random() < 0.3:
                begins = dice.uniform(0, days)
                plan += [(begins, f"{happening} bad"), (begins + dice.choice((0.2, 3, 30)) * _HOUR, f"{happening} good")]
        for seconds, happening in sorted(plan):
            await self._pass_to(self._began + timedelta(seconds=seconds))
            if happening == "event":
                poisoned = dice.random() < self._poison and len(self.poisoned) < _MOST_POISONED
                made = self.simulator.make(dice.choice(EVENT_TYPES), self.account, withheld=poisoned or dice.random() < 0.1)
                if poisoned:  # of twins one, or all
                    self.poisoned |= {one.id for one in made[: dice.randint(1, 3)]}
            elif happening == "look":
                await self._look()
            else:
                self._note(happening)
                await self._happen(happening)
        await self.simulator.idle()

    async def _happen(self, happening: str) -> None:
        own, now = self._own, self.clock.now()
        webhook = next(one for one in own.webhooks.values() if one.url == _RECEIVER)
        match happening:
            case "receiver bad":
                self._outage = (now, now + timedelta(days=30))
            case "receiver good":
                self._outage = (now, now)
            case "signature key bad":  # somebody rotated the key, and did not tell webhookd
                own.rotate_signature_key(now)
            case "signature key good":
                self._verify(_LATER_KEYS)
            case "transaction key bad":
                own.rotate_transaction_key(now, overlap=self._dice.choice((0.0, _HOUR)))
            case "deactivated bad":
                webhook.status = "inactive"
            case "deactivated good":
                webhook.status = "active"
            case "details bad" | "details good":  # the provider lists notifications, and does not show them
                self.hides_details = happening == "details bad"
            case "clock bad":
                self._skew = timedelta(days=self._dice.choice((-40, -2, 2, 20, 40)))
            case "clock good":
                self._skew = timedelta()
            case "provider bad":
                await self._use(dataclasses.replace(self.simulator.access(self.account), url=_NOWHERE))
            case _:  # new credentials, or the provider is back
                await self._use(self.simulator.access(self.account))

    def _verify(self, number: int) -> None:
        accounts = dict(self._daemon.settings.accounts)
        accounts[self.account] = accounts[self.account].model_copy(
            update={"signature_keys": tuple(map(SecretStr, keys_of(self.seed, number)))}
        )
        assert self._daemon.receive is not None
        self._daemon.receive.renew(self._daemon.settings.model_copy(update={"accounts": accounts}))

    async def _pass_to(self, moment: datetime) -> None:
        if moment > self.clock.now():
            self.clock.advance((moment - self.clock.now()).total_seconds())
        await self.simulator.idle()

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.clock.advance(seconds + 0.001)  # the clock counts microseconds: it must not end just before the time
        await asyncio.sleep(0)

    # The receiver

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        if url != _RECEIVER:
            return 200
        fate = self._dice.choice(_FATES) if self._dice.random() < self._bad else ""
        if self._outage[0] <= self.clock.now() < self._outage[1]:
            fate = "away"
        if fate in ("away", "refused", "a proxy's 200"):
            return {"away": 0, "refused": 503}.get(fate, 200)
        receiver = f"{self._daemon.public_url}/webhooks/authorize-net/{self.account}"
        async with self._http.post(receiver, data=body, headers=headers) as answer:
            return 0 if fate == "no answer" else answer.status

    # The gap closer

    async def _use(self, access: Any) -> None:
        """Asks the provider with these credentials from now on, as after SIGHUP."""
        access = dataclasses.replace(access, public_url=_RECEIVER)
        self._closers = [await self._closer(access) for _ in range(2)]

    async def _closer(self, access: Any) -> GapCloser:
        def seconds() -> float:
            return self.clock.now().timestamp()

        daemon = self._daemon
        client = await self._stack.enter_async_context(_Client(access, now=seconds, sleep=self._sleep))
        client.story = self
        gaps = ProviderGaps(daemon.database, self.account, self._holder)
        limits = Limits(daemon.settings.max_body_bytes, timedelta(seconds=daemon.settings.event_retention))
        takeover = Takeover(access, client, gaps, daemon.receipts, limits, daemon.metrics.provider)
        return GapCloser(self.account, client, daemon.database, gaps, takeover, GRACE, daemon.metrics.provider)

    async def _look(self) -> None:
        """Looks at the history, once or as often as the gap closer wants. Some looks are cancelled, or made by two replicas."""
        now = self.clock.now()
        await self._connection.execute(_AGE, self.account, now - self._aged)
        self._aged = now
        chance = self._dice.random()
        closers = self._closers if chance < 0.1 else [self._dice.choice(self._closers)]
        looks = asyncio.gather(*(self._close(closer) for closer in closers))
        if 0.1 <= chance < 0.2:  # a kill, or the end of the lease
            await asyncio.sleep(self._dice.random() * 0.02)
            looks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looks
        await self._check_that_nothing_is_called_whole_too_early()

    async def _close(self, closer: GapCloser) -> None:
        try:
            while await closer.close():
                pass
        except (ProviderError, UnavailableError) as error:  # PostgreSQL may be slow on a busy machine
            self._note(f"the look failed: {type(error).__name__}")

    async def _settle(self, hours: tuple[float, ...] = (0.2, 1.1, 4.0)) -> None:
        """Looks until all days are settled. hours: the hours between two looks, by chance."""
        for number in range(_MOST_LOOKS):
            await self._pass_to(self.clock.now() + timedelta(hours=self._dice.choice(hours)))
            await self._look()
            if number % 3 == 2 and await self._settled():
                return

    async def _settled(self) -> bool:
        days, ends = await self.days(), self._ends()
        good = {day for day, row in days.items() if row["completeness"] in ends and not self._is_ahead(row)}
        return await self._has_all() and self.made_days <= good

    async def _wait_for_the_last_call(self) -> None:
        """Lets each delivery have its last retry, and looks again: a late mistake of the provider may make a day unknown."""
        for _ in range(20):
            await self._pass_to(self.clock.now() + timedelta(hours=12))
        await self._settle((2.0, 6.0))

    # The result

    @property
    def made_days(self) -> set[date]:
        """Returns the days of the notifications for our webhook."""
        return {one.made_at.date() for one in self.ours}

    async def days(self) -> dict[date, asyncpg.Record]:
        """Returns the results of the comparison."""
        rows = await self._connection.fetch("SELECT * FROM webhookd.provider_days WHERE account = $1", self.account)
        return {row["day"]: row for row in rows}

    def _ends(self) -> set[str]:
        """Returns the results with which a day may end."""
        if self.lasting:
            return {"whole", "unreadable", "not known"}
        return {"whole", "unreadable"} if self.poisoned or any(not one.has_date for one in self.ours) else {"whole"}

    async def _has_all(self) -> bool:
        missing = {one.id for one in self.ours} - self._known
        if missing:
            rows = await self._connection.fetch(_IDS, self.account)
            aliases = await self._connection.fetch(_ALIASES, self.account)
            self._known = {row["notification_id"] for row in (*rows, *aliases)}
            missing -= self._known
        return all(self._is_lost_for_good(one) for one in self.ours if one.id in missing)

    def _is_ahead(self, day: asyncpg.Record) -> bool:
        """Returns whether a day was judged while PostgreSQL's clock was ahead: it will be judged anew."""
        return day["looked_at"] is not None and day["looked_at"] > self.clock.now()

    def _is_lost_for_good(self, one: Notification) -> bool:
        return not (one.has_type and one.has_payload) or self.faults.offset_ignored or one.id in self.poisoned

    async def _check_that_nothing_is_called_whole_too_early(self) -> None:
        days = await self.days()
        whole = {day for day, row in days.items() if row["completeness"] == "whole" and not self._is_ahead(row)}
        if not any(one.made_at.date() in whole and one.id not in self._known for one in self.ours):
            return
        await self._has_all()
        missing = [one for one in self.ours if one.made_at.date() in whole and one.id not in self._known]
        if missing:
            await self._note_rows(*missing)
        assert not missing, self.told("a day is called whole too early")

    async def check(self, processed: Mapping[str, int]) -> None:
        """Asserts that all is in the ledger once and processed once, and that the days say so.

        processed: how often each event of the account was processed, by its notification.
        """
        ours = {one.id: one for one in self.ours}
        assert await self._has_all(), self.told(f"missing: {sorted(ours.keys() - self._known)}")
        rows = await self._connection.fetch(_IDS, self.account)
        ids = [row["notification_id"] for row in rows]
        assert len(ids) == len(set(ids)), self.told("an event is in the ledger twice")
        assert set(ids) <= ours.keys(), self.told("an event of another webhook is in the ledger")
        events: dict[tuple[str, str, datetime], bool] = {}  # whether the event was recovered
        for row in rows:
            one = ours[row["notification_id"]]
            event = one.event_type, one.payload["id"], one.made_at
            # In one case, an event is there twice (guide/gaps.md): webhookd could take only one of its notifications from the
            # history, and the other came as a webhook later.
            is_limit = event in events and events[event] and not row["recovered"] and one.id not in self.shown
            assert event not in events or is_limit, self.told(f"an event is in the ledger for two webhooks: {event}")
            events[event] = row["recovered"]
        assert {row["status"] for row in rows} <= {"processed"}, self.told("an event is not processed")
        assert processed == dict.fromkeys(ids, 1), self.told("an event is not processed once")
        days = await self.days()
        await self._note_rows()
        for day in self.made_days:
            found = dict(days[day])
            assert found["completeness"] in self._ends(), self.told(f"the day ended as {found}")
            made = [one for one in ours.values() if one.made_at.date() == day]
            recovered = {row["notification_id"] for row in rows if row["recovered"]}
            expected = {
                "listed": len(made),
                "ours": len(made),
                "recovered": sum(one.id in recovered for one in made),
                "missing": 0,
                "unlisted": 0,
            }
            if self._twins:  # an alias may be of an event that came from the history
                del expected["recovered"]
            if not self.lasting and not self.poisoned:
                assert {name: found[name] for name in expected} == expected, self.told(f"the day's figures are {found}")
            if found["completeness"] == "whole":
                assert all(one.id in self._known for one in made), self.told(f"{day} is whole, and lacks an event")

    async def _note_rows(self, *more: Notification) -> None:
        noted = await self._connection.fetch(_NOTED, self.account)
        self._rows = [*map(str, [*more, *(await self.days()).values(), *noted])]

    def _note(self, what: str) -> None:
        self.log.append(f"{self.clock.now():%m-%d %H:%M:%S} {what}")

    def told(self, problem: str) -> str:
        """Returns a message with what happened."""
        return "\n".join([f"seed {self.seed}: {problem}", str(self.faults), *self.log[-40:], *self._rows])
