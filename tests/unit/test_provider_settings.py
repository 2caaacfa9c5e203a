"""The settings for asking Authorize.Net: their sources, what they refuse, and that they tell no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from webhookd.cli.main import app
from webhookd.errors import SettingsError
from webhookd.settings import Settings, load, renewed
from webhookd.settings.provider import provider_accesses

LOGIN, KEY, OTHER = "5KP3u95bQpv7", "346HZ32z3fP4hTG2", "94nFq6J7b2K8cW3d"
SIGNATURE = "0A" * 64


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def give(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"WEBHOOKD_{name}", value)

    give(DATABASE_URL="postgresql://u:p@db/x", REDIS_URL="redis://cache", SIGNATURE_KEYS=SIGNATURE)
    return give


def shown(settings: Settings) -> dict[str, tuple[str, str, list[str]]]:
    return {
        name: (one.url, one.login_id.get_secret_value(), [key.get_secret_value() for key in one.keys])
        for name, one in provider_accesses(settings).items()
    }


def problem() -> str:
    with pytest.raises(SettingsError) as refused:
        load()
    assert not [secret for secret in (LOGIN, KEY, OTHER, SIGNATURE) if secret in str(refused.value)]
    return str(refused.value)


def test_without_credentials_no_account_asks(env: Any) -> None:
    assert provider_accesses(load()) == {}


def test_each_account_has_its_own_credentials_and_the_common_address_unless_it_has_its_own(env: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{OTHER}\n")
    (tmp_path / "c.toml").write_text(
        f'provider = "sandbox"\n[accounts.eu]\nsignature_keys = "{SIGNATURE}"\napi_login_id = "{LOGIN}"\n'
        f'transaction_key_file = "{tmp_path / "key"}"\nprovider = "https://api2.authorize.net/"\n'
        f'[accounts.us]\nsignature_keys = "{SIGNATURE}"\napi_login_id = "{LOGIN}"\ntransaction_key = "{OTHER}"\n'
        f'[accounts.quiet]\nsignature_keys = "{SIGNATURE}"\n'
    )
    env(CONFIG=str(tmp_path / "c.toml"), API_LOGIN_ID=LOGIN, TRANSACTION_KEY=f"{KEY}, {OTHER}", PROVIDER_TIMEOUT="7")
    settings = load()
    assert shown(settings) == {
        "default": ("https://apitest.authorize.net", LOGIN, [KEY, OTHER]),
        "eu": ("https://api2.authorize.net", LOGIN, [OTHER]),
        "us": ("https://apitest.authorize.net", LOGIN, [OTHER]),
    }
    assert provider_accesses(settings)["eu"].timeout == 7


def test_the_account_default_can_stand_among_the_accounts(env: Any) -> None:
    env(ACCOUNTS__DEFAULT__API_LOGIN_ID=LOGIN, ACCOUNTS__DEFAULT__TRANSACTION_KEY=KEY)
    assert shown(load()) == {"default": ("https://api.authorize.net", LOGIN, [KEY])}


@pytest.mark.parametrize("account", ["", "accounts__eu__"])
def test_credentials_come_from_files_and_from_systemd(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / f"{account}transaction_key").write_text(f"{KEY}\n")
    (tmp_path / "login").write_text(LOGIN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    env(**{f"{account.upper()}API_LOGIN_ID_FILE": str(tmp_path / "login"), "ACCOUNTS__EU__SIGNATURE_KEYS": SIGNATURE})
    name = "eu" if account else "default"
    assert shown(load()) == {name: ("https://api.authorize.net", LOGIN, [KEY])}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"API_LOGIN_ID": LOGIN}, "WEBHOOKD_API_LOGIN_ID and WEBHOOKD_TRANSACTION_KEY go together"),
        ({"TRANSACTION_KEY": KEY}, "go together: set both, or neither"),
        ({"ACCOUNTS__EU__API_LOGIN_ID": LOGIN}, "WEBHOOKD_ACCOUNTS__EU__TRANSACTION_KEY go together"),
        ({"TRANSACTION_KEY": SIGNATURE}, "has the form of a Signature Key: give the Transaction Key"),
        ({"TRANSACTION_KEY": KEY + OTHER}, "at most 16 characters"),
        ({"TRANSACTION_KEY": "346HZ32z-fP4hTG2"}, "letters and digits"),
        ({"TRANSACTION_KEY": "346HZ32z3fP4hTG\u0662"}, "letters and digits"),
        ({"TRANSACTION_KEY": f"{KEY},{OTHER},{KEY}"}, "remove the oldest"),
        ({"API_LOGIN_ID": f"{LOGIN}:x"}, "without spaces and colons"),
        ({"PROVIDER": "staging"}, "must be production, sandbox, or an address"),
        ({"PROVIDER": "http://api.authorize.net"}, "http:// only on this machine"),
        ({"PROVIDER": "https://u:p@api.authorize.net"}, "without user"),
        ({"PROVIDER": "https://api.authorize.net/rest"}, "without user, path and query"),
        ({"PROVIDER": "https://[api"}, "must be production"),
        ({"PROVIDER_RATE": "0"}, "must be a number from 0.01 to 100"),
        ({"GAP_EVERY": "0"}, "must be a number from 1 to 3600"),
        ({"WEBHOOK_GUARDIAN": "on"}, "must be off, watch or heal"),
        ({"PUBLIC_URL": "hooks.example.com"}, "must be an address such as https://hooks.example.com"),
        ({"PUBLIC_URL": "https://u:p@hooks.example.com"}, "without user, query and fragment"),
        ({"PUBLIC_URL": "https://hooks.example.com/x?key=1"}, "without user, query and fragment"),
        ({"PUBLIC_URL": "http://hooks.example.com"}, "WEBHOOKD_PUBLIC_URL begins with http://"),
        ({"PUBLIC_URL": "https://10.0.0.1"}, "names 10.0.0.1, which Authorize.Net cannot reach"),
        ({"PUBLIC_URL": "https://localhost:8080"}, "names localhost, which Authorize.Net cannot reach"),
        (
            {"ACCOUNTS__EU__PUBLIC_URL": "https://webhookd.internal"},
            "WEBHOOKD_ACCOUNTS__EU__PUBLIC_URL names webhookd.internal",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy_and_without_the_value(env: Any, values: dict[str, str], text: str) -> None:
    env(ACCOUNTS__EU__SIGNATURE_KEYS=SIGNATURE, **values)
    assert text in problem()


def test_the_address_of_a_simulator_is_accepted(env: Any) -> None:
    env(PROVIDER="http://127.0.0.1:8099", API_LOGIN_ID=LOGIN, TRANSACTION_KEY=KEY)
    assert shown(load())["default"][0] == "http://127.0.0.1:8099"


@pytest.mark.parametrize("name", ["PROVIDER", "ACCOUNTS__EU__PROVIDER"])
def test_a_users_transaction_key_goes_to_no_address_that_a_folder_names(env: Any, tmp_path: Path, name: str) -> None:
    prefix = name.removesuffix("PROVIDER")
    env(ACCOUNTS__EU__SIGNATURE_KEYS=SIGNATURE)
    env(**{f"{prefix}API_LOGIN_ID": LOGIN, f"{prefix}TRANSACTION_KEY": KEY})
    (tmp_path / ".env").write_text(f"WEBHOOKD_{name}=https://evil.example.com\n")
    assert f"WEBHOOKD_{prefix}TRANSACTION_KEY: .env names the provider's address" in problem()
    (tmp_path / ".env").write_text(f"WEBHOOKD_{name}=sandbox\n")
    assert len(shown(load())) == 1


def test_a_folder_may_name_the_address_for_its_own_key(env: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        f"WEBHOOKD_PROVIDER=http://127.0.0.1:8099\nWEBHOOKD_API_LOGIN_ID={LOGIN}\nWEBHOOKD_TRANSACTION_KEY={KEY}\n"
    )
    assert shown(load())["default"][0] == "http://127.0.0.1:8099"


PATH = "/webhooks/authorize-net"


@pytest.mark.parametrize(
    ("given", "default", "eu"),
    [
        ({}, None, None),
        (
            {"PUBLIC_URL": "https://hooks.example.com"},
            f"https://hooks.example.com{PATH}",
            f"https://hooks.example.com{PATH}/eu",
        ),
        (
            {"PUBLIC_URL": "https://hooks.example.com/"},
            f"https://hooks.example.com{PATH}",
            f"https://hooks.example.com{PATH}/eu",
        ),
        ({"PUBLIC_URL": "https://hooks.example.com/shop/net"}, "https://hooks.example.com/shop/net", None),
        (
            {"PUBLIC_URL": "https://hooks.example.com/shop", "ACCOUNTS__EU__PUBLIC_URL": "https://eu.example.com:8443/x"},
            "https://hooks.example.com/shop",
            "https://eu.example.com:8443/x",
        ),
        ({"ACCOUNTS__EU__PUBLIC_URL": "https://eu.example.com"}, None, f"https://eu.example.com{PATH}/eu"),
    ],
)
def test_the_webhooks_url_of_each_account_follows_from_the_public_url(
    env: Any, given: dict[str, str], default: str | None, eu: str | None
) -> None:
    env(API_LOGIN_ID=LOGIN, TRANSACTION_KEY=KEY, ACCOUNTS__EU__SIGNATURE_KEYS=SIGNATURE, **given)
    env(ACCOUNTS__EU__API_LOGIN_ID=LOGIN, ACCOUNTS__EU__TRANSACTION_KEY=OTHER)
    assert {name: one.public_url for name, one in provider_accesses(load()).items()} == {"default": default, "eu": eu}


def test_a_simulator_on_this_machine_delivers_to_any_address(env: Any) -> None:
    env(PROVIDER="http://127.0.0.1:8099", PUBLIC_URL="http://127.0.0.1:8080", API_LOGIN_ID=LOGIN, TRANSACTION_KEY=KEY)
    assert provider_accesses(load())["default"].public_url == f"http://127.0.0.1:8080{PATH}"


def test_no_secret_is_shown_in_the_log_the_repr_or_the_list_of_what_is_in_force(env: Any) -> None:
    env(API_LOGIN_ID=LOGIN, TRANSACTION_KEY=f"{KEY},{OTHER}", PROVIDER="sandbox", ACCOUNTS__EU__SIGNATURE_KEYS=SIGNATURE)
    env(ACCOUNTS__EU__API_LOGIN_ID=LOGIN, ACCOUNTS__EU__TRANSACTION_KEY=OTHER)
    settings = load()
    told = json.dumps(settings.redacted()) + repr(settings) + repr(provider_accesses(settings))
    assert settings.redacted()["provider"] == {
        "default": {"url": "https://apitest.authorize.net", "keys": 2},
        "eu": {"url": "https://apitest.authorize.net", "keys": 1},
    }
    result = CliRunner().invoke(app, ["settings", "--effective"])
    assert result.exit_code == 0, result.output
    assert "WEBHOOKD_ACCOUNTS__EU__TRANSACTION_KEY" in result.output
    assert not [secret for secret in (LOGIN, KEY, OTHER) if secret in told + result.output]


def test_a_running_daemon_takes_new_credentials(env: Any) -> None:
    env(API_LOGIN_ID=LOGIN, TRANSACTION_KEY=KEY)
    before = load()
    env(TRANSACTION_KEY=OTHER)
    assert [*renewed(before, load())] == ["transaction_key"]


@pytest.mark.parametrize("account", ["", "ACCOUNTS__EU__"])
def test_a_process_without_the_role_sync_reads_no_transaction_key(env: Any, tmp_path: Path, account: str) -> None:
    env(ACCOUNTS__EU__SIGNATURE_KEYS=SIGNATURE)
    env(**{f"{account}API_LOGIN_ID": LOGIN, f"{account}TRANSACTION_KEY_FILE": str(tmp_path / "none")})
    assert f"WEBHOOKD_{account}TRANSACTION_KEY_FILE: cannot read" in problem()
    env(ROLES="receive, work")
    settings = load()
    assert provider_accesses(settings) == {}
    assert {*settings.keys_by_account} == {"default", "eu"}
    (tmp_path / "none").write_text(KEY)
    assert provider_accesses(load()) == {}
    assert KEY not in repr(vars(load()))


def test_a_list_of_roles_decides_from_whatever_source_it_comes(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env(API_LOGIN_ID=LOGIN, TRANSACTION_KEY=KEY)
    assert len(provider_accesses(load())) == 1
    assert provider_accesses(load(roles=["receive"])) == {}
    (tmp_path / "c.toml").write_text('roles = ["receive", "work"]\n')
    monkeypatch.setenv("WEBHOOKD_CONFIG", str(tmp_path / "c.toml"))
    assert provider_accesses(load()) == {}
