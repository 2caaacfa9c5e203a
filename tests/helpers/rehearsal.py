"""Rehearses a Dockerfile's RUNs: installs nothing, but finds each command, option or file that does not exist.

Each command is searched here, and each of its options is searched in the output of its --help. A `hatchling build` really runs,
in the folder into which the Dockerfile has copied its files, so that a missing file is found.
"""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from tests.helpers.image import Image

_PATH = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"


class RehearsalError(Exception):
    """A RUN instruction would fail; the message gives the reason."""


class Rehearsal:
    """Steps of a builder. `wheel` is the wheel that was built. With `wheels` off, none is built: a build takes a second."""

    def __init__(self, *, wheels: bool = True) -> None:
        self.wheel: Path | None = None
        self._wheels = wheels

    def base(self, name: str, root: Path) -> Image:
        """Makes `root` an empty folder in place of the image `name`: a rehearsal needs no content of an image."""
        root.mkdir(parents=True)
        return Image(root, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})

    def run(self, image: Image, arguments: list[str], env: dict[str, str]) -> None:
        """Checks each command of a RUN. Raises RehearsalError if a command would fail."""
        text = arguments[-1] if arguments[:2] == ["/bin/sh", "-c"] else shlex.join(arguments)
        checked = subprocess.run(["/bin/sh", "-n", "-c", text], check=False, capture_output=True, text=True)
        if checked.returncode:
            raise RehearsalError(checked.stderr.strip())
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        command: list[str] = []
        for word in [*lexer, "&&"]:
            if word != "&&":
                command.append(word)
            else:
                self._command(image, command)
                command = []

    def _command(self, image: Image, command: list[str]) -> None:
        said = _help(_program(command))
        for word in command[3 if command[1] == "-m" else 1 :]:
            if (option := re.match(r"--?[a-zA-Z][\w-]*", word)) and not re.search(rf"(?<![\w-]){option[0]}(?![\w-])", said):
                raise RehearsalError(f"{command[0]} has no option {option[0]}")
        if "venv" in command:
            image.path(command[-1]).mkdir(parents=True)
        for word in command:
            self._path(image, word)
        if self._wheels and command[1:2] == ["build"]:
            self._build_wheel(image)

    @staticmethod
    def _path(image: Image, word: str) -> None:
        path = word.rpartition("=")[2]
        if path.startswith("/opt/"):
            # This rehearsal does not make the content of a virtual environment.
            path = str(PurePosixPath(*PurePosixPath(path).parts[:3]))
        elif not re.fullmatch(r"[\w./-]+\.(txt|toml|lock)", path):
            return
        if not image.path(path).exists():
            raise RehearsalError(f"{word}: nothing has made or copied {path}")

    def _build_wheel(self, image: Image) -> None:
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
        done = subprocess.run(command, check=False, cwd=image.path("."), capture_output=True, text=True)
        if done.returncode:
            raise RehearsalError(done.stderr)
        (self.wheel,) = image.path("dist").glob("*.whl")


def _program(command: list[str]) -> tuple[str, ...]:
    """Returns the command whose --help lists the options: the program, with its module or subcommand."""
    name = PurePosixPath(command[0]).name
    if name == "python":
        return (sys.executable, *command[1:3]) if command[1] == "-m" else (sys.executable,)
    rest = [word for word in command[1:] if not word.startswith("-")]
    if name == "pip":
        return (sys.executable, "-m", "pip", rest[0])
    program = shutil.which(name, path=_PATH)
    if program is None:
        raise RehearsalError(f"there is no {name}")
    return (program, rest[0]) if name == "hatchling" else (program,)


@functools.cache
def _help(program: tuple[str, ...]) -> str:
    done = subprocess.run([*program, "--help"], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RehearsalError(done.stdout.strip())
    return done.stdout
