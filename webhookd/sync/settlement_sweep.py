"""The sweep of an account's settlement: batches, unsettled transactions, and transactions that only their details explain.

A sweep does its work in small runs, and records each part that is done: a batch, the list of unsettled transactions, some
transactions. So a sweep that is cut off goes on where it was, here or at another replica. Whatever is read twice makes the same
facts, and the same events, which are duplicates.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum, auto

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import (
    CallRejectedError,
    FeatureOffError,
    ListMovedError,
    RecordNotFoundError,
    UnreadableAnswerError,
)
from webhookd.authorizenet.api.operations import ForbiddenCallError
from webhookd.authorizenet.api.results import Batch, TransactionRow
from webhookd.authorizenet.batches import FINAL, check
from webhookd.authorizenet.settlement import Facts, State, merge, of_details, of_row, state_of
from webhookd.store.database import Database
from webhookd.store.provider_facts import FactStore
from webhookd.store.settlement_store import SettlementStore, Sweep, Unread
from webhookd.sync.fact_recorder import FactRecorder, Look
from webhookd.telemetry.logs import logger
from webhookd.telemetry.provider_metrics import ProviderMetrics

BACK = timedelta(days=3)  # settlement times are late, and out of order
_DAILY = timedelta(hours=23, minutes=30)  # between two lists of the unsettled: a sweep an hour later must not miss the day
_LIST = timedelta(minutes=59)  # of a pause for each list that a run reads after the pause
_AGAIN = timedelta(hours=1)  # the shortest pause between two looks at a batch that is open
_PENDING = timedelta(hours=12)  # of a batch that is not final: the hourly list shows its end, if it comes in time
_BATCHES = 20  # batches that one run reads
_ALONE = 100  # transactions that one run asks for by their ids
_ROWS = 500  # rows of a list that are recorded together
_NO_ANSWER = (RecordNotFoundError, CallRejectedError, UnreadableAnswerError, ForbiddenCallError)

_SETTLED = (State.SETTLED, State.REFUND_SETTLED, State.SETTLEMENT_FAILED)


class _Daily(Enum):
    """The questions of each day, in their order. How many were answered stands in the database, so restarts skip none."""

    UNSETTLED = auto()
    HELD = auto()
    MERCHANT = auto()


class SettlementSweep:
    """The sweep of one account.

    oldest: returns the settlement time from which batches may be read, since retention may have removed older events.
    time_zone: asks the provider about the account; returns its time zone as the provider names it, or None.
    """

    def __init__(
        self,
        account: str,
        client: ProviderClient,
        database: Database,
        recorder: FactRecorder,
        oldest: Callable[[datetime], datetime],
        time_zone: Callable[[], Awaitable[str | None]],
        metrics: ProviderMetrics,
    ) -> None:
        self._account = account
        self._client = client
        self._now = database.now
        self._store = SettlementStore(database, account)
        self._facts = FactStore(database, account)
        self._recorder = recorder
        self._oldest = oldest
        self._time_zone = time_zone
        self._metrics = metrics

    async def run(self) -> bool:
        """Does a part of the sweep. Returns whether more is left, so that another run should follow at once.

        Raises the client's errors. What was done before an error stays.
        """
        now = self._now()
        sweep = await self._store.begin(self._oldest(now), now)
        if sweep.is_new:  # the other jobs have just begun, too: do not add to their calls
            return False
        self._metrics.swept.labels(self._account).set((sweep.swept_at or sweep.begun_at).timestamp())
        try:
            left = await self._run(sweep, now)
        except FeatureOffError:
            self._metrics.reports_off.labels(self._account).set(1)
            raise
        finally:
            self._metrics.batches_open.labels(self._account).set(await self._store.count_open())
        self._metrics.reports_off.labels(self._account).set(0)
        if not left:
            await self._store.note_swept(now)
            self._metrics.swept.labels(self._account).set(now.timestamp())
        return left

    async def _run(self, sweep: Sweep, now: datetime) -> bool:
        listed = await self._list(sweep, now)
        batches = await self._store.to_read(now, _AGAIN, _PENDING, _BATCHES)
        for one in batches:
            await self._read(one, fresh=one.batch.id in listed)
        waiting = await self._store.to_look_at(self._now(), _ALONE)
        for stored in waiting:
            await self._look_at(stored.facts)
        return len(batches) == _BATCHES or len(waiting) == _ALONE

    async def _list(self, sweep: Sweep, now: datetime) -> set[str]:
        """Asks for the batches, or every second time one of the day's questions: one call if nothing happens.

        After a pause of hours, asks for a list for each hour but one, in which a list of subscriptions may have been read.
        Returns the ids of the listed batches.
        """
        batches_at, asked_at = sweep.batches_listed_at, sweep.asked_at
        last = max((one for one in (batches_at, asked_at) if one is not None), default=now)
        lists = max(1, (now - last) // _LIST - 1)
        is_due = sweep.asked or sweep.unsettled_at is None or abs(now - sweep.unsettled_at) >= _DAILY
        questions = list(_Daily)[sweep.asked :] if is_due else []
        # Whether it is a question's turn. A time that is not over comes from a clock that was wrong: such a list is read now.
        turn = batches_at is not None and batches_at <= now and (asked_at is None or not batches_at <= asked_at <= now)
        listed: set[str] = set()
        if not questions or not turn or lists > 1:
            listed = await self._list_batches(sweep, now)
            lists -= 1
        for question in questions[:lists]:
            await self._store.note_question(now)  # first: if the question fails, the batches do not wait for its answer
            await self._ask(question, now)
        return listed

    async def _ask(self, question: _Daily, now: datetime) -> None:
        match question:
            case _Daily.UNSETTLED:
                await self._list_unsettled(now, held=False)
                await self._store.note_answer(1, unsettled_at=now)
            case _Daily.HELD:
                await self._list_unsettled(now, held=True)
                await self._store.note_answer(2)
            case _Daily.MERCHANT:
                await self._store.note_answer(0, time_zone=await self._time_zone())

    async def _list_batches(self, sweep: Sweep, now: datetime) -> set[str]:
        since = min(now, sweep.batches_listed_at or now) - BACK
        begins = max(sweep.swept_from, self._oldest(now), since) if sweep.batches_listed_at else sweep.swept_from
        found = await self._client.batches(begins, now + timedelta(hours=1))  # the provider's clock may be ahead
        await self._store.note_batches(found, now)
        return {one.id for one in found}

    # A batch

    async def _read(self, unread: Unread, *, fresh: bool) -> None:
        """Reads a batch's transactions, and compares them with its statistics. `fresh`: the batch was listed just now."""
        now, batch = self._now(), unread.batch
        stale = not fresh and (unread.again or batch.settlement_state.casefold() not in FINAL)
        if stale or not batch.statistics:
            try:
                batch = await self._client.batch(batch.id)  # it may have settled after the days that are listed
            except _NO_ANSWER as error:
                logger.warning(
                    "a batch has no statistics of its own", account=self._account, batch=batch.id, problem=str(error)
                )
        rows: list[Facts] = []
        complete = True
        try:
            async for some in _chunks(self._client.batch_transactions(batch.id)):
                known = [row for row in some if not _is_ahead(row, batch)]
                complete = complete and len(known) == len(some)
                rows += await self._record(known, now, batch)
        except (ListMovedError, *_NO_ANSWER) as error:
            complete = False
            logger.warning("a batch could not be read to its end", account=self._account, batch=batch.id, problem=str(error))
        result = check(batch, rows, complete=complete)
        await self._store.write_batch(result, len(rows), now)
        if result.differences:
            logger.warning(
                "a batch's transactions differ from its statistics; it is read again later",
                account=self._account,
                batch=batch.id,
                problems=list(result.reasons)[:5],
            )

    async def _record(self, rows: list[TransactionRow], now: datetime, batch: Batch | None) -> list[Facts]:
        """Records rows of a list. Returns their facts as the list has them, with the type if the details are known.

        Details come first, if a row needs them: so the event of a refund names its sale.
        """
        known = await self._facts.read([row.id for row in rows])
        looks: list[Look] = []
        found: list[Facts] = []
        for row in rows:
            seen = of_row(row, now, batch)
            after = merge(known[row.id].facts, seen) if row.id in known else seen
            if after.needs_details and (details := await self._details(row.id)) is not None:
                looks.append(Look(details, alone=True))
                after = merge(after, details)
            looks.append(Look(seen, in_list=batch is not None))
            found.append(replace(seen, type=after.type))
        await self._recorder.record(looks)
        return found

    # Other transactions

    async def _list_unsettled(self, now: datetime, *, held: bool) -> None:
        async for some in _chunks(self._client.unsettled(held=held)):
            await self._record(some, now, None)

    async def _look_at(self, facts: Facts) -> None:
        """Asks for one transaction. Its summary is enough if it only has to be found out whether it settled or ended."""
        if facts.needs_details or facts.echeck or facts.is_refund:
            seen = await self._details(facts.id)
        else:
            seen = await self._summary(facts.id)
        if seen is None:
            await self._recorder.not_found([facts.id])
            return
        looks = [Look(seen, alone=True)]
        if seen.needs_details and not seen.detailed and (details := await self._details(facts.id)) is not None:
            looks.append(Look(details, alone=True))
        await self._recorder.record(looks)

    async def _details(self, transaction_id: str) -> Facts | None:
        now = self._now()
        try:
            found = await self._client.transaction(transaction_id)
        except _NO_ANSWER:
            return None
        return replace(of_details(found, now), detailed=True)

    async def _summary(self, transaction_id: str) -> Facts | None:
        now = self._now()
        try:
            return of_details(await self._client.transaction_summary(transaction_id), now)
        except _NO_ANSWER:
            return None


def _is_ahead(row: TransactionRow, batch: Batch) -> bool:
    """Returns whether a batch settled after it was listed. Its next reading has the time of that, which events need."""
    is_pending = batch.settled_at is None and batch.settlement_state.casefold() not in FINAL
    return is_pending and state_of(row.status) in _SETTLED


async def _chunks(rows: AsyncIterator[TransactionRow]) -> AsyncIterator[list[TransactionRow]]:
    """Yields rows, some at a time, so that what was read before an error is recorded."""
    some: list[TransactionRow] = []
    async for row in rows:
        some.append(row)
        if len(some) == _ROWS:
            yield some
            some = []
    if some:
        yield some
