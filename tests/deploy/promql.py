"""The metrics and labels that PromQL expressions name, and those that exist."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from tests.helpers.prometheus import RULES
from webhookd.telemetry.metrics import Metrics

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_MATCHER = re.compile(rf'\s*({_NAME})\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(rf"({_NAME})\s*(\{{[^}}]*\}})?(\s*\()?")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
TARGET_LABELS = {"job", "instance", "namespace"}  # labels that a scrape adds
# The metrics of Prometheus itself and of other exporters that the rules name; test_exporters.py asks the exporters for theirs.
_PROBE = {"probe_success", "probe_ssl_earliest_cert_expiry", "probe_http_status_code", "probe_http_duration_seconds"}
_DISK = {"node_filesystem_avail_bytes", "node_filesystem_size_bytes"}
_KUBERNETES = {"kube_deployment_status_replicas_unavailable"}
EXPORTERS: dict[str, set[str]] = {
    **{name: {"phase"} if name.startswith("probe_http_duration") else set() for name in sorted(_PROBE)},
    **{name: {"mountpoint", "device", "fstype"} for name in sorted(_DISK)},
    **{name: {"namespace", "deployment"} for name in sorted(_KUBERNETES)},
}
_SCRAPE = {"up": TARGET_LABELS, **EXPORTERS}


class Matcher(NamedTuple):
    """One condition of a selector."""

    label: str
    operator: str
    value: str

    def alternatives(self) -> list[Matcher]:
        """Returns a matcher for each value that this matcher allows, so that each value can be looked for."""
        if self.operator != "=~" or "(" in self.value:
            return [self]
        return [Matcher(self.label, "=~", value) for value in self.value.split("|")]

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Returns whether a series with `labels` meets this condition."""
        found = labels.get(self.label, "")
        same = re.fullmatch(self.value, found) is not None if "~" in self.operator else found == self.value
        return same is not self.operator.startswith("!")


class Selector(NamedTuple):
    """A metric's name, and conditions on its labels."""

    name: str
    matchers: tuple[Matcher, ...] = ()

    def __str__(self) -> str:
        conditions = [f'{label}{operator}"{value}"' for label, operator, value in self.matchers]
        return f"{self.name}{{{','.join(conditions)}}}"

    def alternatives(self) -> Iterator[Selector]:
        """Yields selectors that must each find a series: this selector with each alternative value in turn."""
        for i, matcher in enumerate(self.matchers):
            for one in matcher.alternatives():
                yield Selector(self.name, (*self.matchers[:i], one, *self.matchers[i + 1 :]))
        if not self.matchers:
            yield self


@dataclass
class Named:
    """The selectors and labels that an expression names."""

    selectors: list[Selector] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)  # labels by which the expression groups and joins


def named(expression: str) -> Named:
    """Returns the names in an expression. It need not be valid: Prometheus itself checks that."""
    found = Named()
    for grouping in _GROUPING.finditer(expression):
        found.labels |= {label.strip() for label in grouping[1].split(",") if label.strip()}
    rest = _GROUPING.sub(" ", re.sub(r"#.*", "", expression))
    rest = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", rest)
    # Numbers and variables are no names; a number in quotes is the value of a label.
    rest = re.sub(r'("(?:[^"\\]|\\.)*")|\b\d[\w.]*|\$\w+(?=[^"]*$)', lambda found: found[1] or " ", rest)
    for name, conditions, call in _SELECTOR.findall(rest):
        if not call and name not in _WORDS:
            matchers = tuple(Matcher(*one) for one in _MATCHER.findall(conditions))
            assert len(matchers) == conditions.count('"') // 2, f"not understood: {name}{conditions}"
            found.selectors.append(Selector(name, matchers))
    return found


@dataclass(slots=True, frozen=True)
class Rule:
    """A rule of the file; `alert` is empty for a recording rule, and `record` for an alert."""

    group: str
    expression: str
    alert: str
    record: str
    severity: str
    annotations: dict[str, str]
    labels: frozenset[str] = frozenset()  # labels that the rule itself sets


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Returns every rule, in the file's order."""
    return tuple(
        Rule(
            group["name"],
            rule["expr"],
            rule.get("alert", ""),
            rule.get("record", ""),
            rule.get("labels", {}).get("severity", ""),
            rule.get("annotations", {}),
            frozenset(rule.get("labels", ())),
        )
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    )


def own_metrics() -> dict[str, set[str]]:
    """Returns the name and labels of every series of the daemon's page, Python's and the process's included."""
    registry = Metrics().registry
    found: dict[str, set[str]] = {}
    collectors = {name: collector for collector, names in registry._collector_to_names.items() for name in names}
    for family in registry.collect():
        of = collectors.get(family.name)
        labels = set(getattr(of, "_labelnames", ())) | {label for sample in family.samples for label in sample.labels}
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for end in ends:
            found[family.name + end] = labels | ({"le"} if end == "_bucket" else set())
    return found


def families() -> set[str]:
    """Returns the daemon's own metrics, by the names that users know."""
    types = {"counter": "_total"}
    return {
        family.name + types.get(family.type, "")
        for family in Metrics().registry.collect()
        if family.name.startswith("webhookd_")
    }


def problems(expression: str, metrics: Mapping[str, set[str]]) -> list[str]:
    """Returns a line for each name in an expression that is not in `metrics`, or no label of its metrics."""
    of = named(expression)
    known = {**metrics, **_SCRAPE}
    told = [f"no metric {selector.name}" for selector in of.selectors if selector.name not in known]
    labels = set(TARGET_LABELS)
    for selector in of.selectors:
        own = known.get(selector.name, set()) | TARGET_LABELS
        labels |= own
        told += [f"{selector.name} has no label {one.label}" for one in selector.matchers if one.label not in own]
    return told + [f"no label {label} to group by" for label in sorted(of.labels - labels)]


def recorded() -> dict[str, set[str]]:
    """Returns the recording rules' names, with the labels by which they aggregate."""
    return {rule.record: named(rule.expression).labels - {"le", "instance"} | rule.labels for rule in rules() if rule.record}
