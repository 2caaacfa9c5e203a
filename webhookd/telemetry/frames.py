"""The places of an error in a user's own code, without the error's message."""

from __future__ import annotations

import functools
import importlib
import os
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

_MOST_CAUSES = 4  # errors of a chain that are named
_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_IMPORTING = importlib.__file__
_PYTHON = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib"))
_INSTALLED = {"site-packages", "dist-packages"}


def origin(error: BaseException, package: str) -> str:
    """Returns the place in the user's code that led to `error`, the place that raised it, and the types of its causes.

    For example ` at /srv/shop.py:12 in shop.book, raised at connection.py:80 in execute, from KeyError`; empty if there is
    nothing to name. `package`: the top-level package of the user's code, which may be installed among the libraries.
    """
    try:
        return _origin(error, package)
    except (Exception, SystemExit):  # noqa: BLE001  a user's exception class can do anything
        return ""


def _origin(error: BaseException, package: str) -> str:
    text = users_place(error, package)
    text = f" at {text}" if text else ""
    if frames := traceback.extract_tb(error.__traceback__, limit=-1):
        last = frames[-1]
        if f" at {last.filename}:{last.lineno} " not in text:
            text += f"{',' if text else ''} raised at {last.filename.rsplit('/', 1)[-1]}:{last.lineno} in {last.name}"
    causes = _causes(error)
    return text + (f", from {', from '.join(causes)}" if causes else "")


def users_place(error: BaseException, package: str) -> str:
    """Returns the innermost place of `error`'s traceback in the user's code: `/srv/shop.py:12 in shop.book`, or nothing."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if not _is_ours(frame)]
    # If no frame looks like the user's, take the first one: that is the handler.
    theirs = [found for found in frames if _is_theirs(found[0], package)] or frames[:1]
    if not theirs:
        return ""
    frame, line = theirs[-1]
    return f"{frame.f_code.co_filename}:{line} in {frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"


def _is_ours(frame: FrameType) -> bool:
    # An import of a user's module runs Python's own code, which is not the user's.
    return frame.f_code.co_filename.startswith((_OURS, _IMPORTING, "<frozen importlib"))


def _is_theirs(frame: FrameType, package: str) -> bool:
    name = frame.f_globals.get("__name__")
    if isinstance(name, str) and name.partition(".")[0] == package:
        return True
    return _is_users_file(frame.f_code.co_filename)


@functools.lru_cache(maxsize=1024)  # a recursion has hundreds of frames of one file
def _is_users_file(name: str) -> bool:
    file = Path(name)
    return file.is_absolute() and not name.startswith(_PYTHON) and _INSTALLED.isdisjoint(file.parts)


def _causes(error: BaseException) -> list[str]:
    """Returns the types of the errors that led to `error`, the nearest first. Users' code can make a chain endless."""
    causes: list[str] = []
    seen = {id(error)}
    current: BaseException | None = error
    while current is not None and len(causes) < _MOST_CAUSES:
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if current is None or id(current) in seen:
            break
        seen.add(id(current))
        causes.append(type(current).__qualname__)
    return causes
