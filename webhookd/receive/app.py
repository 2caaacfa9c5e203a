"""The public application: the webhook's two paths, `/livez`, and nothing else."""

from __future__ import annotations

import asyncio
import time

import orjson
from aiohttp import web

from webhookd.errors import OverloadedError, SignatureError, UnavailableError
from webhookd.failpoints import Failpoint, armed, reach
from webhookd.metrics import Metrics
from webhookd.receive.bodies import Bodies, Held
from webhookd.receive.connections import Connection
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
        max_body_memory: int,
        body_timeout: float,
        retry_after: int,
        metrics: Metrics,
    ) -> None:
        self._intake = intake
        self._max_body_bytes = max_body_bytes
        self._bodies = Bodies(max_body_memory)
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
        app.on_response_prepare.append(_answering)
        return app

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        # The provider sends `Expect: 100-continue`: what is refused by its head alone is refused before its body comes.
        if request.headers.get("Expect", "").lower() != "100-continue":
            return self._refuse(request, 417, "only Expect: 100-continue is understood", "bad_expect")
        refusal = self._refusal(request)
        if refusal is None and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return refusal

    def _refuse(self, request: web.Request, status: int, detail: str, outcome: str, *, retry: bool = False) -> web.Response:
        account = request.match_info.get("account", DEFAULT_ACCOUNT)
        self._received.labels(account if self._intake.knows(account) else "unknown", outcome).inc()
        # Where the body has come entirely, the connection can serve on: a new one would cost more than the refusal.
        unread = not request.content.is_eof()
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
        if not self._bodies.fits(request.content_length or 0):
            return self._refuse(request, 503, "too many large bodies at once", "overload", retry=True)
        try:
            self._intake.check()
        except UnavailableError as error:
            return self._refuse(request, 503, "not able to store webhooks just now", f"{error.dependency}_away", retry=True)
        except OverloadedError:
            return self._refuse(request, 503, "too many webhooks at once", "overload", retry=True)
        return None

    async def _webhook(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        if request.transport is not None and isinstance(protocol := request.transport.get_protocol(), Connection):
            protocol.began()
        if (refusal := self._refusal(request)) is not None:
            return refusal
        with self._bodies.hold() as held:
            try:
                async with asyncio.timeout(self._body_timeout):
                    body = await self._read(request, held)
            except TimeoutError:
                return self._refuse(request, 408, f"the body took longer than {self._body_timeout:g} s", "too_slow")
            except (ConnectionError, web.RequestPayloadError, asyncio.IncompleteReadError):
                return self._refuse(request, 400, "the body is incomplete or malformed", "truncated")
            except OverloadedError:
                return self._refuse(request, 503, "too many large bodies at once", "overload", retry=True)
            if body is None:
                return self._refuse(request, 413, f"more than {self._max_body_bytes} bytes", "too_large")
            return await self._take(request, body, started)

    async def _take(self, request: web.Request, body: bytes, started: float) -> web.Response:
        account = request.match_info.get("account", DEFAULT_ACCOUNT)
        try:
            receipt = await self._intake.take(account, body, request.headers.get("X-ANET-Signature"))
        except SignatureError as error:
            return self._refuse(request, 401, "the signature does not verify", f"signature_{error.outcome}")
        except UnavailableError as error:
            outcome = f"{error.dependency}_away"
            return self._refuse(request, 503, "could not store the webhook in time", outcome, retry=True)
        except OverloadedError:
            return self._refuse(request, 503, "too many webhooks at once", "overload", retry=True)
        self._received.labels(account, receipt.outcome).inc()
        self._ack_seconds.observe(time.perf_counter() - started)
        if armed(Failpoint.RECEIVE_AFTER_ANSWER):  # this task writes the answer before it lets the loop turn
            asyncio.get_running_loop().call_soon(reach, Failpoint.RECEIVE_AFTER_ANSWER)
        return web.Response(
            body=orjson.dumps({"status": receipt.outcome, "id": str(receipt.id)}), content_type="application/json"
        )

    async def _read(self, request: web.Request, held: Held) -> bytes | None:
        """The raw body, or None where it is larger than the limit (a chunked one tells its length by coming).

        Raises OverloadedError where it is one of too many large ones.
        """
        chunks = []
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
            if size > self._max_body_bytes:
                return None
            held.grow(size)
            chunks.append(chunk)
        return b"".join(chunks)


async def live(_: web.Request) -> web.Response:
    """Liveness: the loop turns."""
    return web.json_response({"status": "alive"})


async def _answering(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "webhookd"
    if response.keep_alive and request.content.is_eof() and request.transport is not None:
        protocol = request.transport.get_protocol()
        if isinstance(protocol, Connection):
            protocol.answered()
