"""Tracing: OpenTelemetry's spans along an event's way, one trace from its webhook to its handlers.

The import needs the extra `tracing`. A part has a `Tracing` or None; with None it makes no call for tracing.

An event keeps the context of the span of its receipt, in PostgreSQL and in its messages. So all who send the event or work on
it later, at whatever attempt, continue that trace. The span of a batch (a commit, a call of SQS) is a child of the batch's
first traced event, and linked to the other events: a span in each trace would cost more than the batch.

A span holds ids, account, event type, attempt and outcome, and the type and place of an error. It holds no body, no key, and no
exception's message: those can hold customer data.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple
from uuid import UUID

from multidict import CIMultiDictProxy
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from structlog.contextvars import bound_contextvars

from webhookd.telemetry.exporter import make_exporter, resource, usable
from webhookd.telemetry.frames import origin
from webhookd.telemetry.logs import logger, where
from webhookd.telemetry.metrics import Metrics

_EVENT_ID = "webhookd.event.id"
_EVENT_TYPE = "webhookd.event.type"
_ACCOUNT = "webhookd.account"
_ATTEMPT = "webhookd.attempt"
_OUTCOME = "webhookd.outcome"
_ROUTE = "/webhooks/authorize-net/{account}"
_FLUSH = 2.0  # seconds that a stop waits for the spans to be sent
_NOWHERE = Context()
# https://www.w3.org/TR/trace-context/#traceparent-header. Fields that a later version adds behind are left out.
_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?:-.*)?"
)
_FLAGS = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID


class Origin(NamedTuple):
    """The beginning of a webhook's span, and the trace that its request names."""

    traceparent: str | None
    began: int  # nanoseconds since 1970


