"""`make bench` runs: its servers, load and baselines, and what it writes. What it measures is no test's to judge."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("npm") is None, reason="LEFT OUT: the bench takes its SQS from npm, which is not installed")
def test_the_bench_measures_and_tells(tmp_path: Path) -> None:
    scenarios = ["ingest-sustained", "consume"]
    folders = ["--results", str(tmp_path), "--folder", str(tmp_path / "servers")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", *folders, *scenarios],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "quick.json").read_text())
    assert told["postgresql"]["fsync"] == told["postgresql"]["synchronous_commit"] == "on"
    assert told["versions"]["postgresql"]
    for title, cases in {
        "ingest, sustained, 64 connections, from the provider": ["ceiling", "webhookd"],
        "ingest, sustained, 64 connections, from a proxy": ["ceiling", "webhookd"],
        "consume, 50,000 events": ["webhookd", "webhookd, one event a message", "textbook"],
    }.items():
        for case in cases:
            assert told["scenarios"][title][case]["per_second"]["median"] > 0, (title, case)
        if title.startswith("ingest"):
            assert told["scenarios"][title]["webhookd"]["refused"]["median"] == 0, title
    assert "<svg" in (tmp_path / "quick.svg").read_text()
    assert "% of ceiling" in done.stdout
