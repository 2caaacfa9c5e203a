"""The ceiling: an aiohttp endpoint that verifies the HMAC and answers, and keeps nothing. `python -m … --port N --key KEY`."""

from __future__ import annotations

import argparse
import hmac

import uvloop
from aiohttp import web

from tests.bench.baselines.serving import serve


def app(key: bytes) -> web.Application:
    """Returns the application: it verifies the HMAC of a webhook, and answers."""

    async def hook(request: web.Request) -> web.Response:
        body = await request.read()
        signature = request.headers.get("X-ANET-Signature", "")
        expected = hmac.digest(key, body, "sha512").hex()
        if not hmac.compare_digest(signature.removeprefix("sha512=").lower().encode(), expected.encode()):
            return web.Response(status=401)
        return web.Response(body=b'{"status":"accepted"}', content_type="application/json")

    made = web.Application()
    made.router.add_post("/webhooks/authorize-net", hook)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    given = parser.parse_args()
    uvloop.run(serve(app(given.key.encode()), given.port))
