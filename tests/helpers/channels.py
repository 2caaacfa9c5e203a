"""Servers that take messages about alerts, as a channel's service does: over HTTP, and over SMTP."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from webhookd.dev.servers import free_port

SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
TOKEN = "T0000000-B0000000-XXXXXXXXXXXXXXXXXXXXXXXX"  # the secret part of an address


@dataclass(slots=True, frozen=True)
class Post:
    """A POST that came: its header fields by their names in small letters, and its body."""

    path: str
    header: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """Returns the body."""
        return orjson.loads(self.raw)


@dataclass(slots=True)
class HttpChannel:
    """An HTTP server that takes messages. `answers` are the statuses of the next answers; afterwards it answers 200."""

    posts: list[Post] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    holds: asyncio.Event | None = None  # if it is there, an answer waits until it is set
    _server: TestServer | None = None

    async def start(self, port: int | None = None) -> None:
        """Starts the server."""
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._take)
        self._server = TestServer(app, port=port)
        await self._server.start_server()

    async def stop(self) -> None:
        """Stops the server."""
        if self._server is not None:
            await self._server.close()

    def url(self, path: str = f"/services/{TOKEN}") -> str:
        """Returns the address of a channel."""
        assert self._server is not None
        return str(self._server.make_url(path))

    async def _take(self, request: web.Request) -> web.Response:
        header = {name.lower(): value for name, value in request.headers.items()}
        self.posts.append(Post(request.path, header, await request.read()))
        if self.holds is not None:
            await self.holds.wait()
        status, more = self.answers.pop(0) if self.answers else (200, {})
        return web.Response(status=status, headers=more, text="ok")


@dataclass(slots=True)
class MailServer:
    """An SMTP server (RFC 5321) with STARTTLS (RFC 3207) and AUTH PLAIN (RFC 4954) that keeps the mails."""

    context: ssl.SSLContext | None = None
    user: str = ""
    password: str = ""
    mails: list[tuple[str, list[str], EmailMessage]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)  # of each mail, whether it came over TLS
    implicit: bool = False  # whether TLS begins with the connection
    silent: bool = False  # whether the server takes connections and says nothing
    refuses: str = ""  # the answer to MAIL, if the server takes no mail
    refuses_recipient: str = ""  # an address that the server does not know
    port: int = 0
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """Starts the server."""
        self.port = free_port(0)
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.context if self.implicit else None
        )

    async def stop(self) -> None:
        """Stops the server."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secure, signed_in, sender, recipients = self.implicit, not self.user, "", list[str]()

        def say(*lines: str) -> None:
            writer.write("".join(f"{line}\r\n" for line in lines).encode())

        if self.silent:
            await reader.read()
            return
        say("220 mail.test ESMTP")
        while line := (await reader.readline()).decode().strip():
            verb = line.partition(" ")[0].upper()
            if verb == "EHLO":
                offers = ["STARTTLS"] if self.context and not secure else []
                offers += ["AUTH PLAIN"] if self.user and secure else []
                names = ["mail.test", *offers]
                say(*(f"250-{name}" for name in names[:-1]), f"250 {names[-1]}")
            elif verb == "STARTTLS" and self.context:
                say("220 go ahead")
                await writer.start_tls(self.context)
                secure = True
            elif verb == "AUTH":
                given = base64.b64decode(line.split(" ")[2]).decode().split("\0")
                signed_in = given[1:] == [self.user, self.password]
                say("235 welcome" if signed_in else "535 wrong password")
            elif verb == "MAIL":
                say(self.refuses or ("250 ok" if signed_in else "530 sign in first"))
                sender = line.partition("<")[2].partition(">")[0]
            elif verb == "RCPT":
                recipient = line.partition("<")[2].partition(">")[0]
                known = recipient != self.refuses_recipient
                say("250 ok" if known else "550 no such user")
                recipients += [recipient] if known else []
            elif verb == "DATA":
                say("354 go on")
                raw = (await reader.readuntil(b"\r\n.\r\n"))[:-3]
                mail = message_from_bytes(raw, policy=policy.default)
                assert isinstance(mail, EmailMessage)
                self.mails.append((sender, recipients, mail))
                self.encrypted.append(secure)
                recipients = []
                say("250 kept")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")
