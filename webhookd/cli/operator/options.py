"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer

from webhookd.errors import SettingsError
from webhookd.operate.filter import FilterField, filters_of

C = TypeVar("C", bound=StrEnum)

Url = Annotated[str | None, typer.Option("--url", help="The admin API's address. [WEBHOOKD_API_URL]", show_default=False)]
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


def filtered(table: type, *, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each filter of a table, in place of its parameter `chosen`.

    The command gets the given filters as the API takes them: their names, and times in ISO 8601.
    """
    filters = [one for one in filters_of(table) if one.name not in without]

    def add(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += map(_parameter, filters) if parameter.name == "chosen" else [parameter]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            chosen = {one.name: _read(one, given.pop(one.name)) for one in filters}
            command(**given, chosen={name: value for name, value in chosen.items() if value not in (None, [])})

        # typer makes the options from these two.
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return add


def _parameter(one: FilterField) -> inspect.Parameter:
    kind, repeats = (list[str], " May be repeated.") if one.kind is tuple else (str, "")
    option = typer.Option(_option(one), help=(one.about.help or one.about.text) + repeats)
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(one: FilterField) -> str:
    return f"--{one.about.option or one.name.replace('_', '-')}"


def _read(one: FilterField, given: Any) -> Any:
    return moment(_option(one), given) if one.kind is datetime else given


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
