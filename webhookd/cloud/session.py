"""The session of the AWS SDK that all cloud destinations share, with its credentials."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session

from webhookd.deliver.destination import Destination
from webhookd.settings import Role, Settings
from webhookd.settings.cloud import Service, Target
from webhookd.sqs.credentials import Credentials
from webhookd.sqs.errors import ERRORS, ODD_ANSWERS
from webhookd.sqs.place import Place

_CONNECT = 3.0  # seconds
_NOBODY = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
_NAMES = {Service.SQS: "sqs", Service.SNS: "sns", Service.EVENTBRIDGE: "events"}  # in the AWS SDK


class CloudSession:
    """The owner of the session. Its credentials and its region come as those of webhookd's own queue do."""

    def __init__(self, settings: Settings) -> None:
        self._region = settings.sqs_region
        self._sqs_endpoint = settings.sqs_endpoint_url
        self._session: Any = None  # the types of AioSession know each service by an overload of its own
        self._credentials: Credentials | None = None
        self._making = asyncio.Lock()
        given = settings.destinations.values() if Role.DELIVER in settings.roles else ()
        self._targets = [one.target for one in given if one.target is not None]

    async def start(self) -> None:
        """Makes the session, and loads the services' models, which keeps the event loop for a quarter of a second.

        Asks AWS nothing.
        """
        if not self._targets:
            return
        region = next(filter(None, (one.region for one in self._targets)), Place.of(self._region, None).region)
        session = self._made(region)
        for service in {one.service for one in self._targets}:
            with contextlib.suppress(*ERRORS, *ODD_ANSWERS):  # the first request fails likewise, and tells the reason
                async with session.create_client(_NAMES[service], region_name=region or "us-east-1", **_NOBODY):
                    pass

    async def stop(self) -> None:
        """Ends a renewal of the credentials. The clients' owners close the clients."""
        credentials, self._credentials, self._session = self._credentials, None, None
        if credentials is not None:
            await credentials.stop()

    def place(self, destination: Destination, target: Target) -> Place:
        """Returns where a destination's target is looked for."""
        endpoint = None
        if target.service is Service.SQS:
            endpoint = target.endpoint or self._sqs_endpoint
        if target.region is not None:
            return Place(target.region, f"WEBHOOKD_DESTINATIONS__{destination.name.upper()}__URL", endpoint)
        return Place.of(self._region, endpoint)

    async def open(self, target: Target, place: Place, stack: AsyncExitStack, *, timeout: float, connections: int) -> Any:
        """Makes a client of the AWS SDK, which `stack` closes. Raises the SDK's errors, for example without a region."""
        async with self._making:  # loading service models at the same time is not safe
            session = self._made(place.region)
            config = AioConfig(
                user_agent=f"webhookd/{version('webhookd')} aiobotocore/{version('aiobotocore')}",
                connect_timeout=min(_CONNECT, timeout),
                read_timeout=timeout,
                max_pool_connections=connections,
                parameter_validation=False,
                http_session_cls=_HttpSession,
                retries={"mode": "standard", "total_max_attempts": 1},  # the destination's own attempts are enough
            )
            return await stack.enter_async_context(
                session.create_client(
                    _NAMES[target.service], region_name=place.region, endpoint_url=place.endpoint, config=config
                )
            )

    def _made(self, region: str | None) -> Any:
        if self._session is None:
            self._session = get_session()
            self._credentials = Credentials(self._session, region)
            self._session.register_component("credential_provider", self._credentials)
        return self._session


class _HttpSession(AIOHTTPSession):
    """An HTTP session of the AWS SDK that follows no redirect: another host would get the events, and end them by its 200."""

    async def _get_session(self, proxy_url: str | None) -> Any:  # the AWS SDK has no setting for redirects
        return _NoRedirects(await super()._get_session(proxy_url))  # type: ignore[misc]  # the types leave it out


class _NoRedirects:
    """The one method of aiohttp's session that the AWS SDK calls."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, allow_redirects=False, **options)
