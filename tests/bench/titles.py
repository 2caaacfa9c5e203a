"""The names of scenarios and cases. The results are found by these names."""

from __future__ import annotations

from tests.bench.load import PROVIDER
from tests.bench.releases import BEFORE, HERE, Release

CONSUME = "consume, 50,000 events"
DISK = "disk for an event, 2,000,000 stored"
CAPACITY = "end to end, capacity"
LATENCY = "end to end, latency"
REPLICAS = "replicas"
DELIVER = "deliver, 100,000 waiting"
CLIENT = "plain aiohttp client"

NIGHTLY = "a call for each transaction, computed"
FLOOR = "count(*) of the same rows"


def ingest_title(kind: str, connections: int, sender: str) -> str:
    """Returns the title of an ingest table. `kind` is burst or sustained; `sender` is the kind of sender."""
    count = "1 connection" if connections == 1 else f"{connections} connections"
    return f"ingest, {kind}, {count}, from {'the provider' if sender == PROVIDER else 'a proxy'}"


def cost_title(*, timeline: bool, recorded: bool) -> str:
    """Returns the title of a table of an event's cost in PostgreSQL."""
    what = "payments" if timeline else "events without a timeline"
    return f"cost in PostgreSQL, {what}, sends {'recorded' if recorded else 'not recorded'}"


def growth_title(stored: int) -> str:
    """Returns the title of a cost growth table."""
    return f"cost growth, {stored:,} stored"


def calls_title(stored: int) -> str:
    """Returns the title of the table of the operator's calls."""
    return f"operator's calls, {stored:,} stored"


def case_title(release: Release | str, what: str = "") -> str:
    """Returns the title of a release's case: its name, `what`, or both. With `what`, this checkout's name is left out."""
    name = release if isinstance(release, str) else release.name
    if not what:
        return name
    return what if name == HERE.name else f"{name}: {what}"


def before_title(what: str = "") -> str:
    """Returns the title of the same case of the release before."""
    return case_title(BEFORE, what)


def sweep_title(days: int) -> str:
    """Returns the title of the table of the sweep of a merchant's settlement from nothing."""
    return f"settlement sweep, 10,000 a day for {days} days"


def sweep_calls_title(days: int) -> str:
    """Returns the title of the table of that sweep's calls by kind."""
    return f"{sweep_title(days)}: calls"


def stored_title(days: int) -> str:
    """Returns the title of the table of what that sweep stores."""
    return f"{sweep_title(days)}: tables"


def reconcile_title(days: int) -> str:
    """Returns the title of the table of the report over all these days."""
    return f"reconcile, 10,000 a day for {days} days"
