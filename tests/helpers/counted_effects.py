"""Daemons whose handler counts its effects, beside a simulated provider."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

import asyncpg

from tests.conftest import Servers
from tests.helpers.running import Process
from webhookd.simulate import Simulator

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
URL = "http://127.0.0.1:9/webhooks/authorize-net"
HANDLER = """
from webhookd import on

@on("*")
async def count(event, connection):
    await connection.execute("INSERT INTO public.effects VALUES ($1)", event.notification_id)
"""


def daemon(servers: Servers, provider: Simulator, name: str, **settings: str) -> Process:
    own = provider.account()
    (servers.folder / "count_effects.py").write_text(HANDLER)
    folder = servers.folder / name
    folder.mkdir(exist_ok=True)
    given = {
        "provider": provider.url,
        "api_login_id": own.login_id,
        "transaction_key": own.transaction_key,
        "signature_keys": own.signature_key,
        "public_url": URL,
        "gap_every": "1",
        "gap_grace": "0",
        "provider_rate": "50",
        "handlers": "count_effects",
    }
    environment = {f"WEBHOOKD_{name.upper()}": value for name, value in (given | settings).items()}
    return Process({**servers.settings, **environment, "PYTHONPATH": str(servers.folder)}, folder)


async def open_effects(connection: Connection) -> None:
    await connection.execute("CREATE TABLE public.effects (notification_id text)")


async def effects(connection: Connection) -> Counter[str]:
    return Counter(row["notification_id"] for row in await connection.fetch("SELECT * FROM public.effects"))
