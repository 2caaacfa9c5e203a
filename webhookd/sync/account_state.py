"""What is known of an account's credentials and calls, for people and for alerts."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.authorizenet.api.errors import (
    CredentialsRefusedError,
    FeatureOffError,
    ProviderError,
    ProviderUnavailableError,
    UnreadableAnswerError,
)
from webhookd.store.provider_state import Call, ProviderState
from webhookd.telemetry.provider_metrics import ProviderMetrics

_MOST_WAITING = 200  # calls that wait for their record: more are kept of no account


class AccountState:
    """The state of one account's credentials and calls."""

    def __init__(self, account: str, store: ProviderState, metrics: ProviderMetrics) -> None:
        self.account = account
        self._store = store
        self._metrics = metrics
        self._calls: list[Call] = []
        metrics.expect(account)

    def note_held(self, *, held: bool) -> None:
        """Notes whether this replica asks the provider for the account."""
        if held:
            self._metrics.held.labels(self.account).set(1)
        else:
            self._metrics.forget(self.account)

    def note_call(self, name: str, seconds: float, error: ProviderError | None) -> None:
        """Notes a call that ended."""
        self._metrics.calls.labels(self.account, _outcome(error)).inc()
        at = datetime.fromtimestamp(time.time(), UTC)
        self._calls.append(Call(self.account, at, name, seconds, None if error is None else str(error)))
        del self._calls[:-_MOST_WAITING]

    async def keep_calls(self) -> None:
        """Records the calls that were noted."""
        calls, self._calls = self._calls, []
        if calls:
            await self._store.add_calls(calls)

    async def note_credentials(self, *, good: bool) -> None:
        """Records whether the provider takes the credentials."""
        self._metrics.credentials_refused.labels(self.account).set(not good)
        await self._store.set_credentials(self.account, "good" if good else "refused")

    async def check(self, client: ProviderClient) -> None:
        """Proves the credentials by a call, and records whose account they are for."""
        merchant = await client.merchant()
        await self.note_credentials(good=True)
        off = [feature.value for feature in client.state.features_off]
        await self._store.set_merchant(self.account, merchant.gateway_id, merchant.name, off, test_mode=merchant.test_mode)


def _outcome(error: ProviderError | None) -> str:
    kinds = {
        CredentialsRefusedError: "refused",
        FeatureOffError: "off",
        ProviderUnavailableError: "unavailable",
        UnreadableAnswerError: "unreadable",
    }
    return "done" if error is None else kinds.get(type(error), "rejected")
