"""The faults that the simulator can make. A seed makes the same faults again, whatever other faults are switched on."""

from __future__ import annotations

import dataclasses
import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from webhookd.errors import SettingsError


def _rate(meaning: str) -> Any:
    return field(default=0.0, metadata={"meaning": f"{meaning}, as a fraction from 0 to 1", "most": 1.0})


def _number(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(slots=True, frozen=True)
class Faults:
    """The faults, and the behaviour of the provider that is not known for certain. By default, there are no faults."""

    drop: float = _rate("notifications that are never sent, though the history lists them as delivered")
    double: float = _rate("notifications that are sent twice")
    delay: float = _rate("notifications that are sent up to an hour late, and so overtake each other")
    late: float = _rate("notifications that the history lists up to an hour late")
    insert: float = _rate("calls of the history during which a new notification is made")
    empty: float = _rate("calls of the history that are answered with an empty list by mistake")
    too_many: float = _rate("calls that are answered 429, every second time with Retry-After")
    gateway: float = _rate("calls that are answered 502, with a page of HTML")
    busy: float = _rate("calls of reports that are answered E00001, E00053 or E00104")
    cut: float = _rate("calls whose connection ends in the middle of the answer")
    truncated: float = _rate("calls that are answered with half of the JSON")
    reverse: bool = _number(False, "the history lists the newest notification first")
    clamp: int = _number(0, "most rows of a page of the history, whatever the call asks for; 0: no limit")
    exclusive: bool = _number(False, "to_date does not belong to the days of the history")
    day_zone: str = _number("UTC", "the time zone of the history's days, such as America/Los_Angeles")
    unknown_seconds: float = _number(0.0, "seconds for which reports do not know a new transaction")
    reports_off: bool = _number(False, "the Transaction Details API is switched off (E00011)")
    no_summaries: bool = _number(False, "getTransactionSummary is not known (E00004)")
    collapsed: bool = _number(True, "lists are plain arrays, and not objects with an array inside")
    resend: bool = _number(False, "failed notifications are sent again after the webhook is activated")
    pings_listed: bool = _number(False, "pings stand in the history")

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Faults:
        """Returns the faults of texts such as `drop=0.1`. Raises SettingsError."""
        fields = {one.name: one for one in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if name not in fields or not equals:
                raise SettingsError(f"{text}: write NAME=VALUE, with one of the names {', '.join(fields)}")
            kind: Any = type(fields[name].default)
            try:
                values[name] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
                if name == "day_zone":
                    ZoneInfo(value)
                good = kind in (bool, str) or 0 <= values[name] <= fields[name].metadata.get("most", 1_000_000)
            except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
                good = False
            if not good:
                raise SettingsError(f"{text}: must be {fields[name].metadata['meaning']}")
        return cls(**values)

    @classmethod
    def drawn(cls, seed: int) -> Faults:
        """Returns a set of faults that a seed draws, for tests with many seeds. It has none that no client can recover from."""
        dice = random.Random(f"{seed}:faults")
        values: dict[str, Any] = {}
        for name in ("drop", "double", "delay", "late", "insert", "too_many"):
            values[name] = dice.choice((0.0, 0.0, 0.05, 0.3))
        for name in ("gateway", "busy", "cut", "truncated"):
            values[name] = dice.choice((0.0, 0.0, 0.1))
        for name in ("reverse", "exclusive", "no_summaries", "collapsed", "resend"):
            values[name] = dice.random() < 0.5
        zone = dice.choice(("UTC", "America/Los_Angeles", "Asia/Kolkata"))
        return cls(**values, day_zone=zone, clamp=dice.choice((0, 25, 100)))


class Dice:
    """The chances of a seed: a sequence of its own for each name, so that one fault does not shift the others."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sequences: dict[str, random.Random] = {}

    def of(self, name: str) -> random.Random:
        """Returns the sequence of a name."""
        return self._sequences.setdefault(name, random.Random(f"{self._seed}:{name}"))

    def hit(self, name: str, rate: float) -> bool:
        """Returns whether a fault with this rate happens now."""
        return self.of(name).random() < rate

    def uuid(self, name: str) -> str:
        """Returns the next UUID of a name."""
        return str(uuid.UUID(int=self.of(name).getrandbits(128), version=4))
