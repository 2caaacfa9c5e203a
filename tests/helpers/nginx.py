"""A real nginx with the project's configuration. The test's own addresses and certificate replace those of the project."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme

from webhookd.dev.servers import free_port

CONFIGURATION = Path("deploy/nginx/webhookd.conf")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx; apt install nginx-light")

_MAIN = """
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/webhookd.conf;
}}
"""


class Nginx:
    """nginx in front of `replicas` (host:port of each): with TLS at `https_url`, and without TLS at `http_url`."""

    def __init__(self, folder: Path, replicas: Sequence[str], authority: trustme.CA) -> None:
        self._folder = folder
        folder.mkdir()
        http, https = free_port(0), free_port(0)
        self.http_url, self.https_url = f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}"
        self.log = folder / "error.log"
        made = authority.issue_cert("127.0.0.1")
        (folder / "tls.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        (folder / "tls.key").write_bytes(made.private_key_pem.bytes())
        text = CONFIGURATION.read_text()
        servers = re.findall(r"^    server \S+( .*;)$", text, re.MULTILINE)
        assert len(servers) == len(replicas)
        for replica in replicas:
            text = re.sub(r"^    server 10\.\S+", f"    server {replica}", text, count=1, flags=re.MULTILINE)
        for before, after in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{https} ssl; listen 127.0.0.1:{http};"),
            ("/etc/nginx/tls/hooks.example.com.pem", str(folder / "tls.pem")),
            ("/etc/nginx/tls/hooks.example.com.key", str(folder / "tls.key")),
        ):
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        (folder / "webhookd.conf").write_text(text)
        (folder / "nginx.conf").write_text(_MAIN.format(folder=folder))
        self.trust: ssl.SSLContext = ssl.create_default_context()
        authority.configure_trust(self.trust)
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self, *more: str) -> list[str]:
        assert NGINX is not None
        return [NGINX, "-p", str(self._folder), "-c", str(self._folder / "nginx.conf"), "-e", str(self.log), *more]

    def check(self) -> str:
        """Returns the output of `nginx -t` about the configuration."""
        done = subprocess.run(self._command("-t"), check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout if done.returncode else ""

    async def __aenter__(self) -> Nginx:
        assert not (problem := self.check()), problem
        self._process = subprocess.Popen(self._command())  # noqa: ASYNC220  returns as soon as it has forked
        port = int(self.http_url.rpartition(":")[2])
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 10)
