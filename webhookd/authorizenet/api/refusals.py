"""The memory of refused credentials: it lasts over restarts, and holds for all replicas, if a store keeps it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from webhookd.authorizenet.api.limits import Clock

CREDENTIALS_AGAIN = 900.0  # seconds between two tries of credentials that are refused: more tries might lock the account


class Refused(NamedTuple):
    """Credentials that the provider refused, with its code. Durations are seconds; `next_try_in` is 0 if a try is due."""

    code: str
    refused_for: float
    next_try_in: float


class Refusals(Protocol):
    """The memory. `fingerprint` stands for the host, the API Login ID and the Transaction Keys.

    Methods raise UnavailableError if the memory cannot be asked. Then no call is sent with credentials that this process does
    not know to be good.
    """

    async def read(self, fingerprint: str) -> Refused | None:
        """Returns the refusal of these credentials; None if they are not refused."""

    async def take_try(self, fingerprint: str) -> bool:
        """Takes the try that is due, so that the next is due CREDENTIALS_AGAIN later. False if another process took the try."""

    async def refused(self, fingerprint: str, account: str, code: str) -> None:
        """Notes that the provider refuses these credentials. The next try is due CREDENTIALS_AGAIN later."""

    async def accepted(self, fingerprint: str) -> None:
        """Notes that the provider accepts these credentials."""


class OneTryNow:
    """A memory that lets refused credentials be tried once before their time, because a person asks for it."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._taken = False

    async def read(self, fingerprint: str) -> Refused | None:
        """As in Refusals."""
        found = await self._refusals.read(fingerprint)
        return found if found is None or self._taken else found._replace(next_try_in=0.0)

    async def take_try(self, fingerprint: str) -> bool:
        """As in Refusals."""
        first, self._taken = not self._taken, True
        return await self._refusals.take_try(fingerprint) or first

    async def refused(self, fingerprint: str, account: str, code: str) -> None:
        """As in Refusals."""
        await self._refusals.refused(fingerprint, account, code)

    async def accepted(self, fingerprint: str) -> None:
        """As in Refusals."""
        await self._refusals.accepted(fingerprint)


class MemoryRefusals:
    """The memory of one process, which ends with the process."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._refused: dict[str, tuple[str, float, float]] = {}  # fingerprint → code, since, until

    async def read(self, fingerprint: str) -> Refused | None:
        """As in Refusals."""
        if (found := self._refused.get(fingerprint)) is None:
            return None
        code, since, until = found
        return Refused(code, self._now() - since, max(0.0, until - self._now()))

    async def take_try(self, fingerprint: str) -> bool:
        """As in Refusals."""
        now = self._now()
        if (found := self._refused.get(fingerprint)) is None or now < found[2]:
            return False
        self._refused[fingerprint] = (*found[:2], now + CREDENTIALS_AGAIN)
        return True

    async def refused(self, fingerprint: str, account: str, code: str) -> None:
        """As in Refusals."""
        now = self._now()
        _, since, _ = self._refused.get(fingerprint, ("", now, now))
        self._refused[fingerprint] = (code, since, now + CREDENTIALS_AGAIN)

    async def accepted(self, fingerprint: str) -> None:
        """As in Refusals."""
        self._refused.pop(fingerprint, None)
