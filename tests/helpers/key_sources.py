"""Sources of temporary AWS credentials, and an SQS that accepts only such credentials: HTTP servers on this machine.

Contracts:
- STS: moto's own AssumeRoleWithWebIdentity, through a gateway that shortens the credentials' life, because botocore cannot ask
  for less than a quarter of an hour.
- The metadata service, IMDSv2: EC2 user guide, "Use the Instance Metadata Service to access instance metadata" (a session's
  token by PUT, then GET with it; 401 without a valid token) and "Retrieve security credentials from instance metadata".
- A container's agent, of ECS or of EKS Pod Identity: AWS SDKs and Tools reference guide, "Container credential provider".
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from webhookd.dev.servers import free_port

ROLE = "arn:aws:iam::123456789012:role/webhookd"
# A request that was signed just before the credentials end arrives just after their end. The unit is seconds.
_GRACE = 1.0


class Keys:
    """All credentials given so far. They last `life` seconds. The servers' clock is `ahead` seconds ahead of this machine's."""

    def __init__(self, life: float) -> None:
        self.life = life
        self.ahead = 0.0
        self.given: dict[str, tuple[str, float]] = {}  # access key → session token, and the time at which the credentials end

    def now(self) -> float:
        """Returns the seconds since 1970 by the servers' clock."""
        return time.time() + self.ahead

    def add(self, key: str, token: str) -> str:
        """Stores credentials that are given out; returns the time of their end, as ISO 8601."""
        end = self.now() + self.life
        self.given[key] = token, end
        return datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def make(self) -> dict[str, str]:
        """Returns new credentials in the format of the metadata service and of the agents."""
        key, token = f"ASIA{secrets.token_hex(8).upper()}", secrets.token_hex(16)
        return {
            "AccessKeyId": key,
            "SecretAccessKey": secrets.token_hex(16),
            "Token": token,
            "Expiration": self.add(key, token),
        }

    def takes(self, key: str, token: str) -> bool:
        """Returns whether the key and the token were given together and have not ended."""
        known, end = self.given.get(key, ("", 0.0))
        return secrets.compare_digest(known, token) and self.now() < end + _GRACE


class _Server:
    """An HTTP server that can be away: its port then refuses connections."""

    def __init__(self) -> None:
        self.port = free_port(0)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def here(self) -> None:
        """Listens. After `away`, listens on the same port again."""
        if self._runner is None:
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", self.answer)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def away(self) -> None:
        """Refuses connections from now on, and closes the open connections."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        """Returns the answer to one request."""
        raise NotImplementedError


async def _pass_on(request: web.Request, upstream: str) -> tuple[int, dict[str, str], bytes]:
    body = await request.read()
    headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "content-length")}
    async with aiohttp.ClientSession() as session, session.post(upstream, data=body, headers=headers) as answer:
        kept = ("Content-Type", "x-amzn-query-error")
        return answer.status, {n: v for n, v in answer.headers.items() if n in kept}, await answer.read()


class GuardedSqs(_Server):
    """A server in front of moto's SQS. A call without a signature by valid credentials is refused and counted."""

    def __init__(self, upstream: str, keys: Keys) -> None:
        super().__init__()
        self._upstream = upstream
        self._keys = keys
        self.used: list[str] = []  # access keys, each once, in the order of their first use
        self.refused = 0

    async def answer(self, request: web.Request) -> web.Response:
        key = request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        if not self._keys.takes(key, request.headers.get("X-Amz-Security-Token", "")):
            self.refused += 1
            error = {"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "the token has expired"}
            return web.json_response(error, status=403)
        if key not in self.used:
            self.used.append(key)
        status, headers, body = await _pass_on(request, self._upstream)
        return web.Response(status=status, headers=headers, body=body)


class _Token:
    """The file of a token that rotates. The previous token stays valid, since a request with it may be on its way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.good: list[str] = []
        self.rotate()

    def rotate(self) -> str:
        """Writes a new token as the kubelet does: by a rename."""
        self.good = [*self.good[-1:], secrets.token_hex(16)]
        new = self._path.with_suffix(".new")
        new.write_text(self.good[-1])
        new.rename(self._path)
        return self.good[-1]


class Sts(_Server):
    """A server in front of moto's STS. It records the service account's tokens, and gives credentials that end sooner."""

    def __init__(self, upstream: str, keys: Keys, token: Path) -> None:
        super().__init__()
        self._upstream = upstream
        self._keys = keys
        self.token = _Token(token)
        self.shown: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        asked = await request.post()
        assert asked["Action"] == "AssumeRoleWithWebIdentity", asked
        assert asked["RoleArn"] == ROLE
        self.shown.append(str(asked["WebIdentityToken"]))
        if self.shown[-1] not in self.token.good:
            code = "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no</Message></Error></ErrorResponse>"
            return web.Response(status=400, text=code, content_type="text/xml")
        status, headers, body = await _pass_on(request, self._upstream)
        text = body.decode()
        [key] = re.findall(r"<AccessKeyId>(.*?)</AccessKeyId>", text)
        [token] = re.findall(r"<SessionToken>(.*?)</SessionToken>", text)
        end = self._keys.add(key, token)
        text = re.sub(r"<Expiration>.*?</Expiration>", f"<Expiration>{end}</Expiration>", text)
        return web.Response(status=status, headers=headers, body=text.encode())


class Imds(_Server):
    """The metadata service of an instance that requires IMDSv2."""

    def __init__(self, keys: Keys) -> None:
        super().__init__()
        self._keys = keys
        self._sessions: dict[str, float] = {}  # token → end of its session
        self.unsigned = 0

    async def answer(self, request: web.Request) -> web.Response:
        place = "/latest/meta-data/iam/security-credentials/"
        if request.path == "/latest/api/token":
            life = int(request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", 0))
            if request.method != "PUT" or not 1 <= life <= 21_600:
                return web.Response(status=400)
            token = secrets.token_hex(16)
            self._sessions[token] = self._keys.now() + life
            return web.Response(text=token)
        if self._sessions.get(request.headers.get("X-aws-ec2-metadata-token", ""), 0) < self._keys.now():
            self.unsigned += 1
            return web.Response(status=401)
        if request.path == place:
            return web.Response(text="webhookd")
        if request.path == f"{place}webhookd":
            return _json({"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", **self._keys.make()})
        return web.Response(status=404)


class Agent(_Server):
    """The agent of EKS Pod Identity or of ECS. It requires the token of the pod or of the task."""

    def __init__(self, keys: Keys, token: Path) -> None:
        super().__init__()
        self._keys = keys
        self.token = _Token(token)
        self.shown: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.shown.append(request.headers.get("Authorization", ""))
        if self.shown[-1] not in self.token.good:
            return web.Response(status=400, text="[access denied]")
        return _json({**self._keys.make(), "AccountId": "123456789012"})


def _json(fields: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(fields), content_type="application/json")


@contextlib.asynccontextmanager
async def serving(*servers: _Server) -> AsyncIterator[None]:
    """Runs all servers during the block. To make a server absent at first, call its `away` in the block."""
    try:
        for server in servers:
            await server.here()
        yield
    finally:
        for server in servers:
            await server.away()
