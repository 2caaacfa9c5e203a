"""Passwords for PostgreSQL in Amazon RDS and Aurora: tokens that AWS credentials sign.

This module stands in the package `sqs`, with the credentials of the AWS SDK.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, NoRegionError

from webhookd.errors import WebhookdError
from webhookd.sqs.credentials import Credentials
from webhookd.sqs.place import Place
from webhookd.store.session import Password
from webhookd.telemetry.logs import where

_PORT = 5432
_REGION = re.compile(r"\.(?P<region>[a-z0-9-]+)\.rds\.amazonaws\.com(?:\.cn)?\Z")


class RdsTokens:
    """Makes a token for each connection. Signing a token needs no call to AWS. A token opens sessions for fifteen minutes.

    region: used if the database's host does not name its region.
    """

    def __init__(self, region: str | None) -> None:
        self._region = Place.of(region, None).region
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._making = asyncio.Lock()

    async def token(self, url: str) -> str:
        """Returns a password for the user and the host in `url`. Raises WebhookdError, whose message has the remedy."""
        at = urlsplit(url)
        named = _REGION.search(at.hostname or "")
        region = named["region"] if named else self._region
        try:
            async with self._making:
                if self._client is None:
                    self._client = await self._make(region)
            token: str = await self._client.generate_db_auth_token(
                DBHostname=at.hostname, Port=at.port or _PORT, DBUsername=unquote(at.username or ""), Region=region
            )
        except NoRegionError as error:
            raise WebhookdError(
                "no AWS region for the password of PostgreSQL: set AWS_REGION, or name the database by its own host"
            ) from error
        except BotoCoreError as error:  # among them CredentialsError, whose message holds no secret
            reason = str(error) if type(error).__module__.startswith("webhookd") else where(error)
            raise WebhookdError(
                f"WEBHOOKD_DATABASE_AUTH is rds-iam, and no token could be signed ({reason}): give the process AWS credentials "
                "whose policy allows rds-db:connect, or set WEBHOOKD_DATABASE_AUTH=password"
            ) from error
        return token

    async def _make(self, region: str | None) -> Any:
        session = get_session()
        credentials = Credentials(session, region)
        session.register_component("credential_provider", credentials)
        self._stack.push_async_callback(credentials.stop)
        return await self._stack.enter_async_context(session.create_client("rds", region_name=region))

    @classmethod
    @asynccontextmanager
    async def password(cls, auth: str, region: str | None) -> AsyncIterator[Password | None]:
        """Lends the source of passwords that WEBHOOKD_DATABASE_AUTH names; None if the password stands in the URL."""
        if auth != "rds-iam":
            yield None
            return
        tokens = cls(region)
        try:
            yield tokens.token
        finally:
            await tokens.stop()

    async def start(self) -> None:
        """Does nothing: the first connection makes the client."""

    async def stop(self) -> None:
        """Closes the client."""
        self._client = None
        await self._stack.aclose()
