"""Memory for bodies: small ones are bounded by the number of connections, large ones share one budget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from webhookd.errors import OverloadedError

SMALL = 16_384  # bytes; a notification has about one thousand


class Held:
    """What one request's body holds of the budget."""

    __slots__ = ("_of", "bytes")

    def __init__(self, of: Bodies) -> None:
        self._of = of
        self.bytes = 0

    def grow(self, size: int) -> None:
        """The body has `size` bytes by now. Raises OverloadedError where it is large and the budget is spent."""
        if size > SMALL:
            self._of.check(size - self.bytes)
            self._of.held += size - self.bytes
            self.bytes = size


class Bodies:
    """At most `limit` bytes of large bodies at once, counted as they come: an announced length alone holds nothing.

    So a flood of large bodies cannot keep out notifications, which are small.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def fits(self, size: int) -> bool:
        """Whether a body of `size` bytes would find room now."""
        return size <= SMALL or self.held + size <= self._limit

    def check(self, more: int) -> None:
        """Raises OverloadedError where `more` bytes do not fit."""
        if self.held + more > self._limit:
            raise OverloadedError("too many large bodies at once")

    @contextlib.contextmanager
    def hold(self) -> Iterator[Held]:
        """Room for one body, given back at the end of the block."""
        held = Held(self)
        try:
            yield held
        finally:
            self.held -= held.bytes
