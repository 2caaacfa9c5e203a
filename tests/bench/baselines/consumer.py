"""The textbook consumer receives up to ten messages, runs a transaction for each message, and deletes each message.

The consumer does this as well as possible: it polls side by side, works on up to `--concurrency` messages side by side, pools
its connections, and writes the same timeline as webhookd. The transaction locks the event's row and looks at its status, so
that a second delivery has no second effect.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import uvloop
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from webhookd.authorizenet.facts import encode
from webhookd.authorizenet.notification import parse
from webhookd.authorizenet.timeline import facts_of
from webhookd.event import Event


async def keep_timeline(event: Event, connection: Any) -> None:
    """Folds `event` into its entity's row, inside the caller's transaction."""
    if (entry := facts_of(event)) is not None:
        await connection.execute(
            "INSERT INTO webhookd.timeline AS t (entity_name, account, entity_id, facts) VALUES ($1, $2, $3, $4::text::jsonb) "
            "ON CONFLICT (entity_name, account, entity_id) "
            "DO UPDATE SET facts = webhookd.settle(webhookd.fold(t.facts, excluded.facts))",
            entry.name,
            entry.account,
            entry.id,
            encode(entry.facts),
        )


class Consumer:
    """A consumer that works until it has deleted `count` messages."""

    def __init__(self, pool: Any, sqs: Any, queue: str, *, count: int, concurrency: int, pollers: int) -> None:
        self._pool = pool
        self._sqs = sqs
        self._queue = queue
        self._count = count
        self._done = 0
        self._permits = asyncio.Semaphore(concurrency)
        self._pollers = pollers
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> float:
        """Works until `count` messages are deleted; returns the seconds that this took."""
        started = time.perf_counter()
        await asyncio.gather(*(self._poll() for _ in range(self._pollers)))
        await asyncio.gather(*self._tasks)
        return time.perf_counter() - started

    async def _poll(self) -> None:
        while self._done < self._count:
            reply = await self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in reply.get("Messages", ()):
                await self._permits.acquire()
                task = asyncio.create_task(self._work(message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _work(self, message: Any) -> None:
        try:
            event_id = UUID(orjson.loads(message["Body"])["event"])
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow("SELECT * FROM textbook_events WHERE id = $1 FOR UPDATE", event_id)
                if row["status"] == "received":
                    notification = parse(row["body"], "default")
                    event = Event(
                        id=event_id,
                        account="default",
                        notification_id=row["notification_id"],
                        event_type=row["event_type"],
                        event_date=notification.event_date,
                        received_at=row["received_at"],
                        attempt=1,
                        raw=row["body"],
                    )
                    await keep_timeline(event, connection)
                    await connection.execute(
                        "UPDATE textbook_events SET status = 'processed', processed_at = now() WHERE id = $1", event_id
                    )
            await self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"])
            self._done += 1
        finally:
            self._permits.release()


async def _main(given: argparse.Namespace) -> None:
    config = AioConfig(max_pool_connections=64, parameter_validation=False)
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=given.concurrency, max_size=given.concurrency) as pool,
        get_session().create_client("sqs", endpoint_url=os.environ["SQS_ENDPOINT_URL"], config=config) as sqs,
    ):
        queue = (await sqs.get_queue_url(QueueName=given.queue))["QueueUrl"]
        consumer = Consumer(pool, sqs, queue, count=given.count, concurrency=given.concurrency, pollers=given.pollers)
        print(json.dumps({"seconds": await consumer.run(), "events": given.count}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--queue", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--pollers", type=int, default=2)
    uvloop.run(_main(parser.parse_args()))
