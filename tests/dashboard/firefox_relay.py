"""A relay between Playwright and Firefox. It answers the one command of Playwright that Firefox does not know.

Playwright sends `emulation.setMediaFeaturesOverride` for each context. Firefox ESR 153 refuses this command, and then no
context can be made. So Playwright starts this program in the place of Firefox, and the program starts Firefox.
"""

from __future__ import annotations

import asyncio
import re
import sys

import aiohttp
import orjson
from aiohttp import web

_ADDRESS = re.compile(r"(?<=WebDriver BiDi listening on )ws://\S+")  # Playwright reads this line
_UNKNOWN = "emulation.setMediaFeaturesOverride"


class Relay:
    """Passes messages between Playwright and Firefox."""

    def __init__(self) -> None:
        self.firefox = ""  # the address that Firefox listens on

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serves one connection of Playwright, until an end closes it."""
        playwright = web.WebSocketResponse(max_msg_size=0)
        await playwright.prepare(request)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self.firefox + request.path, max_msg_size=0) as firefox,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._answers(firefox, playwright))
            async for message in playwright:
                command = orjson.loads(message.data)
                if command["method"] == _UNKNOWN:
                    answer = {"type": "success", "id": command["id"], "result": {}}
                    await playwright.send_str(orjson.dumps(answer).decode())
                else:
                    await firefox.send_str(message.data)
            await firefox.close()
        return playwright

    @staticmethod
    async def _answers(firefox: aiohttp.ClientWebSocketResponse, playwright: web.WebSocketResponse) -> None:
        async for message in firefox:
            if not playwright.closed:
                await playwright.send_str(message.data)
        await playwright.close()


async def _main(program: str, *options: str) -> int:
    process = await asyncio.create_subprocess_exec(program, *options, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    relay = Relay()
    app = web.Application()
    app.router.add_get("/{path:.*}", relay.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    (address,) = runner.addresses
    async for line in process.stderr:
        text = line.decode(errors="replace")
        if found := _ADDRESS.search(text):
            relay.firefox = found[0]
            text = text.replace(found[0], f"ws://127.0.0.1:{address[1]}")
        sys.stderr.write(text)
        sys.stderr.flush()
    code = await process.wait()
    await runner.cleanup()
    return code


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(*sys.argv[1:])))
