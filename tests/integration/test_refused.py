"""Refused webhooks leave samples: bounded in number, with the likely fault, and without anything that could be replayed."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from tests.conftest import Servers, Start
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.signature import fingerprint, sign
from webhookd.cli.main import app
from webhookd.daemon import Daemon
from webhookd.store.queries import queries

AUTHCAPTURE = "net.authorize.payment.authcapture.created"
PATH = "/webhooks/authorize-net"
SIGNATURE = "X-ANET-Signature"
LOOK = "look-77b0e2-look-77b0e2"
EU = "1B" * 64
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
def starts(start: Start) -> Callable[..., Awaitable[Daemon]]:
    async def begin(**overrides: Any) -> Daemon:
        settings = {"roles": "receive", "accounts": {"eu": {"signature_keys": EU}}, "read_tokens": f"len:{LOOK}"}
        return await start(**settings | {"body_timeout": 1, "max_body_bytes": 4096} | overrides)

    return begin


@pytest_asyncio.fixture
async def daemon(starts: Callable[..., Awaitable[Daemon]]) -> Daemon:
    return await starts()


@pytest_asyncio.fixture
async def http(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(daemon.public_url) as session:
        yield session


async def refused(
    http: aiohttp.ClientSession, path: str = PATH, *, body: bytes = b"{}", headers: dict[str, str] | None = None
) -> int:
    async with http.post(path, data=body, headers=headers) as response:
        return response.status


async def listed(daemon: Daemon, **query: str) -> list[dict[str, Any]]:
    async with (
        aiohttp.ClientSession(daemon.admin_url, headers={"Authorization": f"Bearer {LOOK}"}) as http,
        http.get("/webhooks/refused", params={"limit": "200", **query}) as answer,
    ):
        assert answer.status == 200
        samples: list[dict[str, Any]] = (await answer.json())["samples"]
        return samples


async def sampled(daemon: Daemon, count: int = 1, **query: str) -> list[dict[str, Any]]:
    async def there() -> bool:
        return len(await listed(daemon, **query)) >= count

    await until(there, f"{count} samples are written")
    return await listed(daemon, **query)


async def test_a_forged_webhook_leaves_a_sample_without_its_signature(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    sent = sample(AUTHCAPTURE, 1)
    # A random id may hold thirteen digits in a row, which would be hidden like a card number.
    body = sent.body.replace(sent.notification_id.encode(), b"aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
    signature = sign(body, "0A" * 64)
    headers = {SIGNATURE: signature, "X-Forwarded-For": "198.241.162.104", "Content-Type": "application/json"}
    assert await refused(http, f"{PATH}?token=s3cret", body=body, headers=headers) == 401
    [found] = await sampled(daemon)
    assert found["refused_at"].endswith("Z")
    assert found | {"id": "", "refused_at": "", "likely": ""} == {
        "id": "",
        "refused_at": "",
        "account": "default",
        "reason": "signature_mismatch",
        "status": 401,
        "path": PATH,
        "peer": "127.0.0.1",
        "forwarded_for": "198.241.162.104",
        "header": "sha512=, 128 hexadecimal digits in upper case",
        "content_type": "application/json",
        "size": len(body),
        "first_bytes": body[:200].decode(),
        "finding": "unknown_key",
        "likely": "",
    }
    told = json.dumps(found)
    assert signature[20:40] not in told
    assert "s3cret" not in told


async def test_each_refusal_leaves_a_sample_that_tells_its_reason(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    body = sample(AUTHCAPTURE, 1).body
    good = {SIGNATURE: sign(body, KEY)}
    assert await refused(http, body=body) == 401
    assert await refused(http, body=body, headers={SIGNATURE: "md5=00"}) == 401
    assert await refused(http, f"{PATH}/nobody", body=body, headers=good) == 404
    assert await refused(http, "/webhook/authorize-net", body=body, headers=good) == 404
    assert await refused(http, body=body, headers={"Content-Encoding": "gzip", **good}) == 415
    assert await refused(http, body=b"x" * 5000, headers=good) == 413
    assert await refused(http, body=body, headers={"Expect": "a-miracle", **good}) == 417
    found = await sampled(daemon, 7)
    assert Counter((one["account"], one["status"], one["reason"]) for one in found) == {
        ("default", 401, "signature_missing"): 1,
        ("default", 401, "signature_malformed"): 1,
        ("unknown", 404, "unknown_account"): 1,
        ("unknown", 404, "unknown_path"): 1,
        ("default", 415, "content_encoding"): 1,
        ("default", 413, "too_large"): 1,
        ("default", 417, "bad_expect"): 1,
    }
    assert all(one["likely"] for one in found)
    assert [one["path"] for one in found if one["reason"] == "unknown_path"] == ["/webhook/authorize-net"]
    assert [one["size"] for one in found if one["reason"] == "too_large"] == [5000]


async def test_what_is_no_webhook_leaves_no_sample(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    async with http.get(PATH) as response:
        assert response.status == 405
    assert await refused(http, "/wp-login.php") == 404
    assert await refused(http) == 401
    assert [one["reason"] for one in await sampled(daemon)] == ["signature_missing"]


async def test_the_sample_says_what_is_likely_wrong(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    body = sample(AUTHCAPTURE, 1).body
    hexed = "sha512=" + hmac.digest(bytes.fromhex(KEY), body, "sha512").hex()
    await refused(http, body=body, headers={SIGNATURE: hexed})
    await refused(http, body=json.dumps(json.loads(body)).encode(), headers={SIGNATURE: sign(body, KEY)})
    await refused(http, f"{PATH}/eu", body=body, headers={SIGNATURE: sign(body, KEY)})
    form = b"x_trans_id=1&x_first_name=Ann"
    await refused(http, f"{PATH}/eu", body=form, headers={"Content-Type": "application/x-www-form-urlencoded"})
    found = {one["finding"]: one for one in await sampled(daemon, 4)}
    assert found.keys() == {"hex_decoded_key", "body_changed", "other_account", "silent_post"}
    assert fingerprint(KEY) in found["hex_decoded_key"]["likely"]
    assert f"{fingerprint(KEY)} of the account default" in found["other_account"]["likely"]
    assert found["silent_post"]["first_bytes"] == "x_trans_id=*&x_first_name=*"
    assert not any(KEY in json.dumps(one) for one in found.values())


async def test_what_strangers_write_is_stored_cut_escaped_and_masked(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    body = b'{"a":"\x1b[2J\xff\xe2\x80\xae","card":"4111 1111 1111 1111","mail":"ann@example.com"}' + b"x" * 1000
    headers = {"X-Forwarded-For": "<img src=x>\u202e" + "y" * 500, "Content-Type": "text/\u00eb"}
    await refused(http, f"{PATH}/" + "%1b" * 2000, body=body, headers=headers)
    await refused(http, body=body, headers=headers)
    found = await sampled(daemon, 2)
    row = await connection.fetchrow("SELECT r::text AS whole FROM refused_webhooks r WHERE status = 401")
    assert row is not None
    for text in (json.dumps(found, ensure_ascii=False), row["whole"]):
        assert text.isprintable()
        assert "4111" not in text
        assert "example.com" not in text
        assert "\u202e" not in text
    assert max(len(one["path"]) for one in found) == 200
    assert all(len(one["forwarded_for"]) < 600 for one in found)
    assert all(len(one["first_bytes"]) <= 800 for one in found)


async def test_a_flood_of_one_reason_is_sampled_at_a_pace_and_others_still_are(
    daemon: Daemon, http: aiohttp.ClientSession, connection: Connection
) -> None:
    """One address sends far more than its share; another address, another account and another reason still have samples."""
    forged = {SIGNATURE: "sha512=" + "0" * 128}
    began = time.monotonic()
    for _ in range(20):
        await asyncio.gather(*(refused(http, headers=forged) for _ in range(20)))
    async with aiohttp.ClientSession(
        daemon.public_url, connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    ) as elsewhere:
        await refused(elsewhere, headers=forged)
    await refused(http, f"{PATH}/eu", headers=forged)
    await refused(http)
    await sampled(daemon, account="eu")
    await sampled(daemon, reason="signature_missing")
    found = await sampled(daemon, account="default", reason="signature_mismatch")
    from_each = Counter(one["peer"] for one in found)
    assert from_each["127.0.0.2"] == 1
    windows = 2 + (time.monotonic() - began) // 10  # windows of ten seconds each
    assert from_each["127.0.0.1"] <= 5 * windows
    written = daemon.metrics.registry.get_sample_value("webhookd_refused_samples_total", {"outcome": "kept"}) or 0
    assert written <= 8 * windows, "a flood writes no more than its pace"


async def add(
    connection: Connection, count: int, *, peer: str = "10.0.0.1", finding: str = "unknown_key", age: float = 0
) -> None:
    columns = {
        "ids": [uuid4() for _ in range(count)],
        "ages": [age + count - number for number in range(count)],
        "accounts": ["default"] * count,
        "outcomes": ["signature_mismatch"] * count,
        "statuses": [401] * count,
        "peers": [peer] * count,
        "findings": [finding] * count,
        "lengths": [2] * count,
    }
    texts = ("paths", "forwarded", "shapes", "content_types", "first_bytes", "likely")
    await queries.add_refused(connection, **columns, **dict.fromkeys(texts, [""] * count))


async def kept(connection: Connection) -> Counter[tuple[str, str]]:
    rows = await connection.fetch("SELECT peer, finding FROM refused_webhooks")
    return Counter((row["peer"], row["finding"]) for row in rows)


async def test_a_flood_removes_its_own_samples_first(connection: Connection) -> None:
    await add(connection, 3, peer="10.0.0.9", finding="hex_decoded_key", age=5000)
    await add(connection, 3, peer="10.0.0.2", age=3000)
    await add(connection, 500, peer="10.0.0.1")
    await queries.trim_refused(connection, accounts=["default"], outcomes=["signature_mismatch"], keep=20)
    assert await kept(connection) == {
        ("10.0.0.9", "hex_decoded_key"): 3,
        ("10.0.0.2", "unknown_key"): 3,
        ("10.0.0.1", "unknown_key"): 14,
    }
    for number in range(100):  # each sample comes from another address
        await add(connection, 1, peer=f"10.1.0.{number}")
    await queries.trim_refused(connection, accounts=["default"], outcomes=["signature_mismatch"], keep=20)
    assert (await kept(connection))["10.0.0.9", "hex_decoded_key"] == 3


async def test_samples_expire(connection: Connection) -> None:
    await add(connection, 2, age=15 * 86_400)
    await add(connection, 1)
    await queries.expire_refused(connection, age=14 * 86_400.0)
    assert (await kept(connection)).total() == 1


async def test_the_setting_bounds_the_samples_and_turns_them_off(
    starts: Callable[..., Awaitable[Daemon]], connection: Connection
) -> None:
    await add(connection, 30)
    few = await starts(refused_samples=3)
    async with aiohttp.ClientSession(few.public_url) as http:
        await refused(http, headers={SIGNATURE: "sha512=" + "0" * 128})
    await until(lambda: connection.fetchval("SELECT count(*) = 3 FROM refused_webhooks"), "three are kept")
    await few.stop()
    none = await starts(refused_samples=0)
    await until(lambda: connection.fetchval("SELECT count(*) = 0 FROM refused_webhooks"), "none is kept")
    async with aiohttp.ClientSession(none.public_url) as http:
        await refused(http)
    await none.stop()
    assert not await connection.fetchval("SELECT count(*) FROM refused_webhooks")


async def test_samples_of_any_replica_are_listed_by_each_and_a_stop_writes_what_waits(
    starts: Callable[..., Awaitable[Daemon]],
) -> None:
    first, second = await starts(), await starts()
    async with aiohttp.ClientSession(first.public_url) as http:
        await refused(http)
    await first.stop()
    assert len(await listed(second)) == 1


async def test_while_postgresql_is_away_samples_are_dropped_and_counted(
    starts: Callable[..., Awaitable[Daemon]], servers: Servers
) -> None:
    daemon = await starts(database_url="postgresql://nobody@127.0.0.1:1/none")
    async with aiohttp.ClientSession(daemon.public_url) as http:
        assert await refused(http, f"{PATH}/nobody") == 404

    def dropped() -> bool:
        value = daemon.metrics.registry.get_sample_value("webhookd_refused_samples_total", {"outcome": "dropped"})
        return value == 1

    await until(dropped, "the sample is dropped")
    await daemon.stop()


@pytest.mark.parametrize(
    ("path", "name", "choice"),
    [("refused", "reason", "too_slow"), ("refused", "finding", "body_changed"), ("quarantine", "reason", "too_old")],
)
async def test_a_reason_that_there_is_not_is_refused_with_those_that_there_are(
    daemon: Daemon, path: str, name: str, choice: str
) -> None:
    async with aiohttp.ClientSession(daemon.admin_url, headers={"Authorization": f"Bearer {LOOK}"}) as http:
        async with http.get(f"/webhooks/{path}", params={name: "nonsense"}) as answer:
            assert answer.status == 422
            assert choice in (await answer.json())["detail"]
        async with http.get(f"/webhooks/{path}", params={name: choice}) as answer:
            assert answer.status == 200


async def test_pages_follow_each_other(daemon: Daemon, connection: Connection) -> None:
    await add(connection, 5)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    async with aiohttp.ClientSession(daemon.admin_url, headers={"Authorization": f"Bearer {LOOK}"}) as http:
        while True:
            async with http.get("/webhooks/refused", params={"limit": "2", **cursor}) as answer:
                page = await answer.json()
            seen += [one["id"] for one in page["samples"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
    rows = await connection.fetch("SELECT id FROM refused_webhooks ORDER BY refused_at DESC")
    assert seen == [str(row["id"]) for row in rows]


async def test_the_doctor_takes_a_sample_by_its_id(
    daemon: Daemon, http: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = sample(AUTHCAPTURE, 1).body
    assert await refused(http, body=body, headers={SIGNATURE: sign(body, KEY)[:60]}) == 401
    [one] = await sampled(daemon)
    monkeypatch.setenv("WEBHOOKD_API_URL", daemon.admin_url)
    monkeypatch.setenv("WEBHOOKD_API_TOKEN", LOOK)

    async def doctor(name: str, *more: str) -> Any:
        command = ["doctor", "--refused", name, "--folder", str(tmp_path), *more]
        return await asyncio.to_thread(CliRunner().invoke, app, command, env={"COLUMNS": "300"})

    found = await doctor(one["id"])
    assert found.exit_code == 1
    assert f"The key {fingerprint(KEY)} made this signature, and the header holds only 53 of its 128 digits" in found.output
    assert json.loads((await doctor(one["id"], "--json")).output) == one
    missing = await doctor(str(uuid4()))
    assert "samples are kept for two weeks" in str(missing.exception)
    both = await doctor(one["id"], "--signature", "sha512=")
    assert "give either --refused" in str(both.exception)
