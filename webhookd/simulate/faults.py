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


def _number(default: Any, meaning: str, least: float = 0.0) -> Any:
    return field(default=default, metadata={"meaning": meaning, "least": least})


@dataclass(slots=True, frozen=True)
class Faults:
    """The faults, and the behaviour of the provider that is not known for certain. By default, there are no faults."""

    drop: float = _rate("notifications that are never sent, though the history lists them as delivered")
    double: float = _rate("notifications that are sent twice")
    delay: float = _rate("notifications that are sent up to an hour late, and so overtake each other")
    late: float = _rate("notifications that the history lists up to an hour late")
    insert: float = _rate("calls of the history during which a new notification is made, 100 in all")
    empty: float = _rate("calls of the history that are answered with an empty list by mistake")
    too_many: float = _rate("calls that are answered 429, every second time with Retry-After")
    gateway: float = _rate("calls that are answered 502, with a page of HTML")
    busy: float = _rate("calls of reports that are answered E00001, E00053 or E00104")
    lost: float = _rate("calls that are carried out, and then answered 502")
    hang: float = _rate("calls that are carried out, and get no answer for `hang_seconds`")
    hang_seconds: float = _number(60.0, "seconds, by the machine's clock, after which the connection of a call that hangs ends")
    cut: float = _rate("calls whose connection ends in the middle of the answer")
    truncated: float = _rate("calls that are answered with half of the JSON")
    undated: float = _rate("rows of the history without a date")
    garbled: float = _rate("notifications of the history without an event type")
    no_payload: float = _rate("notifications that the history shows without their payload")
    short_dates: bool = _number(False, "the dates of the history end at the second")
    upper_ids: bool = _number(False, "the ids of the history are in upper case")
    offset_ignored: bool = _number(False, "each page of the history begins at its first row")
    apart: float = _number(0.0, "seconds by which the provider's dates are ahead of the clock; negative: behind", -1_000_000)
    old_key_signs: bool = _number(False, "for 24 hours after a rotation, the old Signature Key signs")
    reverse: bool = _number(False, "the history lists the newest notification first")
    clamp: int = _number(0, "most rows of a page of the history, whatever the call asks for; 0: no limit")
    exclusive: bool = _number(False, "to_date does not belong to the days of the history")
    day_zone: str = _number("UTC", "the time zone of the history's days, such as America/Los_Angeles")
    unknown_seconds: float = _number(0.0, "seconds for which reports do not know a new transaction")
    unlinked_seconds: float = _number(0.0, "seconds for which reports do not name the subscription of a new payment")
    reports_off: bool = _number(False, "the Transaction Details API is switched off (E00011)")
    no_summaries: bool = _number(False, "getTransactionSummary is not known (E00004)")
    pending_unlisted: bool = _number(False, "the list of batches has no batch that is not settled yet")
    ended_unlisted: bool = _number(False, "the list of unsettled transactions has none that was declined, voided or failed")
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
                limits = fields[name].metadata
                good = kind in (bool, str) or limits.get("least", 0) <= values[name] <= limits.get("most", 1_000_000)
            except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
                good = False
            if not good:
                raise SettingsError(f"{text}: must be {fields[name].metadata['meaning']}")
        return cls(**values)

    @classmethod
    def drawn(cls, seed: int, *, lasting: bool = False) -> Faults:
        """Returns a mix of all faults that a seed draws, for tests with many seeds.

        lasting: with those that no client can recover from: missing types and payloads, and an offset that is ignored.
        """
        dice = random.Random(f"{seed}:faults")
        values: dict[str, Any] = {"hang_seconds": 0.01}
        for name in ("drop", "double", "delay", "late", "insert", "too_many", "undated"):
            values[name] = dice.choice((0.0, 0.0, 0.05, 0.3))
        for name in ("gateway", "busy", "cut", "truncated", "lost", "hang", "empty"):
            values[name] = dice.choice((0.0, 0.0, 0.1))
        for name in ("reverse", "exclusive", "no_summaries", "collapsed", "resend", "pings_listed"):
            values[name] = dice.random() < 0.5
        for name in ("short_dates", "upper_ids", "old_key_signs"):
            values[name] = dice.random() < 0.5
        values["day_zone"] = dice.choice(("UTC", "America/Los_Angeles", "Asia/Kolkata"))
        values["clamp"] = dice.choice((0, 3, 10, 25, 100))
        values["apart"] = dice.choice((0.0, 0.0, -90.0, 90.0))
        values["unknown_seconds"] = dice.choice((0.0, 5.0))
        if lasting:
            for name in ("garbled", "no_payload"):
                values[name] = dice.choice((0.0, 0.05))
            values["offset_ignored"] = dice.random() < 0.2
        for name in ("pending_unlisted", "ended_unlisted"):
            values[name] = dice.random() < 0.5
        values["unlinked_seconds"] = dice.choice((0.0, 5.0))
        return cls(**values)


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
