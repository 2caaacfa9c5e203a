"""The textbook receiver: verify, one INSERT, one SendMessage, answer.

The receiver handles each request by itself, and does so as well as possible: with pooled connections, prepared statements,
clients that are kept, and uvloop. Like webhookd, the receiver recognises a duplicate by its notification id. Unlike webhookd,
the receiver sends no message for an event if it crashes between the INSERT and the SendMessage.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import uuid
from typing import Any

import asyncpg
import orjson
import uvloop
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import web

from tests.bench.baselines.serving import serve

SCHEMA = """
CREATE TABLE IF NOT EXISTS textbook_events (
    id uuid PRIMARY KEY,
    notification_id text NOT NULL UNIQUE,
    event_type text NOT NULL,
    status text NOT NULL DEFAULT 'received',
    body bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    processed_at timestamptz
)
"""
_INSERT = """
INSERT INTO textbook_events (id, notification_id, event_type, body) VALUES ($1, $2, $3, $4)
ON CONFLICT (notification_id) DO NOTHING RETURNING id
"""


def app(key: bytes, pool: Any, sqs: Any, queue: str) -> web.Application:
    """Returns the application: it verifies a webhook, inserts its row, sends its message to `queue`, and answers."""

    async def hook(request: web.Request) -> web.Response:
        body = await request.read()
        signature = request.headers.get("X-ANET-Signature", "")
        expected = hmac.digest(key, body, "sha512").hex()
        if not hmac.compare_digest(signature.removeprefix("sha512=").lower().encode(), expected.encode()):
            return web.Response(status=401)
        event = orjson.loads(body)
        new = await pool.fetchval(_INSERT, uuid.uuid4(), event["notificationId"], event["eventType"], body)
        if new is None:
            return web.Response(body=b'{"status":"duplicate"}', content_type="application/json")
        await sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"event": str(new), "type": event["eventType"]}))
        return web.Response(body=b'{"status":"accepted"}', content_type="application/json")

    made = web.Application()
    made.router.add_post("/webhooks/authorize-net", hook)
    return made


async def _main(given: argparse.Namespace) -> None:
    config = AioConfig(max_pool_connections=64, parameter_validation=False)
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=20, max_size=20) as pool,
        get_session().create_client("sqs", endpoint_url=os.environ["SQS_ENDPOINT_URL"], config=config) as sqs,
    ):
        await pool.execute(SCHEMA)
        queue = (await sqs.create_queue(QueueName=given.queue))["QueueUrl"]
        await serve(app(given.key.encode(), pool, sqs, queue), given.port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--queue", required=True)
    uvloop.run(_main(parser.parse_args()))
