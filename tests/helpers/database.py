"""Sessions of tests on a database under test."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Daemons under test have the default, "$user", public: so no statement of theirs finds webhookd's tables by this.
PATH = {"search_path": "public, webhookd"}


async def connect(url: str, *, server_settings: dict[str, str] | None = None, **options: Any) -> Connection:
    """A session that finds webhookd's tables without the schema's name, and makes a shop's own in `public`."""
    return await asyncpg.connect(url, server_settings=PATH | (server_settings or {}), **options)
