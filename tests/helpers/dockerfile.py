"""Reads a Dockerfile and its .dockerignore, as far as this project uses Docker's reference. Everything else is an error.

To find slips, this reader is stricter than Docker: a variable that nothing sets, an unknown flag and an unknown instruction are
errors.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_FLAGS: dict[str, set[str]] = {
    "ARG": set(),
    "CMD": set(),
    "COPY": {"from", "chown", "chmod"},
    "ENTRYPOINT": set(),
    "ENV": set(),
    "EXPOSE": set(),
    "FROM": set(),
    "HEALTHCHECK": {"interval", "timeout", "start-period", "retries"},
    "LABEL": set(),
    "RUN": set(),
    "STOPSIGNAL": set(),
    "USER": set(),
    "WORKDIR": set(),
}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class DockerfileError(Exception):
    """A line that cannot be used. The message begins with the line's number."""


@dataclass(slots=True, frozen=True)
class Instruction:
    """One instruction: the number of its first line, its name, its flags, and the rest with continued lines joined."""

    line: int
    name: str
    flags: dict[str, str]
    text: str

    @property
    def exec_form(self) -> list[str] | None:
        """Returns the arguments if the instruction has them as a JSON list, or None if it has the shell form."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return None
        return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else None

    def fails(self, why: str) -> DockerfileError:
        """Returns an error for this line."""
        return DockerfileError(f"line {self.line}: {self.name}: {why}")

    def expanded(self, variables: Mapping[str, str]) -> str:
        """Returns the text with its variables replaced."""

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in variables:
                raise self.fails(f"nothing sets ${name}")
            return variables[name]

        return _VARIABLE.sub(value, self.text)

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Returns the `name=value` words of ENV and LABEL."""
        found = {}
        for word in shlex.split(self.expanded(variables)):
            name, equals, value = word.partition("=")
            if not (name and equals):
                raise self.fails(f"{word!r} is no name=value")
            found[name] = value
        return found


@dataclass(slots=True, frozen=True)
class Stage:
    """A stage, which a FROM begins. In `base`, the variables of the file's head are replaced."""

    name: str
    base: str
    instructions: list[Instruction]


def parse(text: str, arguments: Mapping[str, str] | None = None) -> list[Stage]:
    """Returns the stages in order; `arguments` are build arguments. Raises DockerfileError."""
    given = arguments or {}
    head: dict[str, str] = {}
    stages: list[Stage] = []
    for one in _instructions(text):
        if one.name == "FROM":
            match = re.fullmatch(r"(\S+)(?:\s+AS\s+(\S+))?", one.expanded(head))
            if match is None:
                raise one.fails("it reads FROM image, or FROM image AS name")
            stages.append(Stage(match[2] or str(len(stages)), match[1], []))
        elif stages:
            stages[-1].instructions.append(one)
        elif one.name == "ARG":
            name, _, default = one.text.partition("=")
            head[name] = given.get(name, default)
        else:
            raise one.fails("it stands before FROM")
    return stages


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue  # Docker skips comments and empty lines, also between continued lines
        begun = begun if parts else number
        more = line.rstrip().endswith("\\")
        parts.append(line.rstrip()[:-1] if more else line)
        if not more:
            found.append(_instruction(begun, " ".join(part.strip() for part in parts)))
            parts = []
    if parts:
        raise DockerfileError(f"line {begun}: it goes on beyond the end of the file")
    return found


def _instruction(line: int, text: str) -> Instruction:
    name, _, rest = text.partition(" ")
    flags: dict[str, str] = {}
    while match := re.match(r"\s*--([a-z-]+)=(\S+)\s+", rest):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    one = Instruction(line, name, flags, rest.strip())
    if name not in _FLAGS:
        raise one.fails("it is no instruction that is known here")
    if unknown := flags.keys() - _FLAGS[name]:
        raise one.fails(f"unknown flags {sorted(unknown)}")
    if "<<" in rest:
        raise one.fails("here-documents are not known here")
    return one


class Ignore:
    """A .dockerignore. The last pattern that matches decides. A path in a folder that matches, matches too."""

    def __init__(self, lines: Iterable[str]) -> None:
        stripped = (line.strip() for line in lines)
        patterns = [line for line in stripped if line and not line.startswith("#")]
        self._patterns = [(line.startswith("!"), _glob(line.removeprefix("!").strip("/"))) for line in patterns]

    def excludes(self, path: str | Path) -> bool:
        """Returns whether `path`, relative to the context, is kept from the builder."""
        parts = PurePosixPath(path).parts
        ways = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        excluded = False
        for kept, pattern in self._patterns:
            if any(pattern.fullmatch(way) for way in ways):
                excluded = not kept
        return excluded


def _glob(pattern: str) -> re.Pattern[str]:
    made = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
        made += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    return re.compile(made)
