"""`webhookd settings --effective` shows every value and its source, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from webhookd.authorizenet.signature import fingerprint
from webhookd.cli.main import app
from webhookd.settings import Settings

KEY, EU, TOKEN = "0A" * 64, "1B" * 64, "anns-secret-token-1"


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """Returns variable → (value, source) of a daemon whose settings come from four sources."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text(KEY)
    (tmp_path / ".env").write_text(
        "WEBHOOKD_CONCURRENCY=7\nWEBHOOKD_REDIS_URL=redis://:hunter2@cache:6379/0?socket_timeout=1\n"
    )
    (tmp_path / "c.toml").write_text(f'concurrency = 9\n[accounts.eu]\nsignature_keys = "{EU}"\n')
    for name, value in {
        "CONFIG": "c.toml",
        "DATABASE_URL": "postgresql://shop:hunter2@db:5432/shop?password=hunter2",
        "SIGNATURE_KEYS_FILE": str(tmp_path / "key"),
        "ADMIN_TOKENS": f"ann:{TOKEN}",
        "ROLES": "work,receive",
    }.items():
        monkeypatch.setenv(f"WEBHOOKD_{name}", value)
    result = CliRunner().invoke(app, ["settings", "--effective", "--json"])
    assert result.exit_code == 0, result.output
    text = CliRunner().invoke(app, ["settings", "--effective"]).output
    for shown in (result.output, text):
        assert not [secret for secret in (KEY, EU, TOKEN, "hunter2") if secret in shown]
    found = {row["name"]: (row["value"], row["source"]) for row in json.loads(result.output)}
    assert all(name in text and value in text for name, (value, _) in found.items())
    return found


def test_each_setting_has_its_value_and_the_strongest_source(rows: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    assert rows["WEBHOOKD_CONCURRENCY"] == ("9", "c.toml")
    assert rows["WEBHOOKD_REDIS_URL"] == ("redis://cache:6379/0", ".env")
    assert rows["WEBHOOKD_DATABASE_URL"] == ("postgresql://db:5432/shop", "the environment")
    assert rows["WEBHOOKD_ROLES"] == ("receive,work", "the environment")
    assert rows["WEBHOOKD_LISTEN"] == (Settings.model_fields["listen"].default, "default")
    assert {name.removeprefix("WEBHOOKD_").lower() for name in rows} >= Settings.model_fields.keys() - {
        "accounts",
        "alerts",
        "destinations",
    }


def test_secrets_are_fingerprints(rows: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    assert rows["WEBHOOKD_SIGNATURE_KEYS"] == (fingerprint(KEY), f"the environment: the file {tmp_path / 'key'}")
    assert rows["WEBHOOKD_ACCOUNTS__EU__SIGNATURE_KEYS"] == (fingerprint(EU), "c.toml")
    assert rows["WEBHOOKD_ADMIN_TOKENS"] == (f"ann:{fingerprint(TOKEN)}", "the environment")


def test_a_wrong_setting_is_reported_as_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEBHOOKD_CONCURENCY", "3")
    result = CliRunner().invoke(app, ["settings", "--effective"])
    assert "did you mean WEBHOOKD_CONCURRENCY?" in str(result.exception)
