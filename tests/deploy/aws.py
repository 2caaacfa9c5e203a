"""The template of deploy/aws, and moto's services that make stacks of it."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.session import get_session

from tests.deploy.template import ACCOUNT, REGION
from webhookd.dev.servers import Stack

TEMPLATE = Path("deploy/aws/webhookd.yaml")
TEXT = TEMPLATE.read_text()
KMS_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:on-call"
PROVIDER = f"oidc.eks.{REGION}.amazonaws.com/id/0123456789ABCDEF"
DESTINATIONS = ",".join(
    f"arn:aws:{place}"
    for place in (
        f"sqs:{REGION}:{ACCOUNT}:orders.fifo",
        f"sns:{REGION}:{ACCOUNT}:payments",
        f"events:{REGION}:{ACCOUNT}:event-bus/shop",
    )
)
EVERYTHING = {
    "DestinationArns": DESTINATIONS,
    "KmsKeyArn": KMS_KEY,
    "OidcProvider": PROVIDER,
    "PodIdentity": "yes",
    "InstanceRole": "yes",
    "AlarmTopicArn": TOPIC,
}


def permissions(policy: Any) -> set[tuple[str, str]]:
    """Returns (action, resource) of everything that a policy allows."""

    def listed(value: Any) -> list[str]:
        return [value] if isinstance(value, str) else value

    assert policy["Version"] == "2012-10-17"
    assert {one["Effect"] for one in policy["Statement"]} == {"Allow"}
    return {
        (action, resource)
        for one in policy["Statement"]
        for action in listed(one["Action"])
        for resource in listed(one["Resource"])
    }


@dataclass(slots=True, frozen=True)
class Aws:
    """moto's services at one address."""

    url: str

    @contextlib.asynccontextmanager
    async def client(self, service: str, **credentials: str) -> AsyncIterator[Any]:
        session: Any = get_session()  # its stubs know each service by an overload of its own
        async with session.create_client(service, endpoint_url=self.url, region_name=REGION, **credentials) as made:
            yield made

    async def create(self, **parameters: str) -> dict[str, str]:
        """Creates a stack of the template; returns its outputs."""
        given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
        name = f"stack-{uuid.uuid4().hex[:12]}"
        async with self.client("cloudformation") as cloudformation:
            await cloudformation.create_stack(
                StackName=name, TemplateBody=TEXT, Parameters=given, Capabilities=["CAPABILITY_IAM"]
            )
            [stack] = (await cloudformation.describe_stacks(StackName=name))["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    async def attributes(self, queue: str) -> dict[str, Any]:
        """Returns the attributes of the queue with this name; JSON values are decoded."""
        async with self.client("sqs") as sqs:
            url = (await sqs.get_queue_url(QueueName=queue))["QueueUrl"]
            found = (await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))["Attributes"]
        return {name: json.loads(value) if value.startswith("{") else value for name, value in found.items()}

    async def policy(self, arn: str) -> Any:
        """Returns the document of a managed policy."""
        async with self.client("iam") as iam:
            version = (await iam.get_policy(PolicyArn=arn))["Policy"]["DefaultVersionId"]
            found = await iam.get_policy_version(PolicyArn=arn, VersionId=version)
        return found["PolicyVersion"]["Document"]


def moto(stack: Stack) -> Aws:
    """Returns the test session's moto; skips if the session uses another SQS."""
    if not stack.embeds_sqs:
        pytest.skip("the SQS of WEBHOOKD_TEST_SQS_ENDPOINT_URL need not know CloudFormation; unset it to use moto")
    return Aws(stack.sqs_endpoint_url)


def some_name() -> str:
    """Returns a new queue name."""
    return f"test-{uuid.uuid4().hex[:12]}"
