"""Memory for bodies: the number of connections bounds small bodies, and large bodies share one budget."""

from __future__ import annotations

from webhookd.errors import OverloadedError

SMALL = 16_384  # bytes; a notification has about one thousand


class Held:
    """The part of the budget that the body of one request holds, until the end of a `with` block."""

    __slots__ = ("_bodies", "bytes")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.bytes = 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._bodies.held -= self.bytes

    def grow(self, size: int) -> None:
        """Records that the body now has `size` bytes. Raises OverloadedError if it is large and the budget is spent."""
        if size > SMALL:
            self._bodies.check(size - self.bytes)
            self._bodies.held += size - self.bytes
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

    def hold(self) -> Held:
        """Reserves the part of one body for a `with` block. The end of the block returns the bytes to the budget."""
        return Held(self)
