"""`webhookd events`: find events, look at one, run one or many again, follow new ones."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text

from webhookd.cli.operator import bulk, options, tail
from webhookd.cli.operator.api import Api, Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES, ApiError, Exit
from webhookd.cli.operator.rows import collect, event_table, tell_event, tell_list, tell_more
from webhookd.cli.operator.screen import instant, plain, say, short_type, tell_json
from webhookd.errors import SettingsError
from webhookd.event import Status as EventStatus
from webhookd.operate.filter import Filter
from webhookd.runtime.console import FOLDER, Folder, err, out
from webhookd.runtime.console import Json as AsJson

app = typer.Typer(
    name="events",
    no_args_is_help=True,
    help="Find events, show an event, run events again, and follow new events.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n"
    "For example: `webhookd events list --status dead --since 2h`, or `webhookd events tail --event-type 'payment.*'`.\n\n"
    + EXIT_CODES,
)

Search = Annotated[
    str | None,
    typer.Argument(
        help="The exact id, notification id, entity id, invoice number or merchant reference of an event.", show_default=False
    ),
]


@app.command("list")
@options.filtered(Filter)
def list_(
    search: Search = None,
    *,
    chosen: Json,
    limit: options.Limit = 50,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """List events, the newest first.

    For example: `webhookd events list 60012345678`, or
    `webhookd events list --event-type 'payment.refund.*' --status retrying --since 1d --json`.
    """
    options.statuses(chosen.get("status"), tuple(EventStatus))
    rows, more = with_api(url, folder, lambda api: collect(api, "events", key="events", limit=limit, q=search, **chosen))
    if tell_list(rows, key="events", more=more, as_json=as_json, none="no event matches"):
        event_table(rows)
        if more:
            tell_more(limit)


@app.command()
def show(
    event_id: Annotated[UUID, options.id_("webhookd's id of the event, not the provider's.")],
    body: options.Body = False,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show an event: its status, its failed attempts, its audit trail, and the events of the same entity.

    Errors may quote what a handler saw. For example: `webhookd events show 01890a5d-ac96-774b-bcce-b302099a8057 --body`.
    """
    tell_event(with_api(url, folder, lambda api: api.get("events", str(event_id))), body=body, as_json=as_json)


@app.command()
def retry(
    ids: Annotated[list[UUID], options.id_("Ids of events.")],
    force: Annotated[bool, typer.Option("--force", help="Run processed events again, too.")] = False,
    note: options.Note = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Try events now. A dead event starts anew with all its attempts; a waiting event is tried at once.

    A processed event is refused without `--force`. With `--force`, the handlers run again, and their effects happen again.
    For example: `webhookd events retry 01890a5d-ac96-774b-bcce-b302099a8057 --note 'the shop is back'`.
    """
    retried: list[Json] = []
    failed: list[tuple[str, ApiError]] = []

    async def work(api: Api) -> None:
        for event_id in map(str, ids):
            try:
                answer = await api.post("events", event_id, "retry", body={"reason": note} if note else {}, force=force)
            except ApiError as error:
                if error.exit_code in (Exit.UNAVAILABLE, Exit.NOT_ALLOWED):  # the next event would fail in the same way
                    raise
                failed.append((event_id, error))
            else:
                retried.append(answer["event"])
                if not as_json:
                    say(f"{event_id}: will be tried")

    with_api(url, folder, work)
    tell_failures("retried", retried, failed, as_json=as_json)


def tell_failures(done: str, results: list[Json], failed: list[tuple[str, ApiError]], *, as_json: bool) -> None:
    """Ends a command that took several ids. Raises ApiError if any id failed; an id that failed alone keeps its exit code."""
    if as_json:
        tell_json({done: results, "failed": [{"id": id_, "problem": str(error)} for id_, error in failed]})
    if not failed:
        return
    if len(failed) == 1 and not results:
        raise failed[0][1]
    for id_, error in failed:
        err.print(f"{id_}: {error}", markup=False, highlight=False, soft_wrap=True)
    raise ApiError(f"{len(failed)} of {len(results) + len(failed)} could not be {done}", Exit.FAILED)


@app.command()
@options.filtered(Filter, without=("status",))
def replay(
    status: Annotated[list[str] | None, typer.Option("--status", help="dead or processed. May be repeated.")] = None,
    *,
    chosen: Json,
    force: Annotated[bool, typer.Option("--force", help="Allow processed events among the chosen events.")] = False,
    imported: Annotated[
        bool,
        typer.Option("--imported", help="Also choose history that `webhookd import` took: no handler ran for these events."),
    ] = False,
    limit: options.BulkLimit = None,
    rate: options.Rate = 20.0,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    detach: options.Detach = False,
    note: Annotated[str, typer.Option(help="The reason, for the audit trail; required without --dry-run.")] = "",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Run again all finished events that the filters choose, as an operation of the daemon.

    The command counts first and asks. Fresh events go first. Ctrl-C leaves the operation to the daemon; `webhookd operations`
    shows and cancels it. Processed events need `--force`: the effects of their handlers happen again.

    For example: `webhookd events replay --status processed --force --event-type 'payment.*' --since 2h --note 'wrong tax'`.
    """
    options.statuses(status, [one for one in EventStatus if one.finished])
    if not chosen:
        raise SettingsError(
            "choose the events by a filter besides --status, for example --since 2h; --since 2000-01-01 chooses all events"
        )
    if not note and not dry_run:
        raise SettingsError("--note: give the reason, for the audit trail, or give --dry-run")
    chosen |= {"status": status} if status else {}
    chosen |= {"imported": True} if imported else {}
    body: Json = {"filter": chosen, "reason": note or "dry run", "force": force, "rate": rate, "limit": limit}
    flags = {"dry_run": dry_run, "yes": yes, "detach": detach, "as_json": as_json}
    bulk.act(url, folder, "events", "replay", body, until="received_to", **flags)


@app.command("tail")
@options.filtered(Filter, without=("received_from", "received_to"))
def tail_(
    search: Search = None,
    *,
    chosen: Json,
    last: Annotated[int, typer.Option("--last", "-n", min=0, max=200, help="Begin with this many of the newest events.")] = 10,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show new events as they arrive, until Ctrl-C. Each event is shown once, with its first status that the command sees.

    With `--json`, each line is an object. For example: `webhookd events tail --event-type 'payment.*'`, or
    `webhookd events tail --json -n 0 | jq -r .entity_id`.
    """
    options.statuses(chosen.get("status"), tuple(EventStatus))

    async def work(api: Api) -> None:
        async for event in tail.follow(api, last, q=search, **chosen):
            tell_json(event) if as_json else _tell_line(event)

    with_api(url, folder, work)


def _tell_line(event: Json) -> None:
    error = f"  {plain(event['error'])}" if event["error"] else ""
    line = f"{instant(event['received_at'])}  {plain(event['status']):<9}  {short_type(event['event_type'])}"
    rest = "  ".join(plain(event[name]) for name in ("account", "entity_id", "id") if event[name])
    out.print(Text(f"{line}  {rest}{error}"), soft_wrap=True)
