"""The contract of a queue. The code that sends, receives and acknowledges messages knows a queue by this contract alone.

Each promise of the contract has its test in tests/contract, which runs on every kind of queue and server that webhookd knows.
A queue may lose, double, delay and reorder messages: PostgreSQL holds the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from webhookd.errors import MessageGoneError, MessageRefusedError, UnavailableError
from webhookd.queue.message import EventReference, Message

# The reason why a queue's call failed for one message.
# UnavailableError: another try may succeed. MessageRefusedError: the message itself is the reason.
# MessageGoneError: the receiver has lost the message, so no later try can succeed.
Failure: TypeAlias = UnavailableError | MessageRefusedError | MessageGoneError


@dataclass(slots=True, frozen=True)
class Limits:
    """The limits of a queue, as far as they are known now."""

    message_bytes: int  # size of the largest message
    batch: int  # messages in one request; never changes. More messages make more requests
    longest_visibility: int  # longest visibility timeout: seconds from a message's receipt


class Depth(NamedTuple):
    """How many messages a queue holds, approximately."""

    visible: int
    in_flight: int  # messages that a receiver got, and that are hidden since
    delayed: int  # messages that were sent, and that are not visible yet

    @property
    def total(self) -> int:
        """Returns the number of all messages in the queue."""
        return sum(self)


class Queue(Protocol):
    """A queue of messages, each delivered at least once, in no order.

    Every call ends within a bounded time. It raises UnavailableError if the queue does not answer, or refuses everybody. Then
    the queue may have done all or a part of the call, since a reply can be lost. If a call succeeds, each message has one
    result, in the order of the arguments: None if the call was done for it, or a Failure.
    """

    @property
    def limits(self) -> Limits:
        """Returns the queue's limits."""

    @property
    def up(self) -> bool:
        """Returns whether the last call reached the queue."""

    async def send(self, messages: Sequence[Sequence[EventReference]]) -> list[Failure | None]:
        """Sends messages, each with its events. A message that is refused does not stop the other messages."""

    async def receive(self, limit: int, *, wait: int, visibility: int) -> list[Message]:
        """Returns at most `limit` messages (and `limits.batch`); each is hidden from all receivers for `visibility` seconds.

        Waits at most `wait` seconds for the first message. Never cancel a receive: the queue would have handed out messages
        that nobody holds.
        """

    async def extend(self, messages: Sequence[Message], seconds: int) -> list[Failure | None]:
        """Keeps messages hidden for `seconds` from now on, while their receiver works on them."""

    async def change_visibility(self, delays: Sequence[tuple[Message, int]]) -> list[Failure | None]:
        """Gives messages back: each is visible again after its number of seconds, at once for 0.

        No message is hidden longer than `limits.longest_visibility` seconds from its receipt: a longer delay ends then.
        """

    async def delete(self, messages: Sequence[Message]) -> list[Failure | None]:
        """Deletes messages. If a message was deleted before, its result is None or MessageGoneError."""

    async def depth(self) -> Depth:
        """Counts the queue's messages, approximately."""
