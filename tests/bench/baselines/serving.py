"""The server of the baselines: aiohttp on uvloop, as in webhookd, without an access log."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import web


async def serve(app: web.Application, port: int) -> None:
    """Serves on 127.0.0.1 until SIGTERM."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print("serving", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()
