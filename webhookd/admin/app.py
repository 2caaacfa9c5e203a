"""The admin application: the operator's API, the dashboard, health and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from webhookd.admin.access import Access, AccessLevel
from webhookd.admin.alert_routes import AlertRoutes
from webhookd.admin.dead_letter_routes import DeadLetterRoutes
from webhookd.admin.destination_replay_routes import DestinationReplayRoutes
from webhookd.admin.destination_routes import DestinationRoutes
from webhookd.admin.event_routes import EventRoutes
from webhookd.admin.gap_routes import GapRoutes
from webhookd.admin.guide import Guide
from webhookd.admin.health_routes import Health
from webhookd.admin.hosts import Hosts, shown
from webhookd.admin.openapi import document
from webhookd.admin.operation_routes import OperationRoutes
from webhookd.admin.pages import pages
from webhookd.admin.provider_routes import ProviderRoutes
from webhookd.admin.quarantine_routes import QuarantineRoutes
from webhookd.admin.reconciliation_routes import ReconciliationRoutes
from webhookd.admin.refused_routes import RefusedRoutes
from webhookd.admin.route import Route, refusals, refused
from webhookd.admin.sign_in import SignInRoutes
from webhookd.admin.statistics_routes import StatisticsRoutes
from webhookd.admin.timeline_routes import TimelineRoutes
from webhookd.alerts.alerts import Alerts
from webhookd.deliver.role import DeliverRole
from webhookd.http.problem import problems
from webhookd.http.reply import SERVER
from webhookd.operate.destinations import Destinations
from webhookd.operate.events import Events
from webhookd.operate.gap_orders import GapOrders
from webhookd.operate.operations import Operations
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.operate.quarantine import Quarantine
from webhookd.operate.reconciling import Reconciler
from webhookd.receive.app import live
from webhookd.runtime.loops import Loop
from webhookd.store.receipts import Receipts
from webhookd.telemetry.metrics import Metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ID = "{id:[0-9A-Fa-f-]{36}}"  # matches no other word of a path
_CHANGES = ("POST", "PUT", "PATCH", "DELETE")
# Every host name may reach these: probes and scrapes use whatever address a pod has.
_BY_ADDRESS = {("GET", path) for path in ("/livez", "/readyz", "/metrics")}
_BEARS_NO_EVENT = {("GET", "/webhooks/health"), ("GET", "/session")}
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
SECURITY_FIELDS = {
    "Content-Security-Policy": _API_POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Server": SERVER,
}
_KEPT = ("Content-Security-Policy", "Cache-Control")  # header fields whose value a route can set itself


def admin_app(
    health: Health,
    metrics: Metrics,
    access: Access,
    hosts: Hosts,
    statements: OperatorQueries,
    receipts: Receipts,
    runner: Loop,
    alerts: Alerts,
    deliver: DeliverRole,
    reconciler: Callable[[], Reconciler],
) -> web.Application:
    """Builds the aiohttp application of the admin listener."""
    events = Events(statements)
    operations = Operations(statements, runner)
    destinations = Destinations(statements, lambda: deliver.destinations)
    routes = [
        *OperationRoutes(operations, lambda: deliver.destinations).routes(),
        *EventRoutes(events).routes(),
        *DeadLetterRoutes(statements, events, operations).routes(),
        *QuarantineRoutes(Quarantine(statements, receipts)).routes(),
        *RefusedRoutes(statements).routes(),
        *DestinationRoutes(deliver, destinations).routes(),
        *DestinationReplayRoutes(destinations, operations).routes(),
        *ProviderRoutes(statements).routes(),
        *GapRoutes(GapOrders(statements)).routes(),
        *ReconciliationRoutes(reconciler).routes(),
        *TimelineRoutes(statements).routes(),
        *AlertRoutes(alerts).routes(),
        *StatisticsRoutes(statements, destinations, health, metrics).routes(),
        *SignInRoutes(access).routes(),
    ]
    app = web.Application(middlewares=[_headers, problems, refusals, _guard(access, hosts)])
    add_routes(app, routes)
    described: list[bytes] = []  # the document, made at the first request: making it takes a twentieth of a second

    async def ready(_: web.Request) -> web.Response:
        return web.json_response(health.report(), status=200 if health.ready else 503)

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def describe(_: web.Request) -> web.Response:
        if not described:
            described.append(orjson.dumps(document(routes)))
        return web.Response(body=described[0], content_type="application/json")

    for path, handler in {"/livez": live, "/readyz": ready, "/metrics": scrape, "/openapi.json": describe}.items():
        add_open(app, path, handler)
    for path, file in pages().items():
        add_open(app, path, file.serve)
    guide = Guide()
    for path in ("/guide", "/guide/{page}"):
        add_open(app, path, guide.serve)
    return app


ROLES: web.AppKey[dict[tuple[str, str], AccessLevel]] = web.AppKey("roles", dict)


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Adds routes of the API, each with its role."""
    for route in routes:
        app.router.add_route(route.method, route.path.replace("{id}", _ID), route.__call__)
        app.setdefault(ROLES, {})[route.method, route.path] = route.role


def add_open(app: web.Application, path: str, handler: Callable[[web.Request], Awaitable[web.Response]]) -> None:
    """Adds a route that needs no token."""
    app.router.add_get(path, handler)
    app.setdefault(ROLES, {})["GET", path] = AccessLevel.OPEN


def _guard(access: Access, hosts: Hosts) -> Middleware:
    async def refusal(request: web.Request, route: tuple[str, str]) -> tuple[int, str] | None:
        if route not in _BY_ADDRESS and not hosts.knows(request):
            access.count("unknown_host")
            return 421, (
                f"WEBHOOKD_ADMIN_HOSTS does not list the host name{shown(request)} of this request: add the name "
                "there, or use localhost or the address that webhookd listens on"
            )
        if route[0] in _CHANGES and hosts.is_cross_origin(request):
            access.count("cross_site")
            return 403, (
                "a page of another origin sent this change: open the dashboard itself; if a proxy changes the host name, list "
                "the browser's host name in WEBHOOKD_ADMIN_HOSTS"
            )
        needed = request.app[ROLES].get(route)
        if needed is None:
            return 403, "this route has no role"
        return await access.refuses(request, needed, bears_no_event=route in _BEARS_NO_EVENT)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Admits a request only with a known host name and the role that the route needs. Without a role, it admits nobody."""
        resource = request.match_info.route.resource
        if resource is None:  # no route has this path and this method
            return await handler(request)
        method = "GET" if request.method == "HEAD" else request.method
        refused_by = await refusal(request, (method, resource.canonical))
        if refused_by is None:
            return await handler(request)
        answer = refused(*refused_by)
        if refused_by[0] == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    return guard


@web.middleware
async def _headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    answer = await handler(request)
    for name, value in SECURITY_FIELDS.items():
        if name not in _KEPT or name not in answer.headers:
            answer.headers[name] = value
    return answer
