"""Tracing: OpenTelemetry's spans along an event's way, one trace from its webhook to its handlers.

To import it takes the extra `tracing`. A part has a `Tracing` or None; with None it makes no call for it.

The context that an event keeps, in PostgreSQL and in its messages, is that of the span of its receipt. So whoever sends it or
works on it later, at whatever attempt, goes on with that trace. A batch (a commit, a call of SQS) is a child of the first event
of it that is traced, and linked to the others: a span in each trace would cost more than the batch.

In a span stand ids, account, event type, attempt and outcome, and of an error its type and place. No body, no key, no
exception's message: those can hold customer data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
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
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from structlog.contextvars import bound_contextvars

from webhookd.errors import SettingsError
from webhookd.logs import logger, where
from webhookd.metrics import Metrics

_EVENT_ID = "webhookd.event.id"
_EVENT_TYPE = "webhookd.event.type"
_ACCOUNT = "webhookd.account"
_ATTEMPT = "webhookd.attempt"
_OUTCOME = "webhookd.outcome"
_ROUTE = "/webhooks/authorize-net/{account}"
_FLUSH = 2.0  # seconds that a stop waits for the spans to be sent
_QUIET = 60.0  # seconds between two lines of one kind about what OpenTelemetry complains of
_NOWHERE = Context()
# https://www.w3.org/TR/trace-context/#traceparent-header. What comes behind it in a later version is left out.
_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?:-.*)?"
)
_FLAGS = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID


class Origin(NamedTuple):
    """Where a webhook's span begins, and what its request says of a trace."""

    traceparent: str | None
    began: int  # nanoseconds since 1970


