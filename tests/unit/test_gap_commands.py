"""`webhookd gaps`: the line of a day, its exit code, and the first day of an order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from webhookd.cli.main import app
from webhookd.cli.operator import gap_commands
from webhookd.cli.operator.gap_commands import first_day, line_of, problems_of
from webhookd.errors import SettingsError

TODAY = datetime.now(UTC).date()
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


def day(at: date = date(2026, 11, 26), completeness: str = "whole", **counts: int) -> dict[str, Any]:
    names = ("listed", "ours", "recovered", "missing", "waiting", "unreadable", "unlisted")
    return {"day": at.isoformat(), "completeness": completeness} | dict.fromkeys(names, 0) | counts


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (day(listed=4812, ours=4812, recovered=3), "26 November: provider 4,812, webhookd 4,812, 3 recovered"),
        (
            day(completeness="missing", listed=5, ours=3, missing=2),
            "26 November: provider 5, webhookd 3, 0 recovered; 2 missing",
        ),
        (
            day(completeness="open", listed=5, ours=4, waiting=1),
            "26 November: provider 5, webhookd 4, 0 recovered; 1 perhaps on their way; not proven yet",
        ),
        (
            day(completeness="not known", ours=0, unlisted=7),
            (
                "26 November: provider 0, webhookd 0, 0 recovered; 7 that the provider does not list; "
                "whether more are missing is not known"
            ),
        ),
        (
            day(completeness="unreadable", listed=1, unreadable=1),
            "26 November: provider 1, webhookd 0, 0 recovered; 1 unreadable",
        ),
    ],
)
def test_the_line_of_a_day_says_what_is_known(given: dict[str, Any], line: str) -> None:
    assert line_of(given) == line


def show(
    monkeypatch: pytest.MonkeyPatch,
    *days: dict[str, Any],
    account: str = "default",
    others: Sequence[dict[str, Any]] = (),
    options: Sequence[str] = (),
    **fields: Any,
) -> Any:
    given = {
        "credentials": "good",
        "credentials_since": "2026-11-01T00:00:00Z",
        "compared_at": "2026-11-27T00:00:00Z",
        "uncompared": False,
        "held": True,
        "unattended": False,
        "first_day": min((day["day"] for day in days), default=None),
    }
    accounts = [given | fields | {"account": account}, *(given | fields | other for other in others)]

    class Api:
        async def get(self, *path: str, **query: Any) -> Any:
            if path == ("provider", "accounts"):
                return {"accounts": accounts}
            assert path in [("provider", "accounts", one["account"], "days") for one in accounts]
            assert query == {"days": 14}
            return {"days": list(days)}

    def with_api(url: object, folder: Path, use: Any) -> Any:
        import asyncio

        return asyncio.run(use(Api()))

    monkeypatch.setattr(gap_commands, "with_api", with_api)
    return CliRunner().invoke(app, ["gaps", *options])


REMOVED: dict[str, Any] = {"account": "eu", "held": False, "unattended": False, "uncompared": True}


def test_an_account_for_which_nobody_has_asked_for_days_counts_only_if_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = show(monkeypatch, day(TODAY - timedelta(days=1)), others=[REMOVED])
    assert found.exit_code == 0, found.output
    assert "eu: no credentials for three days: not compared; `webhookd gaps --account eu` shows its days" in found.output
    named = show(monkeypatch, day(TODAY - timedelta(days=1)), others=[REMOVED], options=["--account", "eu"])
    assert named.exit_code == 1
    assert "no comparison has ended for two hours, and no replica asks" in named.output


def test_an_account_for_which_nobody_asks_any_more_counts_for_three_days(monkeypatch: pytest.MonkeyPatch) -> None:
    found = show(monkeypatch, day(TODAY - timedelta(days=1)), others=[REMOVED | {"unattended": True}])
    assert found.exit_code == 1
    assert "no comparison has ended for two hours, and no replica asks" in found.output


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_if_no_account_is_compared_nobody_knows_whether_anything_is_missing(
    monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    found = show(monkeypatch, day(TODAY - timedelta(days=1)), held=False, uncompared=True, options=options)
    assert found.exit_code != 0
    assert "no account is compared" in found.output + str(found.exception)


@pytest.mark.parametrize(
    ("completeness", "age", "code"),
    [("whole", 1, 0), ("missing", 1, 1), ("not known", 1, 1), ("unreadable", 1, 1), ("missing", 0, 0), ("open", 0, 0)],
)
def test_the_exit_code_is_1_if_a_day_that_is_over_is_not_whole(
    monkeypatch: pytest.MonkeyPatch, completeness: str, age: int, code: int
) -> None:
    found = show(monkeypatch, day(TODAY - timedelta(days=age), completeness))
    assert found.exit_code == code, found.output


def test_refused_credentials_are_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = show(monkeypatch, day(TODAY - timedelta(days=1)), credentials="refused")
    assert found.exit_code == 1
    assert "Authorize.Net has refused the credentials since 2026-11-01 00:00:00" in found.output


def test_the_oldest_day_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = show(monkeypatch, day(date(2026, 11, 27)), day(date(2026, 11, 26)))
    assert [line.split(":")[0] for line in found.output.splitlines()[:2]] == ["26 November", "27 November"]


def account_of(*states: tuple[int, str], **fields: Any) -> dict[str, Any]:
    days = [{"day": (NOW.date() - timedelta(days=age)).isoformat(), "completeness": state} for age, state in states]
    given = {
        "credentials": "good",
        "uncompared": False,
        "held": True,
        "first_day": min((day["day"] for day in days), default=None),
    }
    return given | {"days": days} | fields


@pytest.mark.parametrize(
    ("account", "problems"),
    [
        (account_of(), []),  # the first comparison is under way
        (account_of((0, "open"), (1, "whole"), (2, "whole")), []),
        (account_of((0, "open"), (2, "whole")), ["1 day without a result, from 2026-11-30"]),
        (account_of((0, "open"), first_day="2026-10-01"), ["6 days without a result, from 2026-11-25"]),
        (account_of((0, "open"), (1, "whole"), (2, "open")), ["1 day open more than six hours after the end, from 2026-11-29"]),
        (account_of((1, "missing"), (2, "not known")), ["2 days not whole, from 2026-11-29"]),
        (account_of(uncompared=True), ["no comparison has ended for two hours"]),
        (account_of(uncompared=True, held=False), ["no comparison has ended for two hours, and no replica asks Authorize.Net"]),
    ],
)
def test_the_reasons_for_the_exit_code_are_told(account: dict[str, Any], problems: list[str]) -> None:
    found = list(problems_of(account, 7, NOW))
    assert len(found) == len(problems), found
    assert all(one.startswith(words) for one, words in zip(found, problems, strict=True)), found


@pytest.mark.parametrize(("hours", "problems"), [(5.9, 0), (6.1, 1)])
def test_a_day_may_be_open_for_six_hours_after_its_end(hours: float, problems: int) -> None:
    account = account_of((1, "open"))
    assert len(list(problems_of(account, 7, datetime.combine(NOW.date(), time(), UTC) + timedelta(hours=hours)))) == problems


def test_a_history_that_nobody_compares_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = show(monkeypatch, uncompared=True, held=False, unattended=True)
    assert found.exit_code == 1
    assert "no comparison has ended for two hours, and no replica asks Authorize.Net for the account now" in found.output


@pytest.mark.parametrize(
    ("text", "first"), [("30d", date(2026, 11, 1)), ("2w", date(2026, 11, 17)), ("2026-11-05", date(2026, 11, 5))]
)
def test_the_first_day_is_a_date_or_an_age(text: str, first: date) -> None:
    assert first_day(text, date(2026, 12, 1)) == first


@pytest.mark.parametrize("text", ["", "0d", "30", "1h", "yesterday", "2026-13-01", "9999d"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="give a date such as 2026-11-01, or an age"):
        first_day(text, date(2026, 12, 1))


def test_nothing_is_taken_without_a_confirmation() -> None:
    found = CliRunner().invoke(app, ["gaps", "close", "--since", "30d"])
    assert found.exit_code != 0
    assert "give --yes" in str(found.exception or "") + found.output
