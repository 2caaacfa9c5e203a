"""The guide's commands make queues on each server that the guide names as tested, and webhookd processes events with them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import aiohttp
import pytest

from tests.bench.servers import FauxqsServer
from tests.conftest import Servers, Start
from tests.helpers.command import shell
from tests.helpers.database import Connection
from tests.helpers.guide import GUIDE, blocks
from tests.helpers.operator import AUTHCAPTURE, come_to
from tests.helpers.running import KEY
from webhookd.authorizenet.sampling import sample
from webhookd.dev import traffic
from webhookd.dev.servers import Server, SqsServer

PAGE = (GUIDE / "without-aws.md").read_text()
FAUXQS, MOTO, MAKE = blocks(PAGE, "sh")


@pytest.mark.parametrize("kind", [FauxqsServer, SqsServer])
async def test_the_queues_of_the_page_work(
    servers: Servers, start: Start, connection: Connection, tmp_path: Path, kind: type[Server]
) -> None:
    if kind is FauxqsServer and shutil.which("npm") is None:
        pytest.skip("fauxqs comes from npm, which is not installed; apt install nodejs npm")
    accounts = re.search(r"account=(\d+) .*moto's is (\d+)", MAKE)
    assert accounts is not None
    of_the_page = ("WEBHOOKD_SQS_ENDPOINT_URL", "WEBHOOKD_SQS_QUEUE", "WEBHOOKD_SQS_DEAD_LETTER_QUEUE")
    settings = {name: value for name, value in servers.settings.items() if name not in of_the_page}
    with kind(tmp_path / "sqs") as server:
        lines = MAKE.replace("http://127.0.0.1:9324", server.url)
        if kind is SqsServer:
            lines = lines.replace(accounts[1], accounts[2])
        told = await shell(lines, servers.folder, **settings)
        assert "0 failed" in told, told
        assert "warned" in told
        daemon = await start(sqs_endpoint_url=server.url, sqs_queue="webhookd", sqs_dead_letter_queue="webhookd-dead-letters")
        async with aiohttp.ClientSession() as http:
            url = f"{daemon.public_url}/webhooks/authorize-net"
            assert (await traffic.post(http, url, sample(AUTHCAPTURE, 1), key=KEY)).outcome == "accepted"
        await come_to(connection, {"processed": 1})
        await daemon.stop()


def test_the_page_starts_the_servers_by_their_own_programs_on_the_port_of_the_queues() -> None:
    assert FAUXQS == "FAUXQS_PORT=9324 npx fauxqs\n"
    assert MOTO == "moto_server -p 9324\n"
