"""The README and the guide: their pages, links, anchors and commands, as tests read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
GUIDE = ROOT / "webhookd" / "guide"
INDEX = GUIDE / "index.md"
PAGES = sorted(GUIDE.glob("*.md"))
RUNBOOK = sorted(GUIDE.glob("runbook-*.md"))  # the pages with a section for each alert

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?P<settings>(?:\w+=\S+ )*)(?:\.venv/bin/)?webhookd (?P<words>.+)")


class Link(NamedTuple):
    """A link of a page. `path` is empty for a link into the page itself, `anchor` for a link to a whole file."""

    text: str
    path: str
    anchor: str


def blocks(text: str, language: str) -> list[str]:
    """Returns the content of each code block of `language`."""
    return [content for name, content in _BLOCK.findall(text) if name == language]


def prose(text: str) -> str:
    """Returns `text` without its code blocks."""
    return _BLOCK.sub("", text)


def links(text: str) -> Iterator[Link]:
    """Yields the links of a page to other files and to its own headings, and no address of the web."""
    for shown, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(text)):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield Link(shown, path, anchor)


def anchor(title: str) -> str:
    """Returns the anchor of a heading in GitHub's Markdown."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Returns the anchors of all headings of a page."""
    return {anchor(title) for title in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)}


def runbook_pages() -> dict[str, Path]:
    """Returns the page of each alert's section, by the section's anchor."""
    return {anchor(title): page for page in RUNBOOK for title in re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)}


def readable() -> str:
    """Returns the README and all pages of the guide, one after the other."""
    return "\n".join(page.read_text() for page in (README, *PAGES))


def shell_lines() -> list[str]:
    """Returns the lines of all shell blocks of the README and the guide, without repetitions."""
    lines = [line for block in blocks(readable(), "sh") for line in block.splitlines() if line]
    return list(dict.fromkeys(lines))


def lines_of(*groups: str) -> list[str]:
    """Returns the shell lines that run a command of one of the operator's `groups`, such as events or stats."""
    return [line for line in shell_lines() if line.startswith(tuple(f"webhookd {group} " for group in groups))]


def commands() -> list[tuple[str, ...]]:
    """Returns the words of each `webhookd …` command, in a shell block or inline; `ID` and `…` stand as they are written."""
    inline = re.findall(r"`([^`\n]+)`", prose(readable()))
    found = [_COMMAND.fullmatch(line) for line in (*shell_lines(), *inline)]
    return list(dict.fromkeys(tuple(shlex.split(one["words"], comments=True)) for one in found if one is not None))
