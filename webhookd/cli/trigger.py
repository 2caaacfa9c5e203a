"""The command `trigger`: signs notifications, and sends them to a receiver."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from webhookd.errors import SettingsError
from webhookd.runtime.console import FOLDER, Folder, Json, bytes_of, err, readable, run

if TYPE_CHECKING:
    from webhookd.authorizenet.sampling import Sample
    from webhookd.dev.known import Receiver


def trigger(
    event_type: Annotated[
        str | None, typer.Argument(help="An event type, with or without `net.authorize.`; `payment.*`; or `all`. [all]")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="Number of requests, or of runs of a scenario. [one of each type; one run]"),
    ] = None,
    scenario: Annotated[
        str | None, typer.Option(help="Send the events of a story in their order: `sale`, `held` or `subscription`.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set a field of the notification, as PATH=VALUE, for example payload.authAmount=7.10."),
    ] = None,
    body: Annotated[Path | None, readable("Send the exact bytes of this file instead of a sample.")] = None,
    show: Annotated[
        bool, typer.Option("--print", help="Print each request as a command of curl, signed, and send nothing.")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests per second. [as fast as possible]")] = None,
    duplicates: Annotated[
        float, typer.Option(min=0, max=100, help="Percentage of the requests that repeat an earlier request, byte for byte.")
    ] = 0.0,
    out_of_order: Annotated[
        bool,
        typer.Option("--out-of-order", help="Shuffle: send the events in a random order, not in the order of their dates."),
    ] = False,
    url: Annotated[str | None, typer.Option(help="The webhook's full URL. [from WEBHOOKD_LISTEN]")] = None,
    account: Annotated[str, typer.Option(help="The account whose path and key are used.")] = "default",
    connections: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Number of connections; 1 keeps the exact order. [16; 1 for a scenario]")
    ] = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Sign sample notifications and send them to a receiver, as Authorize.Net does.

    The key and the address come from the settings, else from the `webhookd dev` that ran in this folder.

    Requests leave in order, but with several connections, requests in flight may overtake each other. A duplicate is
    sent only after the original was answered, since the provider sends a webhook again only if it has no 200.

    Scenarios: `sale` authorizes, captures and refunds; `held` is held by the fraud filters and then approved; `subscription`
    begins, fails, and is active again. A value of `--set` is JSON (`7.10`, `true`, `{"a": 1}`), or else text. Fields that
    Authorize.Net sends as text, such as invoiceNumber, stay text.

    The exit code is 1 if any request was not answered 200.

    For example: `webhookd trigger payment.refund.created --set payload.invoiceNumber=4711`, or
    `webhookd trigger --scenario sale --print`, or
    `webhookd trigger 'customer.*' --count 1000 --rate 100 --duplicates 20 --out-of-order`.
    """
    from webhookd.dev import known

    if sum(one is not None for one in (event_type, scenario, body)) > 1:
        raise SettingsError("an event type, --scenario and --body: give one of them")
    if body is not None and changes:
        raise SettingsError("--set changes a sample, and --body sends a file as it is: give one of them")
    if url is not None and not url.startswith(("http://", "https://")):
        raise SettingsError("--url: give the full URL, for example http://127.0.0.1:8080/webhooks/authorize-net")
    samples = _samples(event_type, scenario, body, count, duplicates=duplicates / 100, out_of_order=out_of_order)
    if changes:
        samples = list(_changed(samples, changes))
    target = known.target(folder, account=account, url=url)
    if show:
        for sample in samples:
            print(_as_curl(sample, target, body))  # noqa: T201
        return
    connections = connections or (16 if scenario is None else 1)
    _send(samples, target, rate=rate, connections=connections, as_json=as_json)


def _samples(
    event_type: str | None, scenario: str | None, body: Path | None, count: int | None, *, duplicates: float, out_of_order: bool
) -> list[Sample]:
    from webhookd.authorizenet import sampling

    if body is not None:
        return [sampling.sample_of(bytes_of(body))] * (count or 1)
    if scenario is None:
        types = sampling.matching_types(event_type or "all")
        number = count or len(types)
    else:
        if scenario not in sampling.SCENARIOS:
            raise SettingsError(f"--scenario: there is no {scenario!r}; the scenarios are {', '.join(sampling.SCENARIOS)}")
        types = list(sampling.SCENARIOS[scenario])
        number = (count or 1) * len(types)
    return sampling.stream(types, number, duplicates=duplicates, out_of_order=out_of_order, first=sampling.fresh_number())


def _changed(samples: Iterable[Sample], changes: Iterable[str]) -> Iterator[Sample]:
    from webhookd.authorizenet import sampling

    fields: dict[str, str] = {}
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not all(path.split(".")):
            raise SettingsError(f"--set {change}: write it as PATH=VALUE, for example payload.authAmount=7.10")
        fields[path] = value
    made: dict[bytes, Sample] = {}  # so that a duplicate has the bytes of its original
    for sample in samples:
        if sample.body not in made:
            made[sample.body] = sampling.with_fields(sample, fields)
        yield made[sample.body]


def _as_curl(sample: Sample, target: Receiver, file: Path | None) -> str:
    from webhookd.authorizenet.signature import sign

    data = f"@{file}" if file is not None else sample.body.decode()
    words = ["curl", "--silent", "--show-error", target.url, "--header", "Content-Type: application/json"]
    return shlex.join([*words, "--header", f"X-ANET-Signature: {sign(sample.body, target.key)}", "--data-binary", data])


def _send(samples: list[Sample], target: Receiver, *, rate: float | None, connections: int, as_json: bool) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from webhookd.dev import report, traffic

    columns: tuple[Any, ...] = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as progress:
        task = progress.add_task("sending", total=len(samples))
        sent = traffic.send(
            samples, target.url, target.key, rate=rate, connections=connections, answered=lambda _: progress.advance(task)
        )
        summary = run(sent)
    if as_json:
        print(json.dumps(summary.as_dict()))  # noqa: T201
    else:
        report.print_summary(summary, target.url)
    report.print_refusals(summary)
    if summary.failed:
        raise typer.Exit(1)
