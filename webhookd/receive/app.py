"""The public application: the webhook's two paths, `/livez`, and nothing else."""

from __future__ import annotations

import asyncio
import time

import orjson
from aiohttp import web

from webhookd.errors import OverloadedError, SignatureError, UnavailableError
from webhookd.failpoints import Failpoint, armed, reach
from webhookd.metrics import Metrics
from webhookd.receive.intake import Intake
from webhookd.receive.problem import problem, problems

DEFAULT_ACCOUNT = "default"


class PublicApp:
    """Reads a request under its limits, and answers what the intake made of it."""

    def __init__(
        self,
        intake: Intake,
        *,
        max_body_bytes: int,
        body_timeout: float,
        retry_after: int,
        metrics: Metrics,
    ) -> None:
        self._intake = intake
        self._max_body_bytes = max_body_bytes
        self._body_timeout = body_timeout
        self._retry_after = retry_after
        self._received = metrics.received
        self._ack_seconds = metrics.ack_seconds

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[problems])
        for path in ("/webhooks/authorize-net", "/webhooks/authorize-net/{account}"):
            app.router.add_post(path, self._webhook, expect_handler=self._expect)
        app.router.add_get("/livez", live)
        app.on_response_prepare.append(_anonymous)
        return app

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        # The provider sends `Expect: 100-continue`: what is refused by its head alone is refused before its body comes.
        if request.headers.get("Expect", "").lower() != "100-continue":
            return self._refuse(request, 417, "only Expect: 100-continue is understood", "bad_expect")
        refusal = self._refusal(request)
        if refusal is None and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return refusal

    def _refuse(
        self, request: web.Request, status: int, detail: str, outcome: str, *, retry: bool = False, unread: bool = True
    ) -> web.Response:
        account = request.match_info.get("account", DEFAULT_ACCOUNT)
        self._received.labels(account if self._intake.knows(account) else "unknown", outcome).inc()
        return problem(status, detail, retry_after=self._retry_after if retry else None, close=unread)

    def _refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that its head alone refuses."""
        if not self._intake.knows(request.match_info.get("account", DEFAULT_ACCOUNT)):
            return self._refuse(request, 404, "no such account", "unknown_account")
        if "Content-Encoding" in request.headers:
            # Decompressed bytes are not the bytes that were signed.
            return self._refuse(request, 415, "Content-Encoding is not accepted", "content_encoding")
        if (request.content_length or 0) > self._max_body_bytes:
            return self._refuse(request, 413, f"more than {self._max_body_bytes} bytes", "too_large")
        try:
            self._intake.check()
        except UnavailableError as error:
            return self._refuse(request, 503, "not able to store webhooks just now", f"{error.dependency}_away", retry=True)
        except OverloadedError:
            return self._refuse(request, 503, "too many webhooks at once", "overload", retry=True)
        return None

    async def _webhook(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        if (refusal := self._refusal(request)) is not None:
            return refusal
        account = request.match_info.get("account", DEFAULT_ACCOUNT)
        try:
            async with asyncio.timeout(self._body_timeout):
                body = await self._read(request)
        except TimeoutError:
            return self._refuse(request, 408, f"the body took longer than {self._body_timeout:g} s", "too_slow")
        except (ConnectionError, web.RequestPayloadError, asyncio.IncompleteReadError):
            return self._refuse(request, 400, "the body is incomplete or malformed", "truncated")
        if body is None:
            return self._refuse(request, 413, f"more than {self._max_body_bytes} bytes", "too_large")
        try:
            receipt = await self._intake.take(account, body, request.headers.get("X-ANET-Signature"))
        except SignatureError as error:
            outcome = f"signature_{error.outcome}"
            return self._refuse(request, 401, "the signature does not verify", outcome, unread=False)
        except UnavailableError as error:
            return self._refuse(
                request,
                503,
                "could not store the webhook in time",
                f"{error.dependency}_away",
                retry=True,
                unread=False,
            )
        except OverloadedError:
            return self._refuse(request, 503, "too many webhooks at once", "overload", retry=True, unread=False)
        self._received.labels(account, receipt.outcome).inc()
        self._ack_seconds.observe(time.perf_counter() - started)
        if armed(Failpoint.RECEIVE_AFTER_ANSWER):  # this task writes the answer before it lets the loop turn
            asyncio.get_running_loop().call_soon(reach, Failpoint.RECEIVE_AFTER_ANSWER)
        return web.Response(
            body=orjson.dumps({"status": receipt.outcome, "id": str(receipt.id)}), content_type="application/json"
        )

    async def _read(self, request: web.Request) -> bytes | None:
        """The raw body, or None where it is larger than the limit (a chunked one tells its length by coming)."""
        chunks = []
        left = self._max_body_bytes
        async for chunk in request.content.iter_any():
            left -= len(chunk)
            if left < 0:
                return None
            chunks.append(chunk)
        return b"".join(chunks)


async def live(_: web.Request) -> web.Response:
    """Liveness: the loop turns."""
    return web.json_response({"status": "alive"})


async def _anonymous(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "webhookd"
