"""The README's settings table, made from the settings: `python -m tests.helpers.readme` writes it anew."""

from __future__ import annotations

from pathlib import Path

from webhookd.settings import describe

README = Path(__file__).parent.parent.parent / "README.md"
_BEGIN, _END = "<!-- settings -->\n", "<!-- /settings -->"


def settings_table() -> str:
    """A row for each setting: its variable, default and meaning."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, default, meaning in describe():
        shown = f"`{default}`" if default not in ("", "required") else default
        rows.append(f"| `{name}` | {shown} | {meaning} |")
    return "\n".join(rows) + "\n"


def written_table() -> str:
    """The table that stands in the README."""
    return README.read_text().partition(_BEGIN)[2].partition(_END)[0]


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(_BEGIN)
    README.write_text(before + _BEGIN + settings_table() + _END + rest.partition(_END)[2])
