"""Facts about an entity of the timeline, and their fold: rules 2 to 4 of `webhookd.authorizenet.timeline`."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import orjson

Register = tuple[int, int, str | None]
Facts = dict[str, Register]
Values = dict[
    str, str | None
]  # a fact's name → its value; None erases the fact, and in `_newest` means that the event has no such field

_FIRST = "first_event_at"


class Entry(NamedTuple):
    """The facts that one event reports about one entity.

    name: the kind of entity: "transaction", "subscription", "customerProfile" or "customerPaymentProfile".
    account: the account's name.
    id: the provider's id of the entity.
    at: the event's date, in microseconds since 1970.
    rank: the place of the event's type in the entity's life.
    values: the facts' values. Each fact has this `at` and this `rank`.
    """

    name: str
    account: str
    id: str
    at: int
    rank: int
    values: Values

    @property
    def facts(self) -> Facts:
        """Returns the facts as registers, and adds the event's date as the entity's first date."""
        facts = {name: (self.at, self.rank, value) for name, value in self.values.items()}
        facts[_FIRST] = _first(self.at)
        return facts


def fold(a: Facts, b: Facts) -> Facts:
    """Returns both sets of facts in one, as PostgreSQL folds them: rules 3 and 4."""
    return settle(_greater(a, b))


def settle(facts: Facts) -> Facts:
    """Returns `facts` and the facts that they imply together: a held sale that is approved is captured."""
    approved = facts.get("approved_amount")
    if approved is None or "captures_when_approved" not in facts:
        return facts
    at, rank, amount = approved
    implied: Facts = {"state": (at, rank + 1, "captured"), "captured_at": (at, rank + 1, str(at))}
    return _greater(facts, implied | {"captured_amount": (at, rank + 1, amount)})


def _greater(a: Facts, b: Facts) -> Facts:
    return {name: max((facts[name] for facts in (a, b) if name in facts), key=_order) for name in a.keys() | b.keys()}


def _order(register: Register) -> tuple[int, int, bool, str]:
    at, rank, value = register
    return at, rank, value is None, value or ""


def encode_all(entries: list[Entry]) -> str:
    """Folds the facts of one entity's events; returns them as PostgreSQL stores them."""
    if len(entries) > 1:
        return encode(reduce(fold, (entry.facts for entry in entries)))
    # One event's facts are groups already. Making the groups again from registers would cost 3 µs.
    (entry,) = entries
    at, _, first = _first(entry.at)
    return _json({(entry.at, entry.rank): entry.values, (at, 0): {_FIRST: first}})


def encode(facts: Facts) -> str:
    """Returns the facts as PostgreSQL stores them: JSON groups `[[at, rank, {name: value}]]`, the greatest group first."""
    groups: dict[tuple[int, int], Values] = {}
    for name, (at, rank, value) in facts.items():
        groups.setdefault((at, rank), {})[name] = value
    return _json(groups)


def _json(groups: dict[tuple[int, int], Values]) -> str:
    return orjson.dumps([(*key, groups[key]) for key in sorted(groups, reverse=True)]).decode()


def _first(at: int) -> Register:
    return -at, 0, str(at)  # the greatest -at is the earliest date
