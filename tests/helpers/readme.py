"""The tables of the README and the guide that are made from the code, the alerts and the last bench.

`python -m tests.helpers.readme` writes them, and the address of each alert's section into the rules. Each table stands between
the marks `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.bench.sizing import last_measured, last_needed
from tests.bench.summary import last_figures, last_run
from tests.deploy.promql import rules
from tests.helpers.guide import GUIDE, README, anchor, runbook_pages
from tests.helpers.metrics_page import metrics_table
from tests.helpers.payloads_page import payloads
from tests.helpers.prometheus import RULES
from webhookd.alerts.catalogue import CONDITIONS
from webhookd.alerts.conditions import lasting
from webhookd.settings import describe


class Made(NamedTuple):
    """A table that is made: the page that has it, and the function that makes it."""

    page: Path
    make: Callable[[], str]


def settings_table() -> str:
    """Returns a table with one row for each setting: its variable, default and meaning."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, default, meaning in describe():
        shown = f"`{default}`" if default not in ("", "required") else default
        rows.append(f"| `{name}` | {shown} | {meaning} |")
    return "\n".join(rows) + "\n"


def alerts_table() -> str:
    """Returns a table with one row for each alert, in the order of the rules: severities, summary, link to its section."""
    severities: dict[str, list[str]] = {}
    summaries: dict[str, str] = {}
    for rule in rules():
        if rule.alert:
            severities.setdefault(rule.alert, []).append(rule.severity)
            summaries.setdefault(rule.alert, rule.annotations["summary"])
    pages = runbook_pages()
    rows = ["| alert | severity | summary | section |", "|---|---|---|---|"]
    for alert, summary in summaries.items():
        section = f"[what to do]({pages[anchor(alert)].name}#{anchor(alert)})"
        rows.append(f"| `{alert}` | {', '.join(sorted(severities[alert]))} | {summary} | {section} |")
    return "\n".join(rows) + "\n"


def conditions_table() -> str:
    """Returns a table with one row for each condition that webhookd reports without Prometheus."""
    rows = ["| condition | severity | it holds when | for | remedy |", "|---|---|---|---|---|"]
    for one in CONDITIONS.values():
        page, _, section = one.guide.removeprefix("/guide/").partition("#")
        link = f"#{section}" if page == "alerts" else f"{page}.md#{section}"
        lasts = lasting(one.lasts) if one.lasts else "at once"
        rows.append(f"| `{one.name}` | {one.severity} | {one.when} | {lasts} | [what to do]({link}) |")
    return "\n".join(rows) + "\n"


MADE = {
    "figures": Made(README, last_figures),
    "bench": Made(GUIDE / "speed.md", last_run),
    "measured": Made(GUIDE / "sizing.md", last_measured),
    "needed": Made(GUIDE / "sizing.md", last_needed),
    "settings": Made(GUIDE / "settings.md", settings_table),
    "conditions": Made(GUIDE / "alerts.md", conditions_table),
    "metrics": Made(GUIDE / "metrics.md", metrics_table),
    "payloads": Made(GUIDE / "payloads.md", payloads),
    "alerts": Made(GUIDE / "runbook.md", alerts_table),
}


def written(name: str) -> str:
    """Returns the text between the marks of `name`, as it stands in its page."""
    return MADE[name].page.read_text().partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]


def runbook_url(section: str) -> str:
    """Returns the address of an alert's section, in the form that the rules have before an operator sets the host."""
    return f"http://webhookd.example.internal:9090/guide/{runbook_pages()[section].stem}#{section}"


def write_runbook_urls() -> None:
    """Writes the address of each alert's section into the rules and their tests. The part after `#` names the section."""
    for file in RULES.parent.glob("*.yml"):
        text = re.sub(r"(?<=runbook_url: )\S*#(\w+)$", lambda url: runbook_url(url[1]), file.read_text(), flags=re.MULTILINE)
        file.write_text(text)


def write() -> None:
    """Writes each table into its page."""
    for name, (page, make) in MADE.items():
        before, mark, rest = page.read_text().partition(f"<!-- {name} -->\n")
        page.write_text(before + mark + make() + f"<!-- /{name} -->" + rest.partition(f"<!-- /{name} -->")[2])


if __name__ == "__main__":
    write_runbook_urls()
    write()
