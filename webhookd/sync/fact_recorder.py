"""Records looks at transactions: first the synthetic events of what is new, then the facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from webhookd.authorizenet.settlement import Facts
from webhookd.authorizenet.synthetic import SyntheticEvent, observe
from webhookd.store.provider_facts import FactStore, StoredFacts, with_look
from webhookd.sync.next_looks import next_look
from webhookd.sync.synthetic_intake import SyntheticIntake

_BATCH = 500  # transactions of one statement


class Look(NamedTuple):
    """A look at a transaction.

    in_list: the facts are a row of the list of a batch.
    alone: the transaction was asked for by its id, so that the answer is all that the provider has.
    """

    seen: Facts
    in_list: bool = False
    alone: bool = False


class FactRecorder:
    """The one writer of an account's facts. Whoever learns something of a transaction records it here.

    The events are committed before the facts. So a crash in between makes the same events again, which are duplicates. If the
    facts came first, or came without their events, the events would be lost: the next look would find nothing new.
    """

    def __init__(self, account: str, facts: FactStore, intake: SyntheticIntake, now: Callable[[], datetime]) -> None:
        self._account = account
        self._facts = facts
        self._intake = intake
        self._now = now

    async def record(self, looks: Iterable[Look]) -> None:
        """Records looks, of which each transaction may have several. Raises UnavailableError while PostgreSQL is away."""
        by_id: dict[str, list[Look]] = {}
        for look in looks:
            by_id.setdefault(look.seen.id, []).append(look)
        identifiers = sorted(by_id)
        for start in range(0, len(identifiers), _BATCH):
            some = {one: by_id[one] for one in identifiers[start : start + _BATCH]}
            await self._record(some)

    async def not_found(self, transaction_ids: Sequence[str]) -> None:
        """Records that the provider has no answer about transactions, so that they are asked for later, and not for ever."""

        async def decide(known: Mapping[str, StoredFacts]) -> list[StoredFacts]:
            now = self._now()
            return [replace(one, next_look_at=next_look(one, one, now, alone=True)) for one in known.values()]

        await self._facts.change(transaction_ids, decide)

    async def _record(self, looks: Mapping[str, Sequence[Look]]) -> None:
        async def decide(known: Mapping[str, StoredFacts]) -> list[StoredFacts]:
            events: list[SyntheticEvent] = []
            stored = [self._decide(known.get(identifier), some, events) for identifier, some in looks.items()]
            await self._intake.take(events)
            return stored

        await self._facts.change(looks.keys(), decide)

    def _decide(self, known: StoredFacts | None, looks: Sequence[Look], events: list[SyntheticEvent]) -> StoredFacts:
        stored = known
        for look in looks:
            change = observe(self._account, None if stored is None else stored.facts, look.seen)
            events += change.events
            after = with_look(stored, change.facts, look.seen, in_list=look.in_list)
            planned = next_look(stored, after, self._now(), alone=look.alone)
            stored = replace(after, next_look_at=planned)
        assert stored is not None  # noqa: S101  each transaction has a look
        return stored
