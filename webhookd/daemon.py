"""The daemon: the one place where the parts are put together, started in order, and stopped in the reverse order."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aiohttp import web

from webhookd.admin.access import Access, AccessLevel
from webhookd.admin.app import SECURITY_FIELDS, admin_app
from webhookd.admin.cookies import Sessions
from webhookd.admin.health_routes import Health
from webhookd.admin.hosts import Hosts
from webhookd.errors import SettingsError
from webhookd.http.admission import Unlimited
from webhookd.http.connections import ConnectionLimits
from webhookd.http.listener import Listener, admin_counters, listen, url_of
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.runner import Runner
from webhookd.operate.statistics import Recorder
from webhookd.process import handlers
from webhookd.process.handlers import Registry
from webhookd.process.parts import FOLDS, Limits, make_worker
from webhookd.process.retry import Policy
from webhookd.queue.acks import Acks
from webhookd.queue.dead_letters import DeadLetters
from webhookd.queue.leases import Leases
from webhookd.queue.message import MOST_EVENTS
from webhookd.queue.poller import Poller
from webhookd.queue.relay import Relay
from webhookd.receive.app import DEFAULT_ACCOUNT
from webhookd.receive.role import ReceiveRole
from webhookd.runtime.failpoints import Failpoint, reach
from webhookd.runtime.lag import LoopLag
from webhookd.runtime.loops import Loop, Part, Watch
from webhookd.settings import RENEWABLE, Role, Settings
from webhookd.sqs.gateway import Sqs
from webhookd.store.database import Database
from webhookd.store.event_store import EventStore
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.store.receipts import Receipts
from webhookd.store.retention import Ages, Retention
from webhookd.telemetry.logs import logger
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing

_BACKLOG_EVERY = 5.0
_ADMIN_CONNECTIONS = 4
_ADMIN_LIMITS = ConnectionLimits(connections=256, head_timeout=10.0, body_timeout=10.0, read_timeout=60.0)
_LONGEST_LINE = 65_536  # bytes; a search with many values of a filter has more than aiohttp's 8190, and we must answer it


class Daemon:
    """One process. `start` returns when it serves, `stop` when everything that it accepted is safe and it holds nothing."""

    def __init__(self, settings: Settings, registry: Registry = handlers.registered) -> None:
        self._settings = settings
        self._registry = registry
        self.metrics = metrics = Metrics()
        self.watch = watch = Watch()
        metrics.expect({DEFAULT_ACCOUNT, *settings.keys_by_account})  # a worker's settings need not name the accounts
        roles = settings.roles
        self.database = Database(
            settings.database_url.get_secret_value(),
            schema=settings.database_schema,
            short=settings.short_pool,
            work=settings.concurrency if Role.WORK in roles else 1,
            fold=FOLDS if Role.WORK in roles else 1,
            admin=_ADMIN_CONNECTIONS,
            handler_timeout=settings.handler_timeout,
            pooled=settings.database_pooler != "none",
            metrics=metrics,
            watch=watch,
        )
        self.store = EventStore(self.database)
        receipts = self.receipts = Receipts(self.database)
        self.idempotency = IdempotencyKeys(
            settings.redis_url.get_secret_value(),
            instance=lambda: self.database.instance,
            dedupe_ttl=settings.dedupe_ttl,
            # A claim must outlive the handlers of its event, and the bookkeeping after the handlers (10 s).
            claim_ttl=settings.handler_timeout + 10,
            metrics=metrics,
            watch=watch,
        )
        self.sqs = make_sqs(settings, metrics, watch)
        self.health = Health(self.database, self.idempotency, self.sqs.queue)
        self._admin: Listener | None = None
        self.admin: web.Application | None = None
        self._stack = AsyncExitStack()
        self._access: Access | None = None
        self.receive: ReceiveRole | None = None
        self._poller: Poller | None = None
        self._tracing = tracing = _make_tracing(settings, metrics)
        # The order of starting: a part comes after the parts that it needs.
        self._parts: list[Part] = [LoopLag(metrics)] if tracing is None else [LoopLag(metrics), tracing]
        self._parts += [self.database, self.idempotency, self.sqs]
        self.relay: Relay | None = None
        if Role.RELAY in roles:
            self.relay = Relay(
                self.store,
                self.sqs.queue,
                window=settings.relay_window,
                resend_after=settings.resend_after,
                metrics=metrics,
                watch=watch,
                tracing=tracing,
            )
            self._parts.append(self.relay)
        self.dead_letters = dead_letters = DeadLetters(
            self.store, self.sqs.dead_letter_queue, metrics=metrics, watch=watch, reads=Role.RELAY in roles
        )
        self._parts.append(dead_letters)
        if Role.WORK in roles:
            self._add_workers(dead_letters)
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
        self._parts.append(self.retention)
        self._runner = Runner(self.database, watch)
        self._parts += [self._runner, Recorder(self.database, metrics, watch)]
        self._parts.append(Loop("backlog gauge", self._measure_backlog, watch, every=_BACKLOG_EVERY))

    def _add_workers(self, dead_letters: DeadLetters) -> None:
        settings, metrics, watch, queue = self._settings, self.metrics, self.watch, self.sqs.queue
        leases = Leases(queue, visibility_timeout=settings.visibility_timeout, metrics=metrics, watch=watch)
        acks = Acks(queue, metrics=metrics, watch=watch)
        limits = Limits(
            handler_timeout=settings.handler_timeout,
            retry=Policy.of(settings),
            concurrency=settings.concurrency,
        )
        worker = make_worker(
            self.database,
            self.store,
            self.idempotency,
            leases,
            acks,
            dead_letters,
            self._registry,
            limits,
            metrics=metrics,
            watch=watch,
            tracing=self._tracing,
        )
        self._poller = Poller(
            queue,
            worker.work,
            weigh=worker.weigh,
            heaviest=MOST_EVENTS if len(self._registry) else 1,
            report=self.store.report_worker,
            able=lambda: self.database.workable,
            concurrency=settings.concurrency,
            pollers=settings.pollers,
            wait=settings.sqs_wait,
            visibility_timeout=settings.visibility_timeout,
            watch=watch,
        )
        # Leases stop after the acks are flushed, and both after the pollers returned.
        self._parts += [leases, acks, worker, self._poller]

    async def start(self) -> None:
        """Starts every part, and both listeners. Raises SettingsError if it cannot listen on an address."""
        settings = self._settings
        statements = OperatorQueries(self.database)
        self._access = access = Access(
            Sessions(statements),
            *_tokens(settings),
            anonymous=None if settings.admin_anonymous == "nothing" else AccessLevel(settings.admin_anonymous),
            metrics=self.metrics,
        )
        hosts = Hosts(settings.admin_address[0], settings.admin_hosts)
        self.admin = admin_app(self.health, self.metrics, access, hosts, statements, self.receipts, self._runner.loop)
        self._admin = await self._listen_admin(self.admin)
        for part in self._parts:
            await part.start()
            self._stack.push_async_callback(part.stop)
        if self.receive is not None:
            await self.receive.listen(other_connections=settings.concurrency + _ADMIN_LIMITS.connections)
        self.health.serving = True
        if not settings.admin_tokens and not settings.read_tokens and settings.admin_anonymous == "nothing":
            logger.warning("the API and the dashboard refuse everyone: WEBHOOKD_ADMIN_TOKENS is not set")
        logger.info("serving", **settings.redacted())

    async def _listen_admin(self, app: web.Application) -> Listener:
        settings = self._settings
        listener = Listener(
            web.AppRunner(app, shutdown_timeout=settings.commit_timeout + 1),
            Unlimited(),
            _ADMIN_LIMITS,
            admin_counters(self.metrics),
            retry_after=settings.retry_after,
            fields=SECURITY_FIELDS,
            options={"max_line_size": _LONGEST_LINE},
        )
        await listen(listener, "WEBHOOKD_ADMIN_LISTEN", settings.admin_address)
        return listener

    def renew(self, settings: Settings) -> list[str]:
        """Puts the settings in RENEWABLE in force at once, while requests go on. Returns the names of those that changed.

        Raises SettingsError, and changes nothing, if the certificate's files cannot be used.
        """
        if self.receive is not None:
            self.receive.load_certificate()
        changed = [name for name in RENEWABLE if getattr(settings, name) != getattr(self._settings, name)]
        self._settings = self._settings.model_copy(update={name: getattr(settings, name) for name in changed})
        self.metrics.expect(self._settings.keys_by_account)
        if self._access is not None:
            self._access.renew(*_tokens(settings))
        if self.receive is not None:
            self.receive.renew(settings)
        return changed

    @property
    def settings(self) -> Settings:
        """Returns the settings in force."""
        return self._settings

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
        if self._poller is not None:
            # Some of the grace is for the steps after the workers: flushing, and closing.
            await self._poller.stop(max(self._settings.shutdown_grace - (time.monotonic() - started) - 5.0, 1.0))
        reach(Failpoint.SHUTDOWN_DRAINED)
        await self._stack.aclose()
        reach(Failpoint.SHUTDOWN_FLUSHED)
        if self._admin is not None:
            await self._admin.stop()
        logger.info("stopped", seconds=round(time.monotonic() - started, 3))

    async def _measure_backlog(self) -> None:
        outbox, oldest, overdue = await self.store.backlog()
        self.metrics.outbox_pending.set(outbox)
        self.metrics.oldest_unfinished.set(oldest)
        self.metrics.oldest_overdue.set(overdue)


def _tokens(settings: Settings) -> list[dict[str, str]]:
    """Returns the tokens that may operate, and the tokens that may only look, each by its name."""
    return [
        {name: token.get_secret_value() for name, token in tokens.items()}
        for tokens in (settings.admin_tokens, settings.read_tokens)
    ]


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


def make_sqs(settings: Settings, metrics: Metrics, watch: Watch) -> Sqs:
    """Makes the SQS gateway that the settings describe."""
    return Sqs(
        queue=settings.sqs_queue,
        dead_letter_queue=settings.sqs_dead_letter_queue,
        endpoint_url=settings.sqs_endpoint_url,
        # botocore reads AWS_DEFAULT_REGION alone, while AWS's other SDKs, and their documentation, name AWS_REGION.
        region=settings.sqs_region or os.environ.get("AWS_REGION") or None,
        pollers=settings.pollers,
        wait=settings.sqs_wait,
        visibility_timeout=settings.visibility_timeout,
        metrics=metrics,
        watch=watch,
    )
