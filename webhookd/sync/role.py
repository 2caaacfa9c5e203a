"""The role `sync`: for each account with credentials, one replica asks the provider, and does the account's jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from webhookd.authorizenet.api.client import ProviderClient
from webhookd.runtime.loops import Watch
from webhookd.settings import Role, Settings
from webhookd.settings.provider import ProviderAccess, provider_accesses
from webhookd.store.database import Database
from webhookd.store.provider_state import ProviderState
from webhookd.store.receipts import Receipts
from webhookd.sync.account_state import AccountState
from webhookd.sync.account_sync import AccountSync, Job
from webhookd.sync.guardian import Guardian
from webhookd.sync.lease import Lease
from webhookd.telemetry.metrics import Metrics

_LEASE = 45.0  # seconds; another replica takes over within a minute of a replica's death
_CHECK_EVERY = 3600.0  # seconds between two checks of the credentials
_KEEP_CALLS_EVERY = 5.0  # seconds


class _Plan(NamedTuple):
    """All that the jobs of an account depend on. If it changes, the account begins anew."""

    access: ProviderAccess
    gap_every: float
    gap_grace: float
    guardian_every: float
    guardian: str


class SyncRole:
    """The provider's side of each account. Without the role `sync`, or without credentials, it does nothing."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        receipts: Receipts,
        *,
        metrics: Metrics,
        watch: Watch,
    ) -> None:
        self._settings = settings
        self._database = database
        self._receipts = receipts
        self._metrics = metrics
        self._watch = watch
        self._me = uuid4()
        self._store = ProviderState(database)
        self._accounts: dict[str, tuple[_Plan, AccountSync]] = {}
        self._clients: dict[tuple[object, ...], ProviderClient] = {}
        self._started = False

    @property
    def held(self) -> set[str]:
        """Returns the accounts for which this replica asks the provider now."""
        return {name for name, (_, sync) in self._accounts.items() if sync.held}

    async def start(self) -> None:
        """Starts the work of each account that has credentials."""
        self._started = True
        await self._apply()

    async def stop(self) -> None:
        """Ends the work. Other replicas take over at once. A second call is fine."""
        self._started = False
        accounts, self._accounts = self._accounts, {}
        await asyncio.gather(*(sync.stop() for _, sync in accounts.values()))
        await self._close_clients()

    async def renew(self, settings: Settings) -> None:
        """Uses the credentials and the intervals of `settings` from now on."""
        self._settings = settings
        if self._started:
            await self._apply()

    async def _apply(self) -> None:
        settings = self._settings
        plans = {name: _plan(settings, access) for name, access in self._accesses().items()}
        former = [name for name, (plan, _) in self._accounts.items() if plans.get(name) != plan]
        await asyncio.gather(*(self._accounts.pop(name)[1].stop() for name in former))
        await self._close_clients({_key(plan.access) for plan in plans.values()})
        for name, plan in plans.items():
            if name not in self._accounts:
                sync = self._make(plan)
                self._accounts[name] = plan, sync
                await sync.start()

    def _accesses(self) -> dict[str, ProviderAccess]:
        return provider_accesses(self._settings) if Role.SYNC in self._settings.roles else {}

    def _make(self, plan: _Plan) -> AccountSync:
        access = plan.access
        state = AccountState(access.account, self._store, self._metrics.provider)
        host = urlsplit(access.url).netloc
        lease = Lease(self._store, access.account, host, self._me, _LEASE)
        jobs = self._jobs(plan, state, self._client(access))
        return AccountSync(state, lease, jobs, _LEASE / 3, self._watch)

    def _jobs(self, plan: _Plan, state: AccountState, client: ProviderClient) -> list[Job]:
        """Returns the jobs of an account, each with its period."""
        jobs = [
            Job("check of the credentials", _CHECK_EVERY, lambda: state.check(client)),
            Job("calls", _KEEP_CALLS_EVERY, state.keep_calls),
        ]
        if plan.guardian != "off":
            guardian = Guardian(
                client,
                self._database,
                plan.access,
                heal=plan.guardian == "heal",
                noted=partial(self._metrics.provider.note_webhook, plan.access.account),
            )
            jobs.append(Job("guardian", plan.guardian_every, guardian.look))
        return jobs

    def _client(self, access: ProviderAccess) -> ProviderClient:
        """Returns the client for an access. Accounts that share their credentials share the client, and so its rate."""
        key = _key(access)
        if key not in self._clients:
            self._clients[key] = ProviderClient(access)
        return self._clients[key]

    async def _close_clients(self, used: Set[tuple[object, ...]] = frozenset()) -> None:
        for key in [key for key in self._clients if key not in used]:
            await self._clients.pop(key).close()


def _key(access: ProviderAccess) -> tuple[object, ...]:
    return access.url, access.login_id, access.keys, access.timeout, access.rate


def _plan(settings: Settings, access: ProviderAccess) -> _Plan:
    return _Plan(access, settings.gap_every, settings.gap_grace, settings.guardian_every, settings.webhook_guardian)
