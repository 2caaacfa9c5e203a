"""Extensions and releases keep their order, turn by turn of the loop; tests on a real queue prove the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from webhookd.errors import MessageGoneError, UnavailableError
from webhookd.queue.contract import Failure, Limits, Queue
from webhookd.queue.leases import Leases
from webhookd.queue.message import Message
from webhookd.runtime.loops import Watch
from webhookd.telemetry.metrics import Metrics


class Hidden:
    """Stands for the queue: keeps the messages to extend, and returns the failure that is given for a message's id."""

    limits = Limits(message_bytes=1024, batch=10, longest_visibility=60)

    def __init__(self, failures: dict[str, Failure] | None = None) -> None:
        self.messages: list[Message] = []
        self._failures = failures or {}

    async def extend(self, messages: Sequence[Message], seconds: int) -> list[Failure | None]:
        self.messages += messages
        return [self._failures.get(message.id) for message in messages]


def leases_of(queue: Hidden) -> Leases:
    return Leases(cast(Queue, queue), visibility_timeout=600, metrics=Metrics(), watch=Watch())


async def test_what_is_released_while_a_turn_begins_is_not_extended() -> None:
    """An extension of a released message would overwrite the retry's delay if the extension arrived second."""
    queue = Hidden()
    leases = leases_of(queue)
    past = asyncio.get_running_loop().time() - 1000
    released, kept = (Message(id_, id_, (), past, 1) for id_ in ("released", "kept"))
    leases.hold(released)
    leases.hold(kept)
    turn = asyncio.ensure_future(leases._turn())
    await asyncio.sleep(0)  # the turn has chosen both messages, and their batch has not begun
    await leases.release(released)
    await turn
    assert [message.id for message in queue.messages] == ["kept"]


async def test_a_lease_that_another_try_may_extend_is_tried_at_the_next_turn() -> None:
    """Half of the lease is over, so the next try cannot wait for half a timeout again."""
    queue = Hidden({"failed": UnavailableError("sqs", "InternalError"), "gone": MessageGoneError("ReceiptHandleIsInvalid")})
    leases = leases_of(queue)
    past = asyncio.get_running_loop().time() - 1000
    for id_ in ("extended", "failed", "gone"):
        leases.hold(Message(id_, id_, (), past, 1))
    await leases._turn()
    queue.messages.clear()
    await leases._turn()
    assert [message.id for message in queue.messages] == ["failed"]
