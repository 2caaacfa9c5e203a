"""Memory for bodies: the number of connections bounds small bodies, and large bodies share one budget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from webhookd.errors import OverloadedError

SMALL = 16_384  # bytes; a notification has about one thousand


class Held:
    """The part of the budget that the body of one request holds."""

    __slots__ = ("_of", "bytes")

    def __init__(self, of: Bodies) -> None:
        self._of = of
        self.bytes = 0

    def grow(self, size: int) -> None:
        """Records that the body now has `size` bytes. Raises OverloadedError if it is large and the budget is spent."""
        if size > SMALL:
            self._of.check(size - self.bytes)
            self._of.held += size - self.bytes
            self.bytes = size


class Bodies:
    """The budget of large bodies: `limit` bytes at once, counted as they arrive. An announced length alone takes nothing.

    So a flood of large bodies cannot keep out notifications, which are small.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def fits(self, size: int) -> bool:
        """Returns whether a body of `size` bytes would fit now."""
        return size <= SMALL or self.held + size <= self._limit

    def check(self, more: int) -> None:
        """Raises OverloadedError if `more` bytes do not fit."""
        if self.held + more > self._limit:
            raise OverloadedError("too many large bodies at once")

    @contextlib.contextmanager
    def hold(self) -> Iterator[Held]:
        """Yields the part of one body, and returns its bytes to the budget at the end of the block."""
        held = Held(self)
        try:
            yield held
        finally:
            self.held -= held.bytes
