"""AWS credentials, renewed beside the calls that they sign.

The AWS SDK's own chain finds them. botocore renews them within a call: from fifteen minutes before their end, a call waits for
their source (STS, the metadata service, a container's agent); from ten minutes before, every call does, and fails where the
source fails, although what is in hand is still good. And what the chain does not find at the start, it never looks for again.
Here a call waits for the source only where there is nothing good in hand, and a source that is away is asked again, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from aiobotocore.credentials import AioCredentials, create_credential_resolver
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from webhookd.logs import logger, where

_LATE = 240  # seconds before the end, from which on a source should have given new ones
_PAUSE = 15.0  # seconds between renewals while the credentials in hand are good
_TIMEOUT = 20.0  # seconds that a source may take


class CredentialsError(NoCredentialsError):
    """There are no credentials that could sign a call; the message says why, without a secret."""

    fmt = "no AWS credentials: {reason}"


class Credentials(AioCredentials):
    """A session's credentials, to be registered as its component `credential_provider`. `stop` ends a renewal in progress."""

    def __init__(self, session: AioSession, region: str | None) -> None:
        super().__init__("", "", method="webhookd")
        logging.getLogger("aiobotocore.credentials").setLevel(logging.ERROR)  # what it warns of is logged here, and only once
        self._session = session
        self._region = region  # whose STS is asked
        self._source: Any = None  # what the chain found
        self._frozen: Any = None  # the last that the source gave
        self._problem = "not yet looked for"
        self._failing = False
        self._renewal: asyncio.Task[None] | None = None
        self._not_before = 0.0  # the loop's clock

    async def load_credentials(self) -> Credentials:
        """Itself: the session's clients share it."""
        return self

    async def get_frozen_credentials(self) -> Any:  # type: ignore[override]  # asynchronous, as aiobotocore's all are
        """What signs one call: access key, secret key, token. Raises CredentialsError."""
        if self._frozen is None or self._ends_within(None):
            renewal = self._renew()
            if renewal is not None and not self._good:
                # The wait is its caller's to bound; the renewal is for all, and goes on.
                await asyncio.shield(renewal)
            if not self._good:
                raise CredentialsError(reason=self._problem)
        return self._frozen

    async def stop(self) -> None:
        """Ends a renewal that is in progress."""
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewal

    @property
    def _good(self) -> bool:
        return self._frozen is not None and not self._ends_within(0)

    def _ends_within(self, seconds: float | None) -> bool:
        """Whether what is in hand ends within `seconds`; for None, so soon that botocore would renew it."""
        needed = getattr(self._source, "refresh_needed", None)  # a user's keys, which never end, have none
        return needed is not None and bool(needed(seconds))

    def _renew(self) -> asyncio.Task[None] | None:
        """The renewal in progress, or a new one; None where the last one was just now and there is no hurry."""
        now = asyncio.get_running_loop().time()
        if self._renewal is None or self._renewal.done():
            if self._good and now < self._not_before:
                return None
            self._not_before = now + _PAUSE
            self._renewal = asyncio.create_task(self._fetch(), name="sqs credentials")
        return self._renewal

    async def _fetch(self) -> None:
        before = self._frozen
        problem = None
        try:
            async with asyncio.timeout(_TIMEOUT):
                if self._source is None:
                    chain = create_credential_resolver(self._session, region_name=self._region)
                    self._source = await chain.load_credentials()
                if self._source is None:
                    problem = "none found: give the machine or the pod a role, or set AWS_ACCESS_KEY_ID"
                else:
                    self._frozen = await self._source.get_frozen_credentials()
                    # A machine's role has new ones no sooner than five minutes ahead.
                    late = _LATE if getattr(self._source, "method", "") == "iam-role" else None
                    if self._frozen == before and self._ends_within(late):  # botocore has swallowed the reason
                        problem = "the source of the credentials does not answer"
        except Exception as error:  # noqa: BLE001  what a source's answer makes botocore raise is not only its own errors
            problem = _reason(error)
        if problem is not None:
            self._problem = problem
        if bool(problem) != self._failing:
            self._failing = bool(problem)
            if problem:
                logger.warning("credentials cannot be renewed", problem=problem, still_good=self._good)
            else:
                logger.info("credentials are renewed again")


def _reason(error: Exception) -> str:
    if isinstance(error, ClientError):
        return f"{error.operation_name} is refused: {error.response.get('Error', {}).get('Code', 'ClientError')}"
    if isinstance(error, PartialCredentialsError | ProfileNotFound):
        return str(error)  # they name settings; other messages quote what a server or a program has said
    if isinstance(error, TimeoutError):
        return f"their source has not answered within {_TIMEOUT:g} s"
    return where(error)
