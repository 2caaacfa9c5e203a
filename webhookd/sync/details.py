"""Asks the provider for the details that handlers wait for, stores them as facts, and wakes the events.

A kill at any place loses nothing: an event is wanted until it is woken, and it is woken after the facts are stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import (
    CallRejectedError,
    CredentialsRefusedError,
    FeatureOffError,
    ProviderUnavailableError,
    RecordNotFoundError,
    UnreadableAnswerError,
)
from webhookd.authorizenet.details import PATIENCE, missing_part
from webhookd.authorizenet.settlement import of_details
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.store.database import Database
from webhookd.store.details import DetailsStore, Wanted
from webhookd.sync.fact_recorder import FactRecorder, Look
from webhookd.telemetry.logs import logger
from webhookd.telemetry.provider_metrics import ProviderMetrics

_AT_ONCE = 20  # transactions of one round: then the round begins anew, so that fresh events do not wait for old ones
_ACCOUNT_SECONDS = 30.0  # until the next round if the provider cannot be asked for the account
# Seconds until the next try after each try in vain. The provider may not know a new transaction for seconds. After a minute, it
# is believed that it knows none.
_DELAYS = (3.0, 12.0, 45.0, 60.0, 120.0, 240.0, 480.0, 900.0)
_BELIEVED = 3  # tries in vain


class WantedDetails:
    """The details that the handlers of one account's events wait for.

    ready: returns when it is known whose account the credentials are for. It raises the client's errors.
    recorder: stores what the look at a transaction found, with the events that are to be made of it.
    """

    def __init__(
        self,
        account: str,
        client: ProviderClient,
        database: Database,
        ready: Callable[[], Awaitable[object]],
        recorder: FactRecorder,
        metrics: ProviderMetrics,
    ) -> None:
        self._account = account
        self._client = client
        self._database = database
        self._store = DetailsStore(database)
        self._ready = ready
        self._recorder = recorder
        self._metrics = metrics
        self._waiting = True  # whether events may wait, as the metrics show

    async def ask(self) -> bool:
        """Asks for the details that are wanted now. Returns whether more are.

        Raises the client's errors if the provider cannot be asked for the account. An error of one transaction stays with it.
        """
        wanted = await self._store.take(self._account, _AT_ONCE)
        events: dict[str, list[Wanted]] = {}
        for one in wanted:
            events.setdefault(one.transaction_id, []).append(one)
        try:
            if events:
                await self._ready()
            for transaction_id, waiting in events.items():
                await self._ask(transaction_id, waiting)
        except (CredentialsRefusedError, FeatureOffError, ProviderUnavailableError) as error:
            await self._store.postpone_all(self._account, _ACCOUNT_SECONDS, str(error))
            raise
        finally:
            if events or self._waiting:
                await self._count()
        return len(events) == _AT_ONCE

    async def _ask(self, transaction_id: str, waiting: list[Wanted]) -> None:
        seen_at = self._database.now()  # before the call: what happens later is in no answer for certain
        try:
            found = await self._client.transaction(transaction_id)
        except RecordNotFoundError:
            await self._postpone(waiting, "Authorize.Net does not know the transaction")
            return
        except (CallRejectedError, UnreadableAnswerError) as error:
            await self._postpone(waiting, str(error))
            return
        late, served = [], []
        for one in waiting:
            part = missing_part(one.event_type, found)
            if part is not None and one.waited < PATIENCE:
                late.append(one)
                problem = part
            else:
                served.append(one)
        if served:
            # These are details, even if the answer lacks the type, by which details differ from a summary.
            await self._recorder.record([Look(replace(of_details(found, seen_at), detailed=True), alone=True)])
            reach(Failpoint.SYNC_AFTER_DETAILS)
            await self._store.wake([one.event_id for one in served])
        if late:
            await self._postpone(late, problem)

    async def _postpone(self, waiting: list[Wanted], problem: str) -> None:
        tries = max(one.tries for one in waiting)
        if tries == _BELIEVED:
            logger.warning(
                "the details of a transaction do not come",
                account=self._account,
                transaction_id=waiting[0].transaction_id,
                problem=problem,
            )
        delay = _DELAYS[min(tries, len(_DELAYS) - 1)]
        await self._store.postpone([one.event_id for one in waiting], delay, problem)

    async def _count(self) -> None:
        number, seconds = await self._store.count(self._account)
        self._waiting = number > 0
        self._metrics.details_wanted.labels(self._account).set(number)
        self._metrics.details_wanted_seconds.labels(self._account).set(seconds)
