"""Imports the user's handlers again when one of their source files changes, while the daemon goes on."""

from __future__ import annotations

import contextlib
import site
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.markup import escape
from watchfiles import PythonFilter, awatch

import webhookd
from webhookd.errors import SettingsError
from webhookd.process import handlers, loading
from webhookd.process.retry import Policy
from webhookd.settings import Settings

_LOOK_MILLISECONDS = 1_000  # after so long without a report of the system, the times of the files are compared


class Reloader:
    """The watch over the modules that WEBHOOKD_HANDLERS names, and over the user's own modules that these import.

    Create it before the first import of the handlers.
    """

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._others = set(sys.modules)
        self._read = time.time()
        paths = sysconfig.get_paths()
        installed = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        installed += [*site.getsitepackages(), site.getusersitepackages(), str(Path(webhookd.__file__).parent)]
        self._installed = {Path(folder).resolve() for folder in installed}
        # Python takes a compiled file for current if the source's size and second of change are the same. Two quick edits
        # can have both.
        sys.dont_write_bytecode = True

    async def follow(self) -> None:
        """Imports the modules again at each change of a Python file in one of their folders."""
        while True:
            folders = self._folders()
            reports = awatch(
                *folders, watch_filter=PythonFilter(), recursive=False, rust_timeout=_LOOK_MILLISECONDS, yield_on_timeout=True
            )
            async with contextlib.aclosing(reports):
                async for changes in reports:
                    # A session takes seconds to start: only the file's time shows a change before the watch began.
                    if changed := {path for _, path in changes} or self._newer(folders):
                        self._import(changed)
                        if self._folders() != folders:
                            break

    def _import(self, changed: Iterable[str]) -> None:
        names = ", ".join(sorted({Path(path).name for path in changed}))
        self._read, began = max(self._read, time.time()), time.perf_counter()
        try:
            loading.load_again(self._settings.handlers, Policy.of(self._settings), forget=self._own())
        except (SettingsError, SystemExit) as error:  # SystemExit: a module without `if __name__ == "__main__"`
            told = f"[bold red]{escape(names)} changed, and cannot be used[/]: {escape(self._problem(error))}"
            self._console.print(f"{told}\n  the handlers from before stay in use, until the next change", soft_wrap=True)
        else:
            count, took = len(handlers.registered), time.perf_counter() - began
            done = f"{count} {'handler' if count == 1 else 'handlers'}, in {took:.2f} s"
            self._console.print(f"[bold green]reloaded[/] {escape(names)}: {done}", highlight=False, soft_wrap=True)

    def _own(self) -> dict[str, ModuleType]:
        """Returns the user's own modules, by name: they came with the handlers, and lie in no folder of installed packages."""
        came = {name: module for name, module in list(sys.modules.items()) if name not in self._others}
        return {name: module for name, module in came.items() if any(map(self._is_own, _places(module)))}

    def _is_own(self, place: Path) -> bool:
        return place.is_absolute() and not any(place.is_relative_to(folder) for folder in self._installed)

    def _folders(self) -> set[Path]:
        """Returns the folders of the user's modules. Editors replace a file when they save, so the folder is watched."""
        places = {place for module in self._own().values() for place in _places(module)}
        return {place if place.is_dir() else place.parent for place in places if self._is_own(place)}

    def _newer(self, folders: set[Path]) -> set[str]:
        """Returns the Python files that changed after the last import."""
        files = (file for folder in folders for file in folder.glob("*.py"))
        times = {str(file): file.stat().st_mtime for file in files if file.exists()}
        newer = {file for file, changed in times.items() if changed > self._read}
        self._read = max([self._read, *times.values()])  # a file from the future is newer once only
        return newer

    def _problem(self, error: BaseException) -> str:
        """Returns the file, the line and the error, as one line."""
        cause = error.__cause__ or error
        if isinstance(cause, SyntaxError):
            return f"{cause.filename}:{cause.lineno}: {type(cause).__name__}: {cause.msg}"
        frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if self._is_own(Path(frame.filename))]
        place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
        return f"{place}{type(cause).__name__}: {cause}"


def _places(module: ModuleType) -> list[Path]:
    """Returns a module's source file. Returns the folders of a package that has no file."""
    file = getattr(module, "__file__", None)
    return [Path(place).resolve() for place in ([file] if file else getattr(module, "__path__", ()))]
