"""A collector of spans, as far as tests need: OTLP over HTTP, decoded by OpenTelemetry's own protobuf classes.

Contract: the OTLP specification, "OTLP/HTTP": POST to /v1/traces of an ExportTraceServiceRequest as application/x-protobuf.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1 import trace_pb2

_KINDS = {number: name.removeprefix("SPAN_KIND_").lower() for name, number in trace_pb2.Span.SpanKind.items()}


@dataclass(slots=True, frozen=True)
class Received:
    """A span as received: ids in hexadecimal, `parent` empty for a root, `error` None if the span's status is not an error."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]  # the ids of the linked spans
    attributes: dict[str, Any]
    error: str | None
    seconds: float
    service: str


class Collector:
    """A collector on a free port. While `hangs` is set, the collector never answers."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.raw = b""  # the bodies of all requests, joined
        self.headers: list[dict[str, str]] = []
        self.hangs = False
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Collector:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Returns the URL for OTEL_EXPORTER_OTLP_ENDPOINT."""
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def named(self, name: str, **attributes: Any) -> list[Received]:
        """Returns, as received, the spans whose name begins with `name`, with `attributes` (`a_b` means `webhookd.a.b`)."""
        wanted = {f"webhookd.{key.replace('_', '.')}": value for key, value in attributes.items()}
        return [span for span in self.spans if span.name.startswith(name) and wanted.items() <= span.attributes.items()]

    async def _take(self, request: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.Event().wait()
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        self.raw += body
        self.headers.append(dict(request.headers))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            self.spans += [_received(span, service) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf")


def _received(span: trace_pb2.Span, service: str) -> Received:
    return Received(
        name=span.name,
        kind=_KINDS[span.kind],
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple(link.span_id.hex() for link in span.links),
        attributes=_attributes(span.attributes),
        error=span.status.message if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else None,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        service=service,
    )


def _attributes(given: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in given}
