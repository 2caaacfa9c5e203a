"""The README's settings and figures, from the code and the last bench. `python -m tests.helpers.readme` writes them."""

from __future__ import annotations

from pathlib import Path

from tests.bench.summary import last_run
from webhookd.settings import describe

README = Path(__file__).parent.parent.parent / "README.md"


def settings_table() -> str:
    """Returns a table with one row for each setting: its variable, default and meaning."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, default, meaning in describe():
        shown = f"`{default}`" if default not in ("", "required") else default
        rows.append(f"| `{name}` | {shown} | {meaning} |")
    return "\n".join(rows) + "\n"


MADE = {"settings": settings_table, "bench": last_run}


def written(part: str) -> str:
    """Returns the README's text between the marks of `part`."""
    return README.read_text().partition(f"<!-- {part} -->\n")[2].partition(f"<!-- /{part} -->")[0]


if __name__ == "__main__":
    for name, make in MADE.items():
        before, mark, rest = README.read_text().partition(f"<!-- {name} -->\n")
        README.write_text(before + mark + make() + f"<!-- /{name} -->" + rest.partition(f"<!-- /{name} -->")[2])
