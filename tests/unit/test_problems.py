"""Each error of a dependency has a sentence that names the setting and the remedy, and quotes no secret and no library."""

from __future__ import annotations

import re
import socket
from typing import Any

import asyncpg
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from redis import exceptions as redis
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from webhookd.errors import causes_of
from webhookd.sqs import problem as sqs_problem
from webhookd.sqs.place import Place
from webhookd.store.network import unescaped
from webhookd.store.postgresql_problem import problem_of
from webhookd.store.redis_node import RedisNode
from webhookd.store.tls import POSTGRESQL, REDIS

URL = "postgresql://shop:hunter2@db.example.com:5432/shop"
SECRET = "hunter2"
LIBRARY = re.compile(r"\w+\.py:\d+|Traceback|\[Errno")


def sentence(text: str, *words: str) -> None:
    """Asserts that a sentence holds `words`, a remedy after a colon, and neither the password nor a library's place."""
    for word in words:
        assert word in text
    assert SECRET not in text
    assert not LIBRARY.search(text)


@pytest.mark.parametrize(
    ("url", "signs"),
    [
        ("postgresql://shop:hun@ter2@db.example.com/shop", "@"),
        ("postgresql://shop:hun/ter2@db.example.com/shop", "/"),
        ("postgresql://shop:hun#ter2@db.example.com/shop", "#"),
        ("postgresql://shop:hun?ter2@db.example.com/shop", "?"),
        ("postgresql://shop:12/hunter2@db.example.com/shop", "/"),
        ("postgresql://shop:h@n/ter#2@db.example.com/shop", "@ and / and #"),
        ("postgresql://shop:hun[ter2@db.example.com/shop", "["),
        (URL, None),
        ("postgresql://shop:hun%2Fter2@db.example.com/shop", None),
        ("postgresql://db.example.com/shop?user=shop@azure&password=hunter2", None),
        ("postgresql:///shop?host=/run/postgresql", None),
    ],
)
def test_a_password_that_breaks_the_url_is_recognised_by_its_characters(url: str, signs: str | None) -> None:
    found = unescaped(url, POSTGRESQL)
    if signs is None:
        assert found is None
    else:
        sentence(str(found), f"the password in WEBHOOKD_DATABASE_URL holds {signs},", "write %")
        assert problem_of(socket.gaierror(socket.EAI_NONAME, "hunter2"), url) == found


@pytest.mark.parametrize(
    ("url", "signs"),
    [
        ("redis://:hun/ter2@cache:6379/0", "/"),
        ("rediss://shop:hun#ter2@cache:6379/0", "#"),
        ("redis://:hun@ter2@cache:6379/0", None),
        ("unix:///run/a@b.sock", None),
    ],
)
def test_a_password_of_redis_may_hold_an_at_sign_only(url: str, signs: str | None) -> None:
    found = unescaped(url, REDIS)
    assert (found is None) if signs is None else (f"WEBHOOKD_REDIS_URL holds {signs}," in str(found))


def _refused(kind: Any, message: str, **fields: str) -> Any:
    error = kind(message)
    for name, value in fields.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (asyncpg.InvalidPasswordError("hunter2"), ("28P01", "WEBHOOKD_DATABASE_URL", "%40 %2F %23 %25", "ALTER ROLE")),
        (
            asyncpg.InvalidAuthorizationSpecificationError("kein pg_hba.conf-Eintrag für hunter2"),
            ("28000", "pg_hba.conf does not admit", "the database shop", "pg_reload_conf"),
        ),
        (asyncpg.InvalidCatalogNameError("hunter2"), ("3D000", "create the database shop", "WEBHOOKD_DATABASE_URL")),
        (
            _refused(asyncpg.InsufficientPrivilegeError, "verweigert", server_source_function="CheckMyDatabase"),
            ("42501", "GRANT CONNECT ON DATABASE shop"),
        ),
        (asyncpg.InsufficientPrivilegeError("permission denied for table hunter2"), ("42501", "webhookd doctor")),
        (asyncpg.TooManyConnectionsError("hunter2"), ("53300", "raise max_connections")),
        (asyncpg.CannotConnectNowError("hunter2"), ("57P03", "wait")),
        (asyncpg.DiskFullError("hunter2"), ("53100", "disk is full")),
        (asyncpg.ReadOnlySQLTransactionError("hunter2"), ("25006", "name the primary in WEBHOOKD_DATABASE_URL")),
        (asyncpg.ConnectionDoesNotExistError("hunter2"), ("08003", "the connection to PostgreSQL broke")),
        (
            socket.gaierror(socket.EAI_NONAME, "hunter2"),
            ("the host in WEBHOOKD_DATABASE_URL (db.example.com:5432) is unknown: correct the host",),
        ),
        (socket.gaierror(socket.EAI_AGAIN, "hunter2"), ("cannot be looked up now: check the name server",)),
        (ConnectionRefusedError(111, "hunter2"), ("nothing listens at db.example.com:5432: start PostgreSQL",)),
        (OSError("Multiple exceptions: [Errno 111] hunter2"), ("nothing listens at db.example.com:5432",)),
        (TimeoutError(), ("has not answered in time: correct host and port in WEBHOOKD_DATABASE_URL",)),
        (OSError(113, "hunter2"), ("cannot be reached: check the network",)),
        (ConnectionResetError("hunter2"), ("closed the connection", "sslmode=verify-full")),
        (asyncpg.InterfaceError("hunter2"), ("was not as expected", "WEBHOOKD_DATABASE_URL")),
        (ValueError("hunter2"), ("WEBHOOKD_DATABASE_URL cannot be read: write it as postgresql://user:password@host",)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_of_postgresql_has_its_sentence(error: Exception, words: tuple[str, ...]) -> None:
    sentence(problem_of(error, URL), *words)


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        (
            "redis://:hunter2@cache/0",
            AuthenticationError("x", status_code="WRONGPASS"),
            ("refuses the password", "requirepass"),
        ),
        (
            "redis://u:hunter2@cache/0",
            AuthenticationError("x", status_code="WRONGPASS"),
            ("the user and the password", "ACL LIST"),
        ),
        ("redis://cache/0", AuthenticationError("x", status_code="NOAUTH"), ("Redis wants a password: write it into",)),
        ("redis://:hunter2@cache/0", BusyLoadingError("hunter2"), ("still loads its data",)),
        ("redis://:hunter2@cache/0", ResponseError("hunter2", status_code="MISCONF"), ("cannot save its data",)),
        ("redis://:hunter2@cache/0", ResponseError("hunter2", status_code="ODD"), ("refuses a command of webhookd (ODD)",)),
        ("redis://:hunter2@cache/0", redis.ConnectionError("max number of clients reached"), ("raise its maxclients",)),
        ("redis://:hunter2@cache/0", redis.ConnectionError("hunter2"), ("look into its log", "rediss:// for TLS")),
    ],
)
def test_each_error_of_redis_has_its_sentence(url: str, error: RedisError, words: tuple[str, ...]) -> None:
    sentence(RedisNode(url).problem(error), *words)


