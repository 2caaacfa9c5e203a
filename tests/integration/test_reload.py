"""A reload takes new keys, tokens and passwords: at SIGHUP, when a file of secrets changes, and whatever error it meets."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.conftest import Servers, settings_of
from tests.helpers.database import connect
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd import service
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.runtime.files import Changes
from webhookd.settings import Settings, load, secret_files

NEW_KEY = "0123456789ABCDEF" * 8
TYPE = "net.authorize.customer.created"


@pytest.fixture(autouse=True)
def collector_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the garbage collector as it is: the daemon would change it for the whole process, which runs the tests too."""
    monkeypatch.setattr(service, "_spare_the_collector", lambda: None)


async def serving(settings: Settings, read: Callable[[], Settings]) -> tuple[Daemon, asyncio.Task[int]]:
    """Serves in this process as `webhookd serve` does; returns the daemon, and the task that ends when the daemon ends."""
    daemons: list[Daemon] = []
    ending = asyncio.create_task(service.serve(settings, reload=read, started=daemons.append))
    await until(lambda: daemons or ending.done(), "it serves")
    if ending.done():
        await ending
    return daemons[0], ending


def reloads(daemon: Daemon, outcome: str) -> float:
    return daemon.metrics.registry.get_sample_value("webhookd_reloads_total", {"outcome": outcome}) or 0.0


async def status(daemon: Daemon, key: str, account: str = "") -> int:
    url = f"{daemon.public_url}/webhooks/authorize-net{account and f'/{account}'}"
    async with aiohttp.ClientSession() as http:
        return (await traffic.post(http, url, sampling.sample(TYPE, 1), key=key)).status


async def end(ending: asyncio.Task[int]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(ending, 20) == 0


async def test_whatever_a_reload_meets_the_next_one_is_done(servers: Servers) -> None:
    settings = settings_of(servers.settings, roles="receive")
    fresh = settings_of(servers.settings, roles="receive", signature_keys=NEW_KEY, accounts={"eu": {"signature_keys": NEW_KEY}})
    errors: list[Exception] = [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"), OSError(24, "too many open files")]

    def read() -> Settings:
        if errors:
            raise errors.pop()
        return fresh

    daemon, ending = await serving(settings, read)
    for failed in (1, 2):
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda failed=failed: reloads(daemon, "failed") == failed, "it has failed")  # type: ignore[misc]
        assert await status(daemon, KEY) == 200
    assert await status(daemon, NEW_KEY, "eu") == 404
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: reloads(daemon, "done") == 1, "it is done")
    assert await status(daemon, NEW_KEY) == 200
    assert await status(daemon, NEW_KEY, "eu") == 200
    assert await status(daemon, KEY) == 401
    await end(ending)


@pytest.mark.parametrize("key", ["x", NEW_KEY[:-1], f"{NEW_KEY},{NEW_KEY[1:]}"])
async def test_a_key_that_cannot_be_one_leaves_all_as_it_was(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    given = servers.settings | {"WEBHOOKD_ROLES": "receive", "WEBHOOKD_SIGNATURE_KEYS_FILE": str(keys)}
    del given["WEBHOOKD_SIGNATURE_KEYS"]
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    daemon, ending = await serving(load(), load)
    keys.write_text(key)
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: reloads(daemon, "failed") == 1, "it has failed")
    assert [await status(daemon, KEY), await status(daemon, NEW_KEY)] == [200, 401]
    keys.write_text(NEW_KEY)
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: reloads(daemon, "done") == 1, "it is done")
    assert [await status(daemon, KEY), await status(daemon, NEW_KEY)] == [401, 200]
    await end(ending)


