"""A client of SQS whose frequent calls cost half of what botocore's do.

botocore works out anew for each call what is the same for all of ours: the endpoint, the signer, the shapes of parameters and
answer, and its hooks. That is half of a call's price, and calls are what an event costs most under light load
(tests/bench/NOTES.md). So what is called for events goes a shorter way: parameters as JSON, signed by botocore's SigV4, sent by
aiobotocore's own HTTP session. Endpoint, region, credentials and their renewal, proxies and certificates are those of
the client, wherever it has them from.

Contract: the SQS API reference, "Making requests using the AWS JSON protocol": POST to the endpoint, the operation in
X-Amz-Target, errors as {"__type": …, "message": …} with the older code in x-amzn-query-error.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import orjson
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError, NoCredentialsError
from botocore.exceptions import ConnectionError as NoConnectionError

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient

_RETRIED = frozenset({500, 502, 503, 504})
_THROTTLED = frozenset({"RequestThrottled", "Throttling", "ThrottlingException", "TooManyRequestsException"})
_PAUSE = 0.5  # seconds at most before a call is made again


class Client:
    """A client, and its credentials and HTTP session. Calls raise what botocore's raise: ClientError or BotoCoreError."""

    def __init__(self, rare: SQSClient, credentials: Any, http: Any, user_agent: str) -> None:
        self.rare = rare  # botocore's own, for what is not called for events
        self._credentials = credentials
        self._http = http
        self._url = rare.meta.endpoint_url.rstrip("/") + "/"
        self._region = rare.meta.region_name
        # Query mode: errors come with the codes that they had before SQS spoke JSON, as botocore asks for them too.
        self._headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "User-Agent": user_agent,
            "X-Amzn-Query-Mode": "true",
        }

    @classmethod
    async def start(
        cls,
        session: AioSession,
        stack: AsyncExitStack,
        *,
        region: str | None,
        endpoint_url: str | None,
        user_agent: str,
        **config: Any,
    ) -> Client:
        """A client that `stack` closes; `config` as AioConfig takes it. Raises botocore's NoRegionError."""
        made: list[AIOHTTPSession] = []

        class Session(AIOHTTPSession):  # the client does not tell which HTTP session it uses
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                made.append(self)

        merged = AioConfig(user_agent=user_agent, http_session_cls=Session, **config)
        rare = await stack.enter_async_context(
            session.create_client("sqs", region_name=region, endpoint_url=endpoint_url, config=merged)
        )
        return cls(rare, await session.get_credentials(), made[0], user_agent)

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call by the operation's name, and its answer. Tried twice, as botocore's standard mode with two attempts."""
        body = orjson.dumps(parameters)
        try:
            return await self._call(operation, body)
        except ConnectionClosedError:
            pass  # by a server that keeps idle connections for less long than we do
        except (HTTPClientError, NoConnectionError):
            await asyncio.sleep(random.uniform(0, _PAUSE))
        except ClientError as error:
            answer = error.response
            if answer["ResponseMetadata"]["HTTPStatusCode"] not in _RETRIED and answer["Error"]["Code"] not in _THROTTLED:
                raise
            await asyncio.sleep(random.uniform(0, _PAUSE))
        return await self._call(operation, body)

    async def _call(self, operation: str, body: bytes) -> dict[str, Any]:
        if self._credentials is None:
            raise NoCredentialsError
        headers = {**self._headers, "X-Amz-Target": f"AmazonSQS.{operation}"}
        request = AWSRequest("POST", self._url, headers=headers, data=body)
        # Renewed here where they are about to end.
        SigV4Auth(await self._credentials.get_frozen_credentials(), "sqs", self._region).add_auth(request)
        prepared = request.prepare()
        prepared.stream_output = False
        response = await self._http.send(prepared)
        text = await response.content
        if response.status_code >= 300:
            raise ClientError(_error(response.status_code, response.headers, text), operation)
        answer = _object(text)
        if answer is None:
            raise HTTPClientError(error="a success whose body is no JSON object")
        return answer


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(text)
    except ValueError:  # a proxy's page
        return None
    return found if isinstance(found, dict) else None


def _error(status: int, headers: Any, text: bytes) -> Any:
    fields = _object(text) or {}
    code = headers.get("x-amzn-query-error", "").partition(";")[0] or str(fields.get("__type") or status).rpartition("#")[2]
    return {
        "Error": {"Code": code, "Message": str(fields.get("message") or "")},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
