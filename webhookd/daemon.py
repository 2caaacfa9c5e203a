"""The daemon: the one place where the parts are put together, started in order, and stopped in the reverse order."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web

from webhookd.admin.access import Access, AccessLevel
from webhookd.admin.app import SECURITY_FIELDS, admin_app
from webhookd.admin.cookies import Sessions
from webhookd.admin.health_routes import Health
from webhookd.admin.hosts import Hosts
from webhookd.alerts.alerts import Alerts
from webhookd.cloud.client import connector
from webhookd.cloud.session import CloudSession
from webhookd.deliver.role import DeliverRole
from webhookd.errors import SettingsError
from webhookd.http.admission import Unlimited
from webhookd.http.connections import ListenerSettings
from webhookd.http.listener import Listener, admin_counters, listen, url_of
from webhookd.operate.destination_replays import DestinationReplays
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.reconciling import reconciler_of
from webhookd.operate.runner import Runner
from webhookd.operate.statistics import Recorder
from webhookd.process import handlers
from webhookd.process.fold import FOLDS
from webhookd.process.handlers import Registry
from webhookd.process.role import WorkRole
from webhookd.process.worker import Worker
from webhookd.queue.dead_letters import DeadLetters
from webhookd.queue.relay import Relay
from webhookd.receive.app import DEFAULT_ACCOUNT
from webhookd.receive.role import ReceiveRole
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.lag import LoopLag
from webhookd.runtime.loops import Loop, Part, Watch
from webhookd.settings import Role, Settings, renewed
from webhookd.sqs.gateway import Sqs
from webhookd.sqs.rds import RdsTokens
from webhookd.store.database import Database
from webhookd.store.event_store import EventStore
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.store.outbox import Outbox
from webhookd.store.pools import PoolSettings
from webhookd.store.receipts import Receipts
from webhookd.store.retention import Ages, Retention
from webhookd.store.session import Password
from webhookd.store.storage import StorageGauges
from webhookd.sync.role import SyncRole
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing

_BACKLOG_EVERY = 5.0
_CLOSING = 2.0  # seconds of the grace for closing the clients, after users' hooks have stopped
_ADMIN_CONNECTIONS = 4
_ADMIN_LISTENER = ListenerSettings(
    connections=256,
    head_timeout=10.0,
    body_timeout=10.0,
    read_timeout=60.0,
    fields=SECURITY_FIELDS,
    longest_line=65_536,  # a search with many values of a filter has more than aiohttp's 8190, and we must answer it
)


class Daemon:
    """One process. `start` returns when it serves, `stop` when everything that it accepted is safe and it holds nothing."""

    def __init__(self, settings: Settings, registry: Registry = handlers.registered) -> None:
        self._settings = settings
        self.metrics = metrics = Metrics()
        self.watch = watch = Watch()
        metrics.expect({DEFAULT_ACCOUNT, *settings.keys_by_account})  # a worker's settings need not name the accounts
        roles = settings.roles
        tokens = RdsTokens(settings.sqs_region) if settings.database_auth == "rds-iam" else None
        pools = pool_settings(settings, None if tokens is None else tokens.token)
        self.database = Database(pools, schema=settings.database_schema, metrics=metrics, watch=watch)
        self.store = EventStore(self.database)
        self.outbox = Outbox(self.database)
        cloud = CloudSession(settings)
        self.deliver = DeliverRole(settings, self.database, metrics=metrics, watch=watch, connect=connector(cloud, watch))
        receipts = self.receipts = Receipts(self.database, self.deliver.routes, metrics=self.metrics)
        self.idempotency = IdempotencyKeys(
            settings.redis_url.get_secret_value(),
            instance=lambda: self.database.instance,
            dedupe_ttl=settings.dedupe_ttl,
            # A claim must outlive the handlers of its event, and the bookkeeping after the handlers (10 s).
            claim_ttl=settings.handler_timeout + 10,
            metrics=metrics,
            watch=watch,
        )
        self.sqs = Sqs(settings, metrics=metrics, watch=watch)
        self.health = Health(self.database, self.idempotency, self.sqs.queue)
        self._admin: Listener | None = None
        self.admin: web.Application | None = None
        self._stack = AsyncExitStack()
        self._access: Access | None = None
        self.receive: ReceiveRole | None = None
        self._work: WorkRole | None = None
        tracing = _make_tracing(settings, metrics)
        # The order of starting: a part comes after the parts that it needs.
        self._parts: list[Part] = [part for part in (LoopLag(metrics), tracing, tokens) if part is not None]
        self._parts += [self.database, self.idempotency, self.sqs]
        self.relay: Relay | None = None
        if Role.RELAY in roles:
            self.relay = Relay(settings, self.outbox, self.sqs.queue, metrics=metrics, watch=watch, tracing=tracing)
            self._parts.append(self.relay)
        self.dead_letters = DeadLetters(
            self.store, self.sqs.dead_letter_queue, metrics=metrics, watch=watch, reads=Role.RELAY in roles
        )
        self._parts.append(self.dead_letters)
        if Role.WORK in roles:
            self._work = WorkRole(
                settings,
                registry,
                self.database,
                self.store,
                self.outbox,
                self.sqs.queue,
                self.idempotency,
                self.dead_letters,
                metrics=metrics,
                watch=watch,
                tracing=tracing,
            )
            self._parts += self._work.parts
        self.sync = SyncRole(settings, self.database, receipts, metrics=metrics, watch=watch)
        self._parts += [cloud, self.deliver, self.sync]
        if Role.RECEIVE in roles:
            self.receive = ReceiveRole(
                settings,
                receipts,
                self.idempotency,
                self.database,
                self.relay,
                metrics=metrics,
                watch=watch,
                tracing=tracing,
            )
            self._parts += self.receive.parts
        ages = Ages(
            bodies=settings.body_retention,
            audit=settings.audit_retention,
            events=settings.event_retention,
            quarantine=settings.quarantine_retention,
            window=settings.max_event_age + settings.max_clock_skew,
        )
        self.retention = Retention(self.database, ages, metrics=metrics, watch=watch)
        self.alerts = Alerts(settings, self.database, self.idempotency, metrics=metrics, watch=watch)
        self._parts += [self.retention, StorageGauges(self.database, metrics=metrics, watch=watch), self.alerts]
        replays = DestinationReplays(lambda: self.deliver.destinations)
        self._runner = Runner(self.database, replays, watch)
        self._parts += [self._runner, Recorder(self.database, metrics, watch)]
        self._parts.append(Loop("backlog gauge", self._measure_backlog, watch, every=_BACKLOG_EVERY))

    async def start(self) -> None:
        """Starts every part, and both listeners.

        Raises SettingsError if it cannot listen on an address, HookError if a hook cannot start.
        """
        settings = self._settings
        statements = OperatorQueries(self.database)
        self._access = access = Access(
            Sessions(statements),
            *_tokens(settings),
            anonymous=None if settings.admin_anonymous == "nothing" else AccessLevel(settings.admin_anonymous),
            metrics=self.metrics,
        )
        hosts = Hosts(settings.admin_address[0], settings.admin_hosts)
        self.admin = admin_app(
            self.health,
            self.metrics,
            access,
            hosts,
            statements,
            self.receipts,
            self._runner.loop,
            self.alerts,
            self.deliver,
            lambda: reconciler_of(self._settings, self.database),
        )
        self._admin = await self._listen_admin(self.admin)
        for part in self._parts:
            await part.start()
            self._stack.push_async_callback(part.stop)
        if self.receive is not None:
            await self.receive.listen(other_connections=settings.concurrency + _ADMIN_LISTENER.connections)
        self.health.serving = True
        if not settings.admin_tokens and not settings.read_tokens and settings.admin_anonymous == "nothing":
            logger.warning("the API and the dashboard refuse everyone: WEBHOOKD_ADMIN_TOKENS is not set")
        logger.info("serving", **settings.redacted())

    async def _listen_admin(self, app: web.Application) -> Listener:
        settings = self._settings
        listener = Listener(
            web.AppRunner(app, shutdown_timeout=settings.commit_timeout + 1),
            Unlimited(),
            replace(_ADMIN_LISTENER, retry_after=settings.retry_after),
            admin_counters(self.metrics),
        )
        await listen(listener, "WEBHOOKD_ADMIN_LISTEN", settings.admin_address)
        return listener

    async def renew(self, settings: Settings) -> list[str]:
        """Puts the settings in force that a running daemon can take, while requests go on. Returns their names.

        Raises SettingsError if files or destinations cannot be used; then nothing changes. Also raises SettingsError if
        PostgreSQL or Redis refuses a new user or password; then all other settings are in force.
        """
        changed = renewed(self._settings, settings)
        if self.receive is not None:
            self.receive.load_certificate()
        destinations = await self.deliver.prepare(settings)
        urls = {name: value for name in ("database_url", "redis_url") if (value := changed.pop(name, None)) is not None}
        self._settings = self._settings.model_copy(update=changed)
        self.metrics.expect(self._settings.keys_by_account)
        if self._access is not None:
            self._access.renew(*_tokens(settings))
        self.alerts.renew(settings.alerts)
        if self.receive is not None:
            self.receive.renew(settings)
        await self.deliver.renew(self._settings, destinations)
        await self.sync.renew(self._settings)
        problems = []
        for name, url in urls.items():
            owner = self.database if name == "database_url" else self.idempotency
            try:
                await owner.renew(url.get_secret_value())
            except SettingsError as error:
                problems.append(str(error))
            else:
                changed[name] = url
                self._settings = self._settings.model_copy(update={name: url})
        if problems:
            raise SettingsError("\n".join(problems))
        return list(changed)

    @property
    def settings(self) -> Settings:
        """Returns the settings in force."""
        return self._settings

    @property
    def worker(self) -> Worker | None:
        """Returns the worker; None without the role `work`."""
        return None if self._work is None else self._work.worker

    @property
    def public_url(self) -> str:
        """Returns the public listener's URL, with the port as bound; empty without the role `receive`."""
        return "" if self.receive is None else self.receive.url

    @property
    def admin_url(self) -> str:
        """Returns the admin listener's URL, with the port as bound."""
        return url_of(self._admin)

    async def stop(self) -> None:
        """Turns readiness off, stops accepting, finishes what was accepted, drains workers, flushes, and closes the clients."""
        if self.health.stopping:
            return
        started = time.monotonic()
        self.health.stopping = True
        logger.info("stopping")
        if self.receive is not None:
            self.receive.refuse()
        reach(Failpoint.SHUTDOWN_REFUSING)
        if self.receive is not None:
            await self.receive.stop_listening()
        reach(Failpoint.SHUTDOWN_ANSWERED)
        # Some of the grace is for the steps after the workers: flushing, and closing.
        drain = max(self._settings.shutdown_grace - (time.monotonic() - started) - 5.0, 1.0)
        workers = [] if self._work is None else [self._work.drain(drain)]
        await asyncio.gather(self.deliver.stop(), *workers)
        reach(Failpoint.SHUTDOWN_DRAINED)
        if self._work is not None:
            # A slow hook must leave time for the steps after it.
            self._work.stop_hooks_by(started + self._settings.shutdown_grace - _CLOSING)
        await self._stack.aclose()
        reach(Failpoint.SHUTDOWN_FLUSHED)
        if self._admin is not None:
            await self._admin.stop()
        logger.info("stopped", seconds=round(time.monotonic() - started, 3))

    async def _measure_backlog(self) -> None:
        outbox, oldest, overdue = await self.outbox.backlog()
        self.metrics.outbox_pending.set(outbox)
        self.metrics.oldest_unfinished.set(oldest)
        self.metrics.oldest_overdue.set(overdue)


