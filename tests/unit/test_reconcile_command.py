"""Tests of `webhookd reconcile`: its exit code, its CSV, and its lines."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from webhookd.cli.operator.reconcile_command import NOT_KNOWN, cell, csv_of, exit_code, lines_of, subscription_lines


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


def subscriptions(result: str = "green", **values: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"as_of": "2026-06-05T07:00:00Z", "listed_at": "2026-06-05T05:00:00Z"}
    return given | {"result": result, "differences": [], "difference_count": 0, "reasons": []} | values


def account(*days: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"account": "a", "days": list(days), "subscriptions": subscriptions(**values)}


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
    ],
)
def test_the_exit_code_is_0_only_if_every_day_is_green(results: list[str], code: int) -> None:
    assert exit_code([account(day(one)) for one in results]) == code


@pytest.mark.parametrize(("result", "code"), [("green", 0), ("not known", NOT_KNOWN), ("differences", 1)])
def test_the_exit_code_counts_the_subscriptions(result: str, code: int) -> None:
    assert exit_code([account(day(), result=result)]) == code


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    assert not cell(text).startswith(("=", "+", "-", "@"))
    assert cell(text).endswith(text.strip("\t\r"))
    own = {"kind": text, "subscription_id": text, "provider": text, "other": text, "to_do": text, "link": text}
    days = day("differences", differences=[difference(subject=text, to_do=text)], reasons=[text])
    rows = [account(days, differences=[own], reasons=[text])]
    for row in csv.reader(io.StringIO(csv_of(rows), newline="")):
        assert len(row) == 12
        assert not [one for one in row if one.startswith(("=", "+", "-", "@"))]


def test_a_line_of_csv_has_all_columns() -> None:
    text = csv_of(
        [
            account(
                day(),
                day("differences", differences=[difference()], reasons=["it is open"]),
                result="differences",
                differences=[RENEWAL],
                reasons=["old"],
            )
        ]
    )
    green, differs, open_, renewal, old = csv.DictReader(io.StringIO(text))
    assert (green["result"], green["kind"]) == ("green", "")
    assert (differs["transactions"], differs["batch_id"], differs["to_do"]) == ("1 2", "'+7", "Look.")
    assert (open_["kind"], open_["to_do"]) == ("not known", "it is open")
    assert (renewal["day"], renewal["kind"], renewal["subject"], renewal["provider"]) == (
        "",
        "renewal did not come",
        "subscription 77",
        "2026-06-01",
    )
    assert (renewal["result"], old["kind"], old["to_do"]) == ("differences", "not known", "old")
    assert None not in {**renewal, **old, **green, **differs, **open_}


RENEWAL = {
    "kind": "renewal did not come",
    "subscription_id": "77",
    "provider": "2026-06-01",
    "other": None,
    "to_do": "Look.",
    "link": "/#/subscriptions/default/77",
}


def test_the_lines_of_subscriptions_name_each_difference_and_what_is_left_out() -> None:
    found = subscriptions("differences", differences=[RENEWAL], difference_count=2, reasons=["old"])
    assert list(subscription_lines(found, "http://ops")) == [
        "subscriptions (listed 2026-06-05 05:00 UTC): differences",
        "  renewal did not come: 77; provider 2026-06-01, webhookd nothing",
        "    Look.",
        "    http://ops/#/subscriptions/default/77",
        "  not known yet: old",
        "  and 1 difference more",
    ]


def test_the_lines_of_a_day_hold_no_control_characters_and_say_what_is_left_out() -> None:
    given = day(
        "differences", differences=[difference(subject="a\x1b[1m")], difference_count=3, reasons=["x\x1b"], reason_count=2
    )
    lines = list(lines_of(given, "http://ops"))
    assert not any("\x1b" in line for line in lines)
    assert "    http://ops/#/transactions/default/1" in lines
    assert "  and 2 differences more" in lines
    assert "  and 1 reason more" in lines


def test_csv_has_a_line_for_what_is_left_out() -> None:
    days = day("differences", differences=[difference()], difference_count=3, reasons=["old"], reason_count=2)
    own = {"result": "differences", "differences": [RENEWAL], "difference_count": 2}
    rows = list(csv.DictReader(io.StringIO(csv_of([account(days, **own)]))))
    assert [(row["day"], row["subject"], row["to_do"]) for row in rows if row["kind"] == "left out"] == [
        ("2026-06-02", "", "and 2 differences more"),
        ("2026-06-02", "", "and 1 reason more"),
        ("", "subscriptions", "and 1 difference more"),
    ]
    complete = csv_of([account(day("differences", differences=[difference()], difference_count=1))])
    assert "left out" not in complete
