"""The history is read whole, or is not called complete; and no day is whole while the ledger lacks what the provider showed."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webhookd.authorizenet.api.history import HistoryReader, Page
from webhookd.authorizenet.api.reading import history_page
from webhookd.authorizenet.api.results import HistoryPage, HistoryRow
from webhookd.authorizenet.gaps import (
    Completeness,
    Day,
    Ledger,
    advanced,
    around,
    compare,
    needs_proof,
    revisits,
    span,
)

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
OLD = NOW - timedelta(days=1)
SALE = "net.authorize.payment.authcapture.created"
MOST_PASSES = 5
FEW = 20  # rows; a first page that is shorter, with an empty page after it, is a whole list


def row(number: int, at: datetime | None = OLD) -> HistoryRow:
    return HistoryRow(f"id-{number}", SALE, at, "Delivered")


class Server:
    """A list whose pages are clamped. `calls` are the offsets that were asked for."""

    def __init__(self, count: int, clamp: int = 1000) -> None:
        self.listed = [row(number) for number in range(count)]
        self.clamp = clamp
        self.calls: list[int] = []

    async def page(self, offset: int, limit: int) -> HistoryPage:
        self.calls.append(offset)
        return HistoryPage(tuple(self.listed[offset : offset + min(limit, self.clamp)]))


@given(st.data())
async def test_a_history_that_is_complete_is_whole_whatever_the_server_clamps_and_inserts(data: st.DataObject) -> None:
    server = Server(data.draw(st.integers(0, 300)), data.draw(st.sampled_from([3, 20, 37, 100, 1000])))
    insertions = data.draw(st.integers(0, 4))
    at_the_beginning = set(server.listed)

    async def page(offset: int, limit: int) -> HistoryPage:
        nonlocal insertions
        found = await server.page(offset, limit)
        if insertions:
            insertions -= 1
            at = data.draw(st.sampled_from([OLD, NOW]))
            server.listed.insert(data.draw(st.integers(0, len(server.listed))), row(1000 + len(server.listed), at))
        return found

    history = await HistoryReader().read(page, NOW)
    assert len({one.notification_id for one in history.rows}) == len(history.rows)
    assert history.complete, "a list that rests again is complete"
    if not history.moving:
        assert at_the_beginning <= {*history.rows}


CHANGES = ("insert", "insert many", "insert young", "insert undated", "remove", "swap", "shuffle", "empty")


class Restless:
    """A list of the provider that changes while it is read, at the calls of `changes`. `passes` has all pages that it gave.

    clamp: the most rows of a page. short: pages have fewer rows by chance. fixed: each page begins at the first row.
    """

    def __init__(
        self, dice: random.Random, count: int, clamp: int, changes: dict[int, str], *, short: bool = False, fixed: bool = False
    ) -> None:
        self.dice = dice
        self.number = 0
        self.listed = [self.row() for _ in range(count)]
        self.throughout = set(self.listed)  # the rows that the list had from the first call to the last one
        self.clamp, self.short, self.fixed = clamp, short, fixed
        self.changes = changes
        self.changed: list[int] = []  # for each change, the number of the pass in which it happened, from 1
        self.calls = 0
        self.passes: list[list[tuple[HistoryRow, ...]]] = []

    def row(self, kind: str = "") -> HistoryRow:
        self.number += 1
        at = NOW if kind == "insert young" else OLD - timedelta(days=self.dice.randrange(3))
        return row(self.number, None if kind == "insert undated" else at)

    def change(self, kind: str) -> None:
        if kind in ("remove", "swap") and self.listed:
            gone = self.listed.pop(self.dice.randrange(len(self.listed)))
            self.throughout.discard(gone)
        if kind.startswith("insert") or kind == "swap":
            for _ in range(self.clamp if kind == "insert many" else 1):
                place = 0 if kind == "insert many" else self.dice.randint(0, len(self.listed))
                self.listed.insert(place, self.row(kind))
        if kind == "shuffle":
            self.dice.shuffle(self.listed)

    async def page(self, offset: int, limit: int) -> HistoryPage:
        if offset == 0:
            self.passes.append([])
        pages = self.passes[-1]
        kind = self.changes.get(self.calls, "")
        self.calls += 1
        hides = kind == "empty" or (self.short and kind in ("remove", "swap", "shuffle"))
        if hides and len(pages) == 1 and len(pages[0]) < FEW:
            kind = ""  # a short page with an empty page after it is a whole list: only a later look finds this mistake
        if kind:
            self.changed.append(len(self.passes))
            self.change(kind)
        size = self.dice.randint(1, min(limit, self.clamp)) if self.short else min(limit, self.clamp)
        begin = 0 if self.fixed else offset
        rows = () if kind == "empty" else tuple(self.listed[begin : begin + size])
        pages.append(rows)
        return HistoryPage(rows)


def rows_of(pages: list[tuple[HistoryRow, ...]]) -> set[HistoryRow]:
    return {one for page in pages for one in page}


def has_ended(pages: list[tuple[HistoryRow, ...]]) -> bool:
    """Returns whether a pass came to the end of its list: an empty page, or a short one that brought nothing new."""
    return not pages[-1] or (len(pages[-1]) < len(pages[0]) and not {*pages[-1]} - rows_of(pages[:-1]))


@given(
    dice=st.randoms(use_true_random=False),
    count=st.sampled_from([0, 1, FEW - 1, FEW, FEW + 1, 45, 90]),
    clamp=st.sampled_from([FEW, 33, 1000]),
    form=st.sampled_from(["plain", "short", "fixed"]),
    changes=st.dictionaries(st.integers(0, 15), st.sampled_from(CHANGES), max_size=5),
)
@settings(max_examples=400)
async def test_what_a_restless_list_showed_is_read_and_only_two_equal_passes_to_its_end_prove_it(
    dice: random.Random, count: int, clamp: int, form: str, changes: dict[int, str]
) -> None:
    server = Restless(dice, count, clamp, changes, short=form == "short", fixed=form == "fixed")
    history = await HistoryReader().read(server.page, NOW)
    read = {*history.rows}
    assert len({one.notification_id for one in read}) == len(history.rows)
    assert read == set().union(*map(rows_of, server.passes)), "whatever any pass showed, and nothing else"
    if len(server.passes) == 1:
        (pages,) = server.passes
        assert (len(pages), len(pages[-1])) == (2, 0), "one page, and an empty one"
        assert len(pages[0]) < FEW
        assert history.complete
    else:
        before, last = server.passes[-2:]
        dates = {one.event_date for one in rows_of(before) ^ rows_of(last)}
        assert history.complete == (has_ended(before) and has_ended(last) and None not in dates)
        assert history.moving == {at.date() for at in dates if at is not None and at < NOW}
    if form != "fixed" and max(server.changed, default=0) <= MOST_PASSES - 2:
        assert history.complete, "a list that rests for two passes is complete"
        assert not history.moving
    if history.complete and len(server.changed) <= 1:
        assert server.throughout <= read, "one change hides nothing"
    if form != "fixed" and not server.changed:
        assert len(server.passes) <= 2


@given(calls=st.integers(2, 9))
async def test_one_mistake_costs_a_long_pass_one_call_and_no_further_pass(calls: int) -> None:
    server = Restless(random.Random(1), 100, 10, {calls: "empty"})
    assert (await HistoryReader().read(server.page, NOW)).complete
    at_rest = 2 * (10 + 2)  # an empty page at the end of a long pass is asked for once more
    assert (len(server.passes), server.calls) == (2, at_rest + 1)


async def test_a_quiet_account_costs_one_call_once_a_list_was_read_to_its_end() -> None:
    server, reader = Server(12), HistoryReader()
    assert (await reader.read(server.page, NOW, thorough=False)).complete, "the first read is thorough"
    assert server.calls == [0, 12]
    assert not (await reader.read(server.page, NOW, thorough=False)).complete
    assert server.calls[2:] == [0]
    assert (await reader.read(server.page, NOW)).complete
    assert server.calls[3:] == [0, 12]


async def test_a_list_that_rests_or_is_shorter_than_a_page_can_be_costs_a_quick_look_one_call() -> None:
    server, reader = Server(30), HistoryReader()
    await reader.read(server.page, NOW)

    async def calls(of: int = 1) -> list[int]:
        server.calls.clear()
        for _ in range(of):
            assert {*(await reader.read(server.page, NOW, thorough=False)).rows} == {*server.listed}
        return server.calls

    assert await calls(of=5) == [0] * 5
    assert await calls() == [0, 30], "about once an hour, the next page is asked for"
    assert await calls() == [0]
    server.listed[7] = row(77)
    assert await calls() == [0, 30], "another page may have another one after it"
    server.listed.append(row(78))
    assert await calls() == [0, 31]
    del server.listed[:4]
    assert await calls(of=9) == [0] * 9, "the server gives longer pages than this one"


async def test_rows_behind_a_page_that_was_the_last_are_found_within_six_quick_looks() -> None:
    server, reader = Server(30, clamp=30), HistoryReader()
    await reader.read(server.page, NOW)
    server.listed.append(row(30))
    looks = [len((await reader.read(server.page, NOW, thorough=False)).rows) for _ in range(6)]
    assert looks == [30] * 5 + [31]


async def test_an_empty_list_needs_two_empty_answers() -> None:
    server = Server(0)
    assert (await HistoryReader().read(server.page, NOW)).complete
    assert server.calls == [0, 0]


async def test_one_empty_page_by_mistake_ends_no_list() -> None:
    server, empty = Server(250, clamp=100), iter([False, True])

    async def page(offset: int, limit: int) -> HistoryPage:
        return HistoryPage(()) if next(empty, False) else await server.page(offset, limit)

    history = await HistoryReader().read(page, NOW)
    assert history.complete
    assert len(history.rows) == 250


async def test_a_quick_look_knows_how_few_rows_a_full_page_can_have() -> None:
    server, reader = Server(30, clamp=7), HistoryReader()
    await reader.read(server.page, NOW)
    server.calls.clear()
    assert len((await reader.read(server.page, NOW, thorough=False)).rows) == 30
    assert server.calls == [0, 7, 14, 21, 28]


async def test_a_server_that_ignores_the_offset_is_no_endless_loop_and_no_complete_history() -> None:
    server = Server(100)

    async def page(_: int, limit: int) -> HistoryPage:
        return await server.page(0, limit)

    assert not (await HistoryReader().read(page, NOW)).complete
    assert len(server.calls) <= 10


async def test_a_history_whose_old_rows_never_rest_is_not_complete_on_their_days() -> None:
    server = Server(200, clamp=100)

    async def page(offset: int, limit: int) -> HistoryPage:
        found = await server.page(offset, limit)
        server.listed.append(row(len(server.listed), OLD - timedelta(days=1)))
        return found

    history = await HistoryReader().read(page, NOW)
    assert history.moving == {date(2026, 11, 26)}
    undated = Server(200, clamp=100)

    async def page_without_dates(offset: int, limit: int) -> HistoryPage:
        found = await undated.page(offset, limit)
        undated.listed.append(row(len(undated.listed), None))
        return found

    assert not (await HistoryReader().read(page_without_dates, NOW)).complete


async def test_new_rows_of_a_busy_account_do_not_keep_its_history_from_being_complete() -> None:
    server = Server(200, clamp=100)

    async def page(offset: int, limit: int) -> HistoryPage:
        found = await server.page(offset, limit)
        server.listed.insert(0, row(len(server.listed), NOW))
        return found

    history = await HistoryReader().read(page, NOW)
    assert (history.complete, history.moving) == (True, frozenset())
    assert len(server.calls) < 10, "two passes"


async def test_rows_that_cannot_be_read_are_counted_and_hide_no_others() -> None:
    rows = [
        {"notificationId": f"ID-{number}", "eventType": SALE, "eventDate": "2026-11-27T01:02:03.456"} for number in range(30)
    ]
    for number, damage in ((3, {"eventType": None}), (7, {"notificationId": {}}), (8, {"eventType": 1.5})):
        rows[number] |= damage  # type: ignore[arg-type]

    async def page(offset: int, limit: int) -> HistoryPage:
        return history_page({"notifications": [*rows[offset : offset + min(limit, 5)], *(["x"] if offset == 25 else [])]})

    history = await HistoryReader().read(page, NOW)
    assert history.complete
    assert history.unreadable == 4
    assert {one.notification_id for one in history.rows} == {f"id-{number}" for number in range(30) if number not in (3, 7, 8)}


# A provider that misbehaves


class Provider:
    """A model of a provider and of webhookd beside it. `truth` are all its notifications, each with when the list has it."""

    def __init__(self, dice: random.Random, *, faults: bool) -> None:
        self.dice = dice
        self.now = datetime(2026, 11, 24, tzinfo=UTC)
        self.truth: dict[HistoryRow, datetime] = {}
        self.days: dict[str, date] = {}
        self.shown: set[str] = set()
        self.delivered: dict[str, date] = {}
        self.recovered: dict[str, date] = {}
        self.seen: dict[str, HistoryRow] = {}
        self.clamp = dice.choice((3, 7, 25, 1000))
        self.order = dice.choice(("oldest", "newest", "any"))
        self.mistakes = dice.choice((0.0, 0.1, 0.4)) if faults else 0.0  # empty answers
        self.late = dice.choice((0.0, 0.3)) if faults else 0.0
        self.moving = dice.choice((0.0, 0.2)) if faults else 0.0
        self.fetches = dice.choice((1.0, 0.5)) if faults else 1.0

    def make(self) -> None:
        self.now += timedelta(seconds=self.dice.randint(1, 900))
        number = len(self.truth)
        at = self.now if self.dice.random() < 0.9 else None
        one = row(number, at)
        late = timedelta(minutes=self.dice.randint(1, 180)) if self.dice.random() < self.late else timedelta()
        self.truth[one] = self.now + late
        self.days[one.notification_id] = self.now.date()
        if self.dice.random() < 0.8:
            self.delivered[one.notification_id] = self.now.date()

    def listed(self, first: date, last: date) -> list[HistoryRow]:
        rows = [one for one, at in self.truth.items() if at <= self.now and first <= self.days[one.notification_id] <= last]
        if self.order == "any":
            rows.sort(key=lambda one: zlib.crc32(one.notification_id.encode()))
        return rows[::-1] if self.order == "newest" else rows

    def paged(self, first: date, last: date) -> Page:
        async def page(offset: int, limit: int) -> HistoryPage:
            if self.dice.random() < self.moving:
                self.make()
            if self.dice.random() < self.mistakes:
                return HistoryPage(())
            rows = self.listed(first, last)[offset : offset + min(limit, self.clamp)]
            self.shown |= {one.notification_id for one in rows}
            return HistoryPage(tuple(rows))

        return page

    def ledger(self) -> Ledger:
        return Ledger(self.delivered, self.recovered, seen=self.seen)

    @property
    def lacking(self) -> set[str]:
        return {one.notification_id for one in self.truth} - self.delivered.keys() - self.recovered.keys()


GRACE = timedelta(minutes=15)


class Closer:
    """The gap closer, without I/O."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.reader = HistoryReader()
        self.cursor = provider.now.date()
        self.days: dict[date, Day] = {}
        self.hidden = Counter[str]()  # the thorough looks that did not show a notification that the list had

    async def look(self) -> None:
        own, now = self.provider, self.provider.now
        thorough = needs_proof(self.cursor, self.days, now, GRACE)
        await self._compare(*span(self.cursor, now), None, thorough=thorough)
        for day in revisits(self.cursor, self.days, now, GRACE)[:1]:
            await self._compare(*around(day), day, thorough=True)
        self.cursor = advanced(self.cursor, self.days.values(), own.now)

    async def _compare(self, first: date, last: date, only: date | None, *, thorough: bool) -> None:
        own, now = self.provider, self.provider.now
        history = await self.reader.read(own.paged(first, last), now - GRACE, thorough=thorough)
        listed = {item.notification_id for item, at in own.truth.items() if at <= now}
        if thorough:
            self.hidden.update((own.lacking & listed) - own.shown)
        found = compare(history, own.ledger(), first, now, GRACE, self.days, only)
        self.days |= {one.day: one for one in found.days}
        for one in found.days:
            if one.completeness is Completeness.WHOLE:
                lacking = {name for name in own.lacking if own.days[name] == one.day}
                assert not lacking & own.shown, "a day is whole though the provider showed what the ledger lacks"
                looks = min((self.hidden[name] for name in lacking & listed), default=2)
                assert looks >= 2, "a day is whole though only one thorough look hid what the ledger lacks"
                if not own.mistakes:
                    assert not lacking & listed, "a day is whole though the list had what the ledger lacks, at both looks"
        own.seen |= {item.notification_id: item for item in found.lacking}
        for item in found.missing:
            if own.dice.random() < own.fetches:
                own.recovered[item.notification_id] = own.days[item.notification_id]


@pytest.mark.parametrize("faults", [True, False])
@given(seed=st.integers(0, 1_000_000))
async def test_no_day_is_whole_while_the_ledger_lacks_what_the_provider_showed(faults: bool, seed: int) -> None:
    provider = Provider(random.Random(seed), faults=faults)
    closer = Closer(provider)
    for _ in range(provider.dice.randint(0, 30)):
        provider.now += timedelta(seconds=provider.dice.choice((10, 600, 7200, 36_000)))
        for _ in range(provider.dice.choice((0, 1, 5))):
            provider.make()
        await closer.look()
    end = provider.now.date()
    provider.moving = provider.mistakes = 0.0
    provider.fetches = 1.0
    for _ in range(80):  # ten days without news, and without faults
        provider.now += timedelta(hours=3)
        await closer.look()
    assert not provider.lacking, "whatever the list showed at last is in the ledger"
    youngest = end - timedelta(days=15)  # older days are not looked at any more, or seldom
    results = {one.completeness for day, one in closer.days.items() if youngest <= day <= end}
    assert results <= {Completeness.WHOLE}
    assert closer.cursor >= end
