"""Grafana can load deploy/grafana, and each query finds data after a daemon has met nearly everything."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from playwright.async_api import async_playwright

from tests.conftest import NO_CHROMIUM
from tests.dashboard.browser import chromium, running_chromium
from tests.deploy.conftest import Observed, make_round
from tests.deploy.panels import Panel, filled, page
from tests.deploy.promql import families, named, own_metrics, problems, rules
from tests.helpers.guide import readable
from tests.helpers.prometheus import CONFIGURATION, DEPLOY, needs_prometheus

pytestmark = pytest.mark.xdist_group("prometheus")
GRAFANA = DEPLOY / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "webhookd.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES: dict[str, dict[str, Any]] = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
ALERTS = {"ALERTS": {"alertname", "alertstate"}}

# The titles of the panels whose queries find nothing in this test, each with the reason.
EMPTY = {
    "Certificate expires in": "the daemon here has no certificate of its own",
    "Traces": "tracing is off",
}
# The metrics that neither a rule nor the dashboard nor the guide names, each with the reason.
UNUSED: dict[str, str] = {}

# The values that this test puts in place of Grafana's own variables, and of the variables whose values a user chooses.
VALUES = {"__rate_interval": "5m", "namespace": ".*", "job": "webhookd", "instance": ".*", "datasource": "prometheus"}


class Query(NamedTuple):
    """A PromQL query of a panel, and the legend of its series."""

    panel: str
    expression: str
    legend: str


def queries() -> Iterator[Query]:
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield Query(panel["title"], target["expr"], target["legendFormat"])


def substituted(text: str) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda variable: VALUES[variable[1]], text)


def test_the_dashboard_is_what_grafana_loads() -> None:
    assert DASHBOARD["schemaVersion"] == 39
    assert DASHBOARD["uid"] == "webhookd"
    assert "id" not in DASHBOARD, "Grafana gives it one"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    kinds = {"row", "stat", "timeseries", "table"}
    for panel in PANELS:
        assert panel["type"] in kinds, panel["title"]
        assert panel["title"], panel
        if panel["type"] == "row":
            assert (panel["collapsed"], panel["panels"]) == (False, [])
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references, panel["title"]
        assert len(set(references)) == len(references), panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target["range"] is not target["instant"]


def test_every_key_is_one_of_grafanas_own() -> None:
    """Grafana silently drops unknown keys. Its library does so, too: a key that the library keeps is a key of Grafana's."""
    register_default_plugins()
    understood = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert set(lost(DASHBOARD, understood)) == {"templating.list.definition"}, "but for one of its own"


