"""The role `receive`: its parts, the public listener, and the order in which they start and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from webhookd.http.admission import Admission
from webhookd.http.certificate import Certificate
from webhookd.http.connections import ListenerSettings
from webhookd.http.listener import Listener, listen, public_counters, raise_file_limit, url_of
from webhookd.queue.relay import Relay
from webhookd.receive.app import PublicApp
from webhookd.receive.intake import Intake
from webhookd.receive.refused_samples import Samples
from webhookd.runtime.loops import Part, Watch
from webhookd.settings import Settings
from webhookd.store.database import Database
from webhookd.store.idempotency import IdempotencyKeys
from webhookd.store.provider_pings import Pings
from webhookd.store.receipts import Receipts
from webhookd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from webhookd.telemetry.tracing import Tracing


class ReceiveRole:
    """The receiver of webhooks.

    The owner starts `parts` in their order and then calls `listen`. To stop, the owner calls `refuse` and `stop_listening`, and
    then stops `parts` in reverse order.
    """

    def __init__(
        self,
        settings: Settings,
        receipts: Receipts,
        idempotency: IdempotencyKeys,
        database: Database,
        relay: Relay | None,
        *,
        metrics: Metrics,
        watch: Watch,
        tracing: Tracing | None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self.admission = Admission(max_pending=settings.max_pending, metrics=metrics)
        database.proofs.append(receipts.prove)
        self._samples = Samples(
            database, keep=settings.refused_samples, keys=settings.keys_by_account, metrics=metrics, watch=watch
        )
        pings = Pings(database, patience=settings.commit_timeout)
        self._intake = Intake(
            settings,
            receipts,
            idempotency,
            database,
            relay,
            self.admission,
            pings,
            metrics=metrics,
            watch=watch,
            tracing=tracing,
        )
        self.parts: list[Part] = [self._samples, self._intake]
        self._certificate: Certificate | None = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            self._certificate = Certificate(settings.tls_certificate, settings.tls_key, metrics=metrics, watch=watch)
            self.parts.append(self._certificate)
        self._app: PublicApp | None = None
        self._listener: Listener | None = None

    async def listen(self, *, other_connections: int) -> None:
        """Starts the public listener. Raises SettingsError if the address is not available.

        `other_connections`: how many connections the other parts of the process open at most; they need files, too.
        """
        settings = self._settings
        self._app = PublicApp(settings, self._intake, self._samples, metrics=self._metrics)
        listening = ListenerSettings(
            connections=raise_file_limit(settings.max_connections, other_connections),
            head_timeout=settings.head_timeout,
            body_timeout=settings.body_timeout,
            read_timeout=settings.head_timeout,
            retry_after=settings.retry_after,
        )
        listener = Listener(
            web.ServerRunner(web.Server(self._app.handle), shutdown_timeout=settings.commit_timeout + 1),
            self.admission,
            listening,
            public_counters(self._metrics),
            certificate=self._certificate,
        )
        await listen(listener, "WEBHOOKD_LISTEN", settings.public_address)
        self._listener = listener

    @property
    def url(self) -> str:
        """Returns the public listener's URL, with the port as bound; empty while it does not listen."""
        return url_of(self._listener, "http" if self._certificate is None else "https")

    def load_certificate(self) -> None:
        """Reads the certificate's files anew. Raises SettingsError, and changes nothing, if they cannot be used."""
        if self._certificate is not None:
            self._certificate.load()

    def renew(self, settings: Settings) -> None:
        """Uses the accounts and keys of `settings` from now on."""
        self._intake.renew(settings.keys_by_account)
        self._samples.renew(settings.keys_by_account)
        if self._app is not None:
            self._app.renew(settings.keys_by_account)

    def refuse(self) -> None:
        """Refuses new webhooks from now on."""
        self._intake.refuse()

    async def stop_listening(self) -> None:
        """Accepts no more connections, and returns once the requests under way are answered."""
        if self._listener is not None:
            await self._listener.stop()
