"""The role `sync`: for each account with credentials, one replica asks the provider, and does the account's jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from webhookd.authorizenet.api.client import ProviderClient, clients_of
from webhookd.authorizenet.zones import likely_zone
from webhookd.operate.reconciling import reconciler_of
from webhookd.runtime.loops import Watch
from webhookd.settings import Role, Settings
from webhookd.settings.provider import ProviderAccess, provider_accesses, time_zone
from webhookd.settings.synthetic_types import wanted_types
from webhookd.store.database import Database
from webhookd.store.provider_facts import FactStore
from webhookd.store.provider_gaps import ProviderGaps
from webhookd.store.provider_refusals import ProviderRefusals
from webhookd.store.provider_state import ProviderState
from webhookd.store.provider_webhooks import WebhookRecords
from webhookd.store.receipts import Receipts
from webhookd.sync.account_state import AccountState
from webhookd.sync.account_sync import AccountSync, Job
from webhookd.sync.day_reports import DayReports
from webhookd.sync.details import WantedDetails
from webhookd.sync.fact_recorder import FactRecorder
from webhookd.sync.gap_closer import GapCloser
from webhookd.sync.guardian import Guardian
from webhookd.sync.lease import Lease
from webhookd.sync.pings import HeldNotifications
from webhookd.sync.settlement_sweep import SettlementSweep
from webhookd.sync.subscription_sweep import SubscriptionSweep
from webhookd.sync.sweeps import Sweeps
from webhookd.sync.synthetic_intake import SyntheticIntake
from webhookd.sync.takeover import Limits, Takeover, oldest
from webhookd.telemetry.metrics import Metrics

_LEASE = 45.0  # seconds; another replica takes over within a minute of a replica's death
_CHECK_EVERY = 3600.0  # seconds between two checks of the credentials
_ORDERS_EVERY = 2.0  # seconds between two looks for orders of operators
_DETAILS_EVERY = 2.0  # seconds between two looks for details that handlers wait for
_RECORD_EVERY = 5.0  # seconds
_DECIDE_EVERY = 10.0  # seconds between two looks for pings that are over: whoever ordered one may have died
_ACTOR = "webhookd"  # who releases what such a ping held


class _Plan(NamedTuple):
    """All that the jobs of an account depend on."""

    access: ProviderAccess
    gap_every: float
    gap_grace: float
    guardian_every: float
    guardian: str
    settlement_every: float
    synthetic_events: tuple[str, ...]
    shop: tuple[object, object]
    time_zone: str | None


class SyncRole:
    """The provider's side of each account. Without the role `sync`, or without credentials, it does nothing."""

    def __init__(self, settings: Settings, database: Database, receipts: Receipts, *, metrics: Metrics, watch: Watch) -> None:
        self._settings = settings
        self._database = database
        self._receipts = receipts
        self._metrics = metrics.provider
        self._watch = watch
        self._me = uuid4()
        self._store = ProviderState(database, self._me)
        self._plans: dict[str, _Plan] = {}
        self._accounts: dict[str, AccountSync] = {}
        self._clients: dict[str, ProviderClient] = {}
        self._started = False

    @property
    def held(self) -> set[str]:
        """Returns the accounts for which this replica asks the provider now."""
        return {name for name, sync in self._accounts.items() if sync.held}

    async def start(self) -> None:
        """Starts the work of each account that has credentials."""
        self._started = True
        await self._begin(_plans(self._settings))

    async def stop(self) -> None:
        """Ends the work. Other replicas take over at once. A second call is fine."""
        self._started = False
        await self._end()

    async def renew(self, settings: Settings) -> None:
        """Uses the credentials and the intervals of `settings` from now on. If any has changed, all accounts begin anew."""
        self._settings = settings
        if self._started and (plans := _plans(settings)) != self._plans:
            await self._end()
            await self._begin(plans)

    async def _begin(self, plans: dict[str, _Plan]) -> None:
        self._plans = plans
        states = {name: AccountState(name, self._store, self._metrics, self._database.now) for name in plans}
        accesses = {name: plan.access for name, plan in plans.items()}
        self._clients = clients_of(
            accesses, refusals=ProviderRefusals(self._database), on_call=lambda account: states[account].note_call
        )
        for name, plan in plans.items():
            lease = Lease(self._store, name, urlsplit(plan.access.url).netloc, _LEASE)
            jobs = self._jobs(plan, states[name], self._clients[name])
            self._accounts[name] = AccountSync(states[name], lease, jobs, _LEASE / 3, self._watch)
            await self._accounts[name].start()

    async def _end(self) -> None:
        accounts, clients = self._accounts, self._clients
        self._plans, self._accounts, self._clients = {}, {}, {}
        await asyncio.gather(*(sync.stop() for sync in accounts.values()))
        await asyncio.gather(*(client.close() for client in set(clients.values())))

    def _jobs(self, plan: _Plan, state: AccountState, client: ProviderClient) -> list[Job]:
        """Returns the jobs of an account, each with its period."""
        closer = self._gap_closer(plan, client)

        async def after_check(work: Callable[[], Awaitable[object]]) -> object:
            await state.know(client)
            return await work()

        limits = self._settings.max_event_age, self._settings.max_clock_skew
        records = WebhookRecords(self._database, plan.access.account, _ACTOR)
        held = HeldNotifications(records, self._receipts, *limits, client)
        recorder = self._recorder(plan)
        ready = partial(state.know, client)
        details = WantedDetails(plan.access.account, client, self._database, ready, recorder, self._metrics)
        jobs = [
            Job("decision on pings", _DECIDE_EVERY, held.decide),
            Job("comparison with the history", plan.gap_every, partial(after_check, closer.close)),
            Job("orders to close gaps", _ORDERS_EVERY, partial(after_check, closer.work_on_orders)),
            Job("details for handlers", _DETAILS_EVERY, details.ask),
            Job("check of the credentials", _CHECK_EVERY, lambda: state.prove(client)),
            Job("record of the calls", _RECORD_EVERY, state.record),
            Job("reconciliation", _CHECK_EVERY, self._day_reports(plan).run),
            Job("removal of old rows", _CHECK_EVERY, partial(self._store.remove_old, plan.access.account)),
        ]
        if plan.guardian != "off":
            guardian = Guardian(
                client,
                self._database,
                plan.access,
                self._receipts,
                limits,
                heal=plan.guardian == "heal",
                healed=lambda: closer.close(self._database.now().date()),
                noted=partial(self._metrics.note_webhook, plan.access.account),
                every=plan.guardian_every,
            )
            jobs.append(Job("guardian", plan.guardian_every, guardian.look))
        if plan.settlement_every > 0:
            subscriptions = self._subscription_sweep(plan, state, client)
            sweeps = Sweeps(subscriptions, self._sweep(plan, state, client, recorder))
            jobs.append(Job("sweeps of settlement and subscriptions", plan.settlement_every, partial(after_check, sweeps.run)))
        return jobs

    def _day_reports(self, plan: _Plan) -> DayReports:
        reconciler = reconciler_of(self._settings, self._database)
        return DayReports(plan.access.account, self._database, reconciler, self._metrics)

    def _recorder(self, plan: _Plan) -> FactRecorder:
        account = plan.access.account
        return FactRecorder(account, FactStore(self._database, account), self._intake(plan), self._database.now)

    def _sweep(self, plan: _Plan, state: AccountState, client: ProviderClient, recorder: FactRecorder) -> SettlementSweep:
        return SettlementSweep(
            plan.access.account,
            client,
            self._database,
            recorder,
            partial(oldest, timedelta(seconds=self._settings.event_retention)),
            partial(state.merchant_zone, client),
            self._metrics,
        )

    def _subscription_sweep(self, plan: _Plan, state: AccountState, client: ProviderClient) -> SubscriptionSweep:
        return SubscriptionSweep(
            plan.access.account,
            client,
            self._database,
            self._intake(plan),
            partial(oldest, timedelta(seconds=self._settings.event_retention)),
            lambda: likely_zone(state.time_zone, plan.time_zone),
        )

    def _intake(self, plan: _Plan) -> SyntheticIntake:
        return SyntheticIntake(plan.access.account, self._receipts, wanted_types(plan.synthetic_events), self._metrics)

    def _gap_closer(self, plan: _Plan, client: ProviderClient) -> GapCloser:
        settings, access = self._settings, plan.access
        gaps = ProviderGaps(self._database, access.account, self._me)
        limits = Limits(settings.max_body_bytes, timedelta(seconds=settings.event_retention))
        takeover = Takeover(access, client, gaps, self._receipts, limits, self._metrics)
        grace = timedelta(seconds=plan.gap_grace)
        return GapCloser(access.account, client, self._database, gaps, takeover, grace, self._metrics)


def _plans(settings: Settings) -> dict[str, _Plan]:
    if Role.SYNC not in settings.roles:
        return {}
    every = (
        settings.gap_every,
        settings.gap_grace,
        settings.guardian_every,
        settings.webhook_guardian,
        settings.settlement_every,
        settings.synthetic_events,
        (settings.shop_query, settings.shop_database_url),
    )
    return {name: _Plan(access, *every, time_zone(settings, name)) for name, access in provider_accesses(settings).items()}
