"""The commands find the admin API and its token, and send no token to a server that it does not belong to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from webhookd.cli.operator.target import ApiTarget, find
from webhookd.errors import SettingsError

FOLDER = Path(".webhookd")
DEV = "WEBHOOKD_ADMIN_LISTEN=127.0.0.1:9444\nWEBHOOKD_ADMIN_TOKENS=dev:dev-secret\n"


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WEBHOOKD_")]:
        monkeypatch.delenv(name)
    FOLDER.mkdir()


def put(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"WEBHOOKD_{name}", value)


def test_a_laptop_needs_nothing_but_url_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, API_URL="https://hooks.example.com/", API_TOKEN="s3cret")
    assert find(None, FOLDER) == ApiTarget("https://hooks.example.com", "s3cret")
    assert find("https://other.example.com", FOLDER).url == "https://other.example.com", "--url goes first"
    assert "s3cret" not in repr(find(None, FOLDER))


def test_url_and_token_of_this_machine_may_stand_in_dot_env_and_the_token_in_a_file() -> None:
    Path("token").write_text("from-a-file\n")
    Path(".env").write_text("WEBHOOKD_API_URL=http://127.0.0.1:9191\nWEBHOOKD_API_TOKEN_FILE=token\n")
    assert find(None, FOLDER) == ApiTarget("http://127.0.0.1:9191", "from-a-file")


@pytest.mark.parametrize(
    ("settings", "target"),
    [
        ({"ADMIN_LISTEN": "0.0.0.0:9191", "ADMIN_TOKENS": "ann:a1,bob:b1"}, ApiTarget("http://127.0.0.1:9191", "a1")),
        ({"ADMIN_LISTEN": "[::]:9191", "READ_TOKENS": "plain"}, ApiTarget("http://[::1]:9191", "plain")),
        ({"ADMIN_TOKENS": "ann:a1", "READ_TOKENS": "r1"}, ApiTarget("http://127.0.0.1:9090", "a1")),
        ({"ADMIN_LISTEN": "127.0.0.1:9191"}, ApiTarget("http://127.0.0.1:9191", None)),
        ({"ADMIN_TOKENS": "ann:a1", "API_TOKEN": "mine"}, ApiTarget("http://127.0.0.1:9090", "mine")),
        ({"ADMIN_TOKENS": "ann:a1", "API_URL": "http://localhost:7000"}, ApiTarget("http://localhost:7000", "a1")),
    ],
)
def test_on_the_daemons_own_machine_its_settings_do(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], target: ApiTarget
) -> None:
    put(monkeypatch, MAX_ATTEMPTS="nonsense", **settings)  # a fault in another setting does not matter here
    assert find(None, FOLDER) == target


def test_tokens_come_from_secret_files_and_the_toml_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tokens").write_text("ann:filed\n")
    put(monkeypatch, ADMIN_TOKENS_FILE="tokens")
    assert find(None, FOLDER).token == "filed"
    monkeypatch.delenv("WEBHOOKD_ADMIN_TOKENS_FILE")
    Path("webhookd.toml").write_text('admin_listen = "127.0.0.1:9555"\nadmin_tokens = ["ann:listed"]\n')
    put(monkeypatch, CONFIG="webhookd.toml")
    assert find(None, FOLDER) == ApiTarget("http://127.0.0.1:9555", "listed")


def test_in_the_folder_of_a_development_session_its_address_and_token_do() -> None:
    (FOLDER / "dev.env").write_text(DEV)
    assert find(None, FOLDER) == ApiTarget("http://127.0.0.1:9444", "dev-secret")


def test_this_machines_tokens_never_go_to_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (FOLDER / "dev.env").write_text(DEV)
    put(monkeypatch, ADMIN_TOKENS="ann:a1")
    with pytest.raises(SettingsError, match="WEBHOOKD_API_TOKEN is not set"):
        find("https://hooks.example.com", FOLDER)


@pytest.mark.parametrize("name", ["API_URL=http://", "ADMIN_LISTEN="])
@pytest.mark.parametrize("file", [".env", ".webhookd/dev.env", "c.toml"])
@pytest.mark.parametrize(
    "given",
    [{"API_TOKEN": "users-secret"}, {"API_TOKEN_FILE": "{elsewhere}"}, {"ADMIN_TOKENS": "ann:users-secret"}],
    ids=lambda given: next(iter(given)),
)
def test_the_users_token_never_goes_to_an_address_that_the_folder_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, name: str, file: str, given: dict[str, str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("home") / "token"
    elsewhere.write_text("users-secret\n")
    put(monkeypatch, **{setting: value.format(elsewhere=elsewhere) for setting, value in given.items()})
    for host in ("127.0.0.1:6666", "collector.example.net:80"):
        if file == "c.toml":
            setting, _, scheme = name.partition("=")
            Path(file).write_text(f'{setting.lower()} = "{scheme}{host}"\n')
            Path(".env").write_text("WEBHOOKD_CONFIG=c.toml\n")
        else:
            Path(file).write_text(f"WEBHOOKD_{name}{host}\n")
        with pytest.raises(SettingsError, match=rf"{file} names|WEBHOOKD_API_TOKEN is not set") as refusal:
            find(None, FOLDER)
        assert "users-secret" not in str(refusal.value)


def test_a_configuration_file_by_a_relative_path_is_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("c.toml").write_text('api_url = "http://127.0.0.1:6666"\n')
    put(monkeypatch, CONFIG="c.toml", API_TOKEN="users-secret")
    with pytest.raises(SettingsError, match="WEBHOOKD_API_TOKEN is not sent to"):
        find(None, FOLDER)
    put(monkeypatch, CONFIG=str(Path("c.toml").absolute()))
    assert find(None, FOLDER) == ApiTarget("http://127.0.0.1:6666", "users-secret")


def test_a_folder_that_names_the_file_or_variable_of_the_users_token_does_not_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("home") / "token"
    elsewhere.write_text("users-secret\n")
    Path(".env").write_text(f"WEBHOOKD_API_URL=http://127.0.0.1:6666\nWEBHOOKD_API_TOKEN_FILE={elsewhere}\n")
    with pytest.raises(SettingsError, match="WEBHOOKD_API_TOKEN is not sent to"):
        find(None, FOLDER)
    Path("link").symlink_to(elsewhere)
    Path(".env").write_text("WEBHOOKD_API_URL=http://127.0.0.1:6666\nWEBHOOKD_API_TOKEN_FILE=link\n")
    with pytest.raises(SettingsError, match="WEBHOOKD_API_TOKEN is not sent to"):
        find(None, FOLDER)
    monkeypatch.setenv("OTHER_SECRET", "users-secret")
    Path(".env").write_text("WEBHOOKD_API_URL=http://127.0.0.1:6666\nWEBHOOKD_API_TOKEN=${OTHER_SECRET}\n")
    assert find(None, FOLDER).token == "${OTHER_SECRET}"


def test_a_folders_own_token_stays_on_this_machine() -> None:
    Path(".env").write_text("WEBHOOKD_API_URL=https://hooks.example.com\nWEBHOOKD_API_TOKEN=folders-secret\n")
    with pytest.raises(SettingsError, match=r"WEBHOOKD_API_URL: .env names https://hooks.example.com, .*only on this machine"):
        find(None, FOLDER)
    Path(".env").write_text("WEBHOOKD_ADMIN_LISTEN=10.0.0.5:9090\nWEBHOOKD_ADMIN_TOKENS=ann:folders-secret\n")
    with pytest.raises(SettingsError, match=r"WEBHOOKD_ADMIN_LISTEN: .env names http://10.0.0.5:9090"):
        find(None, FOLDER)
    Path(".env").write_text("WEBHOOKD_API_TOKEN=folders-secret\n")
    assert find("https://hooks.example.com", FOLDER) == ApiTarget("https://hooks.example.com", "folders-secret")


def test_another_folders_session_keeps_its_token_from_this_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "dev.env").write_text(DEV)
    assert find(None, other) == ApiTarget("http://127.0.0.1:9444", "dev-secret")
    Path(".env").write_text("WEBHOOKD_ADMIN_LISTEN=127.0.0.1:6666\n")
    with pytest.raises(SettingsError, match=r"WEBHOOKD_ADMIN_TOKENS is not sent to http://127\.0\.0\.1:6666"):
        find(None, other)


def test_the_folders_own_token_is_used_and_the_users_is_said_to_be_kept_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (FOLDER / "dev.env").write_text(DEV)
    put(monkeypatch, API_TOKEN="users-secret", ADMIN_TOKENS="ann:users-other-secret")
    assert find(None, FOLDER) == ApiTarget("http://127.0.0.1:9444", "dev-secret")
    assert "WEBHOOKD_API_TOKEN is not sent to http://127.0.0.1:9444, which .webhookd/dev.env names" in capsys.readouterr().err


def test_the_default_address_is_nobodys_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    (FOLDER / "dev.env").write_text("WEBHOOKD_ADMIN_LISTEN=127.0.0.1:9090\n")
    put(monkeypatch, ADMIN_TOKENS="ann:users-secret")
    assert find(None, FOLDER) == ApiTarget("http://127.0.0.1:9090", "users-secret")


def test_where_nothing_is_found_the_settings_are_named() -> None:
    with pytest.raises(SettingsError, match=r"WEBHOOKD_API_URL is not set.*--url.*WEBHOOKD_API_TOKEN.*webhookd dev"):
        find(None, FOLDER)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1\\n.example.net",
        "http://127.0.0.1\\\\.example.net",
        "hooks.example.com",
        "ftp://x",
        "https://",
        "http://[::1",
        "http://x:99999",
        "https://ann:pass@x",
        "https://x/?q=pass",
    ],
)
def test_an_address_that_cannot_work_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match="--url") as refusal:
        find(url, FOLDER)
    assert "pass" not in str(refusal.value).replace("password", "")


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "schlüssel"])
def test_a_token_that_cannot_be_a_header_is_refused_and_not_quoted(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    put(monkeypatch, API_TOKEN=token)
    with pytest.raises(SettingsError, match="WEBHOOKD_API_TOKEN holds") as refusal:
        find("https://hooks.example.com", FOLDER)
    assert token not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "warned"), [("http://10.0.0.5:9090", 1), ("https://10.0.0.5", 0), ("http://127.0.0.1:1", 0), ("http://[::1]:1", 0)]
)
def test_a_token_that_goes_unencrypted_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, warned: int
) -> None:
    put(monkeypatch, API_TOKEN="s3cret")
    find(url, FOLDER)
    told = capsys.readouterr()
    assert told.err.count("unencrypted") == warned
    assert told.out == ""
    assert "s3cret" not in told.err