class Tracing:
    """The maker of spans. A thread of its own sends them; nothing waits, and spans that the collector does not take are lost.

    `queue`: the name or URL of the queue. `system`: its messaging system, as OpenTelemetry names it.
    Raises SettingsError if OpenTelemetry's settings cannot be used.
    """

    def __init__(self, *, queue: str, system: str, metrics: Metrics) -> None:
        self._exporter = make_exporter(metrics)
        with usable():
            self._provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer("webhookd", version("webhookd"))
        self._queue = queue.rstrip("/").rpartition("/")[2]
        self._system = system
        self._running = False

    async def start(self) -> None:
        """Starts sending spans, also handlers' own, by the global provider. Raises SettingsError as the constructor does."""
        if self._running:
            return
        with usable():
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._running = True
        trace.set_tracer_provider(self._provider)

    async def stop(self) -> None:
        """Sends the spans that have ended, for two seconds at most."""
        if not self._running:
            return
        self._running = False
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
                loop.call_soon_threadsafe(sent.set)

        # Do not use the loop's executor: closing the loop would wait for the executor's threads.
        threading.Thread(target=end, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(_FLUSH):
                await sent.wait()
        except TimeoutError:
            logger.warning("the last spans could not be sent in time", seconds=_FLUSH)
            self._exporter.shutdown()  # end the exporter's wait for another try

    # -- receive

    def origin(self, headers: CIMultiDictProxy[str], started: float) -> Origin:
        """Reads the headers of a request that is not proven authentic yet. `started`: time.perf_counter() at its beginning."""
        given = headers.getall("traceparent", ())
        began = time.time_ns() - int((time.perf_counter() - started) * 1e9)
        return Origin(given[0] if len(given) == 1 else None, began)

    def receive(self, account: str, origin: Origin, event_type: str | None = None) -> tuple[Span, str | None]:
        """Begins the span of an authentic webhook, as of the request's beginning. Returns it and its context.

        `answered` ends the span. Only for authentic webhooks: without a key, nobody can name a trace or have a span sent.
        `tracestate` is left out.
        """
        attributes = {"http.request.method": "POST", "http.route": _ROUTE, _ACCOUNT: account}
        if event_type is not None:
            attributes[_EVENT_TYPE] = event_type
        parent = _below(_context(origin.traceparent))
        span = self._tracer.start_span(f"POST {_ROUTE}", parent, SpanKind.SERVER, attributes, start_time=origin.began)
        return span, _traceparent(span)

    def answered(
        self,
        span: Span,
        status: int,
        outcome: str,
        *,
        event_id: UUID | None = None,
        quarantine_id: UUID | None = None,
        layer: str | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Ends the span of a webhook, with the HTTP status and the outcome. `layer`: the layer that found a duplicate."""
        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            span.set_attribute(_OUTCOME, outcome)
            more = {_EVENT_ID: event_id, "webhookd.quarantine.id": quarantine_id, "webhookd.duplicate.layer": layer}
            span.set_attributes({name: str(value) for name, value in more.items() if value is not None})
            if error is not None:
                _fail(span, type(error).__qualname__, where(error))
        span.end()

    def commit(self, traceparents: Sequence[str | None]) -> contextlib.AbstractContextManager[None]:
        """Puts a span around a group commit; none if none of its events is sampled."""
        attributes = {"db.system.name": "postgresql", "db.operation.batch.size": len(traceparents)}
        return self._batch("commit", SpanKind.CLIENT, traceparents, attributes)

    # -- relay

    def send(self, traceparents: Sequence[str | None]) -> contextlib.AbstractContextManager[None]:
        """Puts a span around the calls that send events; none if none of the events is sampled."""
        attributes = {"webhookd.events": len(traceparents)}
        return self._batch(f"send {self._queue}", SpanKind.PRODUCER, traceparents, self._messaging("send") | attributes)

    @contextlib.contextmanager
    def _batch(
        self, name: str, kind: SpanKind, traceparents: Iterable[str | None], attributes: dict[str, Any]
    ) -> Iterator[None]:
        contexts = [context for context in map(_context, traceparents) if context is not None and context.trace_flags.sampled]
        if not contexts:
            yield
            return
        span = self._tracer.start_span(name, _below(contexts[0]), kind, attributes, [Link(context) for context in contexts])
        try:
            yield
        except BaseException as error:
            _fail(span, type(error).__qualname__, where(error))
            raise
        finally:
            span.end()

    def _messaging(self, operation: str) -> dict[str, Any]:
        # https://opentelemetry.io/docs/specs/semconv/messaging/
        return {
            "messaging.system": self._system,
            "messaging.destination.name": self._queue,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
        }

    # -- work

    @contextlib.contextmanager
    def process(
        self, traceparent: str | None, message_id: str, event_id: UUID, account: str, event_type: str
    ) -> Iterator[None]:
        """Puts a span around one event's delivery. Log lines there name the span."""
        span = self._delivery(traceparent, event_id, account, event_type, {"messaging.message.id": message_id})
        context = span.get_span_context()
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context.is_valid else {}
        with (
            bound_contextvars(**ids),
            trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False),
        ):
            yield

    def attempted(self, attempt: int, kind: str | None = None, error: str = "") -> None:
        """Adds the attempt to the span of the delivery that the caller works on.

        `kind`: the type of the exception, if the attempt failed; `error`: its type and place.
        """
        span = trace.get_current_span()
        span.set_attribute(_ATTEMPT, attempt)
        if kind is not None:
            _fail(span, kind, error)

    def delivered(self, outcome: str) -> None:
        """Adds the outcome to the span of the delivery that the caller works on."""
        trace.get_current_span().set_attribute(_OUTCOME, outcome)

    @contextlib.contextmanager
    def handler(self, name: str) -> Iterator[None]:
        """Puts a span around one handler's call. It is the current span of the call: the handler's own spans are below it."""
        # Switch off OpenTelemetry's own record of an exception, because it holds the exception's message and the stack.
        with self._tracer.start_as_current_span(
            f"handle {name}",
            attributes={"code.function.name": name},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                kind = type(error).__qualname__
                _fail(span, kind, f"{kind}{origin(error, name.partition('.')[0])}")
                raise

    def shared(
        self,
        traceparent: str | None,
        event_id: UUID,
        account: str,
        event_type: str,
        *,
        began: int,
        outcome: str,
        attempt: int | None,
    ) -> None:
        """Makes the span of an ended delivery, of an event that shared a transaction. `began`: nanoseconds since 1970."""
        attributes: dict[str, Any] = {_OUTCOME: outcome, "webhookd.shared": True}
        if attempt is not None:
            attributes[_ATTEMPT] = attempt
        self._delivery(traceparent, event_id, account, event_type, attributes, began).end()

    def _delivery(
        self,
        traceparent: str | None,
        event_id: UUID,
        account: str,
        event_type: str,
        attributes: dict[str, Any],
        began: int | None = None,
    ) -> Span:
        attributes |= {_EVENT_ID: str(event_id), _ACCOUNT: account, _EVENT_TYPE: event_type}
        return self._tracer.start_span(
            f"process {self._queue}",
            _below(_context(traceparent)),
            SpanKind.CONSUMER,
            self._messaging("process") | attributes,
            start_time=began,
        )


def _traceparent(span: Span) -> str | None:
    """Returns the traceparent that names the span in a message; None if OpenTelemetry is switched off."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else None


def _context(traceparent: str | None) -> SpanContext | None:
    """Returns the span that a traceparent names; None if it is no traceparent."""
    if traceparent is None or (match := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    return SpanContext(int(match["trace"], 16), int(match["span"], 16), True, TraceFlags(int(match["flags"], 16) & _FLAGS))


def _below(parent: SpanContext | None) -> Context:
    # Never use the task's own context: the task of a batch has the context of the code that started the task.
    return _NOWHERE if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), _NOWHERE)


def _fail(span: Span, kind: str, error: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, error))
