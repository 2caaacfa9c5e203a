"""The versions of files: a version shows a change of its file, without a look into the file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Versions = tuple[tuple[int, ...], ...]


def versions(paths: Iterable[Path]) -> Versions:
    """Returns a tuple that differs whenever one of the files differs. A file that is missing has a version, too."""
    # `stat` follows links, since certificate managers and Kubernetes change a link.
    found: list[tuple[int, ...]] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(())
        else:
            # `st_ctime_ns` shows a change of owner or mode: both are often set after the content.
            found.append((status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))
    return tuple(found)


class Changes:
    """Notices changes of files. Make this object before you read the files: otherwise it would miss a change in between."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(paths)
        self._latest = self._reported = versions(self._paths)

    def note(self) -> None:
        """Takes the files as they are now for known: the caller reads them next."""
        self._latest = self._reported = versions(self._paths)

    def seen(self) -> bool:
        """Returns whether the files have changed, and have stayed as they are since the last call."""
        before, self._latest = self._latest, versions(self._paths)
        if self._latest != before or self._latest == self._reported:
            return False
        self._reported = self._latest
        return True
