"""A daemon on a stack of the CloudFormation template makes just the calls that its policy allows, and passes the doctor."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from botocore.exceptions import ClientError

from tests.conftest import Servers, Start, settings_of
from tests.deploy.aws import Aws, moto, permissions, some_name
from tests.helpers.operator import ANN, AUTHCAPTURE, REFUND, Connection, Operator, come_to
from tests.helpers.running import KEY
from tests.helpers.strict_sqs import StrictSqs
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.daemon import Daemon
from webhookd.dev import traffic
from webhookd.dev.servers import SqsServer, Stack
from webhookd.doctor import Verdict, examine
from webhookd.errors import Permanent, Retryable
from webhookd.event import Event
from webhookd.process.handlers import Registry
from webhookd.sqs.queue import SqsQueue

# The permissions for StartMessageMoveTask, ListMessageMoveTasks and CancelMessageMoveTask, and for the console's view of queues
# (SQS developer guide, "API permissions: Actions and resource reference", and "Troubleshoot dead-letter queue issues").
REDRIVE = {
    "dead letters": {
        *("sqs:StartMessageMoveTask", "sqs:ListMessageMoveTasks", "sqs:CancelMessageMoveTask", "sqs:ReceiveMessage"),
        *("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ListDeadLetterSourceQueues"),
    },
    "queue": {"sqs:SendMessage"},
    "*": {"sqs:ListQueues"},
}


@pytest.fixture
def aws(stack: Stack) -> Aws:
    return moto(stack)


@pytest.fixture
def name() -> str:
    return some_name()


class Shop:
    """A user's handlers: a refund is refused until the shop is back, and each authorization needs a second attempt.

    A second attempt ends only when `may_end` is set.
    """

    def __init__(self) -> None:
        self.back = False
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.registry = Registry()
        self.registry.add(REFUND, self.refund)
        self.registry.add(AUTHCAPTURE, self.book)

    async def refund(self, event: Event, connection: Any) -> None:
        if not self.back:
            raise Permanent("the shop is away")

    async def book(self, event: Event, connection: Any) -> None:
        if event.attempt == 1:
            raise Retryable("not yet", after=0.1)
        await self.may_end.wait()


async def send(daemon: Daemon) -> None:
    """Sends two events that are processed at their second attempt, and one that dies."""
    summary = await traffic.send(
        sampling.stream([AUTHCAPTURE, AUTHCAPTURE, REFUND], 3), f"{daemon.public_url}/webhooks/authorize-net", KEY
    )
    assert summary.failed == 0


def called(gateway: StrictSqs) -> set[tuple[str, str]]:
    """Returns (action, queue) of every call so far. In AWS, a batch needs the permission of the single call."""
    return {
        (f"sqs:{action.removesuffix('Batch')}", str(asked.get("QueueUrl") or asked["QueueName"]).rpartition("/")[2])
        for action, asked in gateway.done
    }


def on_queues(policy: Any) -> set[tuple[str, str]]:
    """Returns (action, queue's name) of everything that a policy allows."""
    return {(action, resource.rpartition(":")[2]) for action, resource in permissions(policy)}


@pytest_asyncio.fixture
async def gateway(aws: Aws) -> AsyncIterator[StrictSqs]:
    """Yields a gateway before moto, which records each call."""
    async with StrictSqs(aws.url) as made:
        yield made


async def test_the_policies_allow_what_is_called_and_nothing_else(
    aws: Aws, gateway: StrictSqs, start: Start, servers: Servers, connection: Connection, name: str
) -> None:
    """A daemon does all its work on a stack's queues: events, a long handler, retries, a death, its copy, a redrive, doctor."""
    outputs = await aws.create(QueueName=name)
    assert outputs["QueueName"] == name
    queues = {"sqs_queue": outputs["QueueName"], "sqs_dead_letter_queue": outputs["DeadLetterQueueName"]}
    shop = Shop()
    shop.may_end.clear()
    daemon = await start(shop.registry, sqs_endpoint_url=gateway.url, admin_tokens=ANN, visibility_timeout=2, **queues)
    await send(daemon)
    await until(lambda: ("sqs:ChangeMessageVisibility", name) in called(gateway), "what is in hand is kept")
    shop.may_end.set()
    await come_to(connection, {"processed": 2, "dead": 1})
    dead = outputs["DeadLetterQueueName"]

    async def has_looked() -> bool:
        await daemon.dead_letters.reconcile()
        return {("sqs:ReceiveMessage", dead), ("sqs:ChangeMessageVisibility", dead)} <= called(gateway)

    await until(has_looked, "the reader has looked at the copy, and let it be")
    shop.back = True
    await Operator(daemon.admin_url).done("dead-letters/redrive", all=True, reason="the shop is back")
    await come_to(connection, {"processed": 3})

    async def has_removed() -> bool:
        await daemon.dead_letters.reconcile()
        return ("sqs:DeleteMessage", dead) in called(gateway)

    await until(has_removed, "the copy is gone")
    await daemon.stop()
    assert called(gateway) == on_queues(await aws.policy(outputs["DaemonPolicyArn"]))

    gateway.done.clear()
    settings = settings_of(servers.settings, sqs_endpoint_url=gateway.url, **queues)
    findings = [one async for one in examine(settings) if one.check.startswith("sqs")]
    assert {one.verdict for one in findings} == {Verdict.OK}, findings
    allowed = on_queues(await aws.policy(outputs["OperatorPolicyArn"]))
    where = {"queue": name, "dead letters": dead, "*": "*"}
    redrive = {(action, where[place]) for place, actions in REDRIVE.items() for action in actions}
    assert allowed == called(gateway) | redrive


async def test_the_doctor_is_content_with_any_stack_that_fits(aws: Aws, servers: Servers, name: str) -> None:
    """The doctor finds the queues by URL, too."""
    outputs = await aws.create(QueueName=name, MaxReceiveCount="10")
    queues = {"sqs_queue": outputs["QueueUrl"], "sqs_dead_letter_queue": outputs["DeadLetterQueueUrl"]}

    settings = settings_of(servers.settings, **queues)
    assert {one.verdict async for one in examine(settings) if one.check.startswith("sqs")} == {Verdict.OK}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Aws]:
    """Yields a moto of the test's own, which can be made to check IAM."""
    with SqsServer(tmp_path / "moto") as server:
        yield Aws(server.url)