async def test_a_sighup_while_it_starts_has_its_turn_when_it_serves(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(servers.settings, roles="receive")
    fresh = settings_of(servers.settings, roles="receive", signature_keys=NEW_KEY)
    start = Daemon.start

    async def hung_up(self: Daemon) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.2)  # longer than reading the settings takes
        await start(self)

    monkeypatch.setattr(Daemon, "start", hung_up)
    daemon, ending = await serving(settings, lambda: fresh)
    await until(lambda: reloads(daemon, "done") == 1, "it is done")
    answers: list[Any] = [await status(daemon, key) for key in (NEW_KEY, KEY)]
    assert answers == [200, 401]
    await end(ending)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the daemon look at the files of secrets more often."""
    monkeypatch.setattr(service, "_FILES_EVERY", 0.1)
    monkeypatch.setattr(service, "_AGAIN", 0.5)


def configured(servers: Servers, monkeypatch: pytest.MonkeyPatch, folder: Path, **files: str) -> dict[str, Path]:
    """Sets the environment of a daemon that reads the settings `files` from files of their own; returns their paths."""
    monkeypatch.chdir(folder)
    given = servers.settings | {"WEBHOOKD_ROLES": "receive"}
    paths = {}
    for name, content in files.items():
        paths[name] = folder / name
        paths[name].write_text(content)
        del given[f"WEBHOOKD_{name.upper()}"]
        given[f"WEBHOOKD_{name.upper()}_FILE"] = str(paths[name])
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return paths


async def watching() -> tuple[Daemon, asyncio.Task[int]]:
    """Serves as `webhookd serve` does, and watches the files of the secrets."""
    daemons: list[Daemon] = []
    changes = Changes(secret_files())
    ending = asyncio.create_task(service.serve(load(), reload=load, files=changes, started=daemons.append))
    await until(lambda: daemons or ending.done(), "it serves")
    if ending.done():
        await ending
    return daemons[0], ending


@pytest.mark.usefixtures("watched")
async def test_a_changed_file_of_keys_needs_no_signal(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounted = configured(servers, monkeypatch, tmp_path, signature_keys=KEY)["signature_keys"]
    # Kubernetes mounts a Secret as a link, and replaces the link.
    (tmp_path / "new").write_text(NEW_KEY)
    (tmp_path / "old").write_text(KEY)
    mounted.unlink()
    mounted.symlink_to(tmp_path / "old")
    daemon, ending = await watching()
    assert [await status(daemon, KEY), await status(daemon, NEW_KEY)] == [200, 401]
    await asyncio.sleep(0.5)
    assert reloads(daemon, "done") == 0  # no file has changed
    (tmp_path / "link").symlink_to(tmp_path / "new")
    (tmp_path / "link").replace(mounted)
    await until(lambda: reloads(daemon, "done") == 1, "the change is noticed")
    assert [await status(daemon, KEY), await status(daemon, NEW_KEY)] == [401, 200]
    mounted.unlink()
    await until(lambda: reloads(daemon, "failed") == 1, "the missing file is reported")
    assert await status(daemon, NEW_KEY) == 200
    await end(ending)


def with_user(url: str, user: str, password: str) -> str:
    """Returns `url` with another user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


