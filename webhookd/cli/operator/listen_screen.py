"""The live table of `webhookd listen`: the last events with their answers, one of which is chosen, and its details."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import deque
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from webhookd.cli.operator.listen import Sent
from webhookd.cli.operator.screen import plain, short_type

_KEPT = 200  # events that can be chosen
_SHOWN = 12  # lines of the table
_DETAIL = 40  # lines of the details
_SECRET = ("webhook-signature", "x-anet-signature")  # header fields of which the details show the beginning
_KEYS = "r send again   d details   j k next and previous   q quit"


class Board:
    """The events of a session. The newest one is chosen until the person moves."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: deque[Sent] = deque(maxlen=_KEPT)
        self._chosen: Sent | None = None  # None follows the newest
        self._details = False

    @property
    def chosen(self) -> Sent | None:
        """Returns the chosen event; None if there is none."""
        return self._chosen if self._chosen in self._rows else self._rows[-1] if self._rows else None

    def add(self, sent: Sent) -> None:
        """Adds an event at the end."""
        self._rows.append(sent)

    def press(self, key: str) -> None:
        """Does what a key means that only changes the view: d, j and k."""
        if key == "d":
            self._details = not self._details
        elif key in "jk" and self.chosen is not None:
            at = self._rows.index(self.chosen) + (1 if key == "j" else -1)
            at = min(max(at, 0), len(self._rows) - 1)
            self._chosen = None if at == len(self._rows) - 1 else self._rows[at]

    def __rich__(self) -> RenderableType:
        heads = ("", "received", "type", "entity", "answer", "seconds")
        # Texts, not strings: rich would read markup in what an event holds.
        table = Table(*heads, title=Text(self._title), title_justify="left", expand=True)
        chosen = self.chosen
        rows = list(self._rows)
        end = len(rows) if chosen is None else min(max(rows.index(chosen) + 1, _SHOWN), len(rows))
        for sent in rows[max(end - _SHOWN, 0) : end]:
            row = sent.event
            style = "green" if sent.accepted else "red" if sent.answer is not None or sent.body is None else "yellow"
            again = f" (attempt {sent.attempts})" if sent.attempts > 1 else ""
            table.add_row(
                ">" if sent is chosen else "",
                Text(plain(row["received_at"])[11:19]),
                Text(plain(short_type(row["event_type"]))),
                Text(plain(row["entity_id"])),
                Text(plain(sent.outcome) + again, style=style),
                "" if sent.answer is None else f"{sent.answer.seconds:.3f}",
            )
        parts: list[RenderableType] = [table]
        if not rows:
            parts = [Text(self._title), Text("no event yet")]
        if self._details and chosen is not None:
            parts.append(_details(chosen))
        return Group(*parts, Text(_KEYS, style="dim"))


def _details(sent: Sent) -> Panel:
    lines = [f"{name}: {_shown(name, value)}" for name, value in sent.headers.items()]
    lines += ["", *_pretty(sent.body)]
    if sent.answer is not None:
        lines += ["", f"answer: {sent.outcome}, after {sent.answer.seconds:.3f} s", *(sent.answer.text or "").splitlines()]
    text = "\n".join(plain(line, keep="\t") for line in lines[:_DETAIL])
    return Panel(Text(text), title=Text(plain(sent.event["id"])), title_align="left")


def _shown(name: str, value: str) -> str:
    return f"{value[:20]}…" if name.lower() in _SECRET else value


def _pretty(body: bytes | None) -> list[str]:
    if body is None:
        return ["the body is no longer kept"]
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return text.splitlines()


@contextlib.contextmanager
def single_keys() -> Iterator[None]:
    """Has the terminal hand over each key at once and unseen, until the block ends. Ctrl-C still interrupts."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
