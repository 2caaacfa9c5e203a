"""A pytest plugin: fails a test if its output, log files or errors hold a secret that any test of the session has used.

Secrets are the values that settings take as secrets: signature keys, Transaction Keys, tokens, the passwords in URLs. `note`
adds others. A secret shorter than twelve characters is ignored, since it could be a word.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from webhookd.errors import WebhookdError
from webhookd.settings import Settings
from webhookd.settings.provider import provider_accesses
from webhookd.settings.sources import SECRET

_SHORTEST = 12
_secrets: set[str] = set()
_in_errors: list[str] = []


def note(values: Iterable[str]) -> None:
    """Stores the secrets in `values`."""
    _secrets.update(value for value in values if len(value) >= _SHORTEST)


def note_settings(settings: Settings) -> None:
    """Stores the secrets of a daemon's settings."""
    note(key for keys in settings.keys_by_account.values() for key in keys)
    note(token.get_secret_value() for tokens in (settings.admin_tokens, settings.read_tokens) for token in tokens.values())
    note(_password(url.get_secret_value()) for url in (settings.database_url, settings.redis_url))
    if settings.shop_database_url is not None:
        note([_password(settings.shop_database_url.get_secret_value())])
    for access in provider_accesses(settings).values():
        note(one.get_secret_value() for one in (access.login_id, *access.keys))
    for channel in settings.alerts.values():
        note(_parts_of_alert(channel.url.get_secret_value()))
        note([] if channel.secret is None else [channel.secret.get_secret_value()])


def note_environment(environment: Mapping[str, str]) -> None:
    """Stores the secrets of a process's environment."""
    for name, value in environment.items():
        setting = name.removeprefix("WEBHOOKD_").lower()
        if name.startswith("WEBHOOKD_") and SECRET.fullmatch(setting):
            if setting.startswith("alerts__"):
                note(_parts_of_alert(value))
                continue
            note([_password(value)] if setting.endswith("_url") else [part.rpartition(":")[2] for part in value.split(",")])


def _password(url: str) -> str:
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""


def _parts_of_alert(url: str) -> list[str]:
    """Returns the secret parts of the address of a channel for alerts: the password, and the path, which holds a token."""
    return [url, _password(url), urlsplit(url).path.rpartition("/")[2]]


def found(text: str) -> list[str]:
    """Returns the secrets that `text` holds, each by its first four characters."""
    return [f"{secret[:4]}…" for secret in _secrets if secret in text]


@pytest.fixture(scope="session", autouse=True)
def _watched_errors() -> Iterator[None]:
    """Searches the message of every WebhookdError that is created for secrets."""
    patch = pytest.MonkeyPatch()
    made = WebhookdError.__init__

    def watched(self: WebhookdError, *arguments: Any) -> None:
        made(self, *arguments)
        _in_errors.extend(f"{type(self).__name__} holds {secret}" for secret in found(str(self)))

    patch.setattr(WebhookdError, "__init__", watched)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _no_secret_is_told(request: pytest.FixtureRequest) -> Iterator[None]:
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    told, _in_errors[:] = list(_in_errors), []
    for log in () if folder is None else folder.rglob("*.log"):
        told += [f"{log.name} holds {secret}" for secret in found(log.read_text(errors="replace"))]
    assert not told, "; ".join(told)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "teardown" and report.passed:
        told = [f"{name} holds {secret}" for name, text in report.sections for secret in found(text)]
        if told:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: {'; '.join(told)}"
    return report
