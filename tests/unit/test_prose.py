"""The texts of the project have no construction that makes a reader read twice. CONTRIBUTING.md has the rules of the language.

The list has constructions that are nearly always wrong, so each alarm is worth a change. The tests look at documents,
docstrings, comments and messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
_FOLDERS = (".ci", "deploy", "sql", "tests", "webhookd")
_ENDINGS = {
    "",
    ".conf",
    ".css",
    ".env",
    ".html",
    ".js",
    ".md",
    ".mjs",
    ".pml",
    ".py",
    ".service",
    ".sql",
    ".toml",
    ".yaml",
    ".yml",
}
# The space between two words of a text. The text may go on in the next line of a comment.
_GAP = r"(?:[ \t]+|[ \t]*\n[ \t]*(?:(?:#|--|//|\*)[ \t]+)?)"
_COMMENT = r"(?:#|--|//)[ \t]+"
_PRONOUN = "(?:It|Its|That|Those|They|What|Which|Who|Whom|Whose)"


class Banned(NamedTuple):
    """A construction: a regular expression, with a space for every space between words, the remedy, and an example."""

    pattern: str
    remedy: str
    example: str


BANNED = (
    Banned(
        rf'"""(?:{_PRONOUN}|This|These|Whether)\b', "begin the docstring with a verb or a noun", '"""What is left of a text."""'
    ),
    Banned(
        rf"/\*\*\s*(?:\*\s*)?(?:{_PRONOUN}|This|These|Whether)\b", "begin with a verb or a noun", "/** It draws a chart. */"
    ),
    Banned(
        rf"(?m)^(?![ \t]*(?:#|--|//|\*)).*\n[ \t]*{_COMMENT}{_PRONOUN}\b",
        "name the subject of the comment",
        "x = 1\n# What a handler leaves is undone.\n",
    ),
    Banned(
        r"(?:^|[.:;] |# |-- |// |\| )Where [a-z`][^.?:\n]*(?:\n[^.?:\n]*)?,",
        "write if or when",
        "# Where the machine has no role, name a file.\n",
    ),
    Banned(r"(?i)\b(?:is|are|was|were|be) told\b", "name who reports, and what: reports, logs, answers", "the user is told"),
    Banned(r"(?i)\b(?:says?|said|tells?|told) of\b", "write reports, shows or counts", "what the event says of itself"),
    Banned(r"(?i)\b(?:is|are|was|were|be) let go\b", "write released, discarded or closed", "the lock is let go"),
    Banned(r"(?i)\b(?:is|are|was|were) had\b", "write exists or is available", "no lock is had"),
    Banned(r"(?i)\bfor want of\b", "write because … is missing", "for want of data"),
    Banned(r"(?i)\bto no avail\b", "write without effect", "to no avail"),
    Banned(
        r"(?:^|[.;:] )(?:It|They|That) (?:do|does|did|is|are|has|have|can|will)\.",
        "say what happens",
        "Then read again. It does.",
    ),
    Banned(r"[.;:] (?:Nor|nor)\b", "make a sentence with its own subject", "This is no flood. Nor are others."),
    Banned(
        r"(?:^|[.;:] )(?:Were|Had|Should) (?:it|the|a|they|no)\b", "begin with if", "Stop. Were the lock held, all would wait."
    ),
    Banned(
        r"(?i)\b(?:whereby|whereof|thereof|whereas|hereby|herein|therein|thereby|hence|whilst|amongst|upon|albeit|lest)\b",
        "take the word that people speak",
        "the rest thereof",
    ),
    Banned(r"(?i)\b(?:in order to|utili[sz]e[sd]?|leverag(?:e|es|ed|ing))\b", "write to, or use", "in order to start"),
    Banned(r"(?i)\b(?:simply|obviously|basically|of course|please note)\b", "leave it out", "simply call it"),
)


def _expression(banned: Banned) -> re.Pattern[str]:
    """Compiles a pattern. A space outside of brackets stands for any gap between two words."""
    return re.compile(re.sub(r" (?![^\[]*\])", lambda _: _GAP, banned.pattern))


def _found(text: str) -> Iterator[tuple[int, Banned, str]]:
    """Yields for each banned construction in a text its line number, the entry of the list, and the words."""
    for banned, expression in _EXPRESSIONS:
        for match in expression.finditer(text):
            yield text.count("\n", 0, match.end()) + 1, banned, match[0].rpartition("\n")[2][-80:]


_EXPRESSIONS = tuple((banned, _expression(banned)) for banned in BANNED)


def _files() -> Iterator[Path]:
    yield from (ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("*.md"))
    for folder in _FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in _ENDINGS and "__pycache__" not in path.parts and path != Path(__file__):
                yield path


def _quoted_out(text: str) -> str:
    """Returns a document without the words in single asterisks, which are examples of what not to write."""
    return re.sub(r"(?<!\*)\*(?![\s*])[^*|`]{1,40}\*(?!\*)", "", text)


def test_no_text_has_a_banned_construction() -> None:
    alarms, looked = [], 0
    for path in _files():
        text = path.read_text()
        looked += 1
        text = _quoted_out(text) if path.suffix == ".md" else text
        alarms += [f"{path.relative_to(ROOT)}:{line}: {words!r}: {banned.remedy}" for line, banned, words in _found(text)]
    assert looked > 400
    assert alarms == []


@pytest.mark.parametrize("banned", BANNED, ids=lambda banned: banned.example.strip())
def test_each_construction_is_found_in_its_example(banned: Banned) -> None:
    assert banned in {found for _, found, _ in _found(banned.example)}


def test_a_construction_is_found_over_the_end_of_a_line_of_a_comment() -> None:
    assert [line for line, _, _ in _found("x = 1  # the user is\n    # told so\n")] == [2]


@pytest.mark.parametrize(
    "text",
    [
        "def test_a_user_is_told_what_is_wrong():",
        "WHERE a.status = 'dead'",
        "### Where the data is",
        "told = []",
        "```sh\n# This runs the tests",
    ],
)
def test_names_statements_and_headings_raise_no_alarm(text: str) -> None:
    assert list(_found(text)) == []
