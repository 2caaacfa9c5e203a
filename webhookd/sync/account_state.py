"""The state of an account's credentials and calls, for people and for alerts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import (
    CallRejectedError,
    CredentialsRefusedError,
    FeatureOffError,
    ListMovedError,
    ProviderError,
    ProviderUnavailableError,
    UnreadableAnswerError,
)
from webhookd.store.provider_state import Call, ProviderState
from webhookd.telemetry.logs import logger
from webhookd.telemetry.provider_metrics import ProviderMetrics

_TOGETHER = timedelta(minutes=1)  # between two checks
_PROVEN = timedelta(hours=1)  # for which a call that the provider answered proves the credentials
_MERCHANT = timedelta(hours=36)  # until the provider is asked about the account anew; the settlement sweep asks daily
_NO_ANSWER = (FeatureOffError, CallRejectedError, UnreadableAnswerError)  # the provider does not say whose account it is
_MOST_WAITING = 200  # calls that wait for their record: more are kept of no account


class AccountState:
    """The state of one account's credentials and calls. `record` makes it last."""

    def __init__(self, account: str, store: ProviderState, metrics: ProviderMetrics, now: Callable[[], datetime]) -> None:
        self.account = account
        self._now = now
        self._store = store
        self._metrics = metrics
        self._calls: list[Call] = []
        self._good: bool | None = None  # whether the provider takes the credentials, by the last call
        self._known = False  # whose account the credentials are for
        self.time_zone: str | None = None  # of the account, as the provider names it
        self._checking = asyncio.Lock()
        self._checked_at: datetime | None = None
        self._proven_at: datetime | None = None
        self._recorded: bool | None = None  # as `_good`, as PostgreSQL has it
        metrics.expect(account)

    def note_held(self, *, held: bool) -> None:
        """Notes whether this replica asks the provider for the account."""
        if held:
            self._metrics.held.labels(self.account).set(1)
        else:
            self._known = False
            self._recorded = None  # another replica may record another state meanwhile
            self._metrics.forget(self.account)

    def note_call(self, name: str, seconds: float, error: ProviderError | None) -> None:
        """Notes a call that ended."""
        self._metrics.calls.labels(self.account, outcome_of(error)).inc()
        if error is None or isinstance(error, CredentialsRefusedError):
            self._good = error is None
        if error is None:
            self._proven_at = self._now()
        at = datetime.fromtimestamp(time.time(), UTC)
        self._calls.append(Call(self.account, at, name, seconds, None if error is None else str(error)))
        del self._calls[:-_MOST_WAITING]

    def note_refusal(self) -> None:
        """Notes that the credentials are refused, also if no call was sent: another replica has tried them."""
        self._good = False

    async def record(self) -> None:
        """Records what was noted."""
        if self._good is not None and self._good != self._recorded:
            good = self._good
            self._metrics.credentials_refused.labels(self.account).set(not good)
            await self._store.set_credentials(self.account, "good" if good else "refused")
            self._recorded = good
        calls, self._calls = self._calls, []
        if calls:
            await self._store.add_calls(calls)

    async def check(self, client: ProviderClient) -> None:
        """Proves the credentials by a call, and records whose account they are for. Calls that come together are one."""
        async with self._checking:
            if self._is_younger(self._checked_at, _TOGETHER):
                return
            merchant = await client.merchant()
            self.time_zone = merchant.time_zone
            self._good, self._recorded = True, None  # so that the time of the check is recorded
            await self.record()
            off = [feature.value for feature in client.state.features_off]
            moved = await self._store.set_merchant(
                self.account, merchant.gateway_id, merchant.name, off, test_mode=merchant.test_mode
            )
            self._known, self._checked_at = True, self._now()
        if moved:
            logger.warning(
                "the credentials are for another account of Authorize.Net than before: the days since then are not known; if "
                "the earlier credentials were wrong, run `webhookd gaps close --since` with the day of the change",
                account=self.account,
            )

    async def prove(self, client: ProviderClient) -> None:
        """Proves the credentials by a call, unless other calls have proven them, and records the proof."""
        if self._known and self._is_younger(self._proven_at, _PROVEN) and self._is_younger(self._checked_at, _MERCHANT):
            self._recorded = None
            await self.record()
        else:
            await self.check(client)

    async def merchant_zone(self, client: ProviderClient) -> str | None:
        """Asks about the account anew. Returns its time zone as the provider names it; None if it names none."""
        with contextlib.suppress(*_NO_ANSWER):
            await self.check(client)
        return self.time_zone

    def _is_younger(self, at: datetime | None, age: timedelta) -> bool:
        return at is not None and abs(self._now() - at) < age  # PostgreSQL's clock may have been wrong

    async def know(self, client: ProviderClient) -> None:
        """Returns when it is known whose account the credentials are for: the histories of two accounts must not be mixed."""
        if not self._known:
            try:
                await self.check(client)
            except _NO_ANSWER:
                self._known = True


def outcome_of(error: ProviderError | None) -> str:
    """Returns the outcome of a call, as the metric has it."""
    kinds = {
        CredentialsRefusedError: "refused",
        FeatureOffError: "off",
        ProviderUnavailableError: "unavailable",
        UnreadableAnswerError: "unreadable",
        ListMovedError: "unreadable",
    }
    return "done" if error is None else kinds.get(type(error), "rejected")
