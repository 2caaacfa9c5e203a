"""Events on the terminal: the lines of a list, and all details of one event."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

from webhookd.cli.operator.api import Api, Json
from webhookd.cli.operator.screen import fields, instant, plain, say, short_type, table, tell_json
from webhookd.runtime.console import err

_LISTS = ("body", "aliases", "audit", "failed_attempts", "related", "retry", "consumers")


async def collect(api: Api, *path: str, key: str, limit: int, **query: Any) -> tuple[list[Json], bool]:
    """Returns up to `limit` rows, and whether there may be more. A long search shows its progress on standard error."""
    rows: list[Json] = []
    more = False
    async with AsyncExitStack() as stack:
        status = stack.enter_context(err.status("searching")) if err.is_terminal else None

        def told(page: Json) -> None:
            if status is not None and page.get("searched_to"):
                status.update(f"searched back to {instant(page['searched_to'])}")

        async for found, further in api.pages(*path, key=key, limit=limit, told=told, **query):
            rows += found
            more = further
    return rows, more


def tell_list(rows: list[Json], *, key: str, more: bool, as_json: bool, none: str) -> bool:
    """Prints the JSON of a list, or `none` if it is empty. Returns whether rows are left for a table, and then `tell_more`."""
    if as_json:
        tell_json({key: rows, "more": more})
    elif not rows:
        say(none)
    return bool(rows) and not as_json


def tell_more(limit: int) -> None:
    """Prints a hint after a list that was cut."""
    say(f"There may be more than {limit}: raise --limit, or narrow the filters.")


def event_table(rows: Iterable[Json]) -> None:
    """Prints events with the time of their receipt."""
    lines = (
        (row["id"], short_type(row["event_type"]), row["status"], instant(row["received_at"]), row["entity_id"], row["error"])
        for row in rows
    )
    table(("event", "type", "status", "received", "entity", "error"), lines, whole=True)


def dead_table(rows: Iterable[Json]) -> None:
    """Prints dead events with the time of their death."""
    lines = (
        (row["id"], short_type(row["event_type"]), row["account"], row["attempts"], instant(row["finished_at"]), row["error"])
        for row in rows
    )
    table(("event", "type", "account", "attempts", "died", "reason"), lines, whole=True)


def tell_event(event: Json, *, body: bool, as_json: bool) -> None:
    """Prints all details of an event. The body, which is customer data, is printed only if `body` asks for it."""
    if as_json:
        tell_json(event if body else {name: value for name, value in event.items() if name != "body"})
        return
    shown = {name: value for name, value in event.items() if name not in _LISTS}
    if event["last_error"]:
        del shown["error"]  # `error` is the beginning of `last_error`
    fields(shown)
    fields({"retry": event["retry"]["reason"]})
    for alias in event["aliases"]:
        fields({"also received": f"{instant(alias['received_at'])} as {plain(alias['notification_id'])}"})
    if body:
        tell_body(event["body"])
    _attempt_table(event["failed_attempts"])
    _consumer_table(event.get("consumers", []))
    _audit_table(event["audit"])
    if event["related"]:
        say("of the same entity:")
        event_table(event["related"])


def _attempt_table(failed: list[Json]) -> None:
    """Prints the failed attempts, those of each consumer together. Names the consumers only if one is not the handlers."""
    names: tuple[str, ...] = ("consumer", "at", "attempt", "outcome", "error")
    failed = [{"consumer": "handlers", **attempt} for attempt in failed]  # the API of 0.3.0 names no consumer
    failed.sort(key=lambda attempt: (attempt["consumer"] != "handlers", attempt["consumer"], attempt["at"]))
    if all(attempt["consumer"] == "handlers" for attempt in failed):
        names = names[1:]
    if failed:
        table(tuple("failed at" if name == "at" else name for name in names), _cells(failed, names))


def _consumer_table(consumers: list[Json]) -> None:
    """Prints the state of the event for each consumer, if a destination gets the event."""
    if any(one["name"] != "handlers" for one in consumers):
        names = ("name", "status", "attempts", "due", "last_error")
        rows = ([instant(one[name]) if name == "due" and one[name] else one[name] for name in names] for one in consumers)
        table(("consumer", "status", "attempts", "due", "error"), rows)


def _audit_table(changes: list[Json]) -> None:
    """Prints the audit trail. Has a column for consumers only if some row names another consumer than the handlers."""
    names = {"at": "at", "from_status": "from", "to_status": "to", "consumer": "consumer", "actor": "by", "attempt": "attempt"}
    if all(change["consumer"] in {None, "handlers"} for change in changes):
        del names["consumer"]
    table((*names.values(), "reason"), _cells(changes, (*names, "reason")))


def tell_body(body: Json | None) -> None:
    """Prints a body of the form {"encoding","text"}; bytes that are no text stay base64."""
    if body is None:
        say("body: no longer kept")
    elif body["encoding"] == "utf-8":
        fields({"body": body["text"]})
    else:
        fields({f"body ({plain(body['encoding'])})": body["text"]})
    if body is not None and body.get("mended"):
        fields({"mended": "; ".join(body["mended"])})


def _cells(rows: Iterable[Json], names: tuple[str, ...]) -> Iterable[list[object]]:
    return ([instant(row[name]) if name == "at" else row[name] for name in names] for row in rows)
