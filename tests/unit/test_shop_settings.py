"""The settings of a reconciliation: the account's time zone, and the shop's query and its database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import settings_of
from tests.helpers.running import KEY, base_settings
from webhookd.cli.effective import effective
from webhookd.errors import SettingsError
from webhookd.settings import Settings, load
from webhookd.settings.provider import time_zone
from webhookd.settings.sources import layers

QUERY = "SELECT id, amount, state FROM hidden_table WHERE account = $1 AND at >= $2 AND at < $3 OR id = ANY ($4)"
URL = "postgresql://reader:a-long-password@db.example.com/shop"
NEEDED = {
    "WEBHOOKD_DATABASE_URL": "postgresql://webhookd@127.0.0.1/webhookd",
    "WEBHOOKD_REDIS_URL": "redis://127.0.0.1:6379/0",
}


def given(**values: Any) -> Settings:
    return settings_of({**base_settings(), **NEEDED}, **values)


def test_neither_the_query_nor_the_password_of_its_database_is_shown() -> None:
    settings = given(shop_query=QUERY, shop_database_url=URL)
    rows = effective(settings, layers())
    for shown in (str(settings.redacted()), repr(settings), str(rows)):
        assert "hidden_table" not in shown
        assert "a-long-password" not in shown
    assert settings.redacted()["shop_database_url"] == "postgresql://db.example.com/shop"
    assert {name: value for name, value, _ in rows}["WEBHOOKD_SHOP_DATABASE_URL"] == "postgresql://db.example.com/shop"


def test_the_query_can_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "query.sql"
    path.write_text(f"{QUERY}\n")
    monkeypatch.chdir(tmp_path)
    for name, value in {**base_settings(), **NEEDED, "WEBHOOKD_SHOP_QUERY_FILE": str(path)}.items():
        monkeypatch.setenv(name, value)
    query = load().shop_query
    assert query is not None
    assert query.get_secret_value() == QUERY


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shop_query": QUERY.replace("$4", "$3")}, "WEBHOOKD_SHOP_QUERY: does not use $4"),
        ({"shop_query": "SELECT 1"}, "does not use $1 and $2 and $3 and $4"),
        ({"shop_query": QUERY, "shop_database_url": "mysql://a-long-password@host/x"}, "must begin with postgresql://"),
        ({"shop_database_url": URL}, "WEBHOOKD_SHOP_DATABASE_URL is set without WEBHOOKD_SHOP_QUERY"),
        ({"time_zone": "Pacific"}, "WEBHOOKD_TIME_ZONE: must be a time zone that this system knows"),
        ({"accounts": {"eu": {"time_zone": "Nowhere/At_All"}}}, "must be a time zone that this system knows"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy_and_not_quoted(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        given(**values)
    assert said in str(raised.value)
    assert "hidden_table" not in str(raised.value)
    assert "a-long-password" not in str(raised.value)


def test_each_account_has_a_time_zone_of_its_own() -> None:
    accounts = {"eu": {"signature_keys": KEY, "time_zone": "Europe/Berlin"}, "us": {"signature_keys": KEY}}
    settings = given(time_zone="America/New_York", accounts=accounts)
    zones = {name: time_zone(settings, name) for name in ("default", "eu", "us", "nobody")}
    assert zones == {"default": "America/New_York", "eu": "Europe/Berlin", "us": None, "nobody": None}


def test_no_password_of_the_user_goes_to_a_shops_database_that_a_folder_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {**base_settings(), **NEEDED, "WEBHOOKD_SHOP_QUERY": QUERY, "PGPASSWORD": "the-users-password"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".env").write_text("WEBHOOKD_SHOP_DATABASE_URL=postgresql://reader@db.example.com/shop\n")
    with pytest.raises(SettingsError, match=r"WEBHOOKD_SHOP_DATABASE_URL: .* names a database without a password"):
        load()
