"""Each queue, on each server that webhookd knows, keeps the promises of webhookd/queue/contract.py."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.contract.conftest import Open, Queues
from tests.helpers.wait import until
from webhookd.errors import MessageGoneError, MessageRefusedError, UnavailableError
from webhookd.queue.bundles import send_events
from webhookd.queue.contract import Depth, Queue
from webhookd.queue.message import MOST_EVENTS, EventReference, Message

AUTHCAPTURE = "net.authorize.payment.authcapture.created"
LONG = 600  # seconds: longer than any test
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(**fields: str) -> EventReference:
    return EventReference(uuid.uuid4(), fields.get("account", "default"), fields.get("event_type", AUTHCAPTURE))


def events(count: int) -> list[list[EventReference]]:
    """Returns `count` messages of one event each."""
    return [[event()] for _ in range(count)]


def bodies_of(messages: Sequence[Message]) -> list[list[EventReference]]:
    return sorted(list(message.references) for message in messages)


async def take(queue: Queue, count: int, *, visibility: int = LONG) -> list[Message]:
    """Receives `count` messages, in as many calls as needed."""
    found: list[Message] = []

    async def more() -> bool:
        found.extend(await queue.receive(count - len(found), wait=1, visibility=visibility))
        return len(found) >= count

    await until(more, f"{count} messages")
    return found


async def nothing_visible(queue: Queue) -> bool:
    return not await queue.receive(10, wait=0, visibility=LONG)


async def has(queue: Queue, depth: Depth) -> None:
    async def counted() -> bool:
        return await queue.depth() == depth

    await until(counted, f"the depth is {depth}")


@pytest.mark.parametrize(
    "bodies",
    [
        [event()],
        [event(account="Ladén €", event_type="net.authorize.\U0001f4b8\ufffe.created")],
        [event()._replace(traceparent=PARENT)],
        [event()._replace(dead='it "broke":\n\t\U0001f4a5', died=1_790_000_000_000_000, mac="0f" * 32, traceparent=PARENT)],
        [event(account=f"shop-{number}") for number in range(MOST_EVENTS)],
    ],
    ids=["one event", "letters of all kinds", "a trace", "a dead-letter copy", "a bundle"],
)
async def test_what_is_sent_is_received_once_and_exactly(queues: Queues, bodies: list[EventReference]) -> None:
    assert await queues.queue.send([bodies]) == [None]
    [message] = await take(queues.queue, 1)
    assert list(message.references) == bodies
    assert message.receive_count == 1
    assert message.received <= asyncio.get_running_loop().time()
    assert await nothing_visible(queues.queue)


async def test_any_number_of_messages_goes_in_one_call(queues: Queues) -> None:
    messages = events(2 * queues.queue.limits.batch + 3)
    assert await queues.queue.send(messages) == [None] * len(messages)
    received = await take(queues.queue, len(messages))
    assert bodies_of(received) == sorted(messages)
    assert len({message.id for message in received}) == len(messages)
    await has(queues.queue, Depth(0, len(messages), 0))
    assert await queues.queue.extend(received, LONG) == [None] * len(messages)
    assert await queues.queue.change_visibility([(message, 0) for message in received]) == [None] * len(messages)
    again = await take(queues.queue, len(messages))
    assert {message.id for message in again} == {message.id for message in received}
    assert await queues.queue.delete(again) == [None] * len(messages)
    await has(queues.queue, Depth(0, 0, 0))


async def test_messages_of_any_total_size_go_in_one_call(queues: Queues) -> None:
    """Each message fits into a request of SQS; ten of them do not."""
    large = "ü" * 150
    messages = [[event(account=large, event_type=large) for _ in range(MOST_EVENTS)] for _ in range(queues.queue.limits.batch)]
    assert await queues.queue.send(messages) == [None] * len(messages)
    assert bodies_of(await take(queues.queue, len(messages))) == sorted(messages)


async def test_no_messages_are_no_request(queues: Queues) -> None:
    await queues.network.cut()
    assert await queues.queue.send([]) == []
    assert await queues.queue.extend([], LONG) == []
    assert await queues.queue.change_visibility([]) == []
    assert await queues.queue.delete([]) == []


async def test_no_more_messages_are_received_than_asked_for(queues: Queues) -> None:
    count = queues.queue.limits.batch + 5
    await queues.queue.send(events(count))
    received = await queues.queue.receive(3, wait=1, visibility=LONG)
    assert 1 <= len(received) <= 3
    received += (batch := await queues.queue.receive(100, wait=1, visibility=LONG))
    assert 1 <= len(batch) <= queues.queue.limits.batch
    received += await take(queues.queue, count - len(received))
    assert len({message.id for message in received}) == count


async def test_an_empty_queue_has_no_messages(queues: Queues) -> None:
    assert await queues.queue.receive(10, wait=0, visibility=LONG) == []
    assert await queues.queue.receive(10, wait=1, visibility=LONG) == []
    assert queues.queue.up


async def test_a_receive_waits_for_a_message(queues: Queues) -> None:
    waiting = asyncio.create_task(queues.queue.receive(10, wait=20, visibility=LONG))
    await asyncio.wait([waiting], timeout=1)
    assert not waiting.done(), "a receive waits where there is nothing"
    body = event()
    await queues.queue.send([[body]])
    assert bodies_of(await waiting) == [[body]]


async def test_what_is_received_comes_back_after_its_time(queues: Queues) -> None:
    await queues.queue.send(events(1))
    [first] = await take(queues.queue, 1, visibility=1)
    [second] = await take(queues.queue, 1)
    assert (second.id, second.references) == (first.id, first.references)
    assert second.receive_count == 2


async def test_each_message_is_hidden_for_as_long_as_it_is_told(queues: Queues) -> None:
    await queues.queue.send(events(3))
    at_once, soon, late = await take(queues.queue, 3)
    assert await queues.queue.change_visibility([(late, LONG), (at_once, 0), (soon, 1)]) == [None] * 3
    again = await take(queues.queue, 2)
    assert {message.id for message in again} == {at_once.id, soon.id}
    assert await nothing_visible(queues.queue)


async def test_a_lease_ends_the_time_after_its_last_extension(queues: Queues) -> None:
    await queues.queue.send(events(2))
    kept, left = await take(queues.queue, 2)
    assert await queues.queue.extend([left], 1) == [None]
    assert await queues.queue.extend([kept], LONG) == [None]
    [again] = await take(queues.queue, 1)
    assert again.id == left.id
    assert await nothing_visible(queues.queue)


async def test_what_is_to_be_hidden_for_too_long_is_hidden_for_as_long_as_can_be(queues: Queues) -> None:
    await queues.queue.send(events(2))
    first, second = await take(queues.queue, 2)
    longest = queues.queue.limits.longest_visibility
    assert await queues.queue.change_visibility([(first, longest), (second, 2 * longest)]) == [None, None]
    assert await nothing_visible(queues.queue)
    await has(queues.queue, Depth(0, 2, 0))


async def test_what_is_deleted_does_not_come_back(queues: Queues) -> None:
    await queues.queue.send(events(2))
    deleted, kept = await take(queues.queue, 2)
    assert await queues.queue.delete([deleted]) == [None]
    await queues.queue.change_visibility([(deleted, 0), (kept, 0)])
    again = await take(queues.queue, 1)
    assert [message.id for message in again] == [kept.id]
    await has(queues.queue, Depth(0, 1, 0))


async def test_deleting_twice_does_no_harm(queues: Queues) -> None:
    """A reply can be lost."""
    await queues.queue.send(events(2))
    first, second = await take(queues.queue, 2)
    assert await queues.queue.delete([first]) == [None]
    again, done = await queues.queue.delete([first, second])
    assert again is None or isinstance(again, MessageGoneError)
    assert done is None
    await has(queues.queue, Depth(0, 0, 0))


async def test_deleting_twice_in_one_call_does_no_harm(queues: Queues) -> None:
    """SQS can deliver a message twice, even to one receive."""
    if queues.server == "moto":
        pytest.skip("moto answers BatchEntryIdsNotDistinct where one receipt, and not an id, is there twice")
    await queues.queue.send(events(2))
    first, second = await take(queues.queue, 2)
    done, other, again = await queues.queue.delete([first, second, first])
    assert (done, other) == (None, None)
    assert again is None or isinstance(again, MessageGoneError)
    await has(queues.queue, Depth(0, 0, 0))


async def test_a_deleted_message_can_be_neither_hidden_nor_extended(queues: Queues) -> None:
    await queues.queue.send(events(1))
    [message] = await take(queues.queue, 1)
    await queues.queue.delete([message])
    [hidden], [extended] = await queues.queue.change_visibility([(message, 0)]), await queues.queue.extend([message], LONG)
    assert isinstance(hidden, MessageGoneError)
    assert isinstance(extended, MessageGoneError)
    assert await nothing_visible(queues.queue)
    await has(queues.queue, Depth(0, 0, 0))


async def test_a_receipt_that_is_no_good_fails_alone(queues: Queues) -> None:
    await queues.queue.send(events(2))
    first, second = await take(queues.queue, 2)
    other = Message("x", "no receipt handle", (), first.received, 1)
    extended = await queues.queue.extend([first, other, second], LONG)
    hidden = await queues.queue.change_visibility([(first, LONG), (other, LONG), (second, LONG)])
    done, deleted, also_done = await queues.queue.delete([first, other, second])
    for results in (extended, hidden):
        assert [type(result) for result in results] == [type(None), MessageGoneError, type(None)]
    assert (done, also_done) == (None, None)
    # fauxqs deletes by any receipt (dist/sqs/actions/deleteMessageBatch.js); the contract promises no failure.
    if queues.server != "fauxqs":
        assert isinstance(deleted, MessageGoneError)
    await has(queues.queue, Depth(0, 0, 0))


async def test_a_message_that_is_too_large_is_refused_alone(open_queues: Open) -> None:
    queue = (await open_queues(message_bytes=1024)).queue
    assert queue.limits.message_bytes == 1024
    large = event()._replace(dead="x" * 2000, died=1)
    before, after = events(2)
    results = await queue.send([before, [large], after])
    assert [type(result) for result in results] == [type(None), MessageRefusedError, type(None)]
    assert bodies_of(await take(queue, 2)) == sorted([before, after])
    assert queue.up, "a refusal is an answer"


async def test_bundles_fit_into_the_largest_message(open_queues: Open) -> None:
    queue = (await open_queues(message_bytes=1024)).queue
    bodies = [event() for _ in range(100)]
    assert await send_events(queue, bodies) == {}
    received: list[Message] = []

    async def all_of_them() -> bool:
        received.extend(await queue.receive(10, wait=1, visibility=LONG))
        return sum(len(message.references) for message in received) >= len(bodies)

    await until(all_of_them, "every event is received")
    assert sorted(itertools.chain.from_iterable(message.references for message in received)) == sorted(bodies)
    assert len(received) < len(bodies)


async def test_what_is_received_too_often_goes_to_the_dead_letter_queue(open_queues: Open) -> None:
    queues = await open_queues(max_receives=2)
    body = event()
    await queues.queue.send([[body]])
    for count in (1, 2):
        [message] = await take(queues.queue, 1)
        assert message.receive_count == count
        await queues.queue.change_visibility([(message, 0)])

    async def moved() -> bool:
        assert not await queues.queue.receive(1, wait=0, visibility=LONG)
        return (await queues.dead_letter_queue.depth()).total == 1

    await until(moved, "the message is in the dead-letter queue")
    [dead] = await take(queues.dead_letter_queue, 1)
    assert list(dead.references) == [body]
    assert await queues.dead_letter_queue.delete([dead]) == [None]
    await has(queues.dead_letter_queue, Depth(0, 0, 0))
    await has(queues.queue, Depth(0, 0, 0))


async def test_both_queues_are_apart(queues: Queues) -> None:
    alive, dead = events(2)
    await queues.queue.send([alive])
    await queues.dead_letter_queue.send([dead])
    assert bodies_of(await take(queues.queue, 1)) == [alive]
    assert bodies_of(await take(queues.dead_letter_queue, 1)) == [dead]


async def test_the_depth_counts_what_is_visible_and_what_is_in_hand(queues: Queues) -> None:
    await has(queues.queue, Depth(0, 0, 0))
    await queues.queue.send(events(3))
    await has(queues.queue, Depth(3, 0, 0))
    [message] = await take(queues.queue, 1)
    await has(queues.queue, Depth(2, 1, 0))
    await queues.queue.delete([message])
    await has(queues.queue, Depth(2, 0, 0))
    assert (await queues.queue.depth()).total == 2


async def test_a_queue_that_is_away_is_unavailable_and_comes_back(queues: Queues) -> None:
    await queues.queue.send(events(1))
    [message] = await take(queues.queue, 1)
    assert queues.queue.up
    await queues.network.cut()
    for call in (
        queues.queue.send(events(1)),
        queues.queue.receive(1, wait=0, visibility=LONG),
        queues.queue.extend([message], LONG),
        queues.queue.change_visibility([(message, 0)]),
        queues.queue.delete([message]),
        queues.queue.depth(),
    ):
        with pytest.raises(UnavailableError):
            await call
        assert not queues.queue.up
    await queues.network.heal()
    assert await queues.queue.delete([message]) == [None]
    assert queues.queue.up


@contextlib.asynccontextmanager
async def lost_reply(queues: Queues) -> AsyncIterator[None]:
    """Makes the server carry out the call in the block, and loses its answer."""
    queues.network.drop_replies()
    dropped = queues.network.dropped

    async def cut() -> None:
        await until(lambda: queues.network.dropped > dropped, "a reply is lost")
        await queues.network.cut()

    cutting = asyncio.create_task(cut())
    try:
        yield
    finally:
        await cutting
        await queues.network.heal()


async def test_a_send_whose_reply_is_lost_may_have_been_done(queues: Queues) -> None:
    await queues.queue.depth()  # resolves the queue's address, so that the lost reply is the send's
    body = event()
    async with lost_reply(queues):
        with pytest.raises(UnavailableError):
            await queues.queue.send([[body]])
    assert bodies_of(await take(queues.queue, 1)) == [[body]]


async def test_a_delete_whose_reply_is_lost_can_be_made_again(queues: Queues) -> None:
    await queues.queue.send(events(1))
    [message] = await take(queues.queue, 1)
    async with lost_reply(queues):
        with pytest.raises(UnavailableError):
            await queues.queue.delete([message])
    [again] = await queues.queue.delete([message])
    assert again is None or isinstance(again, MessageGoneError)
    await has(queues.queue, Depth(0, 0, 0))


async def test_a_receive_whose_reply_is_lost_loses_no_message(queues: Queues) -> None:
    await queues.queue.send(events(1))
    async with lost_reply(queues):
        with pytest.raises(UnavailableError):
            await queues.queue.receive(1, wait=0, visibility=1)
    [message] = await take(queues.queue, 1)
    assert message.receive_count == 2


async def test_what_the_server_fails_at_can_be_tried_again(queues: Queues) -> None:
    """The server answers 200 with `Failed` entries."""
    if queues.strict is None:
        pytest.skip(f"{queues.server} does all that a call asks for, or nothing")
    messages = events(3)
    queues.strict.failed_entries = 1.0
    assert [type(result) for result in await queues.queue.send(messages)] == [UnavailableError] * 3
    queues.strict.heal()
    assert await queues.queue.send(messages) == [None] * 3
    received = await take(queues.queue, 3)
    queues.strict.failed_entries = 1.0
    for results in (
        await queues.queue.extend(received, LONG),
        await queues.queue.change_visibility([(message, 0) for message in received]),
        await queues.queue.delete(received),
    ):
        assert [type(result) for result in results] == [UnavailableError] * 3
    assert queues.queue.up, "the server answers"
    queues.strict.heal()
    assert await queues.queue.delete(received) == [None] * 3
    assert not queues.strict.refused
