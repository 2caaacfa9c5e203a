"""The tables of the filters by which an operator chooses events. A field is a filter of the API, the command line and SQL.

A filter's name is the API's parameter, the key in an operation's stored selection, and the attribute in SQL (`:wanted.name`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from webhookd.authorizenet.notification import whole_pattern


@dataclass(slots=True, frozen=True)
class About:
    """Texts about a filter, for the API and the command line, and the index that the filter has.

    text: the meaning.
    help: the meaning in the command line's help, if the words of `text` do not fit there.
    option: the command line's option, if its name is not the filter's name.
    index: the index by which PostgreSQL finds the events of the filter. Without an index, a search looks at all events.
    """

    text: str
    help: str | None = None
    option: str | None = None
    index: str | None = None


Table = TypeVar("Table", bound="Filter | DeadEventFilter | QuarantineFilter")
Words = tuple[str, ...] | None
EventType = Annotated[
    Words,
    About(
        "`*` stands for any text; `net.authorize.` may be left out.",
        help="A type, with or without `net.authorize.`, or a pattern like `payment.*`.",
    ),
]
Account = Annotated[str | None, About("The account.")]
ReceivedFrom = Annotated[
    datetime | None,
    About(
        "Received at this time or after it.",
        help="Received since: an age (`90s`, `2h`, `3d`), or an ISO 8601 time (UTC).",
        option="since",
    ),
]
ReceivedTo = Annotated[
    datetime | None,
    About("Received before this time.", help="Received until: an age or a time, like --since.", option="until"),
]


@dataclass(slots=True, frozen=True)
class Filter:
    """The filters of events; None stands for any. An index, if the filter has one, is an index of the ledger."""

    status: Annotated[Words, About("received, queued, retrying, processed or dead.")] = None
    event_type: EventType = None
    account: Account = None
    origin: Annotated[
        str | None,
        About(
            "webhook, history (taken from the provider's history), synthetic (made by webhookd), or import (imported without a "
            "signature)."
        ),
    ] = None
    entity_id: Annotated[str | None, About("The provider's id of the transaction, subscription …", index="ledger_entity")] = (
        None
    )
    invoice_number: Annotated[str | None, About("The invoice number.", index="ledger_invoice")] = None
    merchant_reference: Annotated[str | None, About("The merchant's reference id.", index="ledger_reference")] = None
    received_from: ReceivedFrom = None
    received_to: ReceivedTo = None

    @property
    def by_index(self) -> bool:
        """Returns whether an index finds the chosen events."""
        return any(getattr(self, one.name) is not None for one in filters_of(Filter) if one.about.index)

    @property
    def event_type_patterns(self) -> list[str] | None:
        """Returns the event types as patterns for LIKE."""
        return patterns(self.event_type)


@dataclass(slots=True, frozen=True)
class DeadEventFilter:
    """The filters of dead events; None stands for any."""

    event_type: EventType = None
    account: Account = None
    reason: Annotated[str | None, About("Part of the reason or of the last error.")] = None
    died_from: Annotated[
        datetime | None,
        About(
            "Died at this time or after it.", help="Died since: an age (`90s`, `2h`, `3d`), or a time (UTC).", option="since"
        ),
    ] = None
    died_to: Annotated[
        datetime | None,
        About("Died at this time or before it.", help="Died until: an age or a time, like --since.", option="until"),
    ] = None

    @property
    def event_type_patterns(self) -> list[str] | None:
        """Returns the event types as patterns for LIKE."""
        return patterns(self.event_type)


@dataclass(slots=True, frozen=True)
class QuarantineFilter:
    """The filters of bodies in quarantine that events have, too; None stands for any."""

    account: Account = None
    received_from: ReceivedFrom = None
    received_to: ReceivedTo = None


@dataclass(slots=True, frozen=True)
class FilterField:
    """A line of a table. `kind` is str, datetime or tuple: one text, a time, or several texts of which one must match."""

    name: str
    kind: type
    about: About


def filters_of(table: type) -> tuple[FilterField, ...]:
    """Returns the lines of a table of filters."""
    return _LINES[table]


def _lines(table: type) -> tuple[FilterField, ...]:
    found = []
    for name, hint in get_type_hints(table, include_extras=True).items():
        kind, about = get_args(hint)
        value = get_args(kind)[0]
        found.append(FilterField(name, value if isinstance(value, type) else tuple, about))
    return tuple(found)


_LINES: dict[type, tuple[FilterField, ...]] = {table: _lines(table) for table in (Filter, DeadEventFilter, QuarantineFilter)}


def choose(table: type[Table], given: Mapping[str, Any]) -> Table:
    """Returns the filter of a query, or of an operation's stored selection, which has times as text and tuples as lists.

    Raises ValueError for a name that is no filter. A later release may have stored the name. Without that filter, the
    operation would choose more events than its operator saw.
    """
    known = {one.name: one for one in filters_of(table)}
    if unknown := given.keys() - known.keys():
        raise ValueError(f"{', '.join(sorted(unknown))}: this release has no such filter")
    return table(**{name: _value(known[name].kind, value) for name, value in given.items()})


def _value(kind: type, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return datetime.fromisoformat(value) if kind is datetime and isinstance(value, str) else value


def patterns(event_types: tuple[str, ...] | None) -> list[str] | None:
    """Returns event types as patterns for LIKE: `*` stands for any text, and `net.authorize.` may be left out."""
    return None if event_types is None else [_pattern(name) for name in event_types]


def _pattern(name: str) -> str:
    return whole_pattern(name).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
