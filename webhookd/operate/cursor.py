"""A cursor: the position in an ordered list after which the next page or batch begins."""

from __future__ import annotations

import base64
import struct
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

PATTERN = r"^[A-Za-z0-9_-]{32}$"  # each text that matches is a valid cursor
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SKEW = timedelta(minutes=10)  # how far a receiver's clock, which makes the ids, may differ from PostgreSQL's
_LATEST = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds()) * 1_000_000


class Cursor(NamedTuple):
    """A position in a list: an instant, and an id that orders rows of the same instant."""

    at: datetime
    id: UUID

    def encode(self) -> str:
        """Returns the cursor as clients see it."""
        since = (self.at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(struct.pack(">q", since) + self.id.bytes).decode()


NIL = UUID(int=0)
START = Cursor(_EPOCH + timedelta(microseconds=_LATEST), UUID(int=2**128 - 1))


def decode_cursor(text: str | None) -> Cursor:
    """Returns the cursor of a text that matches PATTERN, or the start of the list for None."""
    if text is None:
        return START
    packed = base64.urlsafe_b64decode(text)
    since = min(max(struct.unpack(">q", packed[:8])[0], 0), _LATEST)
    return Cursor(_EPOCH + timedelta(microseconds=since), UUID(bytes=packed[8:]))


def first_id(instant: datetime) -> UUID:
    """Returns the lowest UUID version 7 of an instant."""
    milliseconds = min(max(int(instant.timestamp() * 1000), 0), 2**48 - 1)
    return UUID(int=milliseconds << 80)


def ids_between(received_from: datetime | None, received_to: datetime | None) -> tuple[UUID, UUID]:
    """Returns bounds of the ids received between two times, with room for a receiver's clock. None means no bound."""
    low = NIL if received_from is None else first_id(_moved(received_from, -_SKEW))
    high = START.id if received_to is None else first_id(_moved(received_to, _SKEW))
    return low, high


def _moved(instant: datetime, by: timedelta) -> datetime:
    try:
        return instant.astimezone(UTC) + by
    except OverflowError:
        return instant
