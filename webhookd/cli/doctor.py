"""The command `doctor`: checks settings and dependencies, or explains the signature of a captured request."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from webhookd.cli.operator import options
from webhookd.cli.operator.api import with_api
from webhookd.cli.operator.refused_commands import tell
from webhookd.errors import SettingsError
from webhookd.runtime.console import FOLDER, Folder, Json, bytes_of, out, readable, run


def doctor(
    body: Annotated[Path | None, readable("A captured request body, its exact bytes.")] = None,
    signature: Annotated[str | None, typer.Option(help="The X-ANET-Signature header that came with --body.")] = None,
    refused: Annotated[
        UUID | None, options.sample_id("The id of a sample of `webhookd refused list`, instead of --body and --signature.")
    ] = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Check every setting and dependency, and report the remedy for each problem.

    If a setting is not set, its value comes from the last `webhookd dev` in this folder. The exit code is 1 if a check
    failed, 2 if a setting is wrong. A warning, for example about an address in use (perhaps by webhookd itself), does not
    change the exit code.

    With `--body` and `--signature` of a captured request, the command reports which key matches, and how the key was read: as
    text, which is right, or hex-decoded, which is wrong. It also reports what may have changed the body on its way.

    With `--refused`, the command reports what webhookd found when it refused a webhook. A sample has neither the signature nor
    the whole body. To try keys, capture a request, and give --body and --signature. The command finds the admin API as
    `webhookd refused` does.

    For example: `webhookd doctor --body body.json --signature 'sha512=…'`.
    """
    if refused is not None:
        if body is not None or signature is not None:
            raise SettingsError("--refused: give either --refused, or --body and --signature")
        raise typer.Exit(_sample(refused, folder, as_json=as_json))
    from webhookd.dev import known
    from webhookd.telemetry import logs

    if (body is None) != (signature is None):
        raise SettingsError("--body and --signature: give both, from one captured request")
    try:
        loaded, taken = known.known(folder, whole=body is None)
    except SettingsError as error:
        if as_json:
            findings = [{"check": "settings", "verdict": "failed", "detail": line} for line in str(error).splitlines()]
            print(json.dumps({"ok": False, "findings": findings}))  # noqa: T201
            raise typer.Exit(2) from error
        raise
    if body is not None and signature is not None:
        raise typer.Exit(_explain(loaded.keys_by_account, bytes_of(body), signature, as_json=as_json))
    logs.configure("critical")  # the findings report the problems
    source = f"not set, so their values come from {folder / 'dev.env'}: {', '.join(taken)}" if taken else ""
    raise typer.Exit(run(_doctor(loaded, source, as_json=as_json)))


def _sample(sample: UUID, folder: Path, *, as_json: bool) -> int:
    """Prints a sample of a refused webhook with its diagnosis. Returns the exit code: 0 if the webhook verifies now."""
    row = with_api(None, folder, lambda api: api.get("refused", str(sample)))
    if as_json:
        print(json.dumps(row))  # noqa: T201
    else:
        tell(row)
    return 0 if row["finding"] == "verifies_now" else 1


async def _doctor(loaded: Any, source: str, *, as_json: bool) -> int:
    from webhookd.doctor import Verdict, examine

    colours = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red"}
    findings = []
    async for finding in examine(loaded, source=source):
        findings.append(finding)
        if not as_json:
            mark = Text(f"{finding.verdict:<8}", style=colours[finding.verdict])
            out.print(mark, f"{finding.check}: {escape(finding.detail)}", highlight=False, soft_wrap=True)
    failed = sum(finding.verdict is Verdict.FAILED for finding in findings)
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [finding.as_dict() for finding in findings]}))  # noqa: T201
    else:
        warned = sum(finding.verdict is Verdict.WARNING for finding in findings)
        out.print(f"{len(findings)} checks: {failed} failed, {warned} warned", highlight=False)
    return 1 if failed else 0


def _explain(keys_by_account: dict[str, tuple[str, ...]], body: bytes, signature: str, *, as_json: bool) -> int:
    from webhookd.authorizenet.diagnosis import diagnose, header_shape
    from webhookd.authorizenet.explain import AS_IT_IS, AS_TEXT, explain
    from webhookd.authorizenet.signature import HEADER

    readings = [(account, r) for account, keys in keys_by_account.items() for r in explain(body, signature, list(keys))]
    matching = [(account, r) for account, r in readings if r.matches]
    good = [(account, r) for account, r in matching if r.reading == AS_TEXT and r.body_variant == AS_IT_IS]
    good = good if HEADER.fullmatch(signature) else []
    account = matching[0][0] if matching else next(iter(keys_by_account), "")
    diagnosis = diagnose(body, signature, account, keys_by_account)
    if as_json:
        rows = [{"account": account, **asdict(r)} for account, r in readings]
        found = {} if good else {"header": header_shape(signature), **diagnosis._asdict()}
        print(json.dumps({"ok": bool(good), "readings": rows, **found}))  # noqa: T201
        return 0 if good else 1
    table = Table("account", "key", "reading of the key", "body", "matches")
    for account, r in readings:
        table.add_row(account, r.fingerprint, r.reading, r.body_variant, "[bold green]yes[/]" if r.matches else "no")
    out.print(table)
    if good:
        account, r = good[0]
        verdict = f"The signature verifies: the key {r.fingerprint} of the account {account}, {r.reading}."
    else:
        verdict = f"webhookd answers 401 (the header: {header_shape(signature)}). {diagnosis.likely}"
    out.print(verdict, highlight=False, markup=False)
    return 0 if good else 1
