"""The work of one account: its jobs, which run while this replica has the account's lease."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from webhookd.authorizenet.api.errors import CredentialsRefusedError, ProviderError
from webhookd.errors import LeaseEndedError
from webhookd.runtime.loops import Loop, Watch
from webhookd.sync.account_state import AccountState
from webhookd.sync.lease import Lease
from webhookd.telemetry.logs import logger


class Job(NamedTuple):
    """A job of an account. `run` is called every `every` seconds, and at once when this replica takes over the account.

    run: may raise the errors of the client and UnavailableError. If it returns True, it is called again at once.
    """

    name: str
    every: float
    run: Callable[[], Awaitable[object]]


class AccountSync:
    """The jobs of one account. A part: `start` and `stop`.

    renew_every: seconds between two renewals of the lease.
    """

    def __init__(self, state: AccountState, lease: Lease, jobs: Sequence[Job], renew_every: float, watch: Watch) -> None:
        self._state = state
        self._lease = lease
        self._account = state.account
        self._failing: dict[str, str] = {}  # name of a job → the code of its last error
        self._renewals = Loop(f"lease of the account {self._account}", self._renew, watch, every=renew_every)
        self._loops = [
            Loop(f"{job.name} of the account {self._account}", partial(self._run, job), watch, every=job.every) for job in jobs
        ]
        self._held = False

    @property
    def held(self) -> bool:
        """Returns whether this replica asks the provider for the account now."""
        return self._lease.held

    async def start(self) -> None:
        """Starts looking for the lease."""
        for part in (*self._loops, self._renewals):
            await part.start()

    async def stop(self) -> None:
        """Ends what runs, and lets another replica take over at once."""
        await self._renewals.stop()
        await self._lease.release()  # ends the jobs under way
        await asyncio.gather(*(loop.stop() for loop in self._loops))
        self._note(held=False)

    async def _renew(self) -> None:
        try:
            held = await self._lease.renew()
        finally:
            if not self._lease.held:
                self._note(held=False)
        if held and not self._held:
            self._note(held=True)
            for loop in self._loops:
                loop.wake()

    def _note(self, *, held: bool) -> None:
        if held != self._held:
            logger.info("asks Authorize.Net from now on" if held else "asks Authorize.Net no more", account=self._account)
        self._held = held
        self._state.note_held(held=held)

    async def _run(self, job: Job) -> bool:
        if not self._lease.held:
            return False
        try:
            async with self._lease.during():
                try:
                    again = await job.run()
                except ProviderError as error:
                    self._failed(job, error)
                    return False
        except LeaseEndedError:  # `_renew` tells it
            return False
        if self._failing.pop(job.name, None) is not None:
            logger.info("Authorize.Net's API works again", account=self._account, job=job.name)
        return again is True

    def _failed(self, job: Job, error: ProviderError) -> None:
        if self._failing.get(job.name) != error.code:  # each kind of failure once
            self._failing[job.name] = error.code
            logger.warning("a call of Authorize.Net's API failed", account=self._account, job=job.name, problem=str(error))
        if isinstance(error, CredentialsRefusedError):
            self._state.note_refusal()
