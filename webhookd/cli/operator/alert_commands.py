"""`webhookd alerts`: the conditions that fire, and a test of the channels."""

from __future__ import annotations

from typing import Annotated

import typer

from webhookd.cli.operator import options
from webhookd.cli.operator.api import Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES
from webhookd.cli.operator.screen import fields, instant, number_of, plain, say, tell_json
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

app = typer.Typer(
    name="alerts",
    no_args_is_help=True,
    help="Look at the alerts that webhookd sends itself, and test their channels.\n\n"
    "The settings WEBHOOKD_ALERTS__<NAME>__URL and others make the channels; the guide's page `alerts` has the conditions. "
    "`webhookd health --strict` fails on the same conditions.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n" + EXIT_CODES,
)


@app.command("list")
def list_(url: options.Url = None, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """List the conditions that fire, and the channels.

    For example: `webhookd alerts list --json | jq .firing`.
    """
    found = with_api(url, folder, lambda api: api.get("alerts"))
    if as_json:
        tell_json(found)
        return
    tell_alerts(found)
    for channel in found["channels"]:
        waiting = f", {number_of(channel['waiting'], 'message')} waiting" if channel["waiting"] else ""
        say(f"channel {plain(channel['name'])}: {plain(channel['format'])}{waiting}")
    if not found["channels"]:
        say("no channel is set: set WEBHOOKD_ALERTS__<NAME>__URL")


def tell_alerts(found: Json) -> None:
    """Prints the conditions that fire, or that none does."""
    for one in found["firing"]:
        say(f"{instant(one['since'])}  {plain(one['severity'])}: {plain(one['summary'])}")
        fields({"  condition": one["condition"], "  detail": one["detail"], "  what to do": one["guide"]})
    if not found["believable"]:
        say("no replica has evaluated the conditions for two minutes: more may be wrong")
    elif not found["firing"]:
        say("no condition fires")


@app.command("test")
def send_test(
    channel: Annotated[str | None, typer.Option(help="The name of one channel. [all]", show_default=False)] = None,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Send a test message through every channel, from the daemon, with its settings and its network.

    The exit code is 1 if a channel does not take the message. For example: `webhookd alerts test --channel ops`.
    """
    body = {} if channel is None else {"channel": channel}
    found = with_api(url, folder, lambda api: api.post("alerts", "test", body=body))
    if as_json:
        tell_json(found)
    else:
        for one in found["channels"]:
            say(f"{plain(one['channel'])}: " + ("sent" if one["sent"] else f"not sent: {plain(one['problem'])}"))
    raise typer.Exit(0 if all(one["sent"] for one in found["channels"]) else 1)