async def ask_iam(aws: Aws) -> None:
    """Makes moto refuse, from now on, each call that is not signed by a user whose policies allow it."""
    async with aiohttp.ClientSession() as session, session.post(f"{aws.url}/moto-api/reset-auth", data=b"0") as answer:
        assert answer.status == 200


async def user(aws: Aws, policy: Any) -> dict[str, str]:
    """Returns the access key of a new user who has only this policy.

    moto's IAM checks the batches' own names, for which AWS has no permissions, and ignores a policy's resources.
    """
    batched = {"sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:SendMessage"}
    actions = {action for action, _ in permissions(policy)}
    actions |= {f"{action}Batch" for action in actions & batched}
    widened = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": sorted(actions), "Resource": "*"}],
    }
    async with aws.client("iam") as iam:
        name = f"user-{uuid.uuid4().hex[:8]}"
        await iam.create_user(UserName=name)
        await iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(widened))
        key = (await iam.create_access_key(UserName=name))["AccessKey"]
    return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


async def test_iam_lets_the_daemon_and_an_operator_do_their_work_and_no_more(
    guarded: Aws,
    start: Start,
    servers: Servers,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = await guarded.create()
    daemons = await user(guarded, await guarded.policy(outputs["DaemonPolicyArn"]))
    operators = await user(guarded, await guarded.policy(outputs["OperatorPolicyArn"]))
    await ask_iam(guarded)
    queues = {
        "sqs_endpoint_url": guarded.url,
        "sqs_queue": outputs["QueueName"],
        "sqs_dead_letter_queue": outputs["DeadLetterQueueName"],
    }
    for variable, value in daemons.items():
        monkeypatch.setenv(variable.upper(), value)
    told: list[str | None] = []
    set_up = SqsQueue._set

    def note(queue: SqsQueue, *, up: bool, problem: str | None = None) -> None:
        told.append(problem)
        set_up(queue, up=up, problem=problem)

    monkeypatch.setattr(SqsQueue, "_set", note)
    daemon = await start(Shop().registry, **queues)
    await send(daemon)
    await come_to(connection, {"processed": 2, "dead": 1})

    async def holds_the_copy() -> bool:
        return (await daemon.sqs.dead_letter_queue.depth()).total == 1

    await until(holds_the_copy, "the dead event has its copy")
    await daemon.stop()
    assert set(told) == {None}, "nothing was refused"
    for variable, value in operators.items():
        monkeypatch.setenv(variable.upper(), value)
    findings = [one async for one in examine(settings_of(servers.settings, **queues)) if one.check.startswith("sqs")]
    assert {one.verdict for one in findings} == {Verdict.OK}, findings

    async def refused(credentials: dict[str, str], operation: str, **parameters: Any) -> bool:
        async with guarded.client("sqs", **credentials) as sqs:
            with pytest.raises(ClientError) as raised:
                await getattr(sqs, operation)(**parameters)
        # moto's IAM answers in XML, also to a JSON client, so the error has no code to check.
        action = "".join(word.capitalize() for word in operation.split("_"))
        return f"not authorized to perform: sqs:{action}" in raised.value.response["Error"]["Message"]

    url = outputs["QueueUrl"]
    assert await refused(daemons, "purge_queue", QueueUrl=url)
    assert await refused(daemons, "delete_queue", QueueUrl=url)
    assert await refused(daemons, "set_queue_attributes", QueueUrl=url, Attributes={"VisibilityTimeout": "1"})
    assert await refused(daemons, "create_queue", QueueName="another")
    assert await refused(operators, "purge_queue", QueueUrl=outputs["DeadLetterQueueUrl"])
    assert await refused(operators, "change_message_visibility", QueueUrl=url, ReceiptHandle="x", VisibilityTimeout=0)
