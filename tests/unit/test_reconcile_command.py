"""Tests of `webhookd reconcile`: its exit code, its CSV, and its lines."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from webhookd.cli.operator.reconcile_command import NOT_KNOWN, cell, csv_of, exit_code, lines_of


def day(result: str = "green", **values: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "day": "2026-06-02",
        "result": result,
        "begins": "2026-06-02T07:00:00Z",
        "ends": "2026-06-03T07:00:00Z",
        "as_of": "2026-06-05T07:00:00Z",
        "charged": "10",
        "refunded": "0",
        "matched": 1,
        "without_money": 0,
        "differences": [],
        "difference_count": 0,
        "reasons": [],
        "reason_count": 0,
    }
    return given | values


def difference(**values: Any) -> dict[str, Any]:
    given = {"kind": "one invoice captured twice", "books": "provider", "subject": "=HYPERLINK(1)", "transactions": ["1", "2"]}
    rest = {"provider": None, "other": None, "batch_id": "+7", "to_do": "Look.", "links": ["/#/transactions/default/1"]}
    return given | rest | values


@pytest.mark.parametrize(
    ("results", "code"),
    [
        (["green", "green"], 0),
        (["green", "not known"], NOT_KNOWN),
        (["not known", "differences"], 1),
        (["green", "differences"], 1),
        ([], NOT_KNOWN),
    ],
)
def test_the_exit_code_is_0_only_if_every_day_is_green(results: list[str], code: int) -> None:
    assert exit_code([{"account": "a", "days": [day(one)]} for one in results]) == code


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    assert not cell(text).startswith(("=", "+", "-", "@"))
    assert cell(text).endswith(text.strip("\t\r"))
    rows = [{"account": "a", "days": [day("differences", differences=[difference(subject=text, to_do=text)], reasons=[text])]}]
    for row in csv.reader(io.StringIO(csv_of(rows), newline="")):
        assert len(row) == 12
        assert not [one for one in row if one.startswith(("=", "+", "-", "@"))]


def test_a_line_of_csv_has_all_columns() -> None:
    text = csv_of([{"account": "a", "days": [day(), day("differences", differences=[difference()], reasons=["it is open"])]}])
    green, differs, open_ = csv.DictReader(io.StringIO(text))
    assert (green["result"], green["kind"]) == ("green", "")
    assert (differs["transactions"], differs["batch_id"], differs["to_do"]) == ("1 2", "'+7", "Look.")
    assert (open_["kind"], open_["to_do"]) == ("not known", "it is open")
    assert None not in {**green, **differs, **open_}


def test_the_lines_of_a_day_hold_no_control_characters_and_say_what_is_left_out() -> None:
    given = day(
        "differences", differences=[difference(subject="a\x1b[1m")], difference_count=3, reasons=["x\x1b"], reason_count=2
    )
    lines = list(lines_of(given, "http://ops"))
    assert not any("\x1b" in line for line in lines)
    assert "    http://ops/#/transactions/default/1" in lines
    assert "  and 2 differences more" in lines
    assert "  and 1 reason more" in lines
