"""When webhookd asks for a transaction again by its id. Pure functions, without I/O.

1. Facts that only details can complete are asked for at once.
2. An open transaction is asked for if no list has had it for two days: the daily list of unsettled transactions moves the date
   on. So a transaction that expired, and is in no list any more, is found.
3. An eCheck is asked for again on certain days after its settlement, because a return changes nothing but its details.
4. If an answer brings nothing, the next look is later each time: an eighth of the transaction's age. It ends after a time.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from webhookd.authorizenet.settlement import Facts, State
from webhookd.store.provider_facts import StoredFacts

ECHECK_DAYS = (1, 2, 3, 4, 5, 6, 7, 14, 30, 60, 90)  # after the settlement; disputes run to 60 days
_LISTED = timedelta(days=2)  # without a list that has the transaction
_SHORTEST = timedelta(hours=1)
_LONGEST = timedelta(days=180)
_FAILED = timedelta(days=30)  # the processor may settle what has failed, in another batch


def next_look(before: StoredFacts | None, after: StoredFacts, now: datetime, *, alone: bool) -> datetime | None:
    """Returns when to ask for a transaction by its id; None if never again.

    before, after: the facts without and with the look that ends now.
    alone: whether the transaction was asked for by its id, so that asking again at once would bring the same.
    """
    facts = after.facts
    if facts.needs_details:
        if alone:
            return _later(facts, now, _SHORTEST, _LONGEST)
        waiting = before is not None and before.facts.needs_details
        return before.next_look_at if waiting and before else now
    if facts.settlement.is_open or facts.settlement is State.SETTLEMENT_FAILED:
        longest = _LONGEST if facts.settlement.is_open else _FAILED
        return _later(facts, now, _LISTED, longest) if alone else now + _LISTED
    if facts.echeck and facts.settlement in (State.SETTLED, State.REFUND_SETTLED) and facts.settled_at is not None:
        due = (facts.settled_at + timedelta(days=days) for days in ECHECK_DAYS)
        planned = before.next_look_at if before is not None and not alone else None
        missed = planned is not None and planned <= now and before is not None and not before.facts.settlement.is_open
        return planned if missed else next((at for at in due if at > now), None)
    return None


def _later(facts: Facts, now: datetime, shortest: timedelta, longest: timedelta) -> datetime | None:
    """Returns the next look at a transaction whose last look brought nothing final."""
    age = now - (facts.submitted_at or facts.settled_at or facts.seen_at)
    if age > longest:
        return None
    return now + max(shortest, age / 8)
