"""The suite's watch over secrets sees a secret that is printed, logged, written to a log file, or part of an error."""

from __future__ import annotations

import re

import pytest

_TESTS = """
import logging
from webhookd.errors import SettingsError, UnavailableError
from tests.helpers.secrets import note_environment

TOKEN, PASSWORD = "a-secret-of-27-characters-!", "another, in a URL"
note_environment({"WEBHOOKD_ADMIN_TOKENS": f"ann:{TOKEN},ben:one-more-secret-token"})
note_environment({"WEBHOOKD_DATABASE_URL": "postgresql://ann:another%2C%20in%20a%20URL@127.0.0.1/x"})

def test_prints_no_secret():
    print("nothing")

def test_writes_a_file_that_is_no_log(tmp_path):
    (tmp_path / "body.json").write_text(TOKEN)

def test_leaks_by_print():
    print("a", TOKEN)

def test_leaks_by_a_log_line():
    logging.getLogger("x").warning("with %s", PASSWORD)

def test_leaks_by_a_log_file(tmp_path):
    (tmp_path / "daemon.log").write_text(f"url={PASSWORD}")

def test_leaks_by_an_error():
    SettingsError(f"cannot use {TOKEN}")

def test_leaks_by_an_error_with_a_text_of_its_own():
    UnavailableError("redis", f"wrong password {PASSWORD}")
"""


def test_a_test_that_tells_a_secret_fails_and_no_other(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_subprocess("-p", "tests.helpers.secrets", "-rA")
    found = [re.match(r"(FAILED|ERROR|PASSED) \S+::(\w+)", line) for line in result.outlines]
    outcomes = [(match[2], match[1]) for match in found if match]
    bad = {name for name, outcome in outcomes if outcome != "PASSED"}
    names = {name for name, _ in outcomes}
    assert len(names) == 7, result.stdout.str()
    assert bad == {name for name in names if "leaks" in name}
