"""The ceiling of deliveries: an aiohttp client that posts a body again and again, and keeps nothing.

`python -m … --url URL --count N --connections N` prints {"seconds": …} at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import aiohttp
import uvloop

from webhookd.authorizenet import sampling


async def main(url: str, count: int, connections: int) -> float:
    """Posts `count` bodies by `connections` at a time; returns the seconds."""
    body = sampling.sample("net.authorize.payment.authcapture.created", 1).body
    left = count

    async def post(client: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with client.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
                assert answer.status == 204
                await answer.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as client:
        began = time.perf_counter()
        await asyncio.gather(*(post(client) for _ in range(connections)))
        return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    given = parser.parse_args()
    print(json.dumps({"seconds": uvloop.run(main(given.url, given.count, given.connections))}), flush=True)