def _tokens(settings: Settings) -> list[dict[str, str]]:
    """Returns the tokens that may operate, and the tokens that may only look, each by its name."""
    return [
        {name: token.get_secret_value() for name, token in tokens.items()}
        for tokens in (settings.admin_tokens, settings.read_tokens)
    ]


def pool_settings(settings: Settings, password: Password | None = None) -> PoolSettings:
    """Returns the settings of a process's connections to PostgreSQL. `password`: makes the passwords, if the URL has none."""
    works = Role.WORK in settings.roles
    return PoolSettings(
        settings.database_url.get_secret_value(),
        short=settings.short_pool,
        work=settings.concurrency if works else 1,
        handler_timeout=settings.handler_timeout,
        fold=FOLDS if works else 1,
        admin=_ADMIN_CONNECTIONS,
        pooled=settings.database_pooler != "none",
        password=password,
    )


def _make_tracing(settings: Settings, metrics: Metrics) -> Tracing | None:
    if not settings.tracing:
        return None
    try:
        from webhookd.telemetry.tracing import Tracing
    except ImportError as error:
        raise SettingsError(
            "WEBHOOKD_TRACING is on, but OpenTelemetry is not installed: pip install 'webhookd[tracing]', or unset the setting"
        ) from error
    return Tracing(queue=settings.sqs_queue, system="aws_sqs", metrics=metrics)
