"""Credentials are renewed beside the calls: no call waits while they are good, waits are bounded, failures are reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import structlog
from aiobotocore.credentials import AioCredentials, AioDeferredRefreshableCredentials
from aiobotocore.session import get_session
from botocore.exceptions import ClientError, CredentialRetrievalError, NoCredentialsError, PartialCredentialsError

from tests.conftest import settings_of
from tests.helpers.running import base_settings
from tests.helpers.wait import until
from webhookd.errors import SettingsError
from webhookd.runtime.loops import Watch
from webhookd.sqs import credentials as module
from webhookd.sqs.credentials import Credentials, CredentialsError
from webhookd.sqs.gateway import Sqs
from webhookd.telemetry.metrics import Metrics

MINUTE = 60.0


class Source:
    """Stands for the chain of AWS sources: returns botocore's own credentials, which a function of the test renews."""

    def __init__(self) -> None:
        self.asked = 0
        self.life = 60 * MINUTE
        self.answers: Callable[[], Awaitable[None]] | None = None  # runs before each answer
        self.found: Any = AioDeferredRefreshableCredentials(self.renew, "test")
        self.error: Exception | None = None

    async def load_credentials(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.found

    async def renew(self) -> dict[str, str]:
        self.asked += 1
        if self.answers is not None:
            await self.answers()
        end = datetime.now(UTC) + timedelta(seconds=self.life)
        return {"access_key": f"key{self.asked}", "secret_key": "s", "token": "t", "expiry_time": end.isoformat()}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    source = Source()
    monkeypatch.setattr(module, "create_credential_resolver", lambda session, region_name: source)
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    return source


@pytest_asyncio.fixture
async def credentials(source: Source) -> AsyncIterator[Credentials]:
    made = Credentials(get_session(), "us-east-1")
    yield made
    await made.stop()


async def key(credentials: Credentials) -> str:
    return str((await credentials.get_frozen_credentials()).access_key)


async def never() -> None:
    await asyncio.Event().wait()


async def test_they_are_asked_for_once_while_they_last(source: Source, credentials: Credentials) -> None:
    assert set(await asyncio.gather(*(key(credentials) for _ in range(5)))) == {"key1"}
    assert await key(credentials) == "key1"
    assert source.asked == 1


@pytest.mark.parametrize("minutes", [14, 9], ids=["advisory", "mandatory"])
async def test_no_call_waits_for_a_source_that_hangs_while_they_are_good(
    source: Source, credentials: Credentials, minutes: int
) -> None:
    """With botocore alone, calls would wait: one at a time in its advisory period, all calls in its mandatory period."""
    source.life = minutes * MINUTE
    assert await key(credentials) == "key1"
    source.answers = never
    async with asyncio.timeout(1):
        for _ in range(5):
            assert await key(credentials) == "key1"
    await until(lambda: source.asked == 2, "the source is asked, by one")


@pytest.mark.parametrize("minutes", [14, 9], ids=["advisory", "mandatory"])
async def test_no_call_fails_for_a_source_that_fails_while_they_are_good(
    source: Source, credentials: Credentials, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log reports once that the source fails, and once that it works again."""

    async def away() -> None:
        raise CredentialRetrievalError(provider="test", error_msg="hunter2")

    source.life = minutes * MINUTE
    await key(credentials)
    source.answers = away
    log = structlog.testing.CapturingLogger()
    monkeypatch.setattr(module, "logger", log)
    for asked in (2, 3):
        assert await key(credentials) == "key1"
        await until(lambda: source.asked >= asked and _is_idle(credentials), "the source is asked again")  # noqa: B023  at once
    source.answers, source.life = None, 60 * MINUTE
    await until(lambda: _is_newer(credentials), "renewed")
    assert [call.args for call in log.calls] == [("credentials cannot be renewed",), ("credentials are renewed again",)]
    assert log.calls[0].kwargs["still_good"]
    assert "hunter2" not in str(log.calls)


def _is_idle(credentials: Credentials) -> bool:
    return credentials._renewal is None or credentials._renewal.done()


async def _is_newer(credentials: Credentials) -> bool:
    return await key(credentials) != "key1"


async def test_they_are_not_asked_for_at_each_call(
    source: Source, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a source's credentials never last a quarter of an hour, botocore would ask for them at each call."""
    monkeypatch.setattr(module, "_PAUSE", 60.0)
    source.life = 5 * MINUTE
    for _ in range(20):
        await key(credentials)
        await asyncio.sleep(0)
    assert source.asked == 1


async def test_a_caller_that_gives_up_leaves_the_renewal_to_the_others(source: Source, credentials: Credentials) -> None:
    answer = asyncio.Event()

    async def late() -> None:
        await answer.wait()

    source.answers = late
    patient = asyncio.create_task(key(credentials))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await key(credentials)
    answer.set()
    assert await patient == "key1"
    assert source.asked == 1


async def test_a_source_that_hangs_is_given_up(
    source: Source, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.05)
    source.answers = never
    with pytest.raises(CredentialsError, match="has not answered within"):
        await key(credentials)
    source.answers = None
    assert await key(credentials) == "key2"


async def test_what_ends_while_its_source_is_away_signs_nothing(source: Source, credentials: Credentials) -> None:
    source.life = 0.3
    assert await key(credentials) == "key1"

    async def away() -> None:
        raise CredentialRetrievalError(provider="test", error_msg="away")

    source.answers = away

    async def is_refused() -> bool:
        try:
            return not await key(credentials)
        except CredentialsError:
            return True

    await until(is_refused, "the credentials have expired")
    source.answers = None
    assert await key(credentials) != "key1"


async def test_what_has_ended_signs_nothing(source: Source, credentials: Credentials) -> None:
    source.life = -MINUTE
    for _ in range(2):
        with pytest.raises(CredentialsError):
            await key(credentials)
    source.life = 60 * MINUTE
    assert await key(credentials) == "key3"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "hunter2"}}, "AssumeRole"),
            "AssumeRole is refused: AccessDenied",
        ),
        (PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), "AWS_SECRET_ACCESS_KEY"),
        (FileNotFoundError("hunter2"), "FileNotFoundError at "),
        (KeyError("hunter2"), "KeyError at "),
        (ValueError("hunter2"), "ValueError at "),
        (CredentialRetrievalError(provider="test", error_msg="hunter2"), "CredentialRetrievalError at "),
    ],
    ids=lambda given: type(given).__name__,
)
async def test_whatever_goes_wrong_is_one_error_without_a_secret(
    source: Source, credentials: Credentials, error: Exception, reason: str
) -> None:
    """A source's answer can make botocore raise other errors than its own."""
    source.error = error
    with pytest.raises(NoCredentialsError) as raised:
        await key(credentials)
    assert reason in str(raised.value)
    assert "hunter2" not in str(raised.value)
    source.error = None
    assert await key(credentials) == "key1"


