"""What every command shares: where it prints, how it runs, the options that are the same everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

T = TypeVar("T")

out = Console()
err = Console(stderr=True)

FOLDER = Path(".webhookd")
Folder = Annotated[
    Path, typer.Option(help="Where `webhookd dev` keeps its data, its key and its addresses.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script, and nothing else, on standard output.")]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` on uvloop where it is installed."""
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
