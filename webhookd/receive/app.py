"""The public application: serves the webhook's two paths, `/livez`, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from aiohttp import web
from prometheus_client import Counter

from webhookd.errors import OverloadedError, UnavailableError
from webhookd.http.connection import Connection
from webhookd.http.problem import render_problem
from webhookd.http.reply import SERVER, Reply, render
from webhookd.receive.bodies import SMALL, Bodies, Held
from webhookd.receive.intake import Intake, Receipt, ReceiptOutcome
from webhookd.receive.refusal import REFUSED, Rejection, refusal
from webhookd.receive.refused_samples import EXAMINED, Sample, Samples
from webhookd.runtime.failpoints import Failpoint, armed, reach
from webhookd.settings import Settings
from webhookd.settings.provider import WEBHOOK_PATH as PATH
from webhookd.telemetry.logs import logger, where
from webhookd.telemetry.metrics import Metrics

DEFAULT_ACCOUNT = "default"
JSON = "application/json; charset=utf-8"
_CHUNKS = 1_024  # most chunks of a body, unless they hold _CHUNK_BYTES on average: each costs a microsecond, however small
_CHUNK_BYTES = 256


class PublicApp:
    """The public application: reads each request within limits, and answers with the intake's result.

    A handler for aiohttp's low-level server, since two paths need no router. An Application would add to each request the cost
    of one more verification of its signature.
    """

    def __init__(self, settings: Settings, intake: Intake, samples: Samples, *, metrics: Metrics) -> None:
        self._intake = intake
        self._samples = samples
        self.paths: dict[str, str] = {}  # path of a webhook → its account
        self._max_body_bytes = settings.max_body_bytes
        self._bodies = Bodies(settings.max_body_memory)
        self._body_timeout = settings.body_timeout
        self._later = (("Retry-After", str(settings.retry_after)),)
        self._received = metrics.received
        self._taken: dict[tuple[str, ReceiptOutcome], Counter] = {}
        self._ack_seconds = metrics.ack_seconds
        self.renew(settings.keys_by_account)

    def renew(self, accounts: Iterable[str]) -> None:
        """Serves these accounts from now on."""
        self.paths = {f"{PATH}/{account}": account for account in accounts}
        if DEFAULT_ACCOUNT in self.paths.values():
            self.paths[PATH] = DEFAULT_ACCOUNT
        # The provider follows no redirect, so a path with a trailing slash is served as the path without one.
        self.paths |= {f"{path}/": account for path, account in self.paths.items()}
        # Remove no counter: a webhook of a removed account may still wait for its commit.
        for account in self.paths.values():
            for outcome in ReceiptOutcome:
                self._taken[account, outcome] = self._received.labels(account, outcome)
            for refused in REFUSED:  # make these series at the start: if a series began at 1, Prometheus would see no increase
                self._received.labels(account, refused)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers any request."""
        # Look up the path as it was sent. Only if it is not found, decode the path and look again.
        account = self.paths.get(request.raw_path)
        if account is None:
            path = request.path
            if path == "/livez":
                return await live(request) if request.method in ("GET", "HEAD") else _method_not_allowed("GET,HEAD")
            account = self.paths.get(path)
            if account is None and not _names_an_account(path):
                if request.method == "POST" and "X-ANET-Signature" in request.headers:  # a webhook was sent to a wrong path
                    return self._refuse(request, None, 404, "Not Found", Rejection.UNKNOWN_PATH)
                return Reply(render_problem(404, "Not Found"))
        if request.method != "POST":
            return _method_not_allowed("POST")
        if (refusal := self._admit(request, account)) is not None:
            return refusal
        return await self._webhook(request, account or "")

    def _refuse(
        self,
        request: web.BaseRequest,
        account: str | None,
        status: int,
        detail: str,
        outcome: str,
        retry: bool = False,
        body: bytes | None = None,
    ) -> Reply:
        self._received.labels(account or "unknown", outcome).inc()
        if isinstance(outcome, Rejection):
            self._sample(request, account or "unknown", status, outcome, body)
        return Reply(render_problem(status, detail, self._later if retry else ()))

    def _sample(self, request: web.BaseRequest, account: str, status: int, outcome: Rejection, body: bytes | None) -> None:
        peer = request.remote or ""
        if not self._samples.takes(account, outcome, peer):
            return
        whole = body is not None or request.content.is_eof()
        length = request.content_length
        if body is None:  # the body was not read: take the bytes that have arrived so far, but none of a failed stream
            body = b"" if request.content.exception() is not None else request.content.read_nowait(EXAMINED + 1)
        elif length is None:
            length = len(body)
        headers = request.headers
        self._samples.add(
            Sample(
                account=account,
                outcome=outcome,
                status=status,
                path=request.raw_path.partition("?")[0],  # a query may hold a secret
                peer=peer,
                header=headers.get("X-ANET-Signature"),
                forwarded_for=headers.get("X-Forwarded-For"),
                content_type=headers.get("Content-Type"),
                length=length,
                body=body[:EXAMINED],
                whole=whole and len(body) <= EXAMINED,
                at=time.monotonic(),
            )
        )

    def _refuse_for(self, request: web.BaseRequest, account: str, error: Exception, body: bytes | None = None) -> Reply:
        why = refusal(error)
        answer = self._refuse(request, account, *why, body=body)
        if why.outcome == "error":  # an error of webhookd itself
            logger.error("a request failed", error=where(error))
            answer.force_close()
        return answer

    def _admit(self, request: web.BaseRequest, account: str | None) -> Reply | None:
        """Decides by the head alone whether a webhook is accepted. Returns the refusal, or writes the answer to `Expect`."""
        expected = request.headers.get("Expect")
        if expected is not None and expected.lower() != "100-continue":
            return self._refuse(request, account, 417, "only Expect: 100-continue is understood", Rejection.BAD_EXPECT)
        if account is None:
            return self._refuse(request, account, 404, "no such account", Rejection.UNKNOWN_ACCOUNT)
        if "Content-Encoding" in request.headers and not _plain(request.headers.getall("Content-Encoding")):
            # Decompressed bytes are not the bytes that were signed.
            return self._refuse(
                request, account, 415, "no Content-Encoding but identity is accepted", Rejection.CONTENT_ENCODING
            )
        length = request.content_length or 0
        if length > self._max_body_bytes:
            return self._refuse(request, account, 413, f"more than {self._max_body_bytes} bytes", Rejection.TOO_LARGE)
        if not self._bodies.fits(length):
            return self._refuse(request, account, 503, "too many large bodies at once", "overload", retry=True)
        try:
            self._intake.check()
        except UnavailableError as error:
            return self._refuse_for(request, account, error)
        if isinstance(request.protocol, Connection) and not request.protocol.admitted():
            return self._refuse_for(request, account, OverloadedError("too many webhooks wait for their commit"))
        # The provider sends `Expect: 100-continue`, so a refusal for the head alone is sent before the body arrives.
        if expected is not None and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    async def _webhook(self, request: web.BaseRequest, account: str) -> web.StreamResponse:
        started = time.perf_counter()
        content = request.content
        length = request.content_length
        # If the sender waits for no `100 Continue`, the body has nearly always arrived with the head.
        if length is not None and length <= SMALL and content.is_eof() and content.exception() is None:
            return await self._take(request, account, content.read_nowait(), started)
        with self._bodies.hold() as held:
            try:
                body = await self._read(request, held)
            except TimeoutError:  # raised by `Connections`, which bounds the time of every body
                return self._refuse(
                    request, account, 408, f"the body took longer than {self._body_timeout:g} s", Rejection.TOO_SLOW
                )
            except (ConnectionError, web.RequestPayloadError, asyncio.IncompleteReadError):
                return self._refuse(request, account, 400, "the body is incomplete or malformed", Rejection.TRUNCATED)
            except OverloadedError:
                return self._refuse(request, account, 503, "too many large bodies at once", "overload", retry=True)
            if body is None:
                return self._refuse(request, account, 413, f"more than {self._max_body_bytes} bytes", Rejection.TOO_LARGE)
            return await self._take(request, account, body, started)

    async def _take(self, request: web.BaseRequest, account: str, body: bytes, started: float) -> web.StreamResponse:
        if not self._intake.knows(account):  # the account was removed while the body arrived
            return self._refuse(request, account, 404, "no such account", Rejection.UNKNOWN_ACCOUNT)
        tracing = self._intake.tracing
        origin = None if tracing is None else tracing.origin(request.headers, started)
        try:
            receipt = await self._intake.take(account, body, request.headers.get("X-ANET-Signature"), origin)
        except Exception as error:  # noqa: BLE001  the client must have an answer after any error
            return self._refuse_for(request, account, error, body)
        return Reply(render(200, JSON, self._acknowledge(account, receipt, started).encode()))

    def _acknowledge(self, account: str, receipt: Receipt, started: float) -> str:
        """Counts a 200 and the time since `started`. Returns its text, which the caller must write before the loop turns."""
        self._taken[account, receipt.outcome].inc()
        self._ack_seconds.observe(time.perf_counter() - started)
        if armed(Failpoint.RECEIVE_AFTER_ANSWER):
            asyncio.get_running_loop().call_soon(reach, Failpoint.RECEIVE_AFTER_ANSWER)
        return f'{{"status":"{receipt.outcome}","id":"{receipt.id}"}}'

    async def _read(self, request: web.BaseRequest, held: Held) -> bytes | None:
        """Returns the raw body, or None if it is larger than the limit (the length of a chunked body shows only as it arrives).

        The usual body is small and comes in one piece: it is read whole, which costs a third of a loop over its pieces.

        Raises OverloadedError if there are too many large bodies, and RequestPayloadError if the body has too many chunks.
        """
        length = request.content_length
        if length is not None and length <= SMALL:
            if (error := request.content.exception()) is not None:  # `wait_eof` does not check this, and would wait for ever
                raise error
            await request.content.wait_eof()
            return request.content.read_nowait()
        parts = []
        size = chunks = 0
        async for part, ends in request.content.iter_chunks():
            size += len(part)
            chunks += ends
            if size > self._max_body_bytes:
                return None
            if chunks > _CHUNKS and size < chunks * _CHUNK_BYTES:
                # The next read raises this error, and a sample of the refused body does not make aiohttp parse the rest.
                request.content.set_exception(web.RequestPayloadError("the body has too many small chunks"))
            held.grow(size)
            parts.append(part)
        return b"".join(parts)


async def live(_: web.BaseRequest) -> web.Response:
    """Answers the liveness check: any answer proves that the loop turns."""
    return web.Response(body=b'{"status":"alive"}', headers={"Content-Type": JSON, "Server": SERVER})


def _names_an_account(path: str) -> bool:
    """Returns whether `path` is the webhook path of any account, known or not."""
    before, _, name = path.removesuffix("/").removeprefix(PATH).partition("/")
    return path.startswith(PATH) and not before and "/" not in name


def _method_not_allowed(allowed: str) -> Reply:
    return Reply(render_problem(405, "Method Not Allowed", (("Allow", allowed),)))


def _plain(encodings: Iterable[str]) -> bool:
    """Returns whether the fields Content-Encoding say that the body is not encoded."""
    return all(name.strip().lower() in ("", "identity") for line in encodings for name in line.split(","))
