"""Tokens for PostgreSQL in Amazon RDS: signed without a call, for the user and the host in the URL."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import settings_of
from tests.helpers.running import base_settings
from webhookd.errors import SettingsError, WebhookdError
from webhookd.sqs.rds import RdsTokens

URL = "postgresql://web%40hooks@db.abc.eu-central-1.rds.amazonaws.com/webhookd?sslmode=verify-full&sslrootcert=/ca.pem"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-aws")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


async def token(url: str, region: str | None = None) -> tuple[str, dict[str, list[str]]]:
    """Returns the host and port that the token names, and its parameters."""
    async with RdsTokens.password("rds-iam", region) as password:
        assert password is not None
        made = urlsplit(f"https://{await password(url)}")
    return made.netloc, parse_qs(made.query)


async def test_a_token_is_signed_for_the_user_host_and_region_of_the_url() -> None:
    # The form: Amazon RDS User Guide, "Connecting to your DB instance using IAM authentication".
    place, query = await token(URL, "us-west-2")
    assert place == "db.abc.eu-central-1.rds.amazonaws.com:5432"
    assert (query["Action"], query["DBUser"], query["X-Amz-Expires"]) == (["connect"], ["web@hooks"], ["900"])
    assert query["X-Amz-Credential"][0].startswith("AKIDEXAMPLE/")
    assert query["X-Amz-Credential"][0].endswith("/eu-central-1/rds-db/aws4_request")
    assert "a-secret-of-aws" not in str(query)


async def test_the_region_of_another_name_is_that_of_the_setting_or_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://webhookd@db.example.com:6543/webhookd"
    place, query = await token(url, "us-west-2")
    assert (place, query["X-Amz-Credential"][0].split("/")[2]) == ("db.example.com:6543", "us-west-2")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert (await token(url))[1]["X-Amz-Credential"][0].split("/")[2] == "eu-west-3"
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(WebhookdError, match="set AWS_REGION"):
        await token(url)


async def test_without_credentials_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(WebhookdError, match=r"WEBHOOKD_DATABASE_AUTH is rds-iam, and no token could be signed .*rds-db"):
        await token(URL)


async def test_a_password_in_the_url_needs_no_aws() -> None:
    async with RdsTokens.password("password", None) as password:
        assert password is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (URL, None),
        (URL.replace("web%40hooks", "web%40hooks:a-password"), "holds a password"),
        (f"{URL}&password=a-password", "holds a password"),
        (URL.replace("web%40hooks@", ""), "one user and one host"),
        (URL.replace(".com/", ".com,other.example.com/"), "one user and one host"),
        (URL.replace("sslmode=verify-full", "sslmode=prefer"), "needs TLS"),
        (URL.partition("?")[0], "needs TLS"),
        (URL.replace("web%40hooks", "web:a-pass[wo]rd"), "cannot be read"),
        (URL.replace("web%40hooks", "web:a-password\u2100"), "cannot be read"),
        (URL.replace(".com/", ".com:99999/"), "cannot be read"),
    ],
)
def test_the_url_must_fit(url: str, problem: str | None) -> None:
    given = base_settings() | {"WEBHOOKD_REDIS_URL": "redis://localhost"}
    if problem is None:
        assert settings_of(given, database_url=url, database_auth="rds-iam").database_auth == "rds-iam"
        return
    with pytest.raises(SettingsError, match=problem) as refused:
        settings_of(given, database_url=url, database_auth="rds-iam")
    assert "a-pass" not in str(refused.value)
    settings_of(given, database_url=url)  # fine with a password
