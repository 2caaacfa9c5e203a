"""Runs spin: turns a model into a C program, which visits every state that the model can reach."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.model.cases import Case

FOLDER = Path(__file__).parent
NO_SPIN = "no spin or no gcc; apt install spin gcc"


def has_spin() -> bool:
    """Returns whether spin and gcc are installed."""
    return bool(shutil.which("spin") and shutil.which("gcc"))


@dataclass(slots=True, frozen=True)
class Found:
    """The result of a search: the broken invariant, if any, and the extent of the search."""

    broken: str
    states: int
    depth: int
    seconds: float


def _run(command: list[str], folder: Path) -> str:
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {(run.stdout + run.stderr)[-2000:]}")
    return run.stdout


def search(case: Case, folder: Path, without: str = "") -> Found:
    """Searches `case` in `folder`, without the guard `without`. Raises AssertionError if the search was not complete."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(FOLDER / case.model, folder)
    defines = [f"-D{name}" for name in case.defines.split()] + ([f"-DNO_{without}"] if without else [])
    _run(["spin", "-a", *defines, case.model], folder)
    # Compiling with optimization costs more than a small search. Time (LTL under fairness) needs every order of steps.
    kind = ["-DNFAIR=4", "-DNOREDUCE"] if case.claim else ["-DSAFETY", "-DNOCLAIM"]
    _run(["gcc", "-O2" if case.large else "-O0", "-w", "-DMEMLIM=6000", *kind, "-o", "pan", "pan.c"], folder)
    claim = ["-a", "-f", "-N", case.claim] if case.claim else []
    size = ["-m1000000", "-w24"] if case.large else ["-m50000", "-w20"]
    report = _run(["./pan", *claim, *size], folder)
    counts = re.search(r"errors: (\d+)", report)
    states = re.search(r"(\d+(?:\.\d+e\+\d+)?) states, stored", report)
    depth = re.search(r"depth reached (\d+)", report)
    seconds = re.search(r"elapsed time ([\d.]+)", report)
    assert counts, report
    assert states, report
    assert depth, report
    broken = ""
    if counts[1] != "0":
        assertion = re.search(r"assertion violated (.*) \(at depth", report)
        if assertion:
            names = re.findall(r"!\((\w+)\)", assertion[1])
            broken = names[-1] if names else assertion[1]
        else:
            broken = case.claim if "acceptance cycle" in report else report
    elif "max search depth too small" in report or "Search not completed" in report:
        raise AssertionError(f"the search was not whole: {report}")
    return Found(broken, int(float(states[1])), int(depth[1]), float(seconds[1]) if seconds else 0.0)
