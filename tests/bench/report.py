"""The reports of a bench run: tables for a person, JSON for a script, a chart for the README."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import psutil
from rich.console import Console
from rich.table import Table as RichTable

from tests.bench.aims import reached
from tests.bench.processes import CORES
from tests.bench.releases import BEFORE, COMMIT, Release
from tests.bench.servers import POSTGRESQL, Servers
from tests.helpers.database import connect

mpl.use("svg")
from matplotlib import pyplot as plt

_LIBRARIES = ("aiohttp", "aiobotocore", "asyncpg", "orjson", "redis", "hiredis", "uvloop")


@dataclass(slots=True)
class Result:
    """The figures of a case: {name: [one number a round]}."""

    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figures: dict[str, float]) -> None:
        """Adds the figures of a round."""
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)


@dataclass(slots=True)
class Table:
    """One scenario with its cases, which ran by turns."""

    title: str
    results: dict[str, Result]

    def part_of(self, name: str, other: str) -> list[float]:
        """Returns the throughput of `name` divided by the throughput of `other`, round by round."""
        mine, theirs = (self.results[case].figures.get("per_second", []) for case in (name, other))
        return [a / b for a, b in zip(mine, theirs, strict=True)]


def machine(servers: Servers, before: Release | None) -> dict[str, Any]:
    """Returns the machine, versions and settings. `before` is the release that is measured beside this checkout."""
    model = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "machine": {
            "processor": model,
            "cores": len(CORES),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {
            "webhookd": version("webhookd"),
            "commit": _commit(),
            **({} if before is None else {"release before": f"{before.name} at {COMMIT[:7]}"}),
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
            **asyncio.run(_postgresql(servers.postgresql.url)),
            "fauxqs": json.loads((Path(__file__).parent / "sqs" / "package.json").read_text())["dependencies"]["fauxqs"],
        },
        "postgresql": POSTGRESQL,
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or "unknown"


async def _postgresql(url: str) -> dict[str, str]:
    connection = await connect(url)
    try:
        # Ask the server, not its configuration: a figure is worthless if commits did not wait for the disk.
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            value = await connection.fetchval("SELECT current_setting($1)", name)
            if value != "on":
                raise RuntimeError(f"{name} is {value}")
        return {"postgresql": await connection.fetchval("SHOW server_version")}
    finally:
        await connection.close()


def save(folder: Path, about: dict[str, Any], tables: list[Table], *, quick: bool) -> dict[str, Any]:
    """Writes `bench.json` and `bench.svg`. A quick run measures nothing, so it writes `quick.json` and `quick.svg`.

    Earlier results of other scenarios stay if machine and settings are the same; `commits` holds the commit of each scenario's
    code. Returns the new results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = "quick" if quick else "bench"
    path = folder / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if any(before.get(part) != about[part] for part in ("machine", "postgresql")):
        before = {}
    measured = {
        table.title: {
            case: {figure: {"median": statistics.median(values), "rounds": values} for figure, values in result.figures.items()}
            for case, result in table.results.items()
        }
        for table in tables
    }
    scenarios = {**before.get("scenarios", {}), **measured}
    commits = {**before.get("commits", {}), **dict.fromkeys(measured, about["versions"]["commit"])}
    aims = [asdict(aim) for aim in reached(scenarios)]
    path.write_text(json.dumps({**about, "commits": commits, "scenarios": scenarios, "aims": aims}, indent=1) + "\n")
    _chart(folder / f"{name}.svg", scenarios)
    return measured


def _chart(path: Path, scenarios: dict[str, Any]) -> None:
    """Draws the throughput of every case that has one, webhookd beside the baselines."""
    plt.rcParams["svg.hashsalt"] = "webhookd"
    shown = [
        (title, name, figures["per_second"]["rounds"])
        for title, cases in scenarios.items()
        for name, figures in cases.items()
        if "per_second" in figures
    ]
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.28 * len(shown)), layout="constrained")
    for row, (_, name, values) in enumerate(shown):
        median = statistics.median(values)
        colour = {"ceiling": "#b8b8b8", "textbook": "#d9a441"}.get(name, "#8ab6cf" if name.startswith(BEFORE) else "#2a6f97")
        spread = [[median - min(values)], [max(values) - median]]
        axes.barh(row, median, xerr=spread, color=colour, error_kw={"ecolor": "#444444", "elinewidth": 1})
        axes.text(max(values), row, f"  {median:,.0f}", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [f"{title}: {name}" for title, name, _ in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("events a second: median, least and most of the rounds")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def print_tables(about: dict[str, Any], tables: list[Table]) -> None:
    """Prints medians, with the least and the greatest of the rounds."""
    console = Console(width=int(os.environ.get("COLUMNS", "128")))
    for title, facts in about.items():
        console.print(f"{title}: " + ", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    for table in tables:
        names = list(dict.fromkeys(name for result in table.results.values() for name in result.figures))
        shown = RichTable(title=table.title, title_justify="left")
        for column in ("", *names):
            shown.add_column(column, justify="right" if column else "left")
        if "ceiling" in table.results:
            shown.add_column("% of ceiling", justify="right", no_wrap=True)
        for case, result in table.results.items():
            cells = [_cell(result.figures.get(name, [])) for name in names]
            if "ceiling" in table.results:
                cells.append(_cell([100 * part for part in table.part_of(case, "ceiling")]))
            shown.add_row(case, *cells)
        console.print(shown)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    median = statistics.median(values)
    digits = 0 if median >= 100 else 1
    spread = f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})" if len(values) > 1 else ""
    return f"{median:,.{digits}f}{spread}"
