"""A place in a list, newest first: where the next page begins."""

from __future__ import annotations

import base64
import struct
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

PATTERN = r"^[A-Za-z0-9_-]{32}$"  # of a cursor; each text that it matches is one
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds()) * 1_000_000


class Place(NamedTuple):
    """An instant, and an id that orders what is of the same instant."""

    at: datetime
    id: UUID

    def cursor(self) -> str:
        """The place as a client gets it."""
        since = (self.at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(struct.pack(">q", since) + self.id.bytes).decode()


START = Place(_EPOCH + timedelta(microseconds=_LATEST), UUID(int=2**128 - 1))


def place_of(cursor: str | None) -> Place:
    """The place of a cursor that matches PATTERN; the start of the list for None."""
    if cursor is None:
        return START
    packed = base64.urlsafe_b64decode(cursor)
    since = min(max(struct.unpack(">q", packed[:8])[0], 0), _LATEST)
    return Place(_EPOCH + timedelta(microseconds=since), UUID(bytes=packed[8:]))
