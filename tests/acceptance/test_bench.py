"""`make bench` runs its servers, load and baselines, and writes its results. No test judges the measured figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import releases
from tests.bench.aims import reached
from tests.bench.titles import (
    CONSUME,
    FLOOR,
    NIGHTLY,
    reconcile_title,
    stored_title,
    sweep_calls_title,
    sweep_title,
)
from tests.upgrade.release import has_commit

ROOT = Path(__file__).parents[2]
_npm = pytest.mark.skipif(
    shutil.which("npm") is None, reason="LEFT OUT: the bench takes its SQS from npm, which is not installed"
)


def _run(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Makes a quick run of the bench; returns its results and its output.

    The servers' data is not in pytest's folder: another run of pytest closes that folder to PostgreSQL, which runs as nobody.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--results", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=880,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "quick.json").read_text()), done.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
@_npm
def test_the_bench_measures_and_tells(tmp_path: Path) -> None:
    told, output = _run(tmp_path, "--alone", "ingest-sustained", "consume")
    assert told["postgresql"]["fsync"] == told["postgresql"]["synchronous_commit"] == "on"
    assert told["versions"]["postgresql"]
    for title, cases in {
        "ingest, sustained, 64 connections, from the provider": ["ceiling", "webhookd"],
        "ingest, sustained, 64 connections, from a proxy": ["ceiling", "webhookd"],
        "consume, 50,000 events": ["webhookd", "webhookd, one event a message", "textbook"],
    }.items():
        assert list(told["scenarios"][title]) == cases
        for case in cases:
            assert told["scenarios"][title][case]["per_second"]["median"] > 0, (title, case)
        if title.startswith("ingest"):
            assert told["scenarios"][title]["webhookd"]["refused"]["median"] == 0, title
    assert "<svg" in (tmp_path / "quick.svg").read_text()
    assert "% of ceiling" in output


@pytest.mark.long
@pytest.mark.timeout(900)
@_npm
@pytest.mark.skipif(
    not has_commit(releases.COMMIT), reason=f"LEFT OUT: this clone has no commit of {releases.BEFORE}; git fetch --unshallow"
)
def test_the_release_before_is_measured_by_turns(tmp_path: Path) -> None:
    told, output = _run(tmp_path, "consume", "database-cost")
    scenarios = told["scenarios"]
    for case in ("webhookd", releases.BEFORE):
        assert scenarios[CONSUME][case]["per_second"]["median"] > 0
    costs = {title: cases for title, cases in scenarios.items() if title.startswith("cost in PostgreSQL")}
    for title, cases in costs.items():
        for case in ("webhookd", releases.BEFORE):
            for figure in ("pg_cpu_us", "wal_bytes", "row_versions"):
                assert cases[case][figure]["median"] > 0, (title, case, figure)
    assert len(costs) == 4
    measured = [aim for aim in told["aims"] if aim["measured"] is not None]
    assert len(measured) == 10
    assert all(aim["met"] in (True, False) and aim["what"] in output for aim in measured)


def test_aims_are_medians_of_the_rounds_ratios() -> None:
    def rounds(*values: float) -> dict[str, Any]:
        return {"per_second": {"rounds": list(values)}}

    consumed = {CONSUME: {"webhookd": rounds(30, 10, 20), releases.BEFORE: rounds(10, 10, 10)}}
    (aim,) = [aim for aim in reached(consumed) if aim.measured is not None]
    assert (aim.measured, aim.met) == (2, True)
    (missed,) = [aim for aim in reached({CONSUME: {"webhookd": rounds(9), releases.BEFORE: rounds(10)}}) if aim.met is not None]
    assert (missed.measured, missed.met) == (0.9, False)
    assert all(aim.measured is None for aim in reached({CONSUME: {"webhookd": rounds(9)}}))


def test_a_clone_without_the_release_before_is_told_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "COMMIT", "0" * 40)
    monkeypatch.setattr(releases, "_CACHE", tmp_path)
    with pytest.raises(releases.ReleaseError, match=r"git fetch --unshallow.*--alone"):
        releases.before()


@pytest.mark.long
@pytest.mark.timeout(900)
@_npm
def test_a_merchants_settlement_is_swept_killed_and_reconciled(tmp_path: Path) -> None:
    told, _ = _run(tmp_path, "--alone", "settlement")  # raises if the sweep or the report has other books than the provider's
    scenarios = told["scenarios"]

    def median(title: str, case: str, figure: str) -> float:
        return float(scenarios[title][case][figure]["median"])

    sweep, calls, tables, report = sweep_title(60), sweep_calls_title(60), stored_title(60), reconcile_title(60)
    assert median(tables, "provider_transactions", "rows") == 3 * 200 + 200
    assert median(calls, "webhookd", "lists") == 6
    assert median(calls, "webhookd", "details") == 3 * 4, "only refunds need their details"
    assert median(sweep, "webhookd", "twice") == 0
    assert median(sweep, "webhookd, killed", "calls") > median(sweep, "webhookd", "calls")
    assert median(sweep, "webhookd, killed", "twice") <= 6, "a list, 4 refunds of its batch, the account"
    assert median(sweep, NIGHTLY, "calls") == 3 * 200 + 6 + 1
    assert median(sweep, "webhookd", "rss_mib") > 0
    assert median(report, "webhookd", "differences") == 1
    assert all(median(report, case, "seconds") > 0 for case in ("webhookd", FLOOR))
