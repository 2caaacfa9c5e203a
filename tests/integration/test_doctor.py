"""The doctor: it finds every fault, and reports it with its remedy; and it finds which key made a signature."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from tests.conftest import Servers, settings_of
from tests.faults.test_clock import HOUR, Clock
from tests.faults.test_clock import pytestmark as needs_a_clock
from tests.helpers.queues import client, url_of
from tests.helpers.running import KEY
from webhookd.authorizenet.signature import fingerprint, sign
from webhookd.cli.main import app
from webhookd.doctor import Finding, Verdict, examine
from webhookd.process import handlers
from webhookd.process.handlers import Registry

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
BODY = b'{"notificationId":"d0e8e7fe","eventType":"net.authorize.payment.void.created","payload":{"authAmount":1.10}}'
OLD_KEY = "0" * 127 + "1"


async def _examine(servers: Servers, **overrides: Any) -> dict[str, Finding]:
    return {finding.check: finding async for finding in examine(settings_of(servers.settings, **overrides))}


def _ill(findings: dict[str, Finding]) -> dict[str, Verdict]:
    return {finding.check: finding.verdict for finding in findings.values() if finding.verdict is not Verdict.OK}


async def test_all_is_well_and_nothing_is_left_behind(servers: Servers) -> None:
    client = Redis.from_url(servers.redis_url)
    findings = await _examine(servers)
    assert _ill(findings) == {}
    assert set(findings) >= {"settings", "handlers", "postgresql version", "schema", "redis", "sqs queue", "sqs redrive policy"}
    assert not [key async for key in client.scan_iter("webhookd:doctor:*")]
    await client.aclose()


@pytest.mark.parametrize(
    ("database_url", "redis_url", "sqs"),
    [
        ("postgresql://s:hunter2@127.0.0.1:1/s", "redis://:hunter2@127.0.0.1:1/0", {"sqs_endpoint_url": "http://127.0.0.1:1"}),
        ("postgresql://s:hunter2@[::1/s", "redis://:hunter2@127.0.0.1:x/0", {"sqs_queue": "nowhere"}),
    ],
    ids=["away", "unreadable"],
)
async def test_a_dependency_that_does_not_answer_fails_and_its_setting_is_named(
    servers: Servers, database_url: str, redis_url: str, sqs: dict[str, str]
) -> None:
    findings = await _examine(servers, database_url=database_url, redis_url=redis_url, **sqs)
    assert _ill(findings) == dict.fromkeys(("postgresql", "redis", "sqs"), Verdict.FAILED)
    assert "WEBHOOKD_DATABASE_URL" in findings["postgresql"].detail
    assert "WEBHOOKD_REDIS_URL" in findings["redis"].detail
    assert any(f"WEBHOOKD_{name.upper()}" in findings["sqs"].detail for name in sqs)
    assert "hunter2" not in repr(findings)


async def test_a_wrong_password_is_told_without_it(servers: Servers) -> None:
    scheme, _, place = servers.redis_url.rpartition("@")
    findings = await _examine(servers, redis_url=f"redis://:hunter2@{place}")
    assert scheme
    assert _ill(findings) == {"redis": Verdict.FAILED}
    assert "Redis refuses the password in WEBHOOKD_REDIS_URL: write there" in findings["redis"].detail
    assert "hunter2" not in repr(findings)


async def test_a_redis_that_takes_no_key_fails(servers: Servers) -> None:
    client: Any = Redis.from_url(servers.redis_url)
    await client.execute_command("ACL", "SETUSER", "reader", "on", ">hunter2", "~*", "+@read", "+ping")
    _, _, place = servers.redis_url.rpartition("@")
    findings = await _examine(servers, redis_url=f"redis://reader:hunter2@{place}")
    assert _ill(findings) == {"redis": Verdict.FAILED}
    assert "(NOPERM): allow the user in WEBHOOKD_REDIS_URL to run EVAL" in findings["redis"].detail
    await client.execute_command("ACL", "DELUSER", "reader")
    await client.aclose()


async def test_a_database_without_the_schema_is_told_how_to_get_it(servers: Servers, connection: Connection) -> None:
    await connection.execute("DROP SCHEMA webhookd CASCADE")
    findings = await _examine(servers)
    assert _ill(findings) == {"schema": Verdict.FAILED}
    assert "0001_ledger" in findings["schema"].detail
    assert "webhookd migrate" in findings["schema"].detail


async def test_a_commit_that_is_not_synchronous_fails(servers: Servers, connection: Connection) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    findings = await _examine(servers)
    assert _ill(findings) == {"synchronous_commit": Verdict.FAILED}
    assert "set it to on" in findings["synchronous_commit"].detail


@pytest.mark.parametrize(
    ("limit", "lacks"),
    [(20, "do not suffice for one replica"), (40, "for a second replica, which a rollout starts"), (66, None)],
)
async def test_too_few_connections_are_warned_of(
    servers: Servers, connection: Connection, limit: int, lacks: str | None
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT {limit}")
    findings = await _examine(servers, concurrency=16)  # takes 16 + 17 connections
    assert f"admits {limit} of this role, and a replica with these settings takes up to 33" in findings["connections"].detail
    assert _ill(findings) == ({} if lacks is None else {"connections": Verdict.WARNING})
    assert lacks is None or lacks in findings["connections"].detail


async def test_a_queue_that_does_not_redrive_fails(servers: Servers) -> None:
    findings = await _examine(servers, sqs_queue=servers.dead_letter_queue, sqs_dead_letter_queue=servers.queue)
    assert _ill(findings)["sqs redrive policy"] is Verdict.FAILED
    assert servers.queue in findings["sqs redrive policy"].detail


async def test_a_queue_that_soon_gives_up_is_warned_of(servers: Servers) -> None:
    async with client(servers) as sqs:
        url = await url_of(sqs, servers.queue)
        name = "RedrivePolicy"
        policy = orjson.loads((await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name]))["Attributes"][name])
        changed = orjson.dumps(policy | {"maxReceiveCount": 9}).decode()
        await sqs.set_queue_attributes(QueueUrl=url, Attributes={name: changed})
    findings = await _examine(servers)
    assert _ill(findings) == {"sqs redrive policy": Verdict.WARNING}
    assert "set maxReceiveCount to 10 or more" in findings["sqs redrive policy"].detail


async def test_a_truncated_key_is_warned_of_by_its_fingerprint(servers: Servers) -> None:
    findings = await _examine(servers, signature_keys=KEY[:100], allow_odd_signature_keys=True)
    assert _ill(findings) == {"signature key of default": Verdict.WARNING}
    assert "100 characters" in findings["signature key of default"].detail
    assert fingerprint(KEY[:100]) in findings["signature key of default"].detail
    assert KEY[:100] not in repr(findings)


async def test_handlers_that_cannot_be_imported_fail(servers: Servers) -> None:
    findings = await _examine(servers, handlers="no_such_shop")
    assert _ill(findings) == {"handlers": Verdict.FAILED}
    assert "no_such_shop" in findings["handlers"].detail


async def test_each_handler_is_listed_with_its_patterns_and_its_place(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "registered", Registry())
    code = "from webhookd import lifespan, on\n@on('payment.refund.*')\n@on('*')\nasync def book(event, connection): ...\n"
    code += "@lifespan\nasync def client():\n    1 / 0\n    yield\n"  # the doctor starts no hook
    (tmp_path / "listed_shop.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    findings = await _examine(servers, handlers="listed_shop")
    assert _ill(findings) == {}
    assert findings["handlers"].detail == "2 registered"
    place = f"in listed_shop, {tmp_path}/listed_shop.py:2"
    assert findings["hook listed_shop.client"].detail.endswith(f"({tmp_path}/listed_shop.py:5)")
    assert findings["handler listed_shop.book"].detail == f"*, net.authorize.payment.refund.*; {place}"


async def test_a_handler_that_waits_for_details_of_an_account_without_credentials_is_a_warning(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "registered", Registry())
    code = "from webhookd import on\n@on('payment.*', details=True)\nasync def book(event, connection): ...\n"
    (tmp_path / "waiting_shop.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    findings = await _examine(servers, handlers="waiting_shop")
    assert _ill(findings) == {"details of default": Verdict.WARNING}
    assert "waiting_shop.book has details=True" in findings["details of default"].detail
    assert "WEBHOOKD_API_LOGIN_ID" in findings["details of default"].detail


@pytest.mark.parametrize(
    ("name", "decorator", "problem"),
    [
        ("typo", '@on("payment.refnd.created")', 'the nearest known type is "payment.refund.created"'),
        ("bare", "@on", "@on stands without an event type"),
        ("none", "", "registers no handler"),
    ],
)
async def test_a_handler_that_would_never_run_fails(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, decorator: str, problem: str
) -> None:
    monkeypatch.setattr(handlers, "registered", Registry())
    code = f"from webhookd import on\n{decorator}\nasync def book(event, connection): ...\n"
    (tmp_path / f"shop_with_{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    findings = await _examine(servers, handlers=f"shop_with_{name}")
    assert _ill(findings) == {"handlers": Verdict.FAILED}
    assert problem in findings["handlers"].detail


@pytest.mark.parametrize(
    ("retry", "problem"),
    [
        ("attempts=0", "Retry(attempts=0): give a whole number from 1 to 1000"),
        ("base=7200", "is above WEBHOOKD_RETRY_CAP (3600 s); give a lower base or a higher cap"),
    ],
)
async def test_a_handlers_retry_that_cannot_work_fails(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retry: str, problem: str
) -> None:
    monkeypatch.setattr(handlers, "registered", Registry())
    name = f"shop_of_{retry.partition('=')[0]}"
    code = f"from webhookd import Retry, on\n@on('*', retry=Retry({retry}))\nasync def book(event, connection): ...\n"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    findings = await _examine(servers, handlers=name)
    assert _ill(findings) == {"handlers": Verdict.FAILED}
    assert problem in findings["handlers"].detail


async def test_an_address_in_use_is_a_warning_only(servers: Servers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        findings = await _examine(servers, listen=f"127.0.0.1:{taken.getsockname()[1]}")
    assert _ill(findings) == {"WEBHOOKD_LISTEN": Verdict.WARNING}


@needs_a_clock
async def test_a_clock_that_is_wrong_is_reported_with_its_direction(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in servers.settings.items():
        monkeypatch.setenv(name, value)
    for seconds, direction in ((3 * HOUR, "ahead of"), (-3 * HOUR, "behind")):
        with monkeypatch.context() as patched:
            Clock(tmp_path, patched, "doctor").set(seconds)
            command = [sys.executable, "-m", "webhookd", "doctor", "--json", "--folder", str(tmp_path)]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        [told] = [one["detail"] for one in json.loads(done.stdout)["findings"] if one["check"] == "clock"]
        assert re.fullmatch(
            rf"this machine's clock is 10[78]\d\d s {direction} PostgreSQL's: run NTP .* on both machines", told
        )


def _explain(folder: Path, signature: str, *arguments: str) -> tuple[int, str]:
    """Runs `webhookd doctor` for BODY and `signature` with two keys, and asserts that the output shows neither key."""
    (folder / "body.json").write_bytes(BODY)
    command = ["doctor", "--body", str(folder / "body.json"), "--signature", signature, "--folder", str(folder), *arguments]
    result = CliRunner().invoke(app, command, env={"WEBHOOKD_SIGNATURE_KEYS": f"{OLD_KEY},{KEY}", "COLUMNS": "120"})
    assert KEY not in result.output
    assert OLD_KEY not in result.output
    return result.exit_code, " ".join(result.output.split())


def test_a_captured_signature_is_explained_by_its_key_without_any_dependency(tmp_path: Path) -> None:
    code, told = _explain(tmp_path, sign(BODY, KEY))
    assert code == 0
    assert f"The signature verifies: the key {fingerprint(KEY)} of the account default, as text." in told
    assert fingerprint(OLD_KEY) in told, "the other key's row is there, too"
    code, told = _explain(tmp_path, sign(BODY, KEY).lower(), "--json")
    assert code == 0
    matching = [reading for reading in json.loads(told)["readings"] if reading["matches"]]
    assert [(reading["fingerprint"], reading["reading"]) for reading in matching] == [(fingerprint(KEY), "as text")]


def test_a_signature_by_the_hex_decoded_key_is_told_to_be_one(tmp_path: Path) -> None:
    code, told = _explain(tmp_path, "sha512=" + hmac.digest(bytes.fromhex(KEY), BODY, "sha512").hex())
    assert code == 1
    assert f"Made with the key {fingerprint(KEY)} hex-decoded" in told


def test_a_body_that_was_serialised_again_is_told_to_be_one(tmp_path: Path) -> None:
    spaced = BODY.replace(b":", b": ").replace(b",", b", ")
    (tmp_path / "body.json").write_bytes(spaced)
    command = ["doctor", "--body", str(tmp_path / "body.json"), "--signature", sign(BODY, KEY), "--folder", str(tmp_path)]
    result = CliRunner().invoke(app, command, env={"WEBHOOKD_SIGNATURE_KEYS": KEY, "COLUMNS": "200"})
    assert result.exit_code == 1
    assert f"the key {fingerprint(KEY)} signed it without white space between its parts" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        ("sha512=" + "0" * 128, "No key that is set here made this signature"),
        (hashlib.sha512(BODY).hexdigest(), "no prefix, 128 hexadecimal digits in lower case"),
        ("nonsense", "The header is not written as Authorize.Net writes it"),
        (
            sign(BODY, KEY).removeprefix("sha512="),
            f"The key {fingerprint(KEY)} made this signature. The header is not written as",
        ),
    ],
)
def test_a_signature_that_no_key_made_so_is_explained(tmp_path: Path, signature: str, told: str) -> None:
    code, output = _explain(tmp_path, signature)
    assert code == 1
    assert told in output


def test_a_body_without_its_signature_is_refused(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(BODY)
    result = CliRunner().invoke(app, ["doctor", "--body", str(tmp_path / "body.json")])
    assert result.exit_code != 0
    assert "give both, from one captured request" in str(result.exception)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "nobody may use the API and the dashboard: set WEBHOOKD_ADMIN_TOKENS"),
        ({"admin_tokens": {"ann": "0123456789abcdef"}, "read_tokens": {"bob": "fedcba9876543210"}}, "operate: ann; look: bob"),
        ({"admin_anonymous": "look"}, "look: whoever reaches WEBHOOKD_ADMIN_LISTEN, without a token"),
    ],
)
async def test_who_may_operate_is_told_by_name(servers: Servers, settings: dict[str, Any], told: str) -> None:
    findings = await _examine(servers, **settings)
    assert findings["operators"].detail == told
