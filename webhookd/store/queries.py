"""The named queries of `sql/queries`, and where `sql/` is: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiosql

_package = Path(__file__).parent.parent
SQL = _package / "sql" if (_package / "sql").is_dir() else _package.parent / "sql"

# Each query is a coroutine function that takes a connection and its parameters by name (see the .sql files).
queries: Any = aiosql.from_path(SQL / "queries", "asyncpg")
