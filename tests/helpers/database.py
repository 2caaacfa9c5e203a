"""Tests' sessions on a database under test."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Daemons under test keep the default, "$user", public. So no statement of the daemons finds webhookd's tables by this path.
PATH = {"search_path": "public, webhookd"}


async def connect(url: str, *, server_settings: dict[str, str] | None = None, **options: Any) -> Connection:
    """Opens a session that finds webhookd's tables without the schema's name, and creates a shop's own tables in `public`."""
    return await asyncpg.connect(url, server_settings=PATH | (server_settings or {}), **options)
