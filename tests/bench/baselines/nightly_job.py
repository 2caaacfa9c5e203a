"""The textbook job of each night, a sample of it: it lists the batches, and asks for the details of each transaction.

`python -m … --url URL --login-id ID --key KEY --days N --sample N` prints {"listed": …, "seconds": …}: the transactions that it
asked for, and the seconds of these calls. It stores nothing, and waits for no rate.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import uvloop

_MOST_DAYS = 30  # the provider lists batches of at most 31 days


async def main(url: str, credentials: dict[str, str], days: int, sample: int) -> dict[str, float]:
    """Asks for the details of the first `sample` transactions."""
    async with aiohttp.ClientSession() as client:

        async def ask(name: str, **fields: Any) -> Any:
            async with client.post(url, json={name: {"merchantAuthentication": credentials, **fields}}) as answer:
                return json.loads((await answer.read()).decode("utf-8-sig"))

        begin = datetime.now(UTC) - timedelta(days=days + 3)
        end = begin + timedelta(days=min(days + 3, _MOST_DAYS))
        first, last = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (begin, end))
        found = await ask("getSettledBatchListRequest", firstSettlementDate=first, lastSettlementDate=last)
        ids: list[str] = []
        for batch in found["batchList"]:
            paging = {"limit": 1000, "offset": 1}
            listed = await ask("getTransactionListRequest", batchId=batch["batchId"], paging=paging)
            ids += [one["transId"] for one in listed["transactions"]]
            if len(ids) >= sample:
                break
        began = time.perf_counter()
        for one in ids[:sample]:
            details = await ask("getTransactionDetailsRequest", transId=one)
            assert details["transaction"]["transId"] == one
        return {"listed": len(ids[:sample]), "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("url", "login-id", "key"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("days", "sample"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    account = {"name": given.login_id, "transactionKey": given.key}
    print(json.dumps(uvloop.run(main(given.url, account, given.days, given.sample))), flush=True)
