"""The details of transactions for handlers: given before they run, and waited for while webhookd does not have them.

The worker only reads what the role `sync` has stored. It never asks the provider, because it holds the row's lock.
"""

from __future__ import annotations

from webhookd.authorizenet.details import are_good_for, details_of, transaction_of
from webhookd.errors import DetailsNotYetError
from webhookd.event import Event, give_details, missed_details
from webhookd.process.decision import GiveUp
from webhookd.process.failure import Failure
from webhookd.process.handlers import Registry
from webhookd.store.details import DetailsStore, Known
from webhookd.store.event_store import Claimed
from webhookd.store.pools import Connection

AGAIN = 900.0  # seconds after which the handlers are tried again at the latest: the wake may be lost
LIMIT = 86_400.0  # seconds after which an event waits no more
_NOBODY = (
    "no process asks Authorize.Net for the account {account}: give its API Login ID and its Transaction Key to a process with "
    "the role sync"
)


class EventDetails:
    """Gives events the details of their transactions."""

    def __init__(self, store: DetailsStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def give(self, connection: Connection, claimed: Claimed) -> tuple[bool, Failure | None]:
        """Gives a claimed event its details, if a handler waits for them, or an earlier attempt may have lacked them.

        Returns whether the event is noted as waiting, and the failure if the details are not there and a handler waits for
        them. Reads nothing for other events: this is on the way of every event with handlers.
        """
        event = claimed.event
        wanted = self._registry.wants_details(event.event_type)
        if not wanted and not claimed.failed:
            return False, None
        transaction_id = transaction_of(event.payload)
        if transaction_id is None:  # `event.details()` has the words for this
            return False, None
        known = await self._store.look(claimed, transaction_id, connection)
        if known.facts is not None and (known.came or are_good_for(known.facts, event.event_type, event.received_at)):
            give_details(event, details_of(known.facts))
        elif wanted:
            return known.noted, Failure.of(DetailsNotYetError(transaction_id))
        return known.noted, None

    async def end_wait(self, connection: Connection, claimed: Claimed) -> None:
        """Removes the note that the event waits, in the transaction that ends its work."""
        await self._store.end_wait(connection, claimed.event.id)


def missing(event: Event) -> Failure | None:
    """Returns the failure of handlers that asked for details in vain, whatever they raised or returned then."""
    transaction_id = transaction_of(event.payload) if missed_details(event) else None
    return None if transaction_id is None else Failure.of(DetailsNotYetError(transaction_id))


def wait_or_give_up(account: str, transaction_id: str, known: Known) -> str | GiveUp:
    """Decides about an event that lacks the details of its transaction: returns why it waits, or that it waits no more."""
    problem = known.problem if known.asks else _NOBODY.format(account=account)
    told = f": {problem}" if problem else ""
    if known.waited is not None and known.waited >= LIMIT:
        hours = f"{LIMIT / 3600:g} h"
        return GiveUp("details_missing", f"the details of transaction {transaction_id} did not come within {hours}{told}")
    return f"waits for Authorize.Net's details of transaction {transaction_id} since {known.since:%Y-%m-%d %H:%M:%S} UTC{told}"
