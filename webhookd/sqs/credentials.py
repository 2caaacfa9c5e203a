"""AWS credentials, renewed beside the calls that they sign.

The AWS SDK's own chain finds them. botocore renews them within a call: from fifteen minutes before their end, a call waits for
their source (STS, the metadata service, a container's agent). From ten minutes before, every call waits, and fails if the
source fails, although the present credentials are still good. If the chain finds none at the start, it never looks again. In
this module, a call waits for the source only if no credentials are good, and a source that is away is asked again, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from aiobotocore.credentials import AioCredentials, create_credential_resolver
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from webhookd.telemetry.logs import logger, where

_LATE = 240  # seconds before the end: by then, a source should have given new credentials
_PAUSE = 15.0  # seconds between renewals while the credentials in hand are good
_TIMEOUT = 20.0  # seconds that a source may take


class CredentialsError(NoCredentialsError):
    """No credentials can sign a call; the message gives the reason, without a secret."""

    fmt = "no AWS credentials: {reason}"


class Credentials(AioCredentials):
    """A session's credentials, to be registered as its component `credential_provider`. `stop` ends a renewal in progress."""

    def __init__(self, session: AioSession, region: str | None) -> None:
        super().__init__("", "", method="webhookd")
        logging.getLogger("aiobotocore.credentials").setLevel(logging.ERROR)  # this class logs its problems, and only once
        self._session = session
        self._region = region  # the region whose STS is asked
        self._source: Any = None  # where credentials come from, as the AWS SDK's chain found it; None if not found yet
        self._frozen: Any = None  # the last credentials that the source gave
        self._problem = "not yet looked for"
        self._failing = False
        self._renewal: asyncio.Task[None] | None = None
        self._not_before = 0.0  # the time by the loop's clock before which no renewal begins while the credentials are good

    async def load_credentials(self) -> Credentials:
        """Returns this object: the session's clients share it."""
        return self

    async def get_frozen_credentials(self) -> Any:  # type: ignore[override]  # asynchronous, as in aiobotocore
        """Returns the credentials for one call: access key, secret key, token. Raises CredentialsError if none are good."""
        if self._frozen is None or self._ends_within(None):
            renewal = self._renew()
            if renewal is not None and not self._good:
                # Each caller bounds its own wait. The renewal serves all callers, so it goes on when a wait ends.
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
        """Returns whether the credentials end within `seconds`; for None, so soon that botocore would renew them."""
        needed = getattr(self._source, "refresh_needed", None)  # a user's keys never end, and have no such method
        return needed is not None and bool(needed(seconds))

    def _renew(self) -> asyncio.Task[None] | None:
        """Returns the renewal in progress, or a new one; None if the last renewal was just now and the credentials are good."""
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
                    # A machine's role has new credentials no sooner than five minutes before the end.
                    late = _LATE if getattr(self._source, "method", "") == "iam-role" else None
                    # If a renewal fails early, botocore raises nothing, and returns the old credentials without the reason.
                    if self._frozen == before and self._ends_within(late):
                        problem = "the source of the credentials does not answer"
        except Exception as error:  # noqa: BLE001  a source's answer can make botocore raise errors that are not its own
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
        return str(error)  # these messages name settings; other messages quote a server or a program
    if isinstance(error, TimeoutError):
        return f"their source has not answered within {_TIMEOUT:g} s"
    return where(error)
