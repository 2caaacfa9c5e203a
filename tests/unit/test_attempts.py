"""An attempt that may kill its process is counted before its handlers, and its count is taken back; a suspect runs alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from webhookd.errors import UnavailableError
from webhookd.event import Event, Status
from webhookd.process.alone import Alone
from webhookd.process.attempt import Attempts, Step
from webhookd.process.failure import AttemptFailedError, Failure
from webhookd.process.result import Left, Outcome
from webhookd.process.turns import Turns
from webhookd.queue.message import EventReference, Message
from webhookd.store.event_store import AttemptKey, Claimed
from webhookd.telemetry.metrics import Metrics

ID = UUID(int=1)
EVENT = Event(ID, "main", "n", "net.authorize.payment.refund.created", None, datetime.now(UTC), 1, b"{}")
CLAIMED = Claimed(EVENT, Status.QUEUED, 0, None, 1, True, "1", None)


class Steps:
    """Stands for the database, the store and the handlers of one attempt; records their steps."""

    def __init__(
        self,
        *,
        begin: Exception | None = None,
        failure: Failure | None = None,
        silent: bool = False,
        lost: str | None = None,
        begun: int = 1,
    ) -> None:
        self.done: list[str] = []
        self._lost = lost  # the step in which the connection is lost
        self.silent = silent  # the database never answers when a count is taken back
        self._begin = begin
        self._begun = begun
        self._failure = failure

    @contextlib.asynccontextmanager
    async def acquire(self, _pool: str, *, reset: bool) -> AsyncIterator[Steps]:
        assert reset
        yield self

    def transaction(self) -> Steps:
        return self

    async def start(self) -> None:
        self.done.append("lock")

    async def rollback(self) -> None:
        self.done.append("unlock")

    def is_closed(self) -> bool:
        return self._lost in self.done

    def is_in_transaction(self) -> bool:
        return True

    async def claim(self, *_: Any, **__: Any) -> Claimed:
        return CLAIMED

    async def begin_attempt(self, _key: AttemptKey) -> int:
        self.done.append("count")
        if self._begin is not None:
            raise self._begin
        return self._begun

    async def mark_processed(self, *_: Any) -> float | None:
        self.done.append("commit")
        raise ConnectionResetError

    async def mark_dead(self, *_: Any, **__: Any) -> int | None:
        self.done.append("bury")
        raise ConnectionResetError

    async def take_back_attempt(self, _key: AttemptKey) -> None:
        self.done.append("take back")
        if self.silent:
            await asyncio.Event().wait()

    async def give(self, *_: Any) -> tuple[bool, Failure | None]:
        return False, None

    async def run(self, *_: Any) -> Failure | None:
        self.done.append("handlers")
        return self._failure

    def attempts(self) -> Attempts:
        parts: Any = self
        return Attempts(parts, parts, parts, parts, Turns(1), most=3, metrics=Metrics())


BODY = EventReference(ID, "main", EVENT.event_type)


async def test_a_failed_attempt_takes_its_count_back_before_the_lock_falls() -> None:
    steps = Steps(failure=Failure.of(ValueError()))
    with pytest.raises(AttemptFailedError):
        await steps.attempts().make(BODY, wait=True, suspect=True)
    assert steps.done == ["lock", "count", "handlers", "take back", "unlock"]


async def test_a_count_whose_answer_was_lost_is_taken_back_too() -> None:
    steps = Steps(begin=UnavailableError("postgresql", "its answer was lost"))
    with pytest.raises(UnavailableError):
        await steps.attempts().make(BODY, wait=True, suspect=True)
    assert steps.done == ["lock", "count", "take back", "unlock"]


@pytest.mark.parametrize("failure", [None, Failure.of(ConnectionResetError())])
async def test_a_count_stays_if_the_connection_was_lost_while_the_handlers_ran(failure: Failure | None) -> None:
    """The event may have crashed PostgreSQL, which then cannot record that the attempt has failed."""
    steps = Steps(failure=failure, lost="handlers")
    with pytest.raises(AttemptFailedError):
        await steps.attempts().make(BODY, wait=True, suspect=True)
    assert steps.done == ["lock", "count", "handlers"]


async def test_a_count_stays_if_the_connection_was_lost_in_the_commit() -> None:
    """A deferred trigger of a handler runs in the commit, and may end PostgreSQL, too."""
    steps = Steps(lost="commit")
    with pytest.raises(UnavailableError):
        await steps.attempts().make(BODY, wait=True, suspect=True)
    assert steps.done == ["lock", "count", "handlers", "commit"]


@pytest.mark.parametrize(
    ("steps", "done"),
    [
        (Steps(begin=UnavailableError("postgresql", "away"), lost="count"), ["lock", "count", "take back"]),
        (Steps(begun=4, lost="bury"), ["lock", "count", "bury", "take back"]),
    ],
    ids=["count", "bury"],
)
async def test_a_count_is_taken_back_if_the_connection_was_lost_and_no_handler_ran(steps: Steps, done: list[str]) -> None:
    with pytest.raises(UnavailableError):
        await steps.attempts().make(BODY, wait=True, suspect=True)
    assert steps.done == done


async def test_a_count_is_owed_if_postgresql_does_not_answer_that_it_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhookd.process.attempt._BOOKKEEPING", 0.05)
    steps = Steps(failure=Failure.of(ValueError()), silent=True)
    attempts = steps.attempts()
    with pytest.raises(UnavailableError):
        await attempts.make(BODY, wait=True, suspect=True)
    assert list(attempts._owed) == [CLAIMED.key], "no body stays in memory meanwhile"
    steps.silent = False
    steps.done.clear()
    await attempts.take_back_what_is_owed()
    assert steps.done == ["take back"]


class Made:
    """Stands for the claims, the store and the attempts of a worker; records how an attempt is made."""

    def __init__(self, begun: int) -> None:
        self.how: dict[str, bool] = {}
        self._begun = begun

    async def acquire(self, ids: list[UUID]) -> tuple[str, list[bool]]:
        return "token", [True for _ in ids]

    def release(self, *_: Any) -> None: ...

    async def attempts_begun(self, _event_id: UUID) -> int:
        return self._begun

    async def make(self, _body: EventReference, **how: bool) -> Step:
        self.how = how
        return Step(CLAIMED, Outcome.PROCESSED)


@pytest.mark.parametrize(
    ("left", "receives", "begun", "suspect", "alone"),
    [
        (Left.HANDLERS, 3, 1, False, False),
        (Left.HANDLERS, 4, 0, True, False),
        (Left.SUSPECT, 1, 0, True, False),
        (Left.SUSPECT, 1, 1, True, True),
    ],
)
async def test_a_suspect_that_was_in_hand_when_its_process_ended_is_tried_alone(
    left: Left, receives: int, begun: int, suspect: bool, alone: bool
) -> None:
    made = Made(begun)
    parts: Any = made
    worker = Alone(parts, parts, parts, parts, parts)
    await worker.work(Message("m", "h", (BODY,), 0.0, receives), BODY, left)
    assert (made.how.get("suspect", False), made.how.get("alone", False)) == (suspect, alone)
