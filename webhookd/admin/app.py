"""The admin application: health and metrics."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from webhookd.admin.health import Health
from webhookd.metrics import Metrics
from webhookd.receive.app import live
from webhookd.receive.problem import problems


def admin_app(health: Health, metrics: Metrics) -> web.Application:
    """The aiohttp application of the admin listener."""

    async def ready(_: web.Request) -> web.Response:
        report = health.report()
        return web.json_response(report, status=200 if health.ready else 503)

    async def state(_: web.Request) -> web.Response:
        return web.json_response(health.report())

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    app = web.Application(middlewares=[problems])
    app.router.add_get("/livez", live)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/webhooks/health", state)
    app.router.add_get("/metrics", scrape)
    return app
