"""The servers on which a queue's contract is tested. Each test has a queue with its dead-letter queue on one of them."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiobotocore.session import get_session

from tests.bench.servers import FauxqsServer
from tests.conftest import settings_of
from tests.helpers.proxy import FaultProxy
from tests.helpers.queues import url_of
from tests.helpers.running import base_settings
from tests.helpers.strict_sqs import StrictSqs
from webhookd.dev.servers import Stack
from webhookd.queue.contract import Queue
from webhookd.runtime.loops import Watch
from webhookd.sqs.gateway import Sqs
from webhookd.telemetry.metrics import Metrics

# moto: the server of `webhookd dev`. fauxqs: the server of the bench.
# strict: moto behind a gateway that refuses what AWS refuses, and fails on demand.
SERVERS = ("moto", "fauxqs", "strict")


@dataclass(slots=True, frozen=True)
class Queues:
    """A queue and its dead-letter queue, on a server that the test can cut off."""

    server: str  # one of SERVERS
    queue: Queue
    dead_letter_queue: Queue
    network: FaultProxy  # between the queues and their server
    strict: StrictSqs | None  # the gateway, if the server is `strict`


Open = Callable[..., Awaitable[Queues]]


@pytest.fixture(scope="session")
def _fauxqs(_own_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("npm") is None:
        pytest.skip("fauxqs comes from npm, which is not installed; apt install nodejs npm")
    with FauxqsServer(tmp_path_factory.mktemp("fauxqs")) as server:
        yield server.url


@pytest.fixture(params=[pytest.param(server, marks=pytest.mark.xdist_group(f"contract-{server}")) for server in SERVERS])
def server(request: pytest.FixtureRequest) -> str:
    """Returns the server's name."""
    return str(request.param)


@pytest_asyncio.fixture
async def open_queues(server: str, stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Returns a function that makes a queue and its dead-letter queue; `message_bytes` limits the size of a message."""
    async with contextlib.AsyncExitStack() as exits:
        strict = None
        if server == "fauxqs":
            address = request.getfixturevalue("_fauxqs")
        elif server == "strict":
            strict = await exits.enter_async_context(StrictSqs(stack.sqs_endpoint_url))
            address = strict.url
        else:
            address = stack.sqs_endpoint_url
        parts = urlsplit(address)
        assert parts.hostname is not None
        assert parts.port is not None
        network = FaultProxy(parts.hostname, parts.port)
        await network.start()
        exits.push_async_callback(network.stop)

        async def open_(*, max_receives: int = 10, message_bytes: int | None = None) -> Queues:
            name = f"contract-{uuid.uuid4().hex[:12]}"
            settings = settings_of(
                base_settings(),
                database_url="postgresql://",
                redis_url="redis://",
                sqs_queue=name,
                sqs_dead_letter_queue=f"{name}-dead",
                sqs_endpoint_url=f"http://{network.host}:{network.port}",
                sqs_wait=20,
                shutdown_grace=30,
                pollers=2,
                visibility_timeout=30,
            )
            sqs = Sqs(settings, metrics=Metrics(), watch=Watch())
            await sqs.start()
            await sqs._prober.stop()  # a test counts calls or breaks them, and must not meet those of the prober
            exits.push_async_callback(sqs.stop)
            await sqs.create_queues(max_receive_count=max_receives)
            if message_bytes is not None:
                async with get_session().create_client("sqs", endpoint_url=address) as plain:
                    url = await url_of(plain, name)
                    await plain.set_queue_attributes(QueueUrl=url, Attributes={"MaximumMessageSize": str(message_bytes)})
                sqs.queue.note(await sqs.queue.inspect())
            return Queues(server, sqs.queue, sqs.dead_letter_queue, network, strict)

        yield open_


@pytest_asyncio.fixture
async def queues(open_queues: Open) -> Queues:
    """Makes a queue and its dead-letter queue, both empty."""
    return await open_queues()
