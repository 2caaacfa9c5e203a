"""CI's scan for known vulnerabilities, against a server that follows OSV's API.

A query is a POST of {"package": {"name", "ecosystem"}, "version"}; the answer is {} or {"vulns": […]} in OSV's format:
https://google.github.io/osv.dev/post-v1-query/
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

AUDIT = Path(".ci/audit").absolute()
VULNERABILITY = {
    "id": "GHSA-test-test-test",
    "modified": "2026-01-01T00:00:00Z",
    "published": "2026-01-01T00:00:00Z",
    "summary": "a test's",
    "details": "a test's",
    "aliases": [],
    "affected": [
        {
            "package": {"name": "aiohttp", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


async def audit(url: str, cache: Path, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(AUDIT)),
        env={
            **{name: value for name, value in os.environ.items() if name != "AUDIT_OFFLINE"},
            "OSV_URL": url,
            "XDG_CACHE_HOME": str(cache),
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.parametrize("vulnerable", [True, False])
async def test_a_known_vulnerability_of_what_is_locked_fails_it(vulnerable: bool, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    async def query(request: web.Request) -> web.Response:
        asked.append(await request.json())
        bad = asked[-1]["package"]["name"] in (("aiohttp", "django") if vulnerable else ("django",))
        return web.json_response({"vulns": [VULNERABILITY]} if bad else {})

    app = web.Application()
    app.router.add_post("/v1/query", query)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    code, said = await audit(f"http://127.0.0.1:{runner.addresses[0][1]}/v1/query", tmp_path)
    await runner.cleanup()
    assert code == vulnerable, said
    assert ("GHSA-test-test-test, mended in 99.1" in said) == vulnerable
    assert {"aiohttp", "asyncpg", "moto"} <= {one["package"]["name"] for one in asked}
    assert f"{len(asked) - 1} dependencies looked at, {int(vulnerable)} known" in said
    assert "django" not in said


async def test_it_fails_if_nobody_answers(tmp_path: Path) -> None:
    code, said = await audit("http://127.0.0.1:9/v1/query", tmp_path)
    assert (code, "FAILED, since OSV did not answer" in said) == (1, True), said
    assert "AUDIT_OFFLINE=1" in said


@pytest.mark.parametrize(
    ("offline", "code", "told"), [("1", 0, "NOT DONE"), ("0", 1, "FAILED"), ("true", 1, "AUDIT_OFFLINE is")]
)
async def test_only_a_setting_that_says_offline_lets_it_pass_without_an_answer(
    offline: str, code: int, told: str, tmp_path: Path
) -> None:
    ended, said = await audit("http://127.0.0.1:9/v1/query", tmp_path, AUDIT_OFFLINE=offline)
    assert (ended, told in said) == (code, True), said


@pytest.mark.parametrize("answer", ["<html>sign in to the network</html>", "{}", "[]", "null"])
async def test_an_answer_that_is_no_osv_fails_it(answer: str, tmp_path: Path) -> None:
    async def something(_: web.Request) -> web.Response:
        return web.Response(text=answer)

    app = web.Application()
    app.router.add_post("/v1/query", something)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    code, said = await audit(f"http://127.0.0.1:{runner.addresses[0][1]}/v1/query", tmp_path)
    await runner.cleanup()
    assert (code, "FAILED" in said) == (1, True), said


def test_ci_leaves_the_audit_out_by_name_and_make_audit_does_not() -> None:
    assert "AUDIT_OFFLINE=${AUDIT_OFFLINE-1} make audit" in Path(".ci/run").read_text()
    assert "AUDIT_OFFLINE" not in Path("Makefile").read_text()


def test_what_locks_is_locked_itself() -> None:
    recipe = Path("Makefile").read_text().partition("\nlock:")[2].partition("\n\n")[0]
    assert "pip install" not in recipe
    pinned = re.search(r"^uv==[\d.]+ \\\n    --hash=sha256:", Path("deploy/requirements-uv.txt").read_text(), re.MULTILINE)
    assert pinned, "make lock runs the uv of the lock"
