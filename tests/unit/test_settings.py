"""Every source of a setting is read in its order, every mistake is reported with its remedy, and no secret is ever shown."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from pydantic import SecretStr, ValidationError

from webhookd.cli.effective import effective
from webhookd.errors import SettingsError
from webhookd.settings import Role, Settings, describe, load, load_database, renewed
from webhookd.settings.alerts import AlertSettings
from webhookd.settings.destinations import DestinationSettings
from webhookd.settings.provider import AccountProviderSettings
from webhookd.settings.sources import NO_FILE, layers
from webhookd.settings.values import same_server

KEY = "A1" * 64
OTHER = "B2" * 64
PASSWORD = "hunter2"
TOKEN = "0123456789abcdef"
DATABASE = f"postgresql://u:{PASSWORD}@db:5432/webhookd?sslmode=require"
REDIS = f"redis://:{PASSWORD}@cache:6379/0"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps out the variables of the person who runs the tests, and any `.env`."""
    for name in os.environ:
        if name.startswith("WEBHOOKD_") or name.endswith("_SERVICE_HOST") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the variables that a start needs; returns a function that sets WEBHOOKD_ variables by the rest of their names."""

    def setter(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"WEBHOOKD_{name}", value)

    setter(DATABASE_URL=DATABASE, REDIS_URL=REDIS, SIGNATURE_KEYS=KEY)
    return setter


def problems(**overrides: Any) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load(**overrides)
    assert refused.value.__cause__ is None
    return str(refused.value).split("\n")


def only_problem(**overrides: Any) -> str:
    [line] = problems(**overrides)
    return line


@pytest.mark.usefixtures("env")
def test_two_addresses_and_a_key_are_enough() -> None:
    settings = load()
    assert settings.database_url.get_secret_value() == DATABASE
    assert settings.roles == {Role.RECEIVE, Role.RELAY, Role.WORK, Role.DELIVER, Role.SYNC}
    assert settings.keys_by_account == {"default": (KEY,)}
    assert settings.public_address == ("127.0.0.1", 8080)
    assert settings.admin_address == ("127.0.0.1", 9090)
    assert settings.max_event_age > 10 * 86_400
    with pytest.raises(ValidationError, match="frozen"):
        settings.concurrency = 3


def test_what_is_missing_is_named_with_what_it_wants() -> None:
    database, redis = problems(signature_keys=KEY)
    assert database.startswith("WEBHOOKD_DATABASE_URL is not set: ")
    assert "postgresql://" in database
    assert redis.startswith("WEBHOOKD_REDIS_URL is not set: ")
    assert "redis://" in redis
    assert "`webhookd dev`" in database


def test_a_receiver_without_a_key_is_refused_and_a_worker_is_not(env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOKD_SIGNATURE_KEYS")
    assert only_problem().startswith("WEBHOOKD_SIGNATURE_KEYS is not set: ")
    env(ROLES="relay, work")
    assert load().keys_by_account == {}


def test_sources_are_read_in_their_order(env: Any, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('MAX_ATTEMPTS = 1\nsqs_queue = "toml"\nhandlers = ["a", "b"]\n')
    (tmp_path / ".env").write_text("WEBHOOKD_CONCURRENCY=2\nWEBHOOKD_MAX_ATTEMPTS=2\nWEBHOOKD_SQS_QUEUE=dotenv\n")
    env(CONFIG="c.toml", SQS_QUEUE="environment")
    settings = load(sqs_wait=3)
    assert (settings.concurrency, settings.max_attempts, settings.sqs_queue) == (2, 1, "environment")
    assert (settings.handlers, settings.sqs_wait) == (("a", "b"), 3)


def test_what_the_folder_says_weakens_nothing_that_the_configuration_or_the_environment_says(env: Any, tmp_path: Path) -> None:
    config, keys = tmp_path / "etc.toml", tmp_path / "keys"
    config.write_text(f'admin_anonymous = "nothing"\nsignature_keys_file = "{keys}"\nallow_odd_signature_keys = false\n')
    keys.write_text(KEY)
    (tmp_path / ".env").write_text(
        "WEBHOOKD_CONFIG=other.toml\nWEBHOOKD_ADMIN_ANONYMOUS=operate\nWEBHOOKD_SIGNATURE_KEYS=x\n"
        "WEBHOOKD_ALLOW_ODD_SIGNATURE_KEYS=true\nWEBHOOKD_DATABASE_URL=postgresql://elsewhere\n"
    )
    env(CONFIG=str(config), SIGNATURE_KEYS="")
    settings = load()
    assert settings.admin_anonymous == "nothing"
    assert settings.keys_by_account == {"default": (KEY,)}
    assert settings.database_url.get_secret_value() == DATABASE


def test_dot_env_can_name_the_configuration_file_and_takes_nothing_out_of_the_environment(env: Any, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("concurrency = 5\n")
    (tmp_path / ".env").write_text("WEBHOOKD_CONFIG=c.toml\nWEBHOOKD_CONCURRENCY=6\nWEBHOOKD_HANDLERS=${WEBHOOKD_REDIS_URL}\n")
    settings = load()
    assert settings.concurrency == 5
    assert settings.handlers == ("${WEBHOOKD_REDIS_URL}",)


def test_a_dot_env_that_cannot_be_read_is_named(env: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"WEBHOOKD_LISTEN=\xff\n")
    assert only_problem() == ".env: cannot be read (UnicodeDecodeError); mend or remove it"


def test_a_line_of_dot_env_that_cannot_be_parsed_is_not_dropped(env: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\n\nexport OTHER='1\nWEBHOOKD_ROLES = work # why\n")
    assert load().roles == {Role.WORK}
    (tmp_path / ".env").write_text("# a comment\nWEBHOOKD_ADMIN_TOKENS='hunter2\n")
    assert only_problem() == ".env: line 2 is not WEBHOOKD_…=value; mend it"


@pytest.mark.parametrize("name", ["database_url", "redis_url", "signature_keys", "accounts.eu.signature_keys", "admin_tokens"])
def test_a_configuration_file_can_name_the_file_of_a_secret(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    secrets = {"database_url": DATABASE, "redis_url": REDIS, "admin_tokens": f"ann:{TOKEN}"}
    variable = f"WEBHOOKD_{name.replace('.', '__').upper()}"
    monkeypatch.delenv(variable, raising=False)
    (tmp_path / "secret").write_text(secrets.get(name, OTHER) + "\n")
    (tmp_path / "c.toml").write_text(f'{name}_file = "secret"\n')
    env(CONFIG="c.toml")
    settings = load()
    found = {
        "database_url": settings.database_url.get_secret_value(),
        "redis_url": settings.redis_url.get_secret_value(),
        "signature_keys": settings.keys_by_account["default"][0],
        "accounts.eu.signature_keys": settings.keys_by_account.get("eu", ("",))[0],
        "admin_tokens": ",".join(f"{name}:{token.get_secret_value()}" for name, token in settings.admin_tokens.items()),
    }
    assert found[name] == secrets.get(name, OTHER)
    (tmp_path / "secret").unlink()
    assert only_problem().startswith(f"{name}_file: cannot read secret (FileNotFoundError)")


def test_a_setting_that_one_source_gives_twice_is_refused(env: Any, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'redis_url = "{REDIS}"\nredis_url_file = "x"\n')
    env(CONFIG="c.toml", DATABASE_URL_FILE="x")
    assert problems() == [
        "WEBHOOKD_DATABASE_URL and WEBHOOKD_DATABASE_URL_FILE are both set; drop one of them",
        "c.toml: redis_url and redis_url_file are both set; drop one of them",
    ]


@pytest.mark.parametrize("url", ["postgresql://u@db/x", "postgresql://u:@db/x", "postgresql://u@[db/x"])
def test_the_users_pgpassword_goes_to_no_database_that_the_folder_names(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("PGPASSFILE", "/home/ann/.pgpass")
    env(DATABASE_URL="")
    (tmp_path / ".env").write_text(f"WEBHOOKD_DATABASE_URL={url}\n")
    assert only_problem().startswith("WEBHOOKD_DATABASE_URL: .env names a database without a password, and webhookd sends ")
    with pytest.raises(SettingsError, match="PGPASSWORD"):
        load_database().database_url.get_secret_value()


def test_no_file_of_passwords_is_read_for_a_database_that_the_folder_names(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/home/ann/.pgpass")
    load_database()
    assert os.environ["PGPASSFILE"] == "/home/ann/.pgpass", "the user's own address"
    env(DATABASE_URL="")
    (tmp_path / ".env").write_text("WEBHOOKD_DATABASE_URL=postgresql://u@db.example.com/x\n")
    load_database()
    assert os.environ["PGPASSFILE"] == NO_FILE
    (tmp_path / ".env").write_text("WEBHOOKD_DATABASE_URL=postgresql://u@db/x?passfile=/home/ann/.pgpass\n")
    assert only_problem().startswith("WEBHOOKD_DATABASE_URL: .env may not name a password file")


def test_a_folder_does_not_name_the_schema_of_a_database_that_the_user_names(env: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WEBHOOKD_DATABASE_SCHEMA=stray\n")
    assert only_problem().startswith("WEBHOOKD_DATABASE_SCHEMA: .env names the schema, but not the database")
    with pytest.raises(SettingsError, match="WEBHOOKD_DATABASE_SCHEMA"):
        load_database()
    env(DATABASE_SCHEMA="own")
    assert load_database().database_schema == load().database_schema == "own"


@pytest.mark.parametrize("name", ["Webhookd", "a-b", "pg_hooks", "information_schema", "a.b", 'a"b', "", "a" * 64])
def test_a_schema_has_a_name_that_needs_no_care(env: Any, name: str) -> None:
    env(DATABASE_SCHEMA=name)
    if name:
        assert only_problem().startswith("WEBHOOKD_DATABASE_SCHEMA: must be a name of lower-case letters")
    else:
        assert load().database_schema == "webhookd"


@pytest.mark.parametrize("own", ["postgresql://u:own@db/x", "postgresql://db/x?user=u&password=own"])
def test_a_folders_database_with_a_password_of_its_own_is_taken(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert load_database().database_url.get_secret_value() == DATABASE  # the user's own address
    env(DATABASE_URL="")
    (tmp_path / ".env").write_text(f"WEBHOOKD_DATABASE_URL='{own}'\n")
    assert load().database_url.get_secret_value() == load_database().database_url.get_secret_value() == own


def test_two_spellings_of_one_setting_in_one_source_are_refused(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text(
        f'admin_anonymous = "nothing"\nADMIN_ANONYMOUS = "operate"\n'
        f'[accounts.eu]\nsignature_keys = ["{KEY}"]\n[accounts.EU]\nsignature_keys = ["{OTHER}"]\n'
    )
    env(CONFIG="c.toml", CONCURRENCY="4")
    monkeypatch.setenv("webhookd_concurrency", "8")
    monkeypatch.setenv("webhookd_pollers", "")
    env(POLLERS="2")
    assert problems() == [
        "WEBHOOKD_CONCURRENCY and webhookd_concurrency are two spellings of one setting; drop one of them",
        "c.toml: admin_anonymous and ADMIN_ANONYMOUS are two spellings of one setting; drop one of them",
        "c.toml: accounts.eu.signature_keys and accounts.EU.signature_keys are two spellings of one setting; drop one of them",
    ]


def test_a_wrong_value_is_told_with_the_file_that_holds_it(env: Any, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("concurrency = 0\npollers = 0\n[destinations.shop]\nurl = 'https://a.test'\nrate = 'x'\n")
    (tmp_path / ".env").write_text("WEBHOOKD_CONFIG=c.toml\nWEBHOOKD_MAX_ATTEMPTS=0\n")
    env(POLLERS="0")
    assert {line.split(":")[0]: line.rpartition("(")[2] for line in problems() if line.endswith(")")} == {
        "WEBHOOKD_CONCURRENCY": "c.toml sets it)",
        "WEBHOOKD_MAX_ATTEMPTS": ".env sets it)",
        "WEBHOOKD_DESTINATIONS__SHOP__RATE": "c.toml sets it)",
    }
    assert "c.toml sets it" not in next(line for line in problems(concurrency=0) if line.startswith("WEBHOOKD_CONCURRENCY"))


def test_an_empty_variable_counts_as_not_set(env: Any) -> None:
    env(CONCURRENCY="", RELAY_WINDOW="")
    assert load().concurrency == 16
    assert load().relay_window is None


def test_a_secret_can_be_in_a_file_that_a_variable_names(env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "SIGNATURE_KEYS"):
        monkeypatch.delenv(f"WEBHOOKD_{name}")
    (tmp_path / "url").write_text(DATABASE + "\n")
    (tmp_path / "keys").write_text(f"{KEY},{OTHER}\r\n")
    (tmp_path / ".env").write_text("WEBHOOKD_DATABASE_URL=postgresql://weaker\n")
    env(DATABASE_URL_FILE="url", SIGNATURE_KEYS_FILE="keys", ACCOUNTS__ACME__SIGNATURE_KEYS_FILE="keys")
    settings = load()
    assert settings.database_url.get_secret_value() == DATABASE
    assert settings.keys_by_account == {"default": (KEY, OTHER), "acme": (KEY, OTHER)}


@pytest.mark.parametrize("prefix", ["", "webhookd_"])
def test_systemd_credentials_are_read_by_the_settings_name(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name, text in {
        "database_url": DATABASE,
        "redis_url": REDIS,
        "signature_keys": KEY,
        "accounts__acme__signature_keys": OTHER,
        "admin_tokens": f"ann:{TOKEN}",
        "something-else": "of another service",
    }.items():
        (tmp_path / f"{prefix}{name}").write_text(f"{text}\n")
    settings = load()
    assert settings.redis_url.get_secret_value() == REDIS
    assert settings.keys_by_account == {"default": (KEY,), "acme": (OTHER,)}
    assert settings.admin_tokens["ann"].get_secret_value() == TOKEN


def test_a_variable_goes_before_its_file_and_its_file_before_a_credential(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("WEBHOOKD_REDIS_URL")
    (tmp_path / "database_url").write_text("postgresql://credential")
    (tmp_path / "redis_url").write_text("redis://credential")
    (tmp_path / "file").write_text("redis://file")
    env(REDIS_URL_FILE="file")
    settings = load()
    assert settings.database_url.get_secret_value() == DATABASE
    assert settings.redis_url.get_secret_value() == "redis://file"


def test_a_file_that_cannot_be_read_is_named(env: Any, tmp_path: Path) -> None:
    env(REDIS_URL="", REDIS_URL_FILE="absent")
    assert only_problem().startswith("WEBHOOKD_REDIS_URL_FILE: cannot read absent (FileNotFoundError)")
    (tmp_path / "absent").write_bytes(b"\xff")
    assert "UnicodeDecodeError" in only_problem()


def test_a_configuration_file_that_is_absent_or_no_toml_is_named(env: Any, tmp_path: Path) -> None:
    env(CONFIG="c.toml")
    assert only_problem().startswith("WEBHOOKD_CONFIG: cannot read c.toml")
    (tmp_path / "c.toml").write_text("concurrency 3")
    assert only_problem().startswith("WEBHOOKD_CONFIG: c.toml is not TOML: ")


def test_several_keys_and_accounts_come_together(env: Any, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'[accounts.Toml-Shop]\nsignature_keys = ["{OTHER}"]\n')
    env(
        CONFIG="c.toml",
        SIGNATURE_KEYS=f" {KEY} , {OTHER}",
        ACCOUNTS__ACME__SIGNATURE_KEYS=OTHER,
        ACCOUNTS__DEFAULT__SIGNATURE_KEYS=f"{OTHER},{KEY.lower()}",
        ACCOUNTS__DIGITS__SIGNATURE_KEYS="12345E67",  # JSON would read it as a number
        ALLOW_ODD_SIGNATURE_KEYS="true",
    )
    assert load().keys_by_account == {
        "default": (KEY, OTHER, KEY.lower()),
        "acme": (OTHER,),
        "digits": ("12345E67",),
        "toml-shop": (OTHER,),
    }


def test_tokens_have_names_given_or_counted(env: Any, tmp_path: Path) -> None:
    env(ADMIN_TOKENS=f"ann:se:{TOKEN}, {TOKEN} ,bob: x{TOKEN}", CONFIG="c.toml")
    (tmp_path / "c.toml").write_text(f'[read_tokens]\ngrafana = "g{TOKEN}"\n')
    settings = load()
    shown = {name: token.get_secret_value() for name, token in settings.admin_tokens.items()}
    assert shown == {"ann": f"se:{TOKEN}", "token2": TOKEN, "bob": f"x{TOKEN}"}
    assert settings.read_tokens == {"grafana": SecretStr(f"g{TOKEN}")}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DATABASE_URL", f"mysql://u:{PASSWORD}@db/x", "must begin with postgresql:// or postgres://"),
        ("DATABASE_URL", f"postgresql:u:{PASSWORD}", "must begin with postgresql:// or postgres://"),
        ("REDIS_URL", f"http://:{PASSWORD}@cache", "must begin with redis:// or rediss:// or unix://"),
        ("SIGNATURE_KEYS", f"{PASSWORD},", "one of the keys is empty"),
        ("SIGNATURE_KEYS", f"{PASSWORD} {PASSWORD}", "separate the keys by commas"),
        ("ACCOUNTS__ACME__SIGNATURE_KEYS", f"{PASSWORD},,", "one of the keys is empty"),
        ("ADMIN_TOKENS", f"ann:{PASSWORD},bob:", "one of the tokens, or the name of one, is empty"),
        ("ADMIN_TOKENS", f":{PASSWORD}", "one of the tokens, or the name of one, is empty"),
        ("ADMIN_TOKENS", f"ann:{PASSWORD}", "one of the tokens has fewer than 16 characters"),
        ("ADMIN_TOKENS", f"ann:{PASSWORD} {TOKEN}", "one of the tokens holds white space"),
        ("READ_TOKENS", f"ann:{PASSWORD}{TOKEN}ü", "or a character outside ASCII"),
        ("READ_TOKENS", f"ann:{PASSWORD},ann:x", "two of the tokens have the same name: rename one"),
        ("LISTEN", "8080", "must be host:port"),
        ("LISTEN", ":8080", "must be host:port"),
        ("LISTEN", "::1:8080", "must be host:port"),
        ("ADMIN_LISTEN", "localhost:65536", "must be host:port"),
        ("ADMIN_LISTEN", "localhost:http", "must be host:port"),
        (
            "SQS_ENDPOINT_URL",
            f"http://u:{PASSWORD}@sqs",
            "must be an address such as https://sqs.example.com, without user and password",
        ),
        ("SQS_QUEUE", "arn:aws:sqs:us-east-1:123456789012:webhookd", "must be a queue's name"),
        ("SQS_QUEUE", "webhookd.fifo", "must be a standard queue, but this is a FIFO queue"),
        (
            "SQS_DEAD_LETTER_QUEUE",
            "https://sqs.us-east-1.amazonaws.com/123456789012/dead.fifo",
            "must be a standard queue, but this is a FIFO queue",
        ),
        ("SQS_REGION", "US East", "must be a region's name, such as us-east-1"),
    ],
)
def test_a_wrong_value_is_told_by_the_settings_name_and_no_secret_with_it(env: Any, name: str, value: str, told: str) -> None:
    env(**{name: value})
    line = only_problem()
    assert line.startswith(f"WEBHOOKD_{name}: ")
    assert told in line
    assert PASSWORD not in line


NUMBERS = {
    name.upper(): {end: getattr(bound, end) for bound in field.metadata for end in ("ge", "le") if hasattr(bound, end)}
    for name, field in Settings.model_fields.items()
    if field.annotation in (int, float) or name == "relay_window"
}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_bounds_and_what_lies_beyond_them_is_refused_with_them(env: Any, name: str) -> None:
    least, most = NUMBERS[name]["ge"], NUMBERS[name]["le"]
    assert most < 10**12
    for beyond in (least - 1, most + 1, 10**12):
        env(**{name: str(beyond)})
        line = only_problem()
        kind = "number" if Settings.model_fields[name.lower()].annotation is float else "whole number"
        told = f"WEBHOOKD_{name}: must be a {kind} from {least:g} to {most:g}; the default is "
        assert line.startswith(told)
    for odd in ("nan", "inf", "-inf", "1e999", "many", "1,5"):
        env(**{name: odd})
        assert only_problem().startswith(told)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "ROLES",
            "receive,wrok",
            (
                "must be any of receive, relay, work, deliver or sync, with commas between them; "
                "the default is receive,relay,work,deliver,sync"
            ),
        ),
        ("TRACING", "perhaps", "must be true or false; the default is false"),
        ("LOG_FORMAT", "xml", "must be json or console; the default is json"),
        ("LOG_LEVEL", "loud", "must be debug, info, warning or error; the default is info"),
        ("ADMIN_ANONYMOUS", "yes", "must be nothing, look or operate; the default is nothing"),
    ],
)
def test_a_wrong_choice_is_told_with_the_right_ones(env: Any, name: str, value: str, told: str) -> None:
    env(**{name: value})
    assert only_problem() == f"WEBHOOKD_{name}: {told}"


def test_a_toml_file_of_the_wrong_types_is_told_what_each_must_be(env: Any, tmp_path: Path) -> None:
    (tmp_path / "webhookd.toml").write_text('log_level = 1\nsqs_queue = 2\nhandlers = 3\nconcurrency = "x"\n')
    env(CONFIG="webhookd.toml")
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).splitlines() == [
        "WEBHOOKD_SQS_QUEUE: must be text; the default is webhookd (webhookd.toml sets it)",
        "WEBHOOKD_HANDLERS: must be a list, or text with commas between its parts; the default is none (webhookd.toml sets it)",
        "WEBHOOKD_CONCURRENCY: must be a whole number from 1 to 1000; the default is 16 (webhookd.toml sets it)",
        "WEBHOOKD_LOG_LEVEL: must be debug, info, warning or error; the default is info (webhookd.toml sets it)",
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("RESEND_AFTER", "0.001"), ("BODY_TIMEOUT", "1e9"), ("MAX_BODY_BYTES", str(10**12))]
)
def test_what_could_never_work_is_refused(env: Any, name: str, value: str) -> None:
    env(**{name: value})
    assert " number from " in only_problem()


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("x", "the key has 1 characters"),
        (KEY[:-1], "the key has 127 characters"),
        (KEY + "0", "the key has 129 characters"),
        (KEY[:-1] + "G", "the key holds a character other than 0-9 and A-F"),
        (KEY[:-1] + "\u0661", "the key holds a character other than 0-9 and A-F"),
        (f"{OTHER},{KEY[:64]}", "key 2 of 2 has 64 characters"),
    ],
)
def test_a_signature_key_has_128_hexadecimal_digits(env: Any, key: str, told: str) -> None:
    env(SIGNATURE_KEYS=key)
    line = only_problem()
    assert line.startswith(f"WEBHOOKD_SIGNATURE_KEYS: {told}, but a Signature Key has 128 hexadecimal digits: copy the whole")
    assert KEY[:32] not in line
    env(SIGNATURE_KEYS=KEY.lower(), ACCOUNTS__EU__SIGNATURE_KEYS=key)
    assert only_problem().startswith(f"WEBHOOKD_ACCOUNTS__EU__SIGNATURE_KEYS: {told}")
    env(ALLOW_ODD_SIGNATURE_KEYS="true")
    assert load().keys_by_account["eu"] == tuple(key.split(","))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ROLES": ","}, "WEBHOOKD_ROLES is empty"),
        ({"RETRY_BASE": "10", "RETRY_CAP": "5"}, "WEBHOOKD_RETRY_BASE is above WEBHOOKD_RETRY_CAP"),
        ({"MAX_EVENT_AGE": "86400"}, "WEBHOOKD_MAX_EVENT_AGE is below 864000"),
        ({"AUDIT_RETENTION": "30000000"}, "WEBHOOKD_AUDIT_RETENTION is below WEBHOOKD_EVENT_RETENTION"),
        ({"ADMIN_LISTEN": "127.0.0.1:8080"}, "WEBHOOKD_LISTEN and WEBHOOKD_ADMIN_LISTEN use the same port"),
        ({"ADMIN_LISTEN": "0.0.0.0:8080"}, "WEBHOOKD_LISTEN and WEBHOOKD_ADMIN_LISTEN use the same port"),
        ({"ACCOUNTS__A.B__SIGNATURE_KEYS": KEY}, "WEBHOOKD_ACCOUNTS__A.B__SIGNATURE_KEYS: an account's name has"),
        ({"ACCOUNTS__ACME__SIGNATURE_KEYS": ""}, "WEBHOOKD_ACCOUNTS__ACME__SIGNATURE_KEYS is empty"),
        ({"ACCOUNTS": KEY}, "WEBHOOKD_ACCOUNTS: set WEBHOOKD_ACCOUNTS__<NAME>__SIGNATURE_KEYS instead"),
        ({"ACCOUNTS__ACME__SIGNATURE_KEY": KEY}, "WEBHOOKD_ACCOUNTS__ACME__SIGNATURE_KEY is not a setting"),
        ({"COMMIT_TIMEOUT": "25"}, "WEBHOOKD_COMMIT_TIMEOUT is not below WEBHOOKD_SHUTDOWN_GRACE (25 s): "),
        ({"SHUTDOWN_GRACE": "8"}, "WEBHOOKD_SQS_WAIT is not below WEBHOOKD_SHUTDOWN_GRACE (8 s): "),
        ({"SQS_DEAD_LETTER_QUEUE": "webhookd"}, "WEBHOOKD_SQS_DEAD_LETTER_QUEUE is WEBHOOKD_SQS_QUEUE: "),
        ({"ADMIN_TOKENS": f"ann:{TOKEN}", "READ_TOKENS": TOKEN}, "WEBHOOKD_READ_TOKENS holds a token of WEBHOOKD_ADMIN_TOKENS"),
    ],
)
def test_what_cannot_work_together_is_refused_by_name(env: Any, given: dict[str, str], told: str) -> None:
    env(**given)
    line = only_problem()
    assert line.startswith(told)
    assert KEY not in line


@pytest.mark.parametrize(
    ("listen", "address"),
    [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8443", ("::1", 8443)), ("host.example:0", ("host.example", 0))],
)
def test_an_address_can_be_a_name_or_ipv6_in_brackets(env: Any, listen: str, address: tuple[str, int]) -> None:
    env(LISTEN=listen)
    assert load().public_address == address


def test_listeners_can_share_a_port_on_two_addresses_and_leave_both_to_the_system(env: Any) -> None:
    env(LISTEN="10.0.0.1:8080", ADMIN_LISTEN="127.0.0.1:8080")
    load()
    env(LISTEN="127.0.0.1:0", ADMIN_LISTEN="127.0.0.1:0")
    load()


def test_every_problem_is_told_at_once(env: Any) -> None:
    env(CONCURENCY="3", LISTEN="x", ROLES="y")
    assert [line.partition(" ")[0].rstrip(":") for line in problems()] == [
        "WEBHOOKD_CONCURENCY",
        "WEBHOOKD_LISTEN",
        "WEBHOOKD_ROLES",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CONCURENCY", "WEBHOOKD_CONCURRENCY"),
        ("SIGNATURE_KEY", "WEBHOOKD_SIGNATURE_KEYS"),
        ("REDIS_URL_FILES", "WEBHOOKD_REDIS_URL_FILE"),
        ("CONFIGURATION", "WEBHOOKD_CONFIG"),
        ("API_TOKENS", "WEBHOOKD_API_TOKEN"),
        ("XYZZY", None),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(env: Any, name: str, meant: str | None) -> None:
    env(**{name: "x"})
    remedy = f"did you mean {meant}?" if meant else "`webhookd settings` lists them"
    assert only_problem() == f"WEBHOOKD_{name} is not a setting; {remedy}"


def test_a_misspelt_name_in_a_file_is_refused_too(env: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OTHER=1\nWEBHOOKD_LISTN=x\n")
    (tmp_path / "c.toml").write_text(
        'config = "d.toml"\nconcurency = 3\nWEBHOOKD_ROLES = "work"\n[accounts.eu]\nsignature_key = "x"\n'
    )
    env(CONFIG="c.toml")
    assert problems() == [
        "c.toml: accounts.eu.signature_key is not a setting; did you mean accounts.<name>.signature_keys?",
        "c.toml: concurency is not a setting; did you mean concurrency?",
        "c.toml: config is not a setting; `webhookd settings` lists them",
        "c.toml: WEBHOOKD_ROLES is not a setting; did you mean roles?",
        ".env: WEBHOOKD_LISTN is not a setting; did you mean WEBHOOKD_LISTEN?",
    ]


def test_variables_of_tests_development_and_kubernetes_are_left_alone(env: Any) -> None:
    env(DEV_FOLDER="x", TEST_DATABASE_URL="x")
    env(SERVICE_HOST="10.0.0.1", SERVICE_PORT="80", PORT="tcp://10.0.0.1:80", PORT_80_TCP_ADDR="10.0.0.1")
    env(ADMIN_SERVICE_HOST="10.0.0.2", ADMIN_SERVICE_PORT_HTTP="90", ADMIN_PORT="tcp://10.0.0.2:90")
    load()


def test_a_port_of_no_kubernetes_service_is_refused(env: Any) -> None:
    env(PORT="8080")
    assert only_problem().startswith("WEBHOOKD_PORT is not a setting")


@pytest.mark.parametrize(("concurrency", "pollers"), [(1, 1), (10, 1), (11, 2), (64, 7)])
def test_there_are_pollers_enough_for_the_concurrency_or_as_many_as_set(env: Any, concurrency: int, pollers: int) -> None:
    env(CONCURRENCY=str(concurrency))
    assert load().pollers == pollers
    env(POLLERS="3")
    assert load().pollers == 3


def test_no_secret_shows_in_any_form_of_the_settings(env: Any) -> None:
    env(
        SIGNATURE_KEYS=f"{KEY},{OTHER}",
        ACCOUNTS__ACME__SIGNATURE_KEYS=OTHER,
        ADMIN_TOKENS=f"ann:{TOKEN}",
        READ_TOKENS=f"x{TOKEN}",
    )
    settings = load()
    for shown in (
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        repr(settings.model_dump()),
        str(settings.redacted()),
    ):
        assert KEY not in shown
        assert OTHER not in shown
        assert TOKEN not in shown


def test_no_secret_shows_in_pydantics_own_error() -> None:
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(
            {"database_url": f"mysql://u:{PASSWORD}@db", "redis_url": REDIS, "signature_keys": f"{PASSWORD},"}
        )
    assert PASSWORD not in str(refused.value)


def test_the_log_line_names_keys_and_tokens_without_telling_them(env: Any) -> None:
    env(ACCOUNTS__ACME__SIGNATURE_KEYS=OTHER, ADMIN_TOKENS=f"ann:{TOKEN},{TOKEN}")
    shown = load().redacted()
    assert shown["accounts"] == {
        "default": [hashlib.sha256(KEY.encode()).hexdigest()[:12]],
        "acme": [hashlib.sha256(OTHER.encode()).hexdigest()[:12]],
    }
    assert shown["admin_tokens"] == ["ann", "token2"]
    assert shown["concurrency"] == 16
    json.dumps(shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (DATABASE, "postgresql://db:5432/webhookd"),
        ("postgresql://u:p@one:1,two:2/name", "postgresql://one:1,two:2/name"),
        ("postgresql:///name?host=/run/pg&password=p", "postgresql:///name"),
        ("postgresql://h/name", "postgresql://h/name"),
        # The password is not percent-encoded, so its end is unknown.
        (f"postgresql://u:{PASSWORD}/x@h/name", "postgresql://…"),
        (f"postgresql://u:{PASSWORD}?x@h/name", "postgresql://…"),
        (f"postgresql://u:{PASSWORD}#x@h/name", "postgresql://…"),
        (f"postgresql://u:x@{PASSWORD}@h/name", "postgresql://…"),
        (f"postgresql://h/name?user=a@b&password={PASSWORD}", "postgresql://…"),
        # urlsplit's own error would quote the password
        (f"postgresql://u:{PASSWORD}\u2100@h/name", "postgresql://h/name"),
        (f"postgresql://u:{PASSWORD}@[h/name", "postgresql://[h/name"),
    ],
)
def test_an_address_is_logged_without_user_and_password(env: Any, url: str, shown: str) -> None:
    env(DATABASE_URL=url)
    assert load().redacted()["database_url"] == shown


def test_every_setting_is_described_with_its_default() -> None:
    rows = {name: (default, meaning) for name, default, meaning in describe()}
    # One row for WEBHOOKD_CONFIG, and one for each setting of a channel, a destination and an account, instead of the sections.
    sections = sum(len(one.model_fields) for one in (AlertSettings, DestinationSettings, AccountProviderSettings))
    assert len(rows) == len(Settings.model_fields) - 1 + sections
    assert all(name.startswith("WEBHOOKD_") and meaning for name, (_, meaning) in rows.items())
    defaults = {name.removeprefix("WEBHOOKD_"): default for name, (default, _) in rows.items()}
    assert defaults["DATABASE_URL"] == "required"
    assert defaults["MAX_EVENT_AGE"] == "1209600"
    assert defaults["ROLES"] == "receive,relay,work,deliver,sync"
    assert defaults["LISTEN"] == "127.0.0.1:8080"
    assert defaults["CONFIG"] == defaults["RELAY_WINDOW"] == defaults["ACCOUNTS__<NAME>__SIGNATURE_KEYS"] == ""


def test_to_migrate_takes_the_databases_url_and_no_other_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="WEBHOOKD_DATABASE_URL is not set"):
        load_database().database_url.get_secret_value()
    monkeypatch.setenv("WEBHOOKD_DATABASE_URL", "mysql://x")
    with pytest.raises(SettingsError, match="WEBHOOKD_DATABASE_URL: must begin with postgresql://"):
        load_database().database_url.get_secret_value()
    monkeypatch.delenv("WEBHOOKD_DATABASE_URL")
    # `load_database` does not look for the files of other settings, which may be missing or unreadable.
    monkeypatch.setenv("WEBHOOKD_SIGNATURE_KEYS_FILE", "/nowhere/keys")
    monkeypatch.setenv("WEBHOOKD_ACCOUNTS__SHOP__SIGNATURE_KEYS_FILE", "/nowhere/shop")
    (tmp_path / "url").write_text(f"{DATABASE}\n")
    monkeypatch.setenv("WEBHOOKD_DATABASE_URL_FILE", str(tmp_path / "url"))
    assert load_database().database_url.get_secret_value() == DATABASE


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("postgresql://a:x@h/d", "postgresql://b:y@h/d", True),
        ("postgresql://a:x@h/d?sslmode=require", "postgresql://h/d?sslmode=require&user=b&password=y", True),
        ("postgresql://a:x@h/d", "postgresql://a:x@h/e", False),
        ("postgresql://a:x@h/d", "postgresql://a:x@g/d", False),
        ("postgresql://a:x@h/d", "postgresql://a:x@h/d?host=g", False),
        ("postgresql://a:x@h", "postgresql://b:x@h", False),  # the database has the user's name
        ("postgresql://a:x@h/", "postgresql://a:y@h/", True),
        ("postgresql://h?user=a", "postgresql://h?user=b", False),
        ("postgresql://a:x@h?dbname=d", "postgresql://b:x@h?dbname=d", True),
        ("redis://:x@h:6379", "redis://u:y@h:6379", True),
        ("redis://:x@h:6379/0", "redis://:x@h:6379/1", False),
        ("postgresql://a:x@y@h/d", "postgresql://a:x@y@h/d", False),  # the password's end is unclear
    ],
)
def test_a_url_with_another_user_or_password_leads_to_the_same_server(one: str, other: str, same: bool) -> None:
    assert same_server(SecretStr(one), SecretStr(other)) is same


DESTINATION = {"DESTINATIONS__SHOP__URL": "https://shop.example.com/hooks"}


def test_a_destination_is_read_from_the_environment_from_toml_and_from_files(env: Any, tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Authorization: Bearer t0ps3cret, X-Shop: 7\n")
    toml = tmp_path / "c.toml"
    toml.write_text('[destinations.books]\nurl = "https://books.example.com"\nheaders = {"X-List" = "a,b"}\nrate = 2.5\n')
    env(
        **DESTINATION,
        DESTINATIONS__SHOP__HEADERS_FILE=str(tmp_path / "headers"),
        DESTINATIONS__SHOP__EVENT_TYPES="net.authorize.payment.*, net.authorize.customer.*",
        DESTINATIONS__SHOP__GIVE_UP_ON="404,422",
        CONFIG=str(toml),
    )
    loaded = load()
    shop, books = loaded.destinations["shop"], loaded.destinations["books"]
    assert shop.event_types == ("net.authorize.payment.*", "net.authorize.customer.*")
    assert shop.give_up_on == (404, 422)
    assert (shop.timeout, shop.concurrency, shop.max_attempts, shop.body, shop.rate) == (10, 8, 20, "exact", None)
    assert {name: value.get_secret_value() for name, value in shop.headers.items()} == {
        "Authorization": "Bearer t0ps3cret",
        "X-Shop": "7",
    }
    assert books.headers["X-List"].get_secret_value() == "a,b"
    assert books.rate == 2.5
    for shown in (repr(loaded), str(loaded.redacted()), str(effective(loaded, layers()))):
        assert "t0ps3cret" not in shown
        assert "/hooks" not in shown


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("URL", "ftp://x", "must be a URL such as https://shop.example.com/hooks"),
        ("URL", "https://user:t0ps3cret@x", "must hold no user and password"),
        ("URL", "https://[x", "cannot be read as a URL"),
        ("URL", "http://shop.example.com", "set WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE=true if the address is in your own"),
        ("URL", "HTTP://shop.example.com", "ALLOW_PRIVATE=true if the address is in your own"),
        ("SECRETS", "whsec_t0ps3cret", "each secret must be whsec_ and the base64 of 24 to 64 random bytes"),
        ("SECRETS", "t0ps3cret", "each secret must be whsec_"),
        ("FILTER", "a ==", "is no JMESPath expression on the payload"),
        ("FILTER", "a && contain(b, 'x')", "calls a function that JMESPath lacks"),
        ("FILTER", "items[?length(a, b) > `1`]", "with another number of arguments"),
        ("HEADERS", "t0ps3cret", "must be `Name: value`, with commas between several"),
        ("HEADERS", "A: t0ps3cr\u00e9t", "holds a name or a value that no header can carry"),
        ("HEADERS", "webhook-id: 1", "webhookd sets the header webhook-id itself: remove it"),
        ("HEADERS", "User-Agent: x", "webhookd sets the header user-agent itself: remove it"),
        ("HEADERS", "Host: x", "webhookd sets the header host itself: remove it"),
        ("GIVE_UP_ON", "200", "must be HTTP statuses from 300 to 599"),
        ("TIMEOUT", "0", "must be a number from 0.1 to 300; the default is 10"),
        ("RATE", "x", "must be a number from 0.01 to 100000; the default is none"),
        ("CONCURRENCY", "0", "must be a whole number from 1 to 1000; the default is 8"),
        ("BODY", "half", "must be exact or envelope; the default is exact"),
        ("ALLOW_PRIVATE", "perhaps", "must be true or false; the default is false"),
        ("ACCOUNTS", "eu", "names eu, which is no account"),
        ("EVENT_TYPES", ",", "is empty: name a pattern"),
        ("CLIENT_KEY", "key.pem", "go together: set both, or neither"),
        ("TIMEOOT", "1", "is not a setting; did you mean WEBHOOKD_DESTINATIONS__<NAME>__TIMEOUT?"),
    ],
)
def test_a_wrong_destination_is_reported_with_the_remedy(env: Any, field: str, value: str, told: str) -> None:
    env(**DESTINATION | {f"DESTINATIONS__SHOP__{field}": value})
    problem = only_problem()
    assert problem.startswith("WEBHOOKD_DESTINATIONS__SHOP__")
    assert told in problem
    assert "t0ps3cr" not in problem


TOPIC = "sns:arn:aws:sns:eu-west-1:123456789012:orders"


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("sqs://orders", ("sqs", "orders", None, None, False)),
        ("sqs://orders.fifo", ("sqs", "orders.fifo", None, None, True)),
        (
            "sqs://https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
            (
                "sqs",
                "https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
                "eu-west-1",
                "https://sqs.eu-west-1.amazonaws.com",
                False,
            ),
        ),
        (TOPIC, ("sns", TOPIC[4:], "eu-west-1", None, False)),
        (f"{TOPIC}.fifo", ("sns", f"{TOPIC[4:]}.fifo", "eu-west-1", None, True)),
        ("eventbridge://default", ("eventbridge", "default", None, None, False)),
        (
            "eventbridge://arn:aws-us-gov:events:us-gov-west-1:123456789012:event-bus/shop",
            (
                "eventbridge",
                "arn:aws-us-gov:events:us-gov-west-1:123456789012:event-bus/shop",
                "us-gov-west-1",
                None,
                False,
            ),
        ),
    ],
)
def test_a_cloud_destination_is_read_and_gets_the_envelope(env: Any, url: str, fields: tuple[Any, ...]) -> None:
    env(DESTINATIONS__SHOP__URL=url)
    shop = load().destinations["shop"]
    assert shop.target is not None
    assert (*(getattr(shop.target, name) for name in ("service", "name", "region", "endpoint", "is_fifo")),) == fields
    assert (shop.form, shop.place, shop.redacted()["body"]) == ("envelope", url, "envelope")


OWN = "https://sqs.us-east-1.amazonaws.com/123456789012/webhookd"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"URL": "sqs://"}, "must be sqs:// and the name or the URL of a queue"),
        ({"URL": "sqs://my queue"}, "must be sqs:// and the name or the URL of a queue"),
        ({"URL": "sqs://arn:aws:sqs:us-east-1:123456789012:orders"}, "must be sqs:// and the name or the URL of a queue"),
        ({"URL": "sqs://https://user:pass@sqs.example.com/1/orders"}, "must be sqs:// and the name or the URL of a queue"),
        ({"URL": "sqs://https://sqs.example.com:99999/1/orders"}, "must be sqs:// and the name or the URL of a queue"),
        ({"URL": f"sqs://{OWN.replace('/webhookd', '//webhookd')}"}, "must be sqs:// and the name or the URL of a queue"),
        ({"URL": f"sqs://{OWN.replace('/webhookd', '/./webhookd')}"}, "must be sqs:// and the name or the URL of a queue"),
        ({"URL": f"sqs://{OWN.replace('webhookd', '%77ebhookd')}"}, "must be sqs:// and the name or the URL of a queue"),
        (
            {"URL": "sqs://https://sqs.example.com/queue/eu-west-1/123456789012/webhookd", "SQS_QUEUE": OWN},
            "may be the queue of",
        ),
        ({"URL": "eventbridge://.."}, "must be eventbridge:// and the name or the ARN of a bus"),
        ({"URL": "sns:orders"}, "must be sns: and the ARN of a topic"),
        ({"URL": "sns://arn:aws:sns:us-east-1:123456789012:orders"}, "must be sns: and the ARN of a topic"),
        ({"URL": "eventbridge://"}, "must be eventbridge:// and the name or the ARN of a bus"),
        ({"URL": "eventbridge://arn:aws:sns:us-east-1:123456789012:orders"}, "must be eventbridge:// and the name or the ARN"),
        ({"URL": "sqs://orders", "BODY": "exact"}, "__BODY is exact, but a cloud service gets the envelope"),
        ({"URL": "sqs://orders", "HEADERS": "X-A: 1"}, "__HEADERS is for requests by HTTP"),
        ({"URL": TOPIC, "GIVE_UP_ON": "404"}, "__GIVE_UP_ON is for requests by HTTP"),
        (
            {"URL": "eventbridge://shop", "SECRETS": "whsec_" + "c2VjcmV0" * 5 + "MDE="},
            "an event of EventBridge has no place for a signature",
        ),
        ({"URL": "sqs://http://sqs.example.com/1/orders"}, "set WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE=true"),
        (
            {"URL": "sqs://orders", "SQS_ENDPOINT_URL": "http://localhost:1"},
            "set WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE=true",
        ),
        ({"URL": "sqs://webhookd"}, "may be the queue of WEBHOOKD_SQS_QUEUE"),
        ({"URL": "sqs://webhookd-dead-letters"}, "may be the queue of WEBHOOKD_SQS_DEAD_LETTER_QUEUE"),
        ({"URL": f"sqs://{OWN}"}, "may be the queue of WEBHOOKD_SQS_QUEUE"),
        (
            {"URL": f"sqs://{OWN.replace('sqs.us-east-1', 'vpce-1.sqs.us-east-1.vpce')}", "SQS_QUEUE": OWN},
            "may be the queue of",
        ),
    ],
)
def test_a_cloud_destination_that_cannot_work_is_refused(env: Any, settings: dict[str, str], told: str) -> None:
    env(**{name if name.startswith("SQS_") else f"DESTINATIONS__SHOP__{name}": value for name, value in settings.items()})
    problem = only_problem()
    assert "WEBHOOKD_DESTINATIONS__SHOP__" in problem
    assert told in problem


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("sqs://orders", "AWS_ENDPOINT_URL_SQS"),
        (TOPIC, "AWS_ENDPOINT_URL_SNS"),
        ("eventbridge://shop", "AWS_ENDPOINT_URL_EVENTBRIDGE"),
        (TOPIC, "AWS_ENDPOINT_URL"),
    ],
)
def test_a_variable_of_the_aws_sdk_sends_no_event_in_clear(
    env: Any, monkeypatch: pytest.MonkeyPatch, url: str, variable: str
) -> None:
    env(DESTINATIONS__SHOP__URL=url)
    monkeypatch.setenv(variable, "HTTP://proxy.example.com:4566")
    said = only_problem()
    assert said.startswith(f"{variable} has http://, so everybody on the way could read the events: use https://")
    assert "WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE=true" in said
    monkeypatch.setenv("WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE", "true")
    load()
    monkeypatch.setenv("WEBHOOKD_DESTINATIONS__SHOP__ALLOW_PRIVATE", "false")
    monkeypatch.setenv(variable, "https://proxy.example.com:4566")
    load()


def test_an_address_that_the_aws_sdk_does_not_use_is_not_refused(env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env(DESTINATIONS__SHOP__URL="sqs://orders", SQS_ENDPOINT_URL="https://sqs.example.com")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://proxy.example.com:4566")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", "http://proxy.example.com:4566")
    load()


@pytest.mark.parametrize(("value", "ignored"), [("true", True), ("TRUE", True), ("1", False), ("false", False), ("", False)])
def test_a_variable_that_the_aws_sdk_ignores_is_not_refused(
    env: Any, monkeypatch: pytest.MonkeyPatch, value: str, ignored: bool
) -> None:
    env(DESTINATIONS__SHOP__URL="eventbridge://shop")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://proxy.example.com:4566")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", value)
    session = botocore.session.get_session()
    assert (session.create_client("events", "us-east-1").meta.endpoint_url[:5] == "https") is ignored, "what the SDK does"
    if ignored:
        load()
    else:
        assert "AWS_ENDPOINT_URL has http://" in only_problem()


def test_a_reload_refuses_the_queue_that_webhookd_uses_until_a_restart(env: Any) -> None:
    env(SQS_QUEUE="orders")
    before = load()
    env(SQS_QUEUE="other", DESTINATIONS__SHOP__URL="sqs://orders")
    with pytest.raises(SettingsError, match="may be the queue of WEBHOOKD_SQS_QUEUE"):
        renewed(before, load())


def test_a_queue_of_the_same_name_elsewhere_is_no_loop(env: Any) -> None:
    for elsewhere in (OWN.replace("us-east-1", "eu-west-1"), OWN.replace("123456789012", "210987654321")):
        env(DESTINATIONS__SHOP__URL=f"sqs://{elsewhere}", SQS_QUEUE=OWN)
        load()


def test_a_destination_is_not_called_as_another_consumer(env: Any) -> None:
    env(DESTINATIONS__HANDLERS__URL="https://x")
    assert "is not handlers: rename the destination" in only_problem()


def test_a_destination_needs_an_address(env: Any) -> None:
    env(DESTINATIONS__SHOP__FILTER="a")
    assert only_problem() == "WEBHOOKD_DESTINATIONS__SHOP__URL is not set: set it, or drop the other settings of this name"


def test_a_folders_address_gets_no_headers_from_elsewhere(env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("WEBHOOKD_DESTINATIONS__SHOP__URL=https://elsewhere.example.com\n")
    env(DESTINATIONS__SHOP__HEADERS="Authorization: Bearer t0ps3cret")
    assert "webhookd sends headers from elsewhere to no address that a folder names" in only_problem()
