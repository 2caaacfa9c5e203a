"""`webhookd timeline`: the state of a transaction, subscription, customer or payment profile, and its events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from webhookd.cli.operator import options
from webhookd.cli.operator.api import Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES
from webhookd.cli.operator.rows import event_table
from webhookd.cli.operator.screen import fields, instant, money, plain, say, short_type, table, tell_json
from webhookd.runtime.console import FOLDER, Folder
from webhookd.runtime.console import Json as AsJson

app = typer.Typer(
    name="timeline",
    no_args_is_help=True,
    help="Show the state of a transaction, subscription, customer or payment profile, and its events.\n\n"
    "The commands use the admin API of WEBHOOKD_API_URL and WEBHOOKD_API_TOKEN (or WEBHOOKD_API_TOKEN_FILE), else of this "
    "machine's daemon, else of the `webhookd dev` in this folder.\n\n"
    "For example: `webhookd timeline transaction 60022194830`, or "
    "`webhookd timeline customer 1811525852 --account north --json`.\n\n" + EXIT_CODES,
)

Id = Annotated[str, typer.Argument(help="The provider's id.")]
Account = Annotated[str, typer.Option(help="The account of the transaction, subscription or profile.")]


@app.command()
def transaction(
    transaction_id: Id,
    account: Account = "default",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show a transaction. For example: `webhookd timeline transaction 60022194830`."""
    _show("transactions", transaction_id, account, url, folder, as_json=as_json)


@app.command()
def subscription(
    subscription_id: Id,
    account: Account = "default",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show a subscription. For example: `webhookd timeline subscription 4415473`."""
    _show("subscriptions", subscription_id, account, url, folder, as_json=as_json)


@app.command()
def customer(
    customer_profile_id: Id,
    account: Account = "default",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show a customer profile. For example: `webhookd timeline customer 1811525852`."""
    _show("customers", customer_profile_id, account, url, folder, as_json=as_json)


@app.command("payment-profile")
def payment_profile(
    payment_profile_id: Id,
    account: Account = "default",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Show a payment profile. For example: `webhookd timeline payment-profile 1806085692`."""
    _show("payment-profiles", payment_profile_id, account, url, folder, as_json=as_json)


@app.command("missed-renewals")
def missed_renewals(
    account: Annotated[str, typer.Option(help="The account of the subscriptions.")] = "default",
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """List the renewals of subscriptions that were due and did not come. For example: `webhookd timeline missed-renewals`."""
    found = with_api(url, folder, lambda api: api.get("missed-renewals", account=account))
    if as_json:
        tell_json(found)
    elif not found["renewals"]:
        say("no renewal is missing")
    else:
        table(
            ("SUBSCRIPTION", "EXPECTED ON", "AMOUNT", "STATUS"),
            ([one["subscription_id"], one["expected_on"], money(one["amount"]), one["status"]] for one in found["renewals"]),
        )


def _show(place: str, entity_id: str, account: str, url: str | None, folder: Path, *, as_json: bool) -> None:
    found = with_api(url, folder, lambda api: api.get(place, quote(entity_id, safe=""), account=account))
    if as_json:
        tell_json(found)
        return
    fields({name: _shown(name, value) for name, value in found.items() if name not in ("events", "related", "settlement")})
    if found.get("settlement"):
        _show_settlement(found["settlement"])
    for other in found["related"]:
        fields({"see also": f"{plain(other['entity_name'])} {plain(other['entity_id'])}"})
    if found["events"]:
        event_table(found["events"])


def _show_settlement(found: Json) -> None:
    """Prints what no webhook reports: the settlement of a transaction, or the payments of a subscription."""
    refunds = found.get("refunds") or {}
    plural = {name: value for name, value in found.items() if isinstance(value, list | dict)}
    fields({f"settlement: {name}": _shown(name, value) for name, value in found.items() if name not in plural})
    fields({f"refunds: {name}": _shown(name, value) for name, value in refunds.items() if name != "transactions"})
    for one in found.get("returned", []):
        fields({"returned": f"{plain(one['code'])} {instant(one['returned_at'])}"})
    for one in refunds.get("transactions", []):
        fields({"refund": f"{plain(one['transaction_id'])} {plain(one['state'])} {money(one['amount'])}"})
    for one in found.get("payments", []):
        words = (f"payment {plain(one['payment_number'])}", one["state"], one["transaction_id"], one["last_failure"])
        fields({"renewal": ", ".join(plain(word) for word in words if word)})
    for one in found.get("missed", []):
        came = f", came {instant(one['came_at'])}" if one["came_at"] else ""
        fields({"missed renewal": f"{plain(one['expected_on'])}{came}"})


def _shown(name: str, value: object) -> object:
    if value is None:
        return None
    if name == "amount" or name.endswith("_amount"):
        return money(value)
    if name.endswith("_type") and name != "customer_type":
        return short_type(value)
    if name == "fraud_filters" and isinstance(value, list):
        return ", ".join(_filter(one) for one in value) or None
    return ", ".join(map(plain, value)) if isinstance(value, list) else value


def _filter(one: Json) -> str:
    return f"{plain(one['fraudFilter'])}: {plain(one['fraudAction'])}"
