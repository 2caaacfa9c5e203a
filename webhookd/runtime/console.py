"""The parts that all commands share: where they print, how they run, and their common options."""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")

out = Console()
err = Console(stderr=True)

_NOBODY_READS = 128 + signal.SIGPIPE  # the exit code of a program that SIGPIPE ends, as a shell reports it

FOLDER = Path(".webhookd")
Folder = Annotated[
    Path, typer.Option(help="Where `webhookd dev` keeps its data, its key and its addresses.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script, and nothing else, on standard output.")]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`, on uvloop if it is installed."""
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def readable(meaning: str) -> Any:
    """Returns an option that takes a file to read, or `-` for standard input. Read the file by `bytes_of`."""

    def parse(text: str) -> Path:
        if text != "-" and not Path(text).exists():
            raise typer.BadParameter(f"file {text!r} does not exist.")
        if Path(text).is_dir():
            raise typer.BadParameter(f"{text!r} is a folder; name a file in it.")
        return Path(text)

    return typer.Option(parser=parse, metavar="FILE", help=f"{meaning} - is standard input.")


def bytes_of(path: Path) -> bytes:
    """Returns the bytes of a file, or those of standard input if the path is `-`."""
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()


class _WaitingFile(io.RawIOBase):
    """A file whose writes wait if a pipe is full and does not block. The process ends if nobody reads the pipe any more."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (written := self._raw.write(data)) is None:
                select.select([], [self.fileno()], [])
        except BrokenPipeError:  # nobody reads the pipe any more, for example after `| head`
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # discard the rest of the buffer
            os.close(nowhere)
            raise SystemExit(_NOBODY_READS) from None
        return written


def write_whole() -> None:
    """Makes standard output write everything that is printed.

    With PYTHONUNBUFFERED, Python writes to the file itself, and ignores that the system took only a part: a signal, or a
    pipe that does not block, would cut long output.
    """
    stream = sys.stdout
    try:
        raw = io.FileIO(stream.fileno(), "wb", closefd=False)
    except (AttributeError, OSError, ValueError):  # standard output is closed, or is no file
        return
    buffer = io.BufferedWriter(_WaitingFile(raw))
    by_line = stream.isatty() or bool(getattr(stream, "write_through", False))
    sys.stdout = io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=by_line)
