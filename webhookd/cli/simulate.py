"""The command `simulate`: Authorize.Net on this machine, for trying and testing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from webhookd.errors import SettingsError
from webhookd.runtime.console import FOLDER, Folder, Json, out, run

if TYPE_CHECKING:
    from pathlib import Path

    from webhookd.simulate import Account, Notification, Simulator


def simulate(
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="Register this address as a webhook, and send it events.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The API's port on 127.0.0.1; 0 for a free one.")] = 8099,
    seed: Annotated[int, typer.Option(min=0, help="Makes the keys, the ids and the faults.")] = 0,
    speed: Annotated[
        float, typer.Option(min=0, max=100_000, help="The clock runs this many times as fast as the machine's.")
    ] = 1.0,
    ago: Annotated[float, typer.Option(min=0, max=3650, help="The clock begins this many days ago.")] = 0.0,
    every: Annotated[float, typer.Option(min=0.001, help="Seconds between two events, by the simulator's clock.")] = 5.0,
    count: Annotated[int | None, typer.Option(min=0, help="Number of events. [no end]")] = None,
    faults: Annotated[
        list[str] | None, typer.Option("--fault", metavar="NAME=VALUE", help="Switch on a fault, such as drop=0.1. Repeatable.")
    ] = None,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="List the faults, and exit.")] = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Simulate Authorize.Net on this machine: its API, its webhooks, and its faults.

    The simulator signs and sends webhooks, and retries them on the provider's schedule: 3 times after 3 minutes, 3 times after
    8 hours, 4 times after 48 hours. Then it makes the webhook inactive. `--speed 3600` lets an hour pass in a second.

    At the printed address, it answers the REST API of webhooks and their history, and the JSON API of reports. Give the address
    to a program under test, with the printed API Login ID and Transaction Key: they open nothing else. No money moves.

    Webhooks are signed with the key of the settings, else of the `webhookd dev` that ran in this folder, else with a key that
    follows from the seed, and is printed.

    With curl, you can put the clock forward (`POST /_sim/clock` with `{"advance": 3600}`), make an event
    (`POST /_sim/notifications`, with `{"withheld": true}` for one that nobody gets), and list notifications and calls
    (`GET /_sim/notifications`, `GET /_sim/calls`).

    Ctrl-C stops it. It keeps nothing.

    For example, beside `webhookd dev`:
    `webhookd simulate --to http://127.0.0.1:8080/webhooks/authorize-net --fault double=0.2`.
    """
    from webhookd.simulate import Clock, Faults, Simulator
    from webhookd.simulate.session import run as session

    if list_faults:
        _list_faults(as_json=as_json)
        return
    if to is not None and not to.startswith(("http://", "https://")):
        raise SettingsError("--to: give the full URL, for example http://127.0.0.1:8080/webhooks/authorize-net")
    own_key = _key(folder, to)
    clock = Clock(datetime.now(UTC) - timedelta(days=ago), speed)
    simulator = Simulator(
        seed, faults=Faults.parse(faults or ()), clock=clock, port=port, told=_tell_json if as_json else _tell
    )
    simulator.account(signature_key=own_key, only_to=to if own_key else None)
    run(session(simulator, to, every, count, began=lambda: _introduce(simulator, own=own_key is None, as_json=as_json)))


def _key(folder: Path, to: str | None) -> str | None:
    """Returns the Signature Key of the settings or of the session in `folder`; None if neither has one."""
    from webhookd.dev import known
    from webhookd.settings import sources

    if to is None or not sources.given(("signature_keys", "accounts"), sources.layers(folder)):
        return None
    return known.target(folder, account="default", url=to).key


def _introduce(simulator: Simulator, *, own: bool, as_json: bool) -> None:
    account = simulator.account()
    facts = {
        "WEBHOOKD_PROVIDER": simulator.url,
        "WEBHOOKD_API_LOGIN_ID": account.login_id,
        "WEBHOOKD_TRANSACTION_KEY": account.transaction_key,
    }
    if own:  # a key of the user's settings is not shown
        facts["WEBHOOKD_SIGNATURE_KEYS"] = account.signature_key
    if as_json:
        print(json.dumps(facts), flush=True)  # noqa: T201
        return
    out.print(f"Authorize.Net, simulated, with seed {simulator.seed}. Ctrl-C stops it.", highlight=False)
    for name, value in facts.items():
        out.print(f"  {name}={value}", highlight=False, markup=False, soft_wrap=True)
    if not own:
        out.print("  Webhooks are signed with the Signature Key of your settings.", highlight=False)


def _tell(_: Account, notification: Notification, status: int) -> None:
    at, number = notification.attempts[-1][0], len(notification.attempts)
    answer = "no answer" if status == 0 else str(status)
    again = "" if number == 1 else f"  (attempt {number})"
    line = f"{at:%Y-%m-%d %H:%M:%S}  {answer:>9}  {notification.event_type}  {notification.id}{again}"
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _tell_json(account: Account, notification: Notification, status: int) -> None:
    fields = {
        "at": notification.attempts[-1][0].isoformat(),
        "account": account.name,
        "notificationId": notification.id,
        "eventType": notification.event_type,
        "attempt": len(notification.attempts),
        "status": status,
    }
    print(json.dumps(fields), flush=True)  # noqa: T201


def _list_faults(*, as_json: bool) -> None:
    import dataclasses

    from webhookd.simulate import Faults

    rows = [(one.name, one.default, one.metadata["meaning"]) for one in dataclasses.fields(Faults)]
    if as_json:
        print(json.dumps([dict(zip(("name", "default", "meaning"), row, strict=True)) for row in rows]))  # noqa: T201
        return
    for name, default, meaning in rows:
        out.print(f"{name:<16} {str(default).lower():<6} {meaning}", highlight=False, markup=False, soft_wrap=True)
