"""A script that does all of retention's work at once, by the code that PYTHONPATH names, not at its hour."""

from __future__ import annotations

import asyncio

from webhookd.daemon import Daemon
from webhookd.process.handlers import Registry
from webhookd.settings import load
from webhookd.store.retention import REMOVALS


async def _retain() -> None:
    daemon = Daemon(load(), Registry())
    await daemon.database.start()
    try:
        await daemon.retention.keep_partitions()
        for task in REMOVALS:
            await daemon.retention.remove(task)
        failures = {task: daemon.metrics.retention_failures.labels(task)._value.get() for task in ("partitions", *REMOVALS)}
        assert not any(failures.values()), failures
    finally:
        await daemon.database.stop()


if __name__ == "__main__":
    asyncio.run(_retain())
