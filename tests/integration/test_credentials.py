"""A daemon runs for months on credentials that last hours: from IRSA, an instance's role or a container's agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Servers, Start
from tests.faults.test_clock import HOUR, Clock
from tests.faults.test_clock import pytestmark as needs_a_clock
from tests.helpers.key_sources import ROLE, Agent, GuardedSqs, Imds, Keys, Sts, serving
from tests.helpers.operator import Connection, statuses
from tests.helpers.running import KEY, Process
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.sqs import credentials

LIFE = 60.0  # seconds: less than botocore wants to have left, so that credentials are renewed all the time


@pytest.fixture(autouse=True)
def _no_keys_of_a_user(servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Removes the user's AWS keys, after the queues were made with them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore's own retries would wait for seconds
    monkeypatch.setattr(credentials, "_PAUSE", 0.3)


@pytest.fixture
def keys() -> Keys:
    return Keys(LIFE)


@pytest.fixture
def sqs(servers: Servers, keys: Keys) -> GuardedSqs:
    return GuardedSqs(servers.sqs_endpoint_url, keys)


async def work(url: str, connection: Connection, count: int = 3) -> None:
    """Sends webhooks, and waits until all events are processed."""
    await send(url, count)
    await until(lambda: _all_processed(connection), "all are processed", deadline=30)


async def send(url: str, count: int = 3) -> None:
    """Sends webhooks, and asserts that each is answered 200."""
    samples = sampling.stream(["net.authorize.payment.authcapture.created"], count)
    summary = await traffic.send(samples, f"{url}/webhooks/authorize-net", KEY)
    assert summary.failed == 0


async def _all_processed(connection: Connection) -> bool:
    return (await statuses(connection)).keys() == {"processed"}


def up(daemon: Daemon) -> bool:
    """Returns whether SQS is up, according to the metric."""
    return bool(daemon.metrics.registry.get_sample_value("webhookd_dependency_up", {"dependency": "sqs"}))


@pytest.fixture
def irsa(servers: Servers, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sts:
    """Sets the environment that EKS sets in a pod whose service account has a role."""
    token = tmp_path / "token"
    sts = Sts(servers.sqs_endpoint_url, keys, token)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
    return sts


async def test_a_service_account_and_its_token_that_rotates(
    irsa: Sts, sqs: GuardedSqs, start: Start, connection: Connection
) -> None:
    async with serving(irsa, sqs):
        daemon = await start(sqs_endpoint_url=sqs.url)
        await work(daemon.public_url, connection)
        seen = len(sqs.used)
        new = irsa.token.rotate()
        await until(lambda: irsa.shown[-1] == new and len(sqs.used) > seen + 1, "renewed with the new token")
        await work(daemon.public_url, connection)
        assert irsa.shown[-1] == new
        assert sqs.refused == 0, "no call failed for it"
        assert up(daemon)
        await daemon.stop()


async def test_sts_away_for_less_than_the_credentials_last(
    irsa: Sts, sqs: GuardedSqs, start: Start, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQS stays up for the daemon all the time."""
    async with serving(irsa, sqs):
        daemon = await start(sqs_endpoint_url=sqs.url)
        await work(daemon.public_url, connection)
        changes: list[bool] = []
        monkeypatch.setattr(daemon.sqs.queue, "_set", lambda *, up, problem=None: changes.append(up))
        await irsa.away()
        await work(daemon.public_url, connection)
        await irsa.here()
        asked = len(irsa.shown)
        await until(lambda: len(irsa.shown) > asked, "the source of the credentials is asked again")
        await work(daemon.public_url, connection)
        assert set(changes) == {True}
        assert sqs.refused == 0
        await daemon.stop()


async def test_sts_away_for_longer(irsa: Sts, keys: Keys, sqs: GuardedSqs, start: Start, connection: Connection) -> None:
    """Webhooks are answered, events wait, the metric and the health say why. When STS is back, all events are processed."""
    keys.life = 2.0
    async with serving(irsa, sqs):
        daemon = await start(sqs_endpoint_url=sqs.url)
        await work(daemon.public_url, connection)
        await irsa.away()
        await until(lambda: not up(daemon), "the credentials have ended")
        # SQS may refuse the old credentials first, in a request that was under way when they expired.
        await until(lambda: (daemon.sqs.queue.problem or "").startswith("no AWS credentials: "), "the reason is reported")
        await send(daemon.public_url)
        assert (await statuses(connection))["processed"] == 3, "the others wait"
        await irsa.here()
        await work(daemon.public_url, connection)
        await until(lambda: up(daemon), "the daemon reports that SQS is up")
        await daemon.stop()


