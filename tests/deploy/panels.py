"""Grafana's dashboard, drawn without Grafana: each panel's queries, asked of a Prometheus over a time, as one page of SVG.

Grafana is in none of the registries that the tests use. The page has the panels at their places, with their titles, units and
legends. It does not imitate Grafana's look.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.helpers.prometheus import Prometheus

_WIDTH, _UNIT = 1440, 22  # pixels of the whole page, and of a unit of height
_COLOURS = ("#1f60c4", "#37872d", "#c4162a", "#b07a00", "#7c2ea3", "#0f7d8c", "#a8326f", "#5a6270")
_STEPS = 60  # points of a line
_STYLE = """
body { margin: 0; font: 11px "DejaVu Sans", sans-serif; background: #eef0f3; color: #1f242b }
section { position: absolute; box-sizing: border-box; background: #fff; border: 1px solid #cfd5dd; padding: 3px 6px }
section { overflow: hidden }
section.row { background: none; border: 0; font-weight: bold; font-size: 14px }
h2 { font-size: 11px; margin: 0 0 2px; white-space: nowrap }
b { font-size: 20px; margin-right: 10px } b small { font-size: 10px; font-weight: normal; display: block }
svg { width: 100% } i { font-style: normal; margin-right: 8px; white-space: nowrap } p { margin: 0; line-height: 1.25 }
td { padding-right: 14px } .empty { color: #707782 }
"""


@dataclass
class Line:
    """A series of a panel: its legend and its points (seconds since 1970, value)."""

    legend: str
    points: list[tuple[float, float]]


@dataclass
class Panel:
    """A panel with what its queries found."""

    title: str
    kind: str
    unit: str
    place: dict[str, int]
    lines: list[Line] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)


def shown(value: float, unit: str) -> str:
    """Returns a value in the unit of its panel."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1000:.3g} ms"
    if value > 1e12 and unit == "short":  # a table's time, in milliseconds
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(" ", "seconds")
    binary, decimal = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")), ((10**6, "M"), (10**3, "k"))
    for size, name in binary if unit == "bytes" else decimal:
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}" + (" B" if unit == "bytes" else "/s" if unit == "reqps" else "")


def filled(
    prometheus: Prometheus, panels: list[dict[str, Any]], put: Callable[[str], str], begin: float, end: float
) -> Iterator[Panel]:
    """Yields the panels with the answers to their queries between two times.

    put: puts values in the place of Grafana's variables in a query.
    """
    step = max((end - begin) / _STEPS, 1.0)
    for one in panels:
        unit = one.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
        panel = Panel(one["title"], one["type"], unit, one["gridPos"])
        for target in one.get("targets", ()):
            if target["instant"]:
                for sample in prometheus.query(put(target["expr"]), at=end):
                    panel.rows.append({**sample.labels, "": shown(sample.value, unit)})
                    panel.lines.append(Line(_legend(target, sample.labels), [(end, sample.value)]))
                continue
            times = {"start": f"{begin:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
            for series in prometheus.get("query_range", query=put(target["expr"]), **times)["result"]:
                points = [(float(at), float(value)) for at, value in series["values"]]
                points = [(at, value) for at, value in points if math.isfinite(value)]
                if points:
                    panel.lines.append(Line(_legend(target, series["metric"]), points))
        yield panel


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), target["legendFormat"])


def page(panels: list[Panel], begin: float, end: float) -> str:
    """Returns the page of HTML with all panels."""
    height = max(panel.place["y"] + panel.place["h"] for panel in panels) * _UNIT
    parts = "\n".join(_section(panel, begin, end) for panel in panels)
    return (
        f'<!doctype html><meta charset="utf-8"><title>webhookd</title><style>{_STYLE}</style>'
        f'<body style="width:{_WIDTH}px;height:{height}px">{parts}'
    )


def _section(panel: Panel, begin: float, end: float) -> str:
    x, y, w, h = (panel.place[name] * (_WIDTH / 24 if name in "xw" else _UNIT) for name in "xywh")
    style = f"left:{x:.0f}px;top:{y:.0f}px;width:{w - 4:.0f}px;height:{h - 4:.0f}px"
    inside = {"stat": _stat, "timeseries": _chart, "table": _table, "row": lambda *_: ""}[panel.kind](panel, begin, end)
    if not inside and panel.kind != "row":
        inside = '<p class="empty">no data</p>'
    return f'<section class="{panel.kind}" style="{style}"><h2>{html.escape(panel.title)}</h2>{inside}</section>'


def _stat(panel: Panel, _begin: float, _end: float) -> str:
    values = (f"{shown(line.points[-1][1], panel.unit)}<small>{html.escape(line.legend)}</small>" for line in panel.lines)
    return "".join(f"<b style='display:inline-block'>{value}</b>" for value in values)


def _table(panel: Panel, _begin: float, _end: float) -> str:
    cells = ("".join(f"<td>{html.escape(value)}</td>" for value in row.values()) for row in panel.rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>" if panel.rows else ""


def _chart(panel: Panel, begin: float, end: float) -> str:
    if not panel.lines:
        return ""
    values = [value for line in panel.lines for _, value in line.points]
    low, high = min(0.0, *values), max(0.0, *values)
    if low == high:
        high = 1.0
    drawn = []
    for i, line in enumerate(panel.lines):
        points = [(400 * (at - begin) / (end - begin), 100 - 100 * (value - low) / (high - low)) for at, value in line.points]
        points = [*points, (points[0][0] + 2, points[0][1])] if len(points) == 1 else points
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = _COLOURS[i % len(_COLOURS)]
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" vector-effect="non-scaling-stroke"/>')
    colours = _COLOURS * 2
    legends = (f'<i style="color:{colours[i]}">{html.escape(line.legend)}</i>' for i, line in enumerate(panel.lines[:12]))
    height = panel.place["h"] * _UNIT - 80
    return (
        f'<p class="empty">{shown(low, panel.unit)} … {shown(high, panel.unit)}</p>'
        f'<svg viewBox="0 -2 400 104" preserveAspectRatio="none" height="{height}">{"".join(drawn)}</svg>'
        f"<p>{' '.join(legends)}</p>"
    )
