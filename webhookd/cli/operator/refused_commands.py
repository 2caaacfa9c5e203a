"""`webhookd refused`: samples of webhooks that were refused."""

from __future__ import annotations

from typing import Annotated

import typer

from webhookd.cli.operator import options
from webhookd.cli.operator.api import Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES
from webhookd.cli.operator.rows import collect, tell_list, tell_more
from webhookd.cli.operator.screen import fields, instant, plain, say
from webhookd.receive.refusal import Rejection
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

app = typer.Typer(
    name="refused",
    no_args_is_help=True,
    help="Look at webhooks that were refused: what came, and what is likely wrong.\n\n"
    "webhookd keeps a few samples for each account and reason, for two weeks (WEBHOOKD_REFUSED_SAMPLES). A sample has the "
    "path, the peer, the shape of the signature header and the body's first bytes. None of that is authentic. A "
    "sample is written within a second or two.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n"
    "For example: `webhookd refused list --reason signature_mismatch`.\n\n" + EXIT_CODES,
)


@app.callback()
def _group() -> None:
    """Keeps the group: Typer makes a plain command of an app that has a single command."""


@app.command("list")
def list_(
    account: Annotated[str | None, typer.Option(help="The account; `unknown` for paths that name no account.")] = None,
    reason: Annotated[Rejection | None, options.one_of(Rejection, "The reason of the refusal")] = None,
    finding: Annotated[
        str | None, typer.Option(help="What is likely wrong, by its name in --json, for example body_changed.")
    ] = None,
    limit: options.Limit = 20,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """List samples of refused webhooks, the newest first, each with what is likely wrong.

    For example: `webhookd refused list --account eu`.
    """
    query = {"account": account, "reason": reason, "finding": finding}
    rows, more = with_api(url, folder, lambda api: collect(api, "refused", key="samples", limit=limit, **query))
    if tell_list(rows, key="samples", more=more, as_json=as_json, none="there is no sample of a refused webhook"):
        for row in rows:
            tell(row)
        if more:
            tell_more(limit)


def tell(row: Json) -> None:
    """Prints a sample."""
    size = "of unknown length" if row["size"] is None else f"{plain(row['size'])} bytes"
    said = f" (X-Forwarded-For says {plain(row['forwarded_for'])})" if row["forwarded_for"] else ""
    kind = f", {plain(row['content_type'])}" if row["content_type"] else ""
    say(f"{instant(row['refused_at'])}  {plain(row['status'])} {plain(row['reason'])}, account {plain(row['account'])}")
    fields(
        {
            "  id": row["id"],
            "  path": row["path"],
            "  peer": plain(row["peer"]) + said,
            "  signature header": row["header"],
            "  body": f"{size}{kind}: {plain(row['first_bytes'])}",
            "  likely": row["likely"],
        }
    )
