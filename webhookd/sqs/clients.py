"""The two clients of SQS, which share their credentials: one for calls, one for long polls."""

from __future__ import annotations

import functools
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import orjson
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import ConfigParseError, HTTPClientError, NoRegionError, ProfileNotFound

from webhookd.errors import SettingsError, UnavailableError
from webhookd.sqs.credentials import Credentials
from webhookd.sqs.place import Place

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient


class Clients:
    """The owner of the clients: makes them at the start, and closes them at the end. They connect at first use.

    region: WEBHOOKD_SQS_REGION; None if the environment or AWS' files name the region.
    wait: seconds of the longest long poll.
    polls: number of long polls at a time.
    """

    def __init__(self, *, endpoint_url: str | None, region: str | None, wait: int, polls: int) -> None:
        self._endpoint_url = endpoint_url
        self.place = Place.of(region, endpoint_url)
        self._wait = wait
        self._connections = polls
        self._stack = AsyncExitStack()
        self._calls: SQSClient | None = None
        self._polls: SQSClient | None = None

    @property
    def calls(self) -> SQSClient:
        """Returns the client for calls that SQS answers at once. Raises UnavailableError before the start."""
        return _started(self._calls)

    @property
    def polls(self) -> SQSClient:
        """Returns the client for long polls. Raises UnavailableError before the start."""
        return _started(self._polls)

    async def start(self) -> None:
        """Makes the clients. Raises SettingsError if there is no AWS region, or if the AWS SDK's own settings are wrong."""
        if self._calls is not None:
            return
        session = get_session()
        credentials = Credentials(session, self.place.region)
        session.register_component("credential_provider", credentials)
        self._stack.push_async_callback(credentials.stop)
        # One after the other: loading the service model twice at once is not safe. Two clients: a long poll holds its
        # connection, and the wait for a pool has no timeout, so polls would block every delete.
        self._calls = await self._make(session, connections=32)
        self._polls = await self._make(session, connections=self._connections)

    async def stop(self) -> None:
        """Closes the clients."""
        self._calls = self._polls = None
        await self._stack.aclose()

    async def _make(self, session: AioSession, *, connections: int) -> SQSClient:
        config = AioConfig(
            user_agent=_user_agent(),
            connect_timeout=3,
            read_timeout=self._wait + 10,
            max_pool_connections=connections,
            parameter_validation=False,
            retries={"mode": "standard", "total_max_attempts": 2},
        )
        try:
            client: SQSClient = await self._stack.enter_async_context(
                session.create_client("sqs", region_name=self.place.region, endpoint_url=self._endpoint_url, config=config)
            )
        except NoRegionError as error:
            raise SettingsError("no AWS region: set AWS_REGION (or WEBHOOKD_SQS_REGION) to the queue's region") from error
        except (ProfileNotFound, ConfigParseError) as error:
            raise SettingsError(f"the AWS SDK's own settings: {error}") from error
        # aiobotocore awaits a hook's result; its types are those of botocore.
        self.place = replace(self.place, region=client.meta.region_name)
        client.meta.events.register("after-call.sqs", _require_json)  # type: ignore[arg-type]
        return client


@functools.cache
def _user_agent() -> str:
    """Makes the user agent once: botocore would build its own for each call, and a version is read from a file."""
    return f"webhookd/{version('webhookd')} aiobotocore/{version('aiobotocore')}"


async def _require_json(http_response: Any, **_: Any) -> None:
    """Refuses a success whose body is no JSON object, such as a proxy's page or half an answer.

    botocore would read such a body as "all was deleted", or as "the queue is empty".
    """
    if http_response.status_code < 300:
        try:
            answer = orjson.loads(await http_response.content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise HTTPClientError(error="a success whose body is no JSON object")


def _started(client: SQSClient | None) -> SQSClient:
    if client is None:
        raise UnavailableError("sqs", "not started")
    return client
