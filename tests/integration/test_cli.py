"""The command line: its help, its effects and its errors; and no output shows a secret."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest
from typer.testing import CliRunner

from tests.conftest import Servers, Start
from tests.helpers.command import webhookd
from tests.helpers.running import KEY
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.authorizenet.notification import EVENT_TYPES
from webhookd.cli.main import app
from webhookd.dev import known
from webhookd.errors import SettingsError
from webhookd.settings import describe
from webhookd.settings.sources import NO_FILE

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
OTHER_KEY = "F" * 128


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"webhookd {version('webhookd')}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_output_is_whole_when_a_pipe_is_full_and_does_not_block(unbuffered: str, tmp_path: Path) -> None:
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writes, False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhookd", "settings", "--json"),
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        cwd=tmp_path,
        stdout=writes,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writes)
    assert process.stderr is not None
    # Read only after the command has filled the pipe: its output is longer than the pipe.
    await until(lambda: _unread(reads) == 4096, "the pipe is full")
    with open(reads, "rb") as pipe:  # noqa: ASYNC230, PTH123
        out = await asyncio.to_thread(pipe.read)
    assert (await process.stderr.read(), await process.wait()) == (b"", 0)
    assert len(out) > 4096
    assert [tuple(row.values()) for row in json.loads(out)] == describe()


def _unread(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize(
    ("command", "taught"),
    [
        ((), ["trigger", "doctor", "WEBHOOKD_CONFIG"]),
        (("serve",), ["SIGTERM", "standard error"]),
        (("dev",), ["Ctrl-C", "WEBHOOKD_DATABASE_URL", "--no-samples", "--folder"]),
        (("migrate",), ["upgrade", "WEBHOOKD_DATABASE_URL"]),
        (("trigger",), ["overtake", "the original", "exit code is 1", "payment.refund.created", "1 keeps the exact order"]),
        (("doctor",), ["--signature", "hex-decoded", "exit code is 1"]),
        (("settings",), ["environment variable"]),
        (("dead-letters",), ["redrive", "discard", "list", "show"]),
        (("dead-letters", "list"), ["--reason", "newest death first", "2h"]),
        (("dead-letters", "show"), ["--body", "customer data"]),
        (("dead-letters", "redrive"), ["--dry-run", "--rate", "Fresh events go first", "Ctrl-C"]),
        (("dead-letters", "discard"), ["--discarded", "retention"]),
    ],
)
def test_help_teaches_and_fits_eighty_columns(command: tuple[str, ...], taught: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert result.exit_code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
    assert [hint for hint in taught if hint not in text] == []
    assert max(len(line) for line in result.output.splitlines()) <= 80


def test_settings_are_listed_whole_in_eighty_columns() -> None:
    result = CliRunner().invoke(app, ["settings"], env={"COLUMNS": "80"})
    for name, default, meaning in describe():
        assert f"{name}  {default}".rstrip() in [line.rstrip() for line in result.output.splitlines()]
        assert meaning in " ".join(result.output.split())
    rows = json.loads(CliRunner().invoke(app, ["settings", "--json"]).output)
    assert [tuple(row.values()) for row in rows] == describe()


async def test_trigger_sends_every_event_type(start: Start, servers: Servers, connection: Connection) -> None:
    daemon = await start()
    url = f"{daemon.public_url}/webhooks/authorize-net"
    code, out, err = await webhookd("trigger", "--url", url, folder=servers.folder, WEBHOOKD_SIGNATURE_KEYS=KEY)
    assert (code, err) == (0, "")
    assert f"23 requests to {url}\n" in out, "the address stands on one line"
    assert re.search(r"accepted\W+23\b", out)
    types = await connection.fetch("SELECT event_type FROM events")
    assert sorted(row["event_type"] for row in types) == sorted(EVENT_TYPES)


async def test_trigger_counts_what_it_sent_and_how_it_was_answered(
    start: Start, servers: Servers, connection: Connection
) -> None:
    daemon = await start(accounts={"eu": {"signature_keys": OTHER_KEY}})
    code, out, err = await webhookd(
        *("trigger", "payment.*", "--count", "60", "--duplicates", "25", "--out-of-order", "--json", "--account", "EU"),
        folder=servers.folder,
        WEBHOOKD_LISTEN=daemon.public_url.removeprefix("http://"),
        WEBHOOKD_SIGNATURE_KEYS=KEY,
        WEBHOOKD_ACCOUNTS__EU__SIGNATURE_KEYS=OTHER_KEY,
    )
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert (summary["sent"], summary["failed"]) == (60, 0)
    assert summary["outcomes"] == {"accepted": 45, "duplicate": 15}
    assert await connection.fetchval("SELECT count(*) FROM events WHERE account = 'eu'") == 45


async def test_trigger_tells_a_story_in_its_order(start: Start, servers: Servers, connection: Connection) -> None:
    daemon = await start()
    url = f"{daemon.public_url}/webhooks/authorize-net"
    code, _, err = await webhookd(
        *("trigger", "--scenario", "sale", "--set", "payload.invoiceNumber=4711", "--set", "payload.authAmount=7.10"),
        *("--url", url, "--json"),
        folder=servers.folder,
        WEBHOOKD_SIGNATURE_KEYS=KEY,
    )
    assert (code, err) == (0, "")
    rows = await connection.fetch("SELECT event_type, entity_id, invoice_number FROM events ORDER BY received_at")
    assert [row["event_type"].removeprefix("net.authorize.payment.") for row in rows] == [
        "authorization.created",
        "priorAuthCapture.created",
        "refund.created",
    ]
    assert {row["invoice_number"] for row in rows} == {"4711"}
    assert rows[0]["entity_id"] == rows[1]["entity_id"] != rows[2]["entity_id"]
    bodies = [row["body"] for row in await connection.fetch("SELECT body FROM bodies")]
    assert all(b'"authAmount":7.10,' in bytes(body) for body in bodies)


async def test_a_printed_request_is_one_that_curl_sends(start: Start, servers: Servers, connection: Connection) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl; apt install curl")
    daemon = await start()
    url = f"{daemon.public_url}/webhooks/authorize-net"
    file = servers.folder / "a body"
    file.write_bytes(sampling.sample(EVENT_TYPES[0], 1).body)
    commands = []
    for arguments in (["payment.void.created", "--set", "payload.invoiceNumber=it's"], ["--body", str(file)]):
        code, out, err = await webhookd(
            "trigger", *arguments, "--print", "--url", url, folder=servers.folder, WEBHOOKD_SIGNATURE_KEYS=KEY
        )
        assert (code, err) == (0, "")
        assert KEY not in out
        commands += out.splitlines()
    assert await connection.fetchval("SELECT count(*) FROM events") == 0  # nothing was sent
    assert len(commands) == 2
    for command in commands:
        curl = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
        answer, _ = await curl.communicate()
        assert json.loads(answer)["status"] == "accepted"
    assert await connection.fetchval("SELECT count(*) FROM events WHERE invoice_number = 'it''s'") == 1
    repeated = await webhookd(
        *("trigger", "--body", str(file), "--count", "2", "--json", "--url", url),
        folder=servers.folder,
        WEBHOOKD_SIGNATURE_KEYS=KEY,
    )
    assert json.loads(repeated[1])["outcomes"] == {"duplicate": 2}


async def test_trigger_fails_where_not_everything_was_answered_200(start: Start, servers: Servers) -> None:
    daemon = await start()
    url = f"{daemon.public_url}/webhooks/authorize-net"
    refused = await webhookd("trigger", "--url", url, folder=servers.folder, WEBHOOKD_SIGNATURE_KEYS=OTHER_KEY)
    assert refused[0] == 1
    assert "23 of 23 requests were refused" in refused[2]
    assert "set WEBHOOKD_SIGNATURE_KEYS" in refused[2]
    assert OTHER_KEY not in "".join(refused[1:])
    unknown = await webhookd("trigger", "--json", "--url", f"{url}/nobody", folder=servers.folder, WEBHOOKD_SIGNATURE_KEYS=KEY)
    assert unknown[0] == 1
    assert json.loads(unknown[1])["failed"] == 23
    assert "check --account" in unknown[2]


async def test_trigger_says_that_nothing_answers_and_shows_no_password_of_the_address(tmp_path: Path) -> None:
    code, out, err = await webhookd(
        "trigger", "--url", "http://user:hunter2@127.0.0.1:1/hook", folder=tmp_path, WEBHOOKD_SIGNATURE_KEYS=KEY
    )
    assert code == 1
    assert "23 of 23 requests got no answer: check that webhookd runs there." in err
    assert "http://127.0.0.1:1/hook" in out
    assert "hunter2" not in out + err


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        ([], {}, "WEBHOOKD_SIGNATURE_KEYS is not set"),
        (["--account", "eu"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "WEBHOOKD_ACCOUNTS__EU__SIGNATURE_KEYS"),
        (["payment.voided"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "no event type matches 'payment.voided'"),
        (["--url", "localhost:8080"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "--url: give the full URL"),
        (["--scenario", "refund"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "the scenarios are sale, held, subscription"),
        (["all", "--scenario", "sale"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "give one of them"),
        (["--body", "/dev/null", "--set", "a=1"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "give one of them"),
        (["--set", "payload.id"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "write it as PATH=VALUE"),
        (["--set", "payload..id=1"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "write it as PATH=VALUE"),
        (["payment.void.created", "--set", "payload.id.x=1"], {"WEBHOOKD_SIGNATURE_KEYS": KEY}, "id is not an object"),
        ([], {"WEBHOOKD_SIGNATURE_KEY": KEY}, "did you mean WEBHOOKD_SIGNATURE_KEYS?"),
    ],
)
def test_what_trigger_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["trigger", *arguments], env=environment)
    assert isinstance(result.exception, SettingsError)
    assert told in str(result.exception)
    assert KEY not in str(result.exception)


@pytest.mark.parametrize("named", ["127.0.0.1:6666", "collector.example.net:80"])
def test_trigger_signs_nothing_with_the_users_key_for_an_address_that_the_folder_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"WEBHOOKD_LISTEN={named}\n")
    result = CliRunner().invoke(app, ["trigger"], env={"WEBHOOKD_SIGNATURE_KEYS": KEY})
    assert isinstance(result.exception, SettingsError)
    assert str(result.exception).startswith(f"WEBHOOKD_LISTEN: .env names {named}, ")
    assert "--url" in str(result.exception)
    (tmp_path / ".env").write_text(f"WEBHOOKD_LISTEN={named}\nWEBHOOKD_SIGNATURE_KEYS={KEY}\n")
    result = CliRunner().invoke(app, ["trigger", "--count", "1"])
    assert isinstance(result.exception, SettingsError) == (named != "127.0.0.1:6666"), "the folder's own key, on this machine"


async def test_trigger_and_doctor_take_the_users_own_settings_before_those_of_the_session(
    start: Start, servers: Servers
) -> None:
    folder = servers.folder / ".webhookd"
    folder.mkdir()
    (folder / "dev.env").write_text(
        f"WEBHOOKD_SIGNATURE_KEYS={OTHER_KEY}\nWEBHOOKD_DATABASE_URL=postgresql://nobody@127.0.0.1:1/x\n"
        "WEBHOOKD_REDIS_URL=redis://127.0.0.1:1/0\nWEBHOOKD_SQS_ENDPOINT_URL=http://127.0.0.1:1\n"
    )
    daemon = await start()
    listen = {"WEBHOOKD_LISTEN": daemon.public_url.removeprefix("http://")}
    for variable in ("WEBHOOKD_SIGNATURE_KEYS", "WEBHOOKD_ACCOUNTS__DEFAULT__SIGNATURE_KEYS"):
        code, out, err = await webhookd("trigger", "--json", folder=servers.folder, **listen, **{variable: KEY})
        assert (code, err) == (0, ""), out
    code, out, err = await webhookd("doctor", folder=servers.folder, **{**servers.settings, **listen})
    assert (code, err) == (0, ""), out
    assert "not set, so their values come from" not in out


def test_the_users_key_signs_for_the_default_address_whoever_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dev.env").write_text(f"WEBHOOKD_LISTEN=127.0.0.1:8080\nWEBHOOKD_SIGNATURE_KEYS={OTHER_KEY}\n")
    monkeypatch.setenv("WEBHOOKD_SIGNATURE_KEYS", KEY)
    found = known.target(tmp_path, account="default", url=None)
    assert (found.url, found.key) == ("http://127.0.0.1:8080/webhooks/authorize-net", KEY)


def test_a_sessions_sqs_gets_no_real_credentials_and_the_folder_sets_nothing_else_of_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real")
    monkeypatch.delenv("AWS_CONFIG_FILE", raising=False)
    Path("dev.env").write_text(
        f"WEBHOOKD_SQS_ENDPOINT_URL=http://127.0.0.1:6666\nAWS_CONFIG_FILE=evil\nWEBHOOKD_SIGNATURE_KEYS={KEY}\n"
    )
    known.known(Path(), whole=False)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    assert [os.environ[name] for name in names] == ["dev"] * 3
    assert "AWS_CONFIG_FILE" not in os.environ, "it can name a program to run"


def test_a_sessions_database_does_not_get_the_users_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGPASSWORD", "real")
    monkeypatch.setenv("PGPASSFILE", "/home/ann/.pgpass")
    Path("dev.env").write_text(f"WEBHOOKD_DATABASE_URL=postgresql://u@127.0.0.1/x\nWEBHOOKD_SIGNATURE_KEYS={KEY}\n")
    known.known(Path(), whole=False)
    assert "PGPASSWORD" not in os.environ
    assert os.environ["PGPASSFILE"] == NO_FILE


def _session(folder: Path, database_url: str) -> None:
    (folder / ".webhookd").mkdir()
    (folder / ".webhookd" / "dev.env").write_text(f"WEBHOOKD_DATABASE_URL={database_url}\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "wrong"}, "the user or the password in WEBHOOKD_DATABASE_URL is wrong"),
        ({"path": "/nowhere"}, "no such database"),
    ],
    ids=["a wrong password", "no such database"],
)
async def test_migrate_says_why_it_gets_no_session(
    servers: Servers, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path, change: dict[str, str], said: str
) -> None:
    role = f"migrates_{secrets.token_hex(4)}"
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'a-password'")
    parts = urlsplit(servers.database_url)
    place = f"{role}:{change.get('password', 'a-password')}@{parts.netloc.rpartition('@')[2]}"
    url = parts._replace(netloc=place, path=change.get("path", parts.path)).geturl()
    code, out, err = await webhookd("migrate", "--check", folder=tmp_path, WEBHOOKD_DATABASE_URL=url)
    await connection.execute(f"DROP ROLE {role}")
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


async def test_migrate_finds_the_database_of_a_session_and_says_so(servers: Servers, tmp_path: Path) -> None:
    _session(tmp_path, servers.database_url)
    code, out, err = await webhookd("migrate", "--check", folder=tmp_path, PGPASSWORD="wrong")
    assert (code, out) == (0, "the schema is up to date\n"), err
    assert err == "WEBHOOKD_DATABASE_URL is not set; its value comes from .webhookd/dev.env\n"


@pytest.mark.parametrize(
    "url",
    [
        "u:own@db.example.com/x",
        "127.0.0.1,db.example.com/x",
        "u@127.0.0.1:1,192.0.2.2:5999/x",
        "127.0.0.1/x?passfile=/home/ann/.pgpass",
    ],
)
async def test_migrate_connects_to_no_other_machine_that_only_a_session_names(tmp_path: Path, url: str) -> None:
    _session(tmp_path, f"postgresql://{url}")
    code, out, err = await webhookd("migrate", "--check", folder=tmp_path, PGPASSWORD="real")
    assert (code, out) == (2, "")
    assert err.startswith("webhookd: WEBHOOKD_DATABASE_URL: .webhookd/dev.env may name a database on this machine only")
    assert "db.example.com" not in err


@pytest.mark.parametrize("arguments", [("settings",), ("settings", "--json"), ("--help",)])
def test_a_command_whose_output_nobody_reads_any_more_ends_quietly(arguments: tuple[str, ...], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "webhookd", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


async def test_migrate_says_what_it_did(servers: Servers) -> None:
    code, out, _ = await webhookd("migrate", folder=servers.folder, **servers.settings)
    assert (code, out) == (0, "the schema is up to date\n")


async def test_migrate_without_postgresql_fails_in_one_line_without_the_password(servers: Servers) -> None:
    away = urlsplit(servers.database_url)._replace(netloc="postgres:hunter2@127.0.0.1:1").geturl()
    code, out, err = await webhookd("migrate", folder=servers.folder, **{**servers.settings, "WEBHOOKD_DATABASE_URL": away})
    assert (code, out) == (1, "")
    assert err.startswith("webhookd: postgresql is unavailable")
    assert len(err.splitlines()) == 1
    assert "hunter2" not in err


async def test_doctor_of_a_running_daemon_warns_of_its_addresses_and_fails_nothing(start: Start, servers: Servers) -> None:
    daemon = await start()
    environment = {**servers.settings, "WEBHOOKD_LISTEN": daemon.public_url.removeprefix("http://")}
    code, out, err = await webhookd("doctor", "--json", folder=servers.folder, **environment)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["ok"] is True
    verdicts = {finding["check"]: finding["verdict"] for finding in report["findings"]}
    assert verdicts.pop("WEBHOOKD_LISTEN") == "warning"
    assert set(verdicts.values()) == {"ok"}


async def test_doctor_fails_where_dependencies_are_away_and_shows_no_secret(servers: Servers) -> None:
    environment = {
        **servers.settings,
        "WEBHOOKD_DATABASE_URL": "postgresql://shop:hunter2@127.0.0.1:1/shop",
        "WEBHOOKD_REDIS_URL": "redis://:hunter3@127.0.0.1:notaport/0",
    }
    code, out, err = await webhookd("doctor", folder=servers.folder, **environment)
    assert code == 1
    assert re.search(r"failed +postgresql: .*WEBHOOKD_DATABASE_URL", out)
    assert re.search(r"failed +redis: .*WEBHOOKD_REDIS_URL", out)
    assert re.search(r"2 failed, 0 warned", out)
    assert "hunter" not in out + err


async def test_doctor_of_a_wrong_setting_names_it_for_people_and_for_scripts(tmp_path: Path) -> None:
    environment = {"WEBHOOKD_SIGNATURE_KEYS": KEY, "WEBHOOKD_MAX_ATTEMPTS": "0"}
    code, out, err = await webhookd("doctor", folder=tmp_path, **environment)
    assert (code, out) == (2, "")
    assert "WEBHOOKD_MAX_ATTEMPTS" in err
    code, out, err = await webhookd("doctor", "--json", folder=tmp_path, **environment)
    assert (code, err) == (2, "")
    report = json.loads(out)
    assert report["ok"] is False
    assert any(finding["detail"].startswith("WEBHOOKD_MAX_ATTEMPTS: ") for finding in report["findings"])
