"""Days of a simulated merchant: what a seed makes of sales, captures, refunds, voids, eChecks, holds and subscriptions."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from typing import NamedTuple
from zoneinfo import ZoneInfo

from webhookd.authorizenet.notification import PREFIX
from webhookd.simulate.records import CARDS, CHECK, Return, Subscription, Transaction
from webhookd.simulate.simulator import Simulator

# The differences that can be planted between the books and the events that arrive.
DIFFERENCES: Mapping[str, str] = {
    "missing": "nobody gets the event of a sale",
    "unknown": "an event reports a sale that is not in the books",
    "amount": "the event of a sale reports another amount",
    "voided": "nobody gets the event of a void",
    "doubled": "two sales have one invoice number, on one day or on two",
    "unsettled": "a captured sale is never in a batch, and may expire",
    "lone refund": "a refund names no sale",
    "stray refund": "a refund names a sale that nobody knows",
}
_RETURNS = (
    ("R01", "Insufficient funds"),
    ("R03", "No account/unable to locate account"),
    ("R10", "Customer advises not authorized"),
)
# The fates of sales, with their weights.
_FATES = {
    "sale": 46,
    "authorization": 5,
    "capture": 8,
    "partial capture": 6,
    "void": 6,
    "declined": 6,
    "error": 1,
    "held": 5,
    "eCheck": 9,
    "refund": 5,
    "partial refunds": 3,
}


class Planted(NamedTuple):
    """A difference that was planted. `kind`: one of DIFFERENCES. `ids`: its transactions."""

    kind: str
    ids: tuple[str, ...]


async def story(
    simulator: Simulator,
    days: int,
    *,
    seed: int | None = None,
    sales: int = 20,
    account: str = "default",
    plant: Mapping[str, int] | None = None,
) -> list[Planted]:
    """Lets days of a merchant pass: makes the events at their times, and puts the clock forward. The clock must stand still.

    seed: by default, the simulator's. It makes the same days again.
    sales: the number of sales a day.
    plant: how many differences to plant, by their kind (see DIFFERENCES).
    Returns the planted differences.
    """
    chances = random.Random(f"{simulator.seed if seed is None else seed}:story")
    return await _Story(simulator, account, chances).run(days, sales, plant or {})


class _Story:
    """A story that is under way: what will happen, in the order of its time."""

    def __init__(self, simulator: Simulator, account: str, chances: random.Random) -> None:
        self._simulator = simulator
        self._name = account
        self._account = simulator.account(account)
        self._till = simulator.till(account)
        self._chances = chances
        self._begins = simulator.clock.now()
        self._days = 0
        self._plan: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._planted: list[Planted] = []

    async def run(self, days: int, sales: int, plant: Mapping[str, int]) -> list[Planted]:
        chances, self._days = self._chances, days
        first = self._begins.astimezone(ZoneInfo(self._account.rules.zone)).date()
        for day in range(days):
            if chances.random() < 0.05:
                self._account.failing.add((first + timedelta(days=day), chances.choice(("creditCard", CHECK))))
            for _ in range(sales):
                self._at(day + chances.random(), self._sell)
        for _ in range(max(1, sales // 5)):
            self._at(chances.random() * days / 3, self._subscribe)
        for kind, count in plant.items():
            for _ in range(count):
                self._at(chances.random() * days, partial(self._plant, kind))
        while self._plan and self._plan[0][0] < days:
            at, _, act = heapq.heappop(self._plan)
            self._pass_to(at)
            act()
            await self._simulator.idle()
        self._pass_to(days)
        await self._simulator.idle()
        self._simulator.account(self._name)
        return self._planted

    def _at(self, day: float, act: Callable[[], object]) -> None:
        heapq.heappush(self._plan, (day, next(self._order), act))

    def _later(self, least: float, most: float, act: Callable[[], object]) -> None:
        self._at(self._today() + self._chances.uniform(least, most), act)

    def _today(self) -> float:
        return (self._simulator.clock.now() - self._begins) / timedelta(days=1)

    def _pass_to(self, day: float) -> None:
        clock = self._simulator.clock
        clock.advance(max(0.0, (self._begins + timedelta(days=day) - clock.now()).total_seconds()))
        self._simulator.account(self._name)  # what was due has happened

    def _amount(self, most: Decimal | None = None) -> Decimal:
        """Returns an amount; of `most`, a part that leaves some."""
        return Decimal(self._chances.randint(1, 50_000 if most is None else max(1, int(most * 100) // 2))) / 100

    def _sell(self) -> None:
        chances, till, amount = self._chances, self._till, self._amount()
        (fate,) = chances.choices(list(_FATES), weights=list(_FATES.values()))
        card = chances.choice(CARDS)
        match fate:
            case "authorization":
                till.sale(amount, card, capture=False)
            case "capture" | "partial capture":
                own = till.sale(amount, card, capture=False)
                part = None if fate == "capture" else self._amount(amount)
                self._later(0.01, 5, lambda: till.capture(own, part))
            case "void":
                own = till.sale(amount, card, capture=chances.random() < 0.7)
                self._later(0.001, 0.3, lambda: self._void(own))
            case "declined" | "error":
                till.sale(amount, card, outcome=fate)
            case "held":
                outcome = chances.choice(("held", "authorized and held"))
                own = till.sale(amount, card, outcome=outcome, capture=chances.random() < 0.7)
                decide = chances.choice((till.approve, partial(till.approve, bank_declines=True), till.decline, lambda _: None))
                self._later(0.1, 4, partial(decide, own))
            case "eCheck":
                days, (code, why) = chances.uniform(0.5, 6), chances.choice(_RETURNS)
                returns = Return(timedelta(days=days), code, why) if chances.random() < 0.3 else None
                till.sale(amount, CHECK, returns=returns)
            case "refund" | "partial refunds":
                own = till.sale(amount, card)
                for _ in range(1 if fate == "refund" else chances.randint(1, 3)):
                    self._later(1.8, 6, partial(self._refund, own, whole=fate == "refund"))
            case _:
                till.sale(amount, card)

    def _void(self, own: Transaction) -> None:
        if own.batch is None:  # the cut-off may have come first
            self._till.void(own)

    def _refund(self, own: Transaction, *, whole: bool) -> None:
        left = own.settle_amount - own.refunded
        if own.status != "settledSuccessfully" or not left:  # its batch may have failed
            return
        refund = self._till.refund(own, left if whole else min(left, self._amount(own.settle_amount)))
        if self._chances.random() < 0.2:
            self._later(0.001, 0.3, lambda: self._void(refund))

    def _expire(self, own: Transaction) -> None:
        own.status = "expired"
        del self._account.open[own.id]

    def _subscribe(self) -> None:
        chances = self._chances
        today = self._simulator.clock.now().date()
        own = self._till.subscribe(
            self._amount(),
            chances.choice(CARDS),
            interval_days=chances.choice((7, 14, 30)),
            occurrences=chances.choice((2, 6, 9999, 9999)),
            card_ends=date(today.year, today.month, 1) if chances.random() < 0.2 else date(today.year + 3, 1, 1),
        )
        self._renew(own)

    def _renew(self, own: Subscription) -> None:
        if own.status not in ("active", "suspended"):
            return
        if self._chances.random() < 0.03:
            self._till.cancel(own)
            return
        fails = self._chances.choice(("declined", "card expired")) if self._chances.random() < 0.2 else None
        self._till.renew(own, fails)
        wait = 1 if fails else own.interval_days  # what failed is tried again
        self._later(wait, wait, lambda: self._renew(own))

    def _double(self, first: Transaction) -> None:
        second = self._till.sale(first.settle_amount, first.account_type, invoice=first.invoice)
        self._planted.append(Planted("doubled", (first.id, second.id)))

    def _plant(self, kind: str) -> None:
        till, amount, card = self._till, self._amount(), self._chances.choice(CARDS)
        match kind:
            case "missing":
                ids = [till.sale(amount, card, withheld=True).id]
            case "unknown":
                number = self._simulator.next_number()
                ids = [str(60_000_000_000 + number * 10)]
                self._simulator.make(
                    f"{PREFIX}payment.authcapture.created",
                    self._name,
                    number=number,
                    changes={"id": ids[0], "authAmount": amount},
                    in_books=False,
                )
            case "amount":
                ids = [till.sale(amount, card, told_amount=amount + 1).id]
            case "voided":
                own = till.sale(amount, card)
                till.void(own, withheld=True)
                ids = [own.id]
            case "doubled":
                own = till.sale(amount, card, invoice=f"TWICE-{self._simulator.next_number()}")
                again = self._today() if self._chances.random() < 0.5 else self._chances.uniform(self._today(), self._days)
                self._at(again, partial(self._double, own))
                return
            case "unsettled":
                own = till.sale(amount, card)
                own.batched = False
                if self._chances.random() < 0.5:
                    self._later(0.1, 5, partial(self._expire, own))
                ids = [own.id]
            case "lone refund":
                ids = [till.refund(None, amount, card).id]
            case "stray refund":
                own = till.refund(None, amount, card)
                own.ref_id = str(int(own.id) - 5)  # the ids of transactions end in 0, those of returns in 9
                ids = [own.id]
            case _:
                raise ValueError(f"{kind!r} cannot be planted: choose among {', '.join(DIFFERENCES)}")
        self._planted.append(Planted(kind, tuple(ids)))
