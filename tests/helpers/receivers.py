"""Receivers of deliveries, on real sockets: one that answers as a test asks, and raw ones that break HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS1zaG9wLTAxMjM0NTY3ODk="
OTHER_SECRET = "whsec_" + "YW5vdGhlci1zZWNyZXQtMDEyMzQ1Njc4OWFiY2Q="


@dataclass
class Got:
    """A request that a receiver got."""

    headers: dict[str, str]
    body: bytes
    path: str


@dataclass
class Receiver:
    """A receiver. `answer` makes each answer; by default, it accepts."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answer: Callable[[Got], Awaitable[web.StreamResponse] | web.StreamResponse] = lambda _: web.Response(status=204)
    most_at_once: int = 0
    _at_once: int = 0

    @property
    def ids(self) -> list[str]:
        """Returns the `webhook-id` of each request."""
        return [one.headers["webhook-id"] for one in self.got]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            got = Got(dict(request.headers), await request.read(), request.path)
            self.got.append(got)
            answer = self.answer(got)
            return answer if isinstance(answer, web.StreamResponse) else await answer
        finally:
            self._at_once -= 1


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """Runs a receiver on a free port of this machine."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    try:
        yield receiver
    finally:
        await runner.cleanup()


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Runs a server that reads a request's head, and then does as `behaviour`. Yields its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await reader.readuntil(b"\r\n\r\n")
                await behaviour(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the next turn of the loop
