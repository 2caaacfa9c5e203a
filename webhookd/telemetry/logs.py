"""Logs: one JSON object a line on standard error, or readable lines for a terminal.

A log never holds keys, tokens, URLs with passwords, bodies, or the messages of exceptions that a user's handler or a database
raised, since those messages can quote customer data. `where` gives the type and the place instead. The full text stands in the
event's audit trail.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import IO, Any

import orjson
import structlog

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("webhookd")


def where(error: BaseException) -> str:
    """Returns `error`'s type and the innermost place that raised it, not its message: `ValueError at shop.py:12 in book`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    return f"{type(error).__qualname__}{place}"


class Seldom:
    """A limit for log lines whose number a stranger decides. A call returns True at first, and then once in `seconds`."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._next = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


def _exceptions_without_messages(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    info = line.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        line["error"] = where(error)
        line["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return line


def configure(level: str = "info", fmt: str = "json", stream: IO[str] | None = None) -> None:
    """Sends webhookd's and its libraries' logs to `stream` (standard error by default); `fmt` is "json" or "console"."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exceptions_without_messages,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=lambda line, **_: orjson.dumps(line, default=str).decode())
        if fmt == "json"
        else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # structlog calls the message "event", which here is something else.
                *([structlog.processors.EventRenamer("message")] if fmt == "json" else []),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # libraries log warnings only: at debug level, botocore would log requests and credentials
    logging.getLogger("webhookd").setLevel(level.upper())
