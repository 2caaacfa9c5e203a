"""The order of extensions and releases, turn by turn of the loop; the rest is shown on a real queue."""

from __future__ import annotations

import asyncio
from typing import cast

from webhookd.lifecycle import Watch
from webhookd.metrics import Metrics
from webhookd.queue.leases import Leases
from webhookd.queue.message import Message
from webhookd.queue.sqs import Sqs


class Hidden:
    """Stands for the queue: keeps what it is asked to hide."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def hide(self, changes: list[tuple[Message, int]]) -> list[None]:
        self.messages += [message for message, _ in changes]
        return [None] * len(changes)


async def test_what_is_released_while_a_turn_begins_is_not_extended() -> None:
    """Such an extension would go out beside the retry's delay, and overwrite it where it came second."""
    queue = Hidden()
    leases = Leases(cast(Sqs, queue), visibility_timeout=2, metrics=Metrics(), watch=Watch())
    past = asyncio.get_running_loop().time() - 10
    released, kept = (Message(id_, id_, (), past, 1) for id_ in ("released", "kept"))
    leases.hold(released)
    leases.hold(kept)
    turn = asyncio.ensure_future(leases._turn())
    await asyncio.sleep(0)  # the turn has chosen both, and their batch has not begun
    await leases.release(released)
    await turn
    assert [message.id for message in queue.messages] == ["kept"]
