"""Builds the image of a Dockerfile in a folder, by the file's own instructions and without a container engine.

The caller gives the base of a stage and the way to run a RUN: `tests/helpers/scratch.py` runs the command, and
`tests/helpers/rehearsal.py` only checks whether it could run. COPY, ENV, ARG, WORKDIR, USER and the rest follow Docker's
Dockerfile reference.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tests.helpers.dockerfile import Ignore, Instruction, Stage, parse


@dataclass(slots=True)
class Image:
    """A stage that is being built: its root, and the settings with which a container of it runs."""

    root: Path
    env: dict[str, str]
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    health_flags: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ports: set[int] = field(default_factory=set)
    stop_signal: str = "SIGTERM"

    def path(self, inside: str | Path) -> Path:
        """Returns the path on this machine of the path `inside` the image."""
        return self.root / os.path.normpath(Path(self.workdir, inside)).lstrip("/")

    def digests(self) -> dict[str, str]:
        """Returns the SHA-256 of each file, and the target of each symbolic link, by path."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            for path in (Path(folder, name) for name in [*folders, *files]):
                if path.is_symlink():
                    found[str(path.relative_to(self.root))] = str(path.readlink())
                elif path.is_file():
                    found[str(path.relative_to(self.root))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


class Steps(Protocol):
    """The steps that the caller gives to a builder."""

    def base(self, name: str, root: Path) -> Image:
        """Fills `root` with the image `name`."""

    def run(self, image: Image, arguments: list[str], env: dict[str, str]) -> None:
        """Runs a RUN. Raises an error if the command fails."""


class Builder:
    """A builder of images below `folder` from `context`, which obeys its .dockerignore. `images` exist already, by name."""

    def __init__(
        self,
        context: Path,
        folder: Path,
        steps: Steps,
        *,
        arguments: Mapping[str, str] | None = None,
        images: Mapping[str, Image] | None = None,
    ) -> None:
        self._context = context
        ignored = context / ".dockerignore"
        self._ignore = Ignore(ignored.read_text().splitlines() if ignored.exists() else ())
        self._folder = folder
        self._steps = steps
        self._arguments = dict(arguments or {})
        self._images = dict(images or {})
        self._built: dict[str, Image] = {}

    def build(self, text: str) -> Image:
        """Builds the Dockerfile `text`; returns the image of its last stage. Raises DockerfileError, and errors of Steps."""
        stages = parse(text, self._arguments)
        for stage in stages:
            self._built[stage.name] = self._stage(stage)
        return self._built[stages[-1].name]

    def _base(self, stage: Stage) -> Image:
        root = self._folder / stage.name
        if (known := self._images.get(stage.base)) is None:
            return self._steps.base(stage.base, root)
        root.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(known.root), str(root)], check=True)
        return replace(known, root=root, env=dict(known.env), labels=dict(known.labels), ports=set(known.ports))

    def _stage(self, stage: Stage) -> Image:
        image = self._base(stage)
        arguments: dict[str, str] = {}
        for one in stage.instructions:
            variables = {**arguments, **image.env}
            match one.name:
                case "ARG":
                    name, _, default = one.text.partition("=")
                    arguments[name] = self._arguments.get(name, default)
                case "ENV":
                    image.env |= one.pairs(variables)
                case "LABEL":
                    image.labels |= one.pairs(variables)
                case "WORKDIR":
                    image.workdir = os.path.normpath(Path(image.workdir, one.expanded(variables)))
                    image.path(image.workdir).mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(one, image, shlex.split(one.expanded(variables)))
                case "RUN":
                    self._steps.run(image, one.exec_form or ["/bin/sh", "-c", one.text], variables)
                case "USER":
                    image.user = one.expanded(variables)
                case "EXPOSE":
                    image.ports |= {int(port) for port in one.expanded(variables).split()}
                case "STOPSIGNAL":
                    image.stop_signal = one.text
                case "HEALTHCHECK":
                    image.health, image.health_flags = self._health(one), one.flags
                case "ENTRYPOINT":
                    image.entrypoint, image.cmd = self._list(one), []
                case "CMD":
                    image.cmd = self._list(one)
        return image

    @staticmethod
    def _list(one: Instruction) -> list[str]:
        if not (found := one.exec_form):
            raise one.fails("not in the exec form: a shell would stand between webhookd and its signals")
        return found

    def _health(self, one: Instruction) -> list[str]:
        kind, _, rest = one.text.partition(" ")
        if kind != "CMD":
            raise one.fails("it reads CMD and a command")
        return self._list(Instruction(one.line, one.name, one.flags, rest.strip()))

    def _copy(self, one: Instruction, image: Image, paths: list[str]) -> None:
        *sources, to = paths
        target = image.path(to)
        into_folder = to.endswith("/") or to == "." or target.is_dir()
        if len(sources) > 1 and not to.endswith("/"):
            raise one.fails("with several sources, the target ends with a slash")
        stage = one.flags.get("from")
        if stage is not None and stage not in self._built:
            raise one.fails(f"there is no stage {stage!r} before it")
        for source in sources:
            origin = self._context / source if stage is None else self._built[stage].path(f"/{source}")
            if not origin.exists():
                raise one.fails(f"{source} is not there")
            if stage is None and self._ignore.excludes(source):
                raise one.fails(f".dockerignore keeps {source} out")
            if origin.is_dir():  # the content of the folder is copied
                leave_out = self._left_out if stage is None else None
                shutil.copytree(origin, target, symlinks=True, ignore=leave_out, dirs_exist_ok=True)
            else:
                place = target / origin.name if into_folder else target
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(origin, place)

    def _left_out(self, folder: str, names: list[str]) -> list[str]:
        inside = Path(folder).relative_to(self._context)
        return [name for name in names if self._ignore.excludes(inside / name)]