@pytest.mark.usefixtures("watched")
async def test_a_new_password_of_postgresql_needs_no_restart(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = await connect(servers.database_url)
    names = [f"rotating_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    first, second = names
    for name in names:
        # Both act as the owner of the tables, as the guide advises: otherwise each would own the partitions that it makes.
        await admin.execute(f"CREATE ROLE {name} LOGIN IN ROLE postgres PASSWORD 'first-password'")
        await admin.execute(f"ALTER ROLE {name} SET role = postgres")

    async def sessions(name: str) -> int:
        return int(await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", name))

    async def cut(name: str) -> None:
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name)

    try:
        url = with_user(servers.database_url, first, "first-password")
        mounted = configured(servers, monkeypatch, tmp_path, database_url=url, signature_keys=KEY)["database_url"]
        daemon, ending = await watching()
        assert await status(daemon, KEY) == 200
        # The password changes, and PostgreSQL restarts: no session is left, and the old password opens none.
        await admin.execute(f"ALTER ROLE {first} PASSWORD 'second-password'")
        await cut(first)
        await until(lambda: not daemon.database.up, "the old password is refused")
        mounted.write_text(with_user(servers.database_url, first, "second-password"))
        await until(lambda: daemon.database.up, "the new password is in use")
        assert await status(daemon, KEY) == 200
        # A file with a mistake changes nothing: the present sessions go on, and the log names the problem.
        right = mounted.read_text()
        (tmp_path / "signature_keys").write_text(f"{KEY},{NEW_KEY}")
        mounted.write_text(with_user(servers.database_url, first, "a-password-with-a-typo"))
        await until(lambda: reloads(daemon, "failed") >= 1, "the mistake is noticed")
        assert await status(daemon, NEW_KEY) == 200  # the key is taken, whatever PostgreSQL says
        assert await status(daemon, KEY) == 200
        assert daemon.database.refusal is None
        failed = capsys.readouterr().out
        assert "WEBHOOKD_DATABASE_URL is not taken: no new session (28P01" in failed
        assert "typo" not in failed
        # PostgreSQL learns the new password later than the file: no further change is needed.
        await admin.execute(f"ALTER ROLE {first} PASSWORD 'a-password-with-a-typo'")
        await until(lambda: reloads(daemon, "done") == 2, "it tries again by itself")
        await admin.execute(f"ALTER ROLE {first} PASSWORD 'second-password'")
        mounted.write_text(right)
        await until(lambda: reloads(daemon, "done") == 3, "the right password is back")
        # Another user takes over while the daemon works. The sessions of the user before end by themselves.
        mounted.write_text(with_user(servers.database_url, second, "first-password"))
        await until(lambda: reloads(daemon, "done") == 4, "the change is noticed")

        async def replaced() -> bool:
            assert await status(daemon, KEY) == 200
            return not await sessions(first) and bool(await sessions(second))

        await until(replaced, "the sessions are the second user's", deadline=90)
        await end(ending)
    finally:
        for name in names:
            await cut(name)
            await admin.execute(f"DROP ROLE {name}")
        await admin.close()


@pytest.mark.usefixtures("watched")
async def test_a_new_password_of_redis_needs_no_restart(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user = f"rotating-{uuid.uuid4().hex[:8]}"
    admin: Any = Redis.from_url(servers.redis_url)
    await admin.execute_command("ACL", "SETUSER", user, "on", ">first-password", "~*", "+@all")
    try:
        url = with_user(servers.redis_url, user, "first-password")
        mounted = configured(servers, monkeypatch, tmp_path, redis_url=url)["redis_url"]
        daemon, ending = await watching()
        await until(lambda: daemon.idempotency.up, "Redis is up")
        await admin.execute_command("ACL", "SETUSER", user, "resetpass", ">second-password")
        await admin.execute_command("CLIENT", "KILL", "USER", user)
        await until(lambda: not daemon.idempotency.up, "the old password is refused")
        assert await status(daemon, KEY) == 200
        mounted.write_text(with_user(servers.redis_url, user, "second-password"))
        await until(lambda: daemon.idempotency.up, "the new password is in use")
        mounted.write_text(with_user(servers.redis_url, user, "a-password-with-a-typo"))
        await until(lambda: reloads(daemon, "failed") >= 1, "the mistake is noticed")
        assert daemon.idempotency.up
        await end(ending)
    finally:
        await admin.execute_command("ACL", "DELUSER", user)
        await admin.aclose()


async def test_another_server_in_a_url_waits_for_a_restart(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(servers.settings, roles="receive")
    parts = urlsplit(servers.database_url)
    elsewhere = parts._replace(path="/elsewhere").geturl()
    fresh = settings_of(servers.settings, roles="receive", database_url=elsewhere, signature_keys=NEW_KEY)
    daemon, ending = await serving(settings, lambda: fresh)
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: reloads(daemon, "done") == 1, "it is done")
    assert daemon.settings.database_url == settings.database_url
    assert daemon.settings.signature_keys == fresh.signature_keys
    assert "WEBHOOKD_DATABASE_URL" in capsys.readouterr().out  # the log names the settings that wait
    assert await status(daemon, NEW_KEY) == 200
    await end(ending)
