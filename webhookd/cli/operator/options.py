"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer

from webhookd.errors import SettingsError

C = TypeVar("C", bound=StrEnum)

Url = Annotated[str | None, typer.Option("--url", help="The admin API's address. [WEBHOOKD_API_URL]", show_default=False)]
EventType = Annotated[
    list[str] | None,
    typer.Option(
        "--event-type", help="A type, with or without `net.authorize.`, or a pattern like `payment.*`. May be repeated."
    ),
]
Account = Annotated[str | None, typer.Option(help="The account.")]
EntityId = Annotated[str | None, typer.Option("--entity-id", help="The provider's id of the transaction, subscription …")]
Invoice = Annotated[str | None, typer.Option("--invoice-number", help="The invoice number.")]
Reference = Annotated[str | None, typer.Option("--merchant-reference", help="The merchant's reference id.")]
Since = Annotated[str | None, typer.Option(help="Received since: an age (`90s`, `2h`, `3d`), or an ISO 8601 time (UTC).")]
Until = Annotated[str | None, typer.Option(help="Received until: an age or a time, like --since.")]
DiedSince = Annotated[str | None, typer.Option("--since", help="Died since: an age (`90s`, `2h`, `3d`), or a time (UTC).")]
DiedUntil = Annotated[str | None, typer.Option("--until", help="Died until: an age or a time, like --since.")]
Limit = Annotated[int, typer.Option(min=1, help="At most this many, the newest first.")]
BulkLimit = Annotated[int | None, typer.Option("--limit", min=1, help="At most this many, the oldest first. [all]")]
Rate = Annotated[float, typer.Option(min=0.1, max=10_000, help="At most this many events per second.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the events, by type and reason.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once; `webhookd operations show ID` shows the progress.")]
Note = Annotated[str, typer.Option(help="The reason, for the audit trail.")]
Body = Annotated[bool, typer.Option("--body", help="Show the body, too. It holds customer data.")]

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def one_of(choices: type[C], meaning: str) -> Any:
    """Returns an option that takes one of `choices`. The help lists whole names; typer's own list breaks names over lines."""

    def parse(text: str) -> C:
        try:
            return choices(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(choices)}") from None

    return typer.Option(parser=parse, metavar="NAME", help=f"{meaning}: {', '.join(choices)}.")


def statuses(given: list[str] | None, known: Sequence[str]) -> list[str] | None:
    """Returns the statuses of --status. Raises SettingsError that names `known` if one of them is not among these."""
    for status in given or ():
        if status not in known:
            raise SettingsError(f"--status: {status!r} is no status; give {', '.join(known[:-1])} or {known[-1]}")
    return given


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not an id of webhookd, such as 01890a5d-ac96-774b-bcce-b302099a8057; copy the whole id from a list"
        ) from None


def id_(meaning: str) -> Any:
    """Returns an argument that takes one or several ids."""
    return typer.Argument(parser=_id, metavar="ID", help=meaning, show_default=False)


def sample_id(meaning: str) -> Any:
    """Returns an option that takes one id."""
    return typer.Option(parser=_id, metavar="ID", help=meaning, show_default=False)


def moment(option: str, text: str | None) -> str | None:
    """Returns an age or a time as the API takes it: ISO 8601, UTC. Raises SettingsError that names `option`."""
    if text is None:
        return None
    try:
        if (length := _length(text)) is not None:
            at = datetime.now(UTC) - length
        else:
            at = datetime.fromisoformat(text.strip())
            at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"{option}: {text!r} is neither an age, such as 90s, 2h or 3d, nor a time, such as 2026-01-31T12:00"
        ) from error
    return iso(at)


def seconds(option: str, text: str) -> int:
    """Returns a length of time, such as `90s` or `2h`, in whole seconds. Raises SettingsError that names `option`."""
    try:
        length = _length(text)
    except OverflowError:
        length = None
    if length is None:
        raise SettingsError(f"{option}: {text!r} is not a length of time, such as 90s, 2h or 3d")
    return round(length.total_seconds())


def iso(at: datetime) -> str:
    """Returns a time in UTC as the API takes it."""
    return at.isoformat().replace("+00:00", "Z")


def _length(text: str) -> timedelta | None:
    match = _AGE.fullmatch(text.strip())
    return timedelta(**{_UNITS[match[2]]: float(match[1])}) if match else None
