"""Output on the terminal. Text from the API is untrusted: it holds messages of handlers and input of customers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from webhookd.runtime.console import out


def plain(value: object, *, keep: str = "") -> str:
    r"""Returns `value` as text without anything that a terminal would obey: ESC becomes `\x1b`. None is empty.

    Characters of `keep` stay. Characters that turn the reading direction are replaced as well, and so are lone surrogates,
    which cannot be printed.
    """
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def instant(value: object) -> str:
    """Returns an ISO 8601 time as a table shows it: whole seconds, UTC."""
    return plain(value).replace("T", " ")[:19]


def number_of(number: int, noun: str, several: str | None = None) -> str:
    """Returns `1 event` or `3 events`. `several` is a plural with another ending."""
    return f"{number} {noun if number == 1 else several or f'{noun}s'}"


def money(value: object) -> str:
    """Returns an amount with two decimals, or with more if it has more."""
    text = plain(value)
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.rstrip('0'):0<2}" if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else text


def short_type(value: object) -> str:
    """Returns an event type without the beginning that all types share."""
    return plain(value).removeprefix("net.authorize.")


def tell_json(value: object) -> None:
    """Prints one exact line of JSON on standard output. JSON's own escapes keep control characters from the terminal."""
    print(json.dumps(value), flush=True)  # noqa: T201


def say(text: str) -> None:
    """Prints a line for people, in which nothing is markup."""
    out.print(Text(text), soft_wrap=True)


def fields(values: Mapping[str, object]) -> None:
    """Prints a line for each value that is not None; long text keeps its own lines."""
    for name, value in values.items():
        if value is not None:
            out.print(Text.assemble((f"{plain(name)}: ", "bold"), plain(value, keep="\n\t")), soft_wrap=True)


def table(headings: Iterable[str], rows: Iterable[Iterable[object]], *, right: Iterable[int] = (), whole: bool = False) -> None:
    """Prints a table; with `whole`, its first column (an id to be copied) is never broken."""
    shown = Table(*headings)
    for row in rows:
        shown.add_row(*(Text(plain(cell)) for cell in row))
    for number in right:
        shown.columns[number].justify = "right"
    shown.columns[0].no_wrap = whole
    if whole:
        shown.columns[0].overflow = "ignore"
    # A pipe has no width that lines must fit.
    (out if out.is_terminal else Console(file=out.file, width=10_000)).print(shown)


def counts(heading: str, counted: Mapping[str, Any], most: int = 20, noun: str = "events") -> None:
    """Prints a table of names and their numbers, the largest first."""
    rows = sorted(counted.items(), key=lambda item: -item[1])
    table((heading, noun), rows[:most], right=(1,))
    if len(rows) > most:
        say(f"and {len(rows) - most} more")