async def test_sts_refuses(irsa: Sts, sqs: GuardedSqs, start: Start, connection: Connection, tmp_path: Path) -> None:
    """STS refuses the token: the health names the code of STS, and not the token."""
    (tmp_path / "token").write_text("stale")
    async with serving(irsa, sqs):
        daemon = await start(sqs_endpoint_url=sqs.url)
        expected = "no AWS credentials: AssumeRoleWithWebIdentity is refused: InvalidIdentityToken"
        await until(lambda: daemon.sqs.queue.problem == expected, "the reason is reported")
        irsa.token.rotate()
        await work(daemon.public_url, connection)
        await daemon.stop()


@pytest.fixture
def agent(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """Sets the environment that EKS sets in a pod with a Pod Identity association; ECS sets a path instead, and no token."""
    token = tmp_path / "eks-pod-identity-token"
    agent = Agent(keys, token)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    return agent


async def test_an_agent_that_comes_later_than_the_daemon(
    agent: Agent, sqs: GuardedSqs, start: Start, connection: Connection
) -> None:
    """On a node that has just started, the daemon may be first. Later, the agent's token rotates."""
    async with serving(sqs):
        daemon = await start(sqs_endpoint_url=sqs.url)
        await send(daemon.public_url)
        await until(
            lambda: daemon.sqs.queue.problem and daemon.sqs.queue.problem.startswith("no AWS credentials: "), "it is away"
        )
        assert not up(daemon)
        async with serving(agent):
            await work(daemon.public_url, connection)
            seen = len(sqs.used)
            new = agent.token.rotate()
            await until(lambda: agent.shown[-1] == new and len(sqs.used) > seen + 1, "renewed with the new token")
            await work(daemon.public_url, connection)
            assert sqs.refused == 0
            await daemon.stop()


async def test_an_agent_that_gives_what_has_ended(
    agent: Agent, keys: Keys, sqs: GuardedSqs, start: Start, connection: Connection
) -> None:
    """The daemon signs nothing with credentials that have ended, and asks the agent again until the credentials are good."""
    keys.life = -60.0
    async with serving(sqs, agent):
        daemon = await start(sqs_endpoint_url=sqs.url)
        await until(
            lambda: daemon.sqs.queue.problem and daemon.sqs.queue.problem.startswith("no AWS credentials: "), "none is good"
        )
        await send(daemon.public_url)
        assert sqs.refused == 0, "what has ended signs nothing"
        keys.life = LIFE
        await work(daemon.public_url, connection)
        await daemon.stop()


@pytest.fixture
def imds(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Imds:
    """Sets the environment of an EC2 instance with a role: a metadata service that requires IMDSv2. Keys last six hours."""
    keys.life = 6.0 * HOUR
    imds = Imds(keys)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url)
    return imds


@needs_a_clock
async def test_an_instance_role_for_a_day(
    imds: Imds,
    keys: Keys,
    sqs: GuardedSqs,
    servers: Servers,
    connection: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An instance's credentials last six hours. The clocks of the daemon and of AWS are moved on together."""
    clock = Clock(tmp_path, monkeypatch, "day")
    clock.set(0)
    async with serving(imds, sqs), Process({**servers.settings, "WEBHOOKD_SQS_ENDPOINT_URL": sqs.url}, tmp_path) as daemon:
        await work(daemon.public_url, connection)
        for hours in (6, 24):
            seen = len(sqs.used)
            keys.ahead = hours * HOUR  # AWS's clock first: credentials that are given in between must not have ended already
            clock.set(hours * HOUR)
            await work(daemon.public_url, connection)
            assert len(sqs.used) == seen + 1, "renewed, once"
        assert sqs.refused <= 2 * 2, "none but a long poll that was signed before the clocks went on"
        assert imds.unsigned == 0
        assert await daemon.metric("webhookd_dependency_up", dependency="sqs") == 1
        code = await daemon.stop()
        assert code == 0, daemon.log.read_text()[-6000:]
        assert not [key for key in keys.given if key in daemon.log.read_text()]


async def test_a_metadata_service_that_is_away_at_the_start(
    imds: Imds, sqs: GuardedSqs, start: Start, connection: Connection
) -> None:
    """Without the metadata service, botocore's chain finds no credentials, and the daemon asks the chain again."""
    async with serving(sqs):
        daemon = await start(sqs_endpoint_url=sqs.url)
        await send(daemon.public_url)
        await until(lambda: daemon.sqs.queue.problem and "none found" in daemon.sqs.queue.problem, "there are none")
        async with serving(imds):
            await work(daemon.public_url, connection)
        assert sqs.refused == 0
        assert up(daemon)
        await daemon.stop()
