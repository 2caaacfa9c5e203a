"""A TCP proxy that breaks the network between a daemon and one of its servers, on demand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

_CHUNK = 65_536


class _Link:
    """One client's connection, and the proxy's own connection to the server."""

    def __init__(self, proxy: FaultProxy, client: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._proxy = proxy
        self.client_reader, self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.lost_bytes = False
        self.task = asyncio.current_task()

    async def run(self) -> None:
        try:
            reader, self.server = await asyncio.open_connection(self._proxy.host, self._proxy.upstream_port)
        except OSError:
            return
        requests = asyncio.create_task(self._pump(self.client_reader, self.server, replies=False))
        replies = asyncio.create_task(self._pump(reader, self.client, replies=True))
        try:
            await asyncio.wait([requests, replies], return_when=asyncio.FIRST_COMPLETED)
        finally:
            requests.cancel()
            replies.cancel()
            await asyncio.gather(requests, replies, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while chunk := await source.read(_CHUNK):
                if self._proxy.latency:
                    await asyncio.sleep(self._proxy.latency)
                await self._proxy.flowing.wait()
                if replies and self._proxy.dropping:
                    self.lost_bytes = True
                    self._proxy.dropped += 1
                    continue
                sink.write(chunk)
                await sink.drain()

    def close(self, *, reset: bool = False) -> None:
        for writer in (self.client, self.server):
            if writer is None:
                continue
            if reset and (sock := writer.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class FaultProxy:
    """A proxy that listens on `host:port` and forwards to `host:upstream_port`, with the faults that its methods set."""

    def __init__(self, host: str, upstream_port: int) -> None:
        self.host = host
        self.upstream_port = upstream_port
        self.port = 0
        self.latency = 0.0
        self.dropping = False
        self.dropped = 0  # number of chunks of replies that were discarded
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. After a cut, listens on the same port again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self.host, self.port, reuse_address=True)
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes all sockets."""
        await self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, (reader, writer))
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            link.close()

    def connections(self) -> int:
        """Returns the number of open connections."""
        return len(self._links)

    async def cut(self) -> None:
        """Closes every connection, and refuses new ones until `heal`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._close_links()

    async def reset(self) -> None:
        """Resets every present connection (RST on both sides); new ones pass."""
        await self._close_links(reset=True)

    def stall(self) -> None:
        """Forwards nothing from now on. Connections stay open, new connections are accepted, and bytes are kept."""
        self.flowing.clear()

    def delay(self, seconds: float) -> None:
        """Holds each chunk back for `seconds`, in either direction."""
        self.latency = seconds

    def drop_replies(self) -> None:
        """Forwards requests, and discards the server's answers."""
        self.dropping = True

    async def heal(self) -> None:
        """Forwards everything again. Closes connections that lost bytes, since nothing sensible can follow on them."""
        self.latency = 0.0
        self.dropping = False
        self.flowing.set()
        await self._close_links(only_lossy=True)
        await self.start()

    async def _close_links(self, *, reset: bool = False, only_lossy: bool = False) -> None:
        links = [link for link in self._links if link.lost_bytes or not only_lossy]
        for link in links:
            link.close(reset=reset)
            if link.task is not None:
                link.task.cancel()
        tasks = [link.task for link in links if link.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=5)