def lost(given: Any, understood: Any, path: str = "") -> Iterator[str]:
    """Yields the paths of the values in `given` that `understood` lacks or changes."""
    if isinstance(given, dict) and isinstance(understood, dict):
        for key, value in given.items():
            yield from lost(value, understood.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(given, list) and isinstance(understood, list) and len(given) == len(understood):
        for one, other in zip(given, understood, strict=True):
            yield from lost(one, other, path)
    elif given != understood:
        yield path


def test_no_panel_lies_over_another_one() -> None:
    places = {panel["title"] + str(panel["id"]): panel["gridPos"] for panel in PANELS}
    for title, at in places.items():
        assert set(at) == {"x", "y", "w", "h"}, title
        assert at["x"] >= 0, title
        assert at["x"] + at["w"] <= 24, title
    for (one, a), (other, b) in combinations(places.items(), 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, f"{one} lies over {other}"
    assert [panel["gridPos"]["y"] for panel in PANELS] == sorted(panel["gridPos"]["y"] for panel in PANELS)


def test_the_rows_are_those_of_an_events_way() -> None:
    assert [panel["title"] for panel in PANELS if panel["type"] == "row"] == [
        "Is all well?",
        "Receive",
        "Relay and queue",
        "Work",
        "Destinations",
        "Provider",
        "Settlement",
        "Saturation",
        "Upkeep",
        "Signature keys",
    ]


def test_the_variables_are_those_that_are_used() -> None:
    text = json.dumps([PANELS, [one.get("query") for one in VARIABLES.values()]])
    used = {name for name in re.findall(r"\$\{?(\w+)\}?", text) if not name.startswith("__")}
    assert used == set(VARIABLES)
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["instance"]["multi"]


@pytest.mark.parametrize("query", [*queries()], ids=lambda query: str(query.panel))
def test_a_query_names_metrics_and_labels_that_there_are(query: Query) -> None:
    assert problems(substituted(query.expression), own_metrics() | ALERTS) == []
    selectors = named(substituted(query.expression)).selectors
    assert selectors
    for selector in selectors:
        chosen = {matcher.label for matcher in selector.matchers}
        assert {"namespace", "job"} <= chosen, f"{selector} takes what other installations report"
    # Each replica reports the shared values, so no query adds them up.
    shared = (
        "outbox_pending|oldest_unfinished|queue_depth|partitions_ahead|quarantine_|dependency_up|retention_last|key_last_used"
        "|deliveries_waiting|deliveries_dead|circuit_open"
    )
    for at in re.finditer(rf"(\w+)\s*(?:by \([^)]*\)\s*)?\(\s*webhookd_(?:{shared})", query.expression):
        assert at[1] in ("max", "min"), query.expression
    # A replica that has lost the dependency reports its last value for ever.
    shared = r"webhookd_(outbox|oldest|queue|partitions|quarantine|deliveries_waiting|deliveries_dead|circuit)\w*\{[^}]*\}(.*)"
    for at in re.finditer(shared, query.expression):
        dependency = "sqs" if at[1] == "queue" else "postgresql"
        known = rf' and on \(namespace, job, instance\) webhookd_dependency_up\{{[^}}]*dependency="{dependency}"\}} == 1'
        assert re.match(known, at[2]), query.expression


@needs_prometheus
@pytest.mark.parametrize("query", [*queries()], ids=lambda query: str(query.panel))
def test_a_query_finds_data(observed: Observed, query: Query) -> None:
    found = observed.query(substituted(query.expression))
    assert bool(found) is (query.panel not in EMPTY)
    for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
        assert all(label in one.labels for one in found), f"no label {label} for the legend"
    if len(found) > 1 and query.panel != "Last use of each key":
        assert "{{" in query.legend, "several series without a name"


@needs_prometheus
@pytest.mark.parametrize("query", [*queries()], ids=lambda query: str(query.panel))
def test_every_value_of_a_label_that_a_query_asks_for_is_one(observed: Observed, query: Query) -> None:
    for selector in named(substituted(query.expression)).selectors:
        for one in () if query.panel in EMPTY else selector.alternatives():
            assert observed.prometheus.get("query", query=str(one))["result"], str(one)


@needs_prometheus
def test_the_queries_show_what_happened(observed: Observed) -> None:
    def labelled(panel: str, label: str) -> set[str]:
        return {
            one.labels[label]
            for query in queries()
            if query.panel == panel
            for one in observed.query(f"{substituted(query.expression)} > 0")
            if label in one.labels
        }

    outcomes = labelled("Webhooks by outcome", "outcome")
    assert {"accepted", "duplicate", "quarantined", "signature_mismatch", "signature_malformed"} <= outcomes
    assert labelled("Duplicates", "layer") == {"redis", "notification_id", "content"}
    assert {"processed", "retrying", "dead"} <= labelled("Deliveries by outcome", "outcome")
    assert "permanent" in labelled("Events given up", "reason")
    assert labelled("Attempts by outcome", "outcome") == {"delivered", "retrying", "dead"}
    for panel in ("Until delivered, p95", "One request, p95", "Left to deliver", "Dead deliveries"):
        assert labelled(panel, "destination") == {"shop"}, panel
    assert labelled("Retries by type", "event_type") == {"net.authorize.payment.refund.created"}
    assert {"no_token", "wrong_token"} <= labelled("Admin listener", "reason")
    assert len(labelled("Last use of each key", "key")) == 2


def drawn(observed: Observed, *, seconds: float = 10, end: float | None = None) -> tuple[list[Panel], str]:
    """Returns the panels with some seconds of the daemon's life, and their page. A scrape a second allows short rates."""
    times = ((end or observed.at) - seconds, end or observed.at)

    def put(expression: str) -> str:
        return substituted(expression.replace("$__rate_interval", "10s"))

    panels = [*filled(observed.prometheus, PANELS, put, *times)]
    return panels, page(panels, *times)


@needs_prometheus
def test_each_panel_is_drawn_from_recorded_data(observed: Observed) -> None:
    panels, text = drawn(observed)
    assert {panel.title for panel in panels if panel.kind != "row" and not panel.lines} == set(EMPTY)
    assert text.count("<section") == len(PANELS)
    assert text.count("no data") == len(EMPTY)
    assert text.count("<svg") == len([panel for panel in panels if panel.kind == "timeseries" and panel.title not in EMPTY])
    for panel in panels:
        for line in panel.lines:
            assert "{{" not in line.legend, panel.title


@needs_prometheus
@pytest.mark.skipif(chromium() is None, reason=NO_CHROMIUM)
async def test_a_browser_shows_each_panel(observed: Observed, tmp_path: Path) -> None:
    """With TEST_PICTURE=FILE, this writes the picture of deploy/grafana, of a longer time."""
    picture, begin = Path(os.environ.get("TEST_PICTURE") or tmp_path / "panels.png"), time.time()
    if "TEST_PICTURE" in os.environ:
        for number in range(3, 15):
            await make_round(observed.daemon, number)
            await asyncio.to_thread(observed.prometheus.scraped, number % 4 + 1)
        panels, text = await asyncio.to_thread(drawn, observed, seconds=time.time() - begin, end=time.time())
    else:
        panels, text = await asyncio.to_thread(drawn, observed)
    with running_chromium(chromium() or "", tmp_path / "profile") as url:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.connect_over_cdp(url)
            context = await browser.new_context(viewport={"width": 1440, "height": 900}, device_scale_factor=0.8)
            tab = await context.new_page()
            await tab.set_content(text)
            assert await tab.locator("section:not(.row)").count() == len([one for one in panels if one.kind != "row"])
            # A line that the browser does not understand has no length.
            assert await tab.evaluate("[...document.querySelectorAll('polyline')].every((line) => line.getTotalLength() > 0)")
            taken = await tab.screenshot(path=picture, full_page=True)
            await browser.close()
    assert len(taken) > 20_000, "the picture is empty"
    if "TEST_PICTURE" in os.environ:
        image = pytest.importorskip("PIL.Image")
        image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)


def test_the_picture_is_small_and_is_one() -> None:
    picture = (GRAFANA / "webhookd.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 200_000


@needs_prometheus
@pytest.mark.parametrize("name", sorted(set(VARIABLES) - {"datasource"}))
def test_a_variable_has_values(observed: Observed, name: str) -> None:
    query = VARIABLES[name]["query"]["query"]
    assert query == VARIABLES[name]["definition"]
    [(selector, label)] = re.findall(r"^label_values\((.+), (\w+)\)$", substituted(query))
    assert problems(selector, own_metrics()) == []
    address = observed.daemon.admin_url.removeprefix("http://")
    expected = {"namespace": "tests", "job": "webhookd", "instance": address}[label]
    assert observed.prometheus.values(label, selector) == [expected]


def test_every_metric_is_looked_at_somewhere() -> None:
    # The guide also lists all metrics. That list makes nobody look.
    told = re.sub(r"<!-- metrics -->.*<!-- /metrics -->", "", readable(), flags=re.DOTALL)
    expressions = [rule.expression for rule in rules()] + [substituted(query.expression) for query in queries()]
    used = {selector.name for expression in expressions for selector in named(expression).selectors}
    unused = {
        name
        for name in families()
        if not used & {name, f"{name}_bucket", f"{name}_sum", f"{name}_count"} and not re.search(rf"\b{name}\b", told)
    }
    assert unused == set(UNUSED)


def test_the_provisioning_files_fit_the_rest() -> None:
    [source] = provisioned("datasources/prometheus.yml", "datasources")
    assert source["type"] == VARIABLES["datasource"]["query"] == "prometheus"
    interval = yaml.safe_load(CONFIGURATION.read_text())["global"]["scrape_interval"]
    assert source["jsonData"] == {"httpMethod": "POST", "timeInterval": interval}
    assert set(source) == {"name", "type", "access", "url", "isDefault", "jsonData"}
    [provider] = provisioned("dashboards/webhookd.yml", "providers")
    assert provider["type"] == "file"
    assert set(provider) == {"name", "type", "folder", "allowUiUpdates", "updateIntervalSeconds", "options"}
    assert Path(provider["options"]["path"]).is_absolute()


def provisioned(file: str, key: str) -> list[dict[str, Any]]:
    content = yaml.safe_load((GRAFANA / "provisioning" / file).read_text())
    assert set(content) == {"apiVersion", key}
    assert content["apiVersion"] == 1
    found: list[dict[str, Any]] = content[key]
    return found