class Tracing:
    """Makes spans, and sends them from a thread of its own; what the collector does not take is lost, and nothing waits for it.

    `queue`: the name or URL of the queue. `system`: its messaging system, as OpenTelemetry names it.
    Raises SettingsError where OpenTelemetry's settings cannot be used.
    """

    def __init__(self, *, queue: str, system: str, metrics: Metrics) -> None:
        _hear_complaints()
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if protocol not in (None, "", "http/protobuf"):
            raise SettingsError(
                "OTEL_EXPORTER_OTLP_PROTOCOL: webhookd speaks http/protobuf only; leave it out, and have "
                "OTEL_EXPORTER_OTLP_ENDPOINT name the collector's port for HTTP (4318 unless changed)"
            )
        with _usable():
            self._exporter = _Exporter(metrics)
            self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer("webhookd", version("webhookd"))
        self._queue = queue.rstrip("/").rpartition("/")[2]
        self._system = system
        self._running = False

    async def start(self) -> None:
        """Starts sending; handlers' own spans go the same way, by the global provider. Raises what the constructor raises."""
        if self._running:
            return
        with _usable():
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._running = True
        trace.set_tracer_provider(self._provider)

    async def stop(self) -> None:
        """Sends what has ended, for two seconds at most."""
        if not self._running:
            return
        self._running = False
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(sent.set)

        # Not by the loop's executor: whoever closes the loop waits for its threads.
        threading.Thread(target=end, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(_FLUSH):
                await sent.wait()
        except TimeoutError:
            logger.warning("the last spans could not be sent in time", seconds=_FLUSH)
            self._exporter.shutdown()  # ends its waiting for another try

    # -- receive

    def origin(self, headers: CIMultiDictProxy[str], started: float) -> Origin:
        """What a request's headers say, before it is known to be authentic; `started`: time.perf_counter() at its beginning."""
        given = headers.getall("traceparent", ())
        began = time.time_ns() - int((time.perf_counter() - started) * 1e9)
        return Origin(given[0] if len(given) == 1 else None, began)

    def receive(self, account: str, origin: Origin, event_type: str | None = None) -> tuple[Span, str | None]:
        """The span of an authentic webhook, which `answered` ends, and its context; it has begun with the request.

        Only of an authentic one: whoever has no key neither names a trace nor has anything sent. `tracestate` is left out.
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
        """Ends the span of a webhook: with which HTTP status, and what became of it; `layer`: what found a duplicate."""
        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            span.set_attribute(_OUTCOME, outcome)
            more = {_EVENT_ID: event_id, "webhookd.quarantine.id": quarantine_id, "webhookd.duplicate.layer": layer}
            span.set_attributes({name: str(value) for name, value in more.items() if value is not None})
            if error is not None:
                _fail(span, type(error).__qualname__, where(error))
        span.end()

    def commit(self, traceparents: Sequence[str | None]) -> contextlib.AbstractContextManager[None]:
        """The span of a group commit, around it; none where none of its events is sampled."""
        attributes = {"db.system.name": "postgresql", "db.operation.batch.size": len(traceparents)}
        return self._batch("commit", SpanKind.CLIENT, traceparents, attributes)

    # -- relay

    def send(self, traceparents: Sequence[str | None]) -> contextlib.AbstractContextManager[None]:
        """The span of the calls that send events, around them; none if none of the events is sampled."""
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
        """The span of one event's delivery, around it; log lines there name it."""
        span = self._delivery(traceparent, event_id, account, event_type, {"messaging.message.id": message_id})
        context = span.get_span_context()
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context.is_valid else {}
        with (
            bound_contextvars(**ids),
            trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False),
        ):
            yield

    def attempted(self, attempt: int, kind: str | None = None, error: str = "") -> None:
        """Tells the span of the delivery that the caller is at of its attempt.

        `kind`: the type of the exception, if the attempt failed; `error`: its type and place.
        """
        span = trace.get_current_span()
        span.set_attribute(_ATTEMPT, attempt)
        if kind is not None:
            _fail(span, kind, error)

    def delivered(self, outcome: str) -> None:
        """Tells the span of the delivery that the caller is at what came of it."""
        trace.get_current_span().set_attribute(_OUTCOME, outcome)

    @contextlib.contextmanager
    def handler(self, name: str) -> Iterator[None]:
        """The span of one handler's call, around it: it is the current one there, so that the handler's own are below it."""
        # Without OpenTelemetry's own record of an exception: that has its message, and the stack with it.
        with self._tracer.start_as_current_span(
            f"handle {name}",
            attributes={"code.function.name": name},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                _fail(span, type(error).__qualname__, where(error))
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
        """The span of a delivery that has ended, of an event that shared a transaction; `began`: nanoseconds since 1970."""
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


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is, the user is to know what to look at
        # Not its message, which may quote what a setting holds: OTEL_EXPORTER_OTLP_HEADERS has secrets.
        raise SettingsError(f"OpenTelemetry cannot use its settings, OTEL_… ({where(error)})") from None


class _Exporter(OTLPSpanExporter):
    """OTLP over HTTP, as OTEL_EXPORTER_OTLP_… say, counted."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._exported = metrics.spans.labels("exported")
        self._failed = metrics.spans.labels("failed")
        self._ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        (self._exported if result is SpanExportResult.SUCCESS else self._failed).inc(len(spans))
        return result

    def shutdown(self) -> None:
        if not self._ended:
            self._ended = True
            super().shutdown()  # type: ignore[no-untyped-call]


class _Complaints(logging.Handler):
    """What OpenTelemetry logs, without its words' arguments, which quote headers, URLs and what a collector answered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        place, now = f"{record.name}:{record.lineno}", time.monotonic()
        if now - self._told.get(place, -_QUIET) < _QUIET:
            return
        self._told[place] = now
        arguments = record.args if isinstance(record.args, tuple) else ()
        more: dict[str, Any] = {}
        if statuses := [argument for argument in arguments if type(argument) is int]:
            more["status"] = statuses[0]
        errors = [argument for argument in arguments if isinstance(argument, BaseException)]
        if record.exc_info and record.exc_info[1] is not None:
            errors.append(record.exc_info[1])
        if errors:
            more["error"] = where(errors[-1])
        # A text with arguments is a template; one without may have been put together with anything.
        template = str(record.msg) if arguments else None
        logger.warning("OpenTelemetry complains; spans may be lost", at=place, template=template, **more)


def _hear_complaints() -> None:
    library = logging.getLogger("opentelemetry")
    library.propagate = False
    if not any(isinstance(handler, _Complaints) for handler in library.handlers):
        library.addHandler(_Complaints())


def _resource() -> Resource:
    resource = Resource.create()
    own = {SERVICE_VERSION: version("webhookd")}
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        own[SERVICE_NAME] = "webhookd"
    return resource.merge(Resource(own))


def _traceparent(span: Span) -> str | None:
    """What stands for the span in a message; None where OpenTelemetry is switched off."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else None


def _context(traceparent: str | None) -> SpanContext | None:
    """The span that a traceparent names; None where it is none."""
    if traceparent is None or (match := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    return SpanContext(int(match["trace"], 16), int(match["span"], 16), True, TraceFlags(int(match["flags"], 16) & _FLAGS))


def _below(parent: SpanContext | None) -> Context:
    # Never the task's own context: a batch's task has that of whoever started it.
    return _NOWHERE if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), _NOWHERE)


def _fail(span: Span, kind: str, error: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, error))