async def test_what_the_chain_does_not_find_it_is_asked_for_again(source: Source, credentials: Credentials) -> None:
    found, source.found = source.found, None
    with pytest.raises(CredentialsError, match="none found"):
        await key(credentials)
    source.found = found
    assert await key(credentials) == "key1"


async def test_keys_that_never_end_are_taken_as_they_are(source: Source, credentials: Credentials) -> None:
    source.found = AioCredentials("mine", "secret")
    assert await key(credentials) == "mine"
    assert "secret" not in repr(credentials)


async def test_a_stop_ends_a_renewal_in_progress(source: Source, credentials: Credentials) -> None:
    source.answers = never
    waiting = asyncio.create_task(key(credentials))
    await until(lambda: source.asked, "the source is asked")
    for _ in range(2):
        await credentials.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_the_gateway_to_sqs_stops_while_they_are_waited_for(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal outlives the call that began it, but not the gateway."""
    source.answers = never
    settings = settings_of(base_settings(), database_url="postgresql://", redis_url="redis://")
    gateway = Sqs(settings, metrics=Metrics(), watch=Watch())

    async def idle() -> None:
        pass

    monkeypatch.setattr(gateway._prober, "_step", idle)
    await gateway.start()
    call = asyncio.create_task(gateway.queue.depth())
    await until(lambda: source.asked, "the source is asked")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await gateway.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "sqs credentials"]


async def test_a_profile_that_is_not_there_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "shop")
    settings = settings_of(base_settings(), database_url="postgresql://", redis_url="redis://")
    gateway = Sqs(settings, metrics=Metrics(), watch=Watch())
    with pytest.raises(SettingsError, match="shop"):
        await gateway.start()
    await gateway.stop()