def _of_sqs(code: str, operation: str = "GetQueueUrl", queue: str = "hooks", date: str = "", **environment: Any) -> str:
    headers = {"date": date} if date else {}
    answer: Any = {"Error": {"Code": code, "Message": SECRET}, "ResponseMetadata": {"HTTPHeaders": headers}}
    place = Place("us-east-1", "AWS_REGION", None)
    return sqs_problem.problem_of(ClientError(answer, operation), queue, "WEBHOOKD_SQS_QUEUE", place)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "AWS.SimpleQueueService.NonExistentQueue",
            ("the queue hooks does not exist in the region us-east-1 (from AWS_REGION)",),
        ),
        ("ExpiredTokenException", ("have expired", "AWS_SESSION_TOKEN")),
        ("UnrecognizedClientException", ("does not know the access key", "AWS_ACCESS_KEY_ID")),
        ("InvalidSignatureException", ("correct AWS_SECRET_ACCESS_KEY", "us-east-1")),
        ("RequestTimeTooSkewed", ("this machine's clock is wrong", "run NTP")),
        ("ThrottlingException", ("SQS throttles",)),
        ("KMS.AccessDeniedException", ("kms:GenerateDataKey",)),
        ("Odd", ("SQS refuses GetQueueUrl (Odd)", "us-east-1")),
    ],
)
def test_each_code_of_sqs_has_its_sentence(code: str, words: tuple[str, ...]) -> None:
    sentence(_of_sqs(code), *words)


@pytest.mark.parametrize(
    ("operation", "right"),
    [
        ("SendMessageBatch", "sqs:SendMessage"),
        ("DeleteMessageBatch", "sqs:DeleteMessage"),
        ("ChangeMessageVisibilityBatch", "sqs:ChangeMessageVisibility"),
        ("GetQueueUrl", "sqs:GetQueueUrl"),
    ],
)
def test_a_missing_right_is_named_as_a_policy_names_it(operation: str, right: str) -> None:
    sentence(_of_sqs("AccessDeniedException", operation), f"lack the right {right} on the queue hooks")


def test_the_clock_of_an_answer_of_aws_shows_how_wrong_this_machines_clock_is() -> None:
    told = _of_sqs("InvalidSignatureException", date="Mon, 01 Jan 2024 00:00:00 GMT")
    assert re.search(r"clock is \d+ minutes ahead of AWS' clock", told)
    assert "behind AWS' clock" in _of_sqs("RequestExpired", date="Fri, 01 Jan 2100 00:00:00 GMT")


def test_a_queue_whose_url_is_of_another_region_is_recognised() -> None:
    told = _of_sqs("AWS.SimpleQueueService.NonExistentQueue", queue="https://sqs.eu-west-1.amazonaws.com/123456789012/hooks")
    sentence(told, "is of the region eu-west-1, so set WEBHOOKD_SQS_REGION=eu-west-1")


def test_an_unknown_region_has_no_address() -> None:
    error = EndpointConnectionError(endpoint_url="https://sqs.us-est-1.amazonaws.com")
    error.__cause__ = socket.gaierror(socket.EAI_NONAME, SECRET)
    told = sqs_problem.problem_of(error, "hooks", "WEBHOOKD_SQS_QUEUE", Place("us-est-1", "AWS_REGION", None))
    sentence(told, "the region us-est-1 (from AWS_REGION)", "correct AWS_REGION")


@pytest.mark.parametrize(
    ("setting", "environment", "named"),
    [
        ("eu-west-1", {"AWS_REGION": "us-east-1"}, ("eu-west-1", "WEBHOOKD_SQS_REGION")),
        (None, {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-2"}, ("us-east-1", "AWS_REGION")),
        (None, {"AWS_DEFAULT_REGION": "us-east-2"}, ("us-east-2", "AWS_DEFAULT_REGION")),
        (None, {}, (None, "the AWS configuration file")),
    ],
)
def test_the_region_comes_from_the_first_setting_that_names_it(
    setting: str | None, environment: dict[str, str], named: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    place = Place.of(setting, None)
    assert (place.region, place.source) == named


@pytest.mark.timeout(20)
def test_a_circle_of_causes_ends() -> None:
    first, second = OSError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    assert causes_of(first) == [first, second]
    assert causes_of(None) == []
