"""The export of spans by OTLP over HTTP, and OpenTelemetry's log."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from webhookd.errors import SettingsError
from webhookd.telemetry.logs import logger, where
from webhookd.telemetry.metrics import Metrics

_QUIET_SECONDS = 60.0  # between two log lines about the same warning of OpenTelemetry


def make_exporter(metrics: Metrics) -> Exporter:
    """Makes the exporter that OTEL_EXPORTER_OTLP_… configure. Raises SettingsError if these settings cannot be used."""
    _hear_complaints()
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_PROTOCOL: webhookd speaks http/protobuf only; leave it out, and have "
            "OTEL_EXPORTER_OTLP_ENDPOINT name the collector's port for HTTP (4318 unless changed)"
        )
    with usable():
        return Exporter(metrics)


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """Turns any error of OpenTelemetry in the block into SettingsError."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is, the user must learn what to look at
        # Do not show the error's message, which may quote a setting: OTEL_EXPORTER_OTLP_HEADERS has secrets.
        raise SettingsError(f"OpenTelemetry cannot use its settings, OTEL_… ({where(error)})") from None


class Exporter(OTLPSpanExporter):
    """An exporter by OTLP over HTTP, as OTEL_EXPORTER_OTLP_… configure it, that counts its spans."""

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
    """The log of OpenTelemetry, without the texts among its arguments: they quote headers, URLs and a collector's answers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        place, now = f"{record.name}:{record.lineno}", time.monotonic()
        if now - self._told.get(place, -_QUIET_SECONDS) < _QUIET_SECONDS:
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
        # A text with arguments is a template. A text without arguments may hold anything.
        template = str(record.msg) if arguments else None
        logger.warning("OpenTelemetry complains; spans may be lost", at=place, template=template, **more)


def _hear_complaints() -> None:
    library = logging.getLogger("opentelemetry")
    library.propagate = False
    if not any(isinstance(handler, _Complaints) for handler in library.handlers):
        library.addHandler(_Complaints())


def resource() -> Resource:
    """Returns the resource of all spans: this service and its version, unless OTEL_… names others."""
    given = Resource.create()
    own = {SERVICE_VERSION: version("webhookd")}
    if str(given.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        own[SERVICE_NAME] = "webhookd"
    return given.merge(Resource(own))
