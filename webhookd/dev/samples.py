"""The samples that a development session sends at its start, and the explanation if the user's handlers fail on them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.table import Table

from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES, PREFIX
from webhookd.dev import traffic
from webhookd.dev.known import Receiver
from webhookd.dev.provider import WITHHELD, Provider
from webhookd.errors import UnavailableError
from webhookd.event import Status
from webhookd.store.provider_gaps import ProviderGaps

if TYPE_CHECKING:
    from webhookd.daemon import Daemon

_SHOWN_SECONDS = 60.0  # the display of samples waits for their end for so long
_FAILING_SECONDS = 5.0  # if all other samples have ended, the display waits so long for samples whose handler has failed
_ASKED_LOOKS = 500  # at whether webhookd asks the provider, 20 ms apart
_COMPARED_SECONDS = 10.0  # after the events, the display waits so long for the comparison with the provider's history
_MOST_EXPLAINED = 3  # different failures
_FAILED = (Status.RETRYING, Status.DEAD)
_FAILURE = re.compile(r"(?P<error>.*) \[handler (?P<handler>\S+)(?: at (?P<place>[^,\]]*))?.*\]", re.DOTALL)
_NEXT_TRY = re.compile(r" \(next try in [^)]*\)\Z")
# PostgreSQL's messages, in English, about a thing that does not exist.
_MISSING_TABLE = re.compile(r'UndefinedTableError: relation "(.+?)" does not exist')
_MISSING_OTHER = re.compile(r"Undefined(?:Column|Function|Object)Error: (.+? does not exist)")


@dataclass(slots=True)
class _Row:
    label: str
    answer: str = ""
    event_id: UUID | None = None
    withheld: str = ""  # the id of a notification that the provider never sends
    status: str = ""
    steps: str = ""
    failure: str = ""  # the reason of the last failed attempt
    final: bool = False

    def take(self, answer: traffic.Answer) -> None:
        """Takes the answer to the sample."""
        self.answer = f"{answer.status} {answer.outcome}" if answer.status in (0, 200) else f"{answer.status} refused"
        self.final = answer.outcome != "accepted"
        self.event_id = UUID(answer.id) if answer.id and not self.final else None


async def show_samples(
    running: Daemon, aim: Receiver, provider: Provider | None, console: Console, *, retry: Callable[[UUID | None], str]
) -> None:
    """Sends one sample of every type, and some that must not be processed. Shows each until it has ended, or fails.

    provider: delivers the samples, and withholds three more, which the gap closer takes from its history.
    retry: returns the command that has an event tried again.
    """
    first = sampling.fresh_number()
    delivered = [_Row(name.removeprefix(PREFIX)) for name in EVENT_TYPES]
    others = [_Row("the first event again"), _Row("a forged signature"), _Row("authentic, but unusable")]
    withheld = [_Row(name.removeprefix(PREFIX), "withheld") for name in (WITHHELD if provider else ())]
    rows = [*delivered, *others, *withheld]
    unusable = sampling.Sample("unusable", "", "", b'{"eventDate":"2019-01-31T14:38:42.6937313Z","seen":%d}' % first)
    forged = sampling.sample(EVENT_TYPES[0], first + 1)
    # If the output is no terminal, print the table once, when it is whole.
    lively = console.is_terminal and not console.is_dumb_terminal
    with Live(_table(rows), console=console, refresh_per_second=10) if lively else contextlib.nullcontext() as live:

        def show() -> None:
            if live is not None:
                live.update(_table(rows))

        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            if provider is not None:
                await _until_asked(running)
                for number, (row, name) in enumerate(zip(withheld, WITHHELD, strict=True), first + 2):
                    row.withheld = provider.withhold(name, number)

            async def deliver(event_type: str) -> tuple[sampling.Sample, traffic.Answer]:
                if provider is not None:
                    return await provider.deliver(event_type, first)
                sent = sampling.sample(event_type, first)
                return sent, await traffic.post(session, aim.url, sent, key=aim.key)

            samples = []
            for row, name in zip(delivered, EVENT_TYPES, strict=True):
                sent, answer = await deliver(name)
                samples.append(sent)
                row.take(answer)
                show()
            sends = [(samples[0], None), (forged, "sha512=" + "0" * 128), (unusable, None)]
            for row, (sent, signature) in zip(others, sends, strict=True):
                row.take(await traffic.post(session, aim.url, sent, key=aim.key, signature=signature))
                show()
        deadline = time.monotonic() + _SHOWN_SECONDS
        while not all(row.final for row in rows) and time.monotonic() < deadline:
            if all(row.final or row.failure for row in rows):  # most handlers that fail now fail again
                deadline = min(deadline, time.monotonic() + _FAILING_SECONDS)
            await asyncio.sleep(0.1)
            await _look(running, rows)
            show()
    if not lively:
        console.print(_table(rows))
    expected = len(delivered) + len(withheld)
    processed = sum(row.status == Status.PROCESSED for row in rows)
    if processed == expected:
        console.print(f"[bold green]{processed} events processed[/], each effect committed with its status", highlight=False)
    else:
        console.print(
            f"[bold yellow]{processed} of {expected} events processed[/]: the dashboard and the log, named above, show why",
            highlight=False,
            soft_wrap=True,
        )
        _explain(rows, console, retry)
    if provider is not None:
        for line in await _compared(running, expected):
            console.print(line, highlight=False)


async def _until_asked(running: Daemon) -> None:
    """Waits until webhookd asks the provider: from then on, its history counts."""
    for _ in range(_ASKED_LOOKS):
        if running.sync.held:
            return
        await asyncio.sleep(0.02)


async def _compared(running: Daemon, expected: int) -> list[str]:
    """Returns a line for each day of the session, when the comparison has found all notifications, or takes too long."""
    today = datetime.now(UTC).date()  # the samples may have been made before midnight
    deadline = time.monotonic() + _COMPARED_SECONDS
    while True:
        with contextlib.suppress(UnavailableError):
            days = (await ProviderGaps(running.database, "default").days(today - timedelta(days=1), today)).values()
            found = [day for day in days if day.listed]
            if sum(day.ours for day in found) == expected or time.monotonic() > deadline:
                return [
                    f"{day.day:%-d %B}: provider {day.listed}, webhookd {day.ours}, {day.recovered} recovered" for day in found
                ]
        await asyncio.sleep(0.1)


def _explain(rows: list[_Row], console: Console, retry: Callable[[UUID | None], str]) -> None:
    """Prints each different failure of a handler once, with the remedy."""
    failed: dict[str, list[_Row]] = {}
    for row in rows:
        if row.failure and row.status != Status.PROCESSED:
            failed.setdefault(row.failure, []).append(row)
    for failure, those in list(failed.items())[:_MOST_EXPLAINED]:
        others = f" and {len(those) - 1} more" if len(those) > 1 else ""
        console.print(
            "\n" + "\n".join(explanation(failure, f"{those[0].label}{others}")), markup=False, highlight=False, soft_wrap=True
        )
        again = (
            "webhookd has given it up; to have it tried again"
            if those[0].status == Status.DEAD
            else "webhookd tries it again by itself; to retry it now"
        )
        console.print(f"  {again}: {retry(those[0].event_id)}", markup=False, highlight=False, soft_wrap=True)
    if len(failed) > _MOST_EXPLAINED:
        console.print(f"\n{len(failed) - _MOST_EXPLAINED} other failures are in the dashboard", highlight=False)


def explanation(failure: str, events: str) -> list[str]:
    """Returns the lines that explain why `events` failed. `failure`: the reason in the audit trail."""
    found = _FAILURE.fullmatch(failure)
    if found is None:
        return [f"{events} failed: {failure}"]
    lines = [f"{events} failed in the handler {found['handler']}: {found['error']}"]
    if found["place"]:
        lines.append(f"  at {found['place']}")
    if table := _MISSING_TABLE.match(found["error"]):
        lines.append(f"  the table {table[1]} does not exist: give its SQL with `webhookd dev --schema FILE`, or make it now")
    elif other := _MISSING_OTHER.match(found["error"]):
        lines.append(f"  {other[1]}: correct the handler's SQL, or the SQL that you give with `webhookd dev --schema FILE`")
    else:
        lines.append("  correct the handler at this line; `webhookd dev --reload` takes it when you save the file")
    return lines


async def _look(running: Daemon, rows: list[_Row]) -> None:
    """Updates the rows from the events' statuses and audit trails."""
    with contextlib.suppress(UnavailableError):
        if waiting := {row.withheld: row for row in rows if row.withheld and row.event_id is None}:
            for name, event_id in (await ProviderGaps(running.database, "default").event_ids(list(waiting))).items():
                waiting[name].event_id, waiting[name].answer = event_id, "recovered"
        states = await running.store.states([row.event_id for row in rows if row.event_id is not None and not row.final])
        for row in rows:
            if row.event_id in states and states[row.event_id]["status"] != row.status:
                row.status = states[row.event_id]["status"]
                trail = await running.store.audit_trail(row.event_id)
                row.steps = " → ".join(step["to_status"] for step in trail)
                reason = next((step["reason"] or "" for step in reversed(trail) if step["to_status"] in _FAILED), "")
                row.failure = _NEXT_TRY.sub("", reason)
                row.final = Status(row.status).finished


def _table(rows: list[_Row]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("[bold]event[/]", "[bold]answer[/]", "[bold]status[/]")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    colours = {"processed": "green", "dead": "red", "retrying": "yellow"}
    for row in rows:
        table.add_row(row.label, row.answer, row.steps, style=colours.get(row.status, ""))
    return table
