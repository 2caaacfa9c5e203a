"""What webhookd asks of a queue. Who sends, receives and acknowledges knows a queue by this contract alone.

Each promise of the contract has its test in tests/contract, which runs on every kind of queue and server that webhookd knows.
A queue may lose, double, delay and reorder messages: PostgreSQL has the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from webhookd.errors import MessageGoneError, MessageRefusedError, UnavailableError
from webhookd.queue.message import Body, Message

# Why a queue did not do what it was asked to do with one message.
# UnavailableError: another try may succeed. MessageRefusedError: the message itself is the reason.
# MessageGoneError: the receiver has lost the message, so no later try can succeed.
Failure: TypeAlias = UnavailableError | MessageRefusedError | MessageGoneError


@dataclass(slots=True, frozen=True)
class Limits:
    """What a queue takes, as far as known now."""

    message_bytes: int  # of the largest message
    batch: int  # messages in one request; never changes. More messages make more requests
    longest_hidden: int  # seconds from a message's receipt


class Depth(NamedTuple):
    """How many messages a queue holds, approximately."""

    visible: int
    in_flight: int  # received, and hidden since
    delayed: int  # sent, and not visible yet

    @property
    def total(self) -> int:
        """All messages of the queue."""
        return sum(self)


class Queue(Protocol):
    """A queue of messages, each delivered at least once, in no order.

    Every call ends within a bounded time, and raises UnavailableError where the queue does not answer, or refuses everybody.
    Then the call may have been done, all of it or a part: a reply can be lost. Messages of a call that succeeds have one result
    each, in the order of the arguments: None for done, or a Failure.
    """

    @property
    def limits(self) -> Limits:
        """What the queue takes."""

    @property
    def up(self) -> bool:
        """Whether the last call found the queue."""

    async def send(self, messages: Sequence[Sequence[Body]]) -> list[Failure | None]:
        """Sends messages, each with its events. A message that is refused holds up no other."""

    async def receive(self, limit: int, *, wait: int, visibility: int) -> list[Message]:
        """Returns at most `limit` messages (and `limits.batch`); each is hidden from all receivers for `visibility` seconds.

        Waits at most `wait` seconds for the first message. Cancel no receive: the queue would have handed out messages that
        nobody holds.
        """

    async def extend(self, messages: Sequence[Message], seconds: int) -> list[Failure | None]:
        """Keeps messages hidden for `seconds` from now on, while their receiver works on them."""

    async def hide(self, delays: Sequence[tuple[Message, int]]) -> list[Failure | None]:
        """Gives messages back: each is visible again after its number of seconds, at once for 0.

        A message that would be hidden for longer than `limits.longest_hidden` since its receipt is hidden until then.
        """

    async def delete(self, messages: Sequence[Message]) -> list[Failure | None]:
        """Deletes messages. Deleting a message again is done (None), or reports that the message is gone."""

    async def depth(self) -> Depth:
        """Counts the queue's messages."""
