"""AWS's own linter accepts the CloudFormation template, the template fits webhookd, and moto makes a stack of it.

Each property is compared with AWS's documentation; test_aws_running.py runs a daemon on such a stack.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.aws import (
    DESTINATIONS,
    EVERYTHING,
    KMS_KEY,
    PROVIDER,
    TEMPLATE,
    TEXT,
    TOPIC,
    Aws,
    moto,
    permissions,
    some_name,
)
from tests.deploy.template import ACCOUNT, REGION, Resolved, read
from webhookd.dev.servers import Stack
from webhookd.settings import Settings

DAYS = 86_400


@pytest.fixture(scope="module")
def document() -> Any:
    return read(TEMPLATE)


def default(name: str) -> Any:
    return Settings.model_fields[name].default


def test_the_linter_has_nothing_to_say() -> None:
    """The linter knows each resource's properties, each function's arguments, and each action's name."""
    from cfnlint.api import ManualArgs, lint  # type: ignore[import-untyped]  # takes a second, as in template.py

    found = lint(TEXT, config=ManualArgs(include_checks=["I"], regions=[REGION]))
    assert not [f"{match.rule.id} in line {match.linenumber}: {match.message}" for match in found]


def test_the_parameters_fit_the_settings(document: Any) -> None:
    parameters = document["Parameters"]
    assert parameters["QueueName"]["Default"] == default("sqs_queue")
    queues = Resolved(document).of("SQS::Queue")
    assert queues["DeadLetterQueue"]["QueueName"] == default("sqs_dead_letter_queue")
    limits = next(one for one in Settings.model_fields["visibility_timeout"].metadata if hasattr(one, "ge"))
    assert parameters["VisibilityTimeout"]["Default"] == default("visibility_timeout")
    assert parameters["VisibilityTimeout"]["MinValue"] == limits.ge
    assert parameters["MaxReceiveCount"]["MinValue"] >= 10, "the doctor would warn"
    assert parameters["RetentionSeconds"]["MinValue"] >= 4 * DAYS, "the doctor would warn"
    assert parameters["RetentionSeconds"]["MaxValue"] <= 13 * DAYS, "a message that SQS moves keeps its age"
    assert parameters["OldestMessageSeconds"]["Default"] > default("visibility_timeout") * 2
    account = yaml.safe_load(Path("deploy/kubernetes/base/serviceaccount.yaml").read_text())
    namespace = yaml.safe_load(Path("deploy/kubernetes/base/namespace.yaml").read_text())
    assert parameters["KubernetesServiceAccount"]["Default"] == account["metadata"]["name"]
    assert parameters["KubernetesNamespace"]["Default"] == namespace["metadata"]["name"]
    groups = document["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(parameters), "the console shows all"
    said = " ".join(str(one["Description"]) for one in [*parameters.values(), *document["Outputs"].values()])
    named = set(re.findall(r"WEBHOOKD_([A-Z_]+)", said))
    assert {name.lower() for name in named} <= Settings.model_fields.keys()
    assert named >= {"SQS_QUEUE", "SQS_DEAD_LETTER_QUEUE", "SQS_REGION", "VISIBILITY_TIMEOUT"}


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        ("QueueName", ["webhookd", "Shop_7-webhooks", "q" * 67], ["", "q" * 68, "webhookd.fifo", "web hooks"]),
        ("KmsKeyArn", ["", KMS_KEY, KMS_KEY.replace("aws:", "aws-us-gov:", 1)], ["alias/x", KMS_KEY.replace("key/", "alias/")]),
        ("OidcProvider", ["", PROVIDER], [f"https://{PROVIDER}", f"arn:aws:iam::{ACCOUNT}:oidc-provider/{PROVIDER}"]),
        ("KubernetesNamespace", ["webhookd", "n"], ["", "*", "Shop", "shop-", "n" * 64, "a:b"]),
        ("KubernetesServiceAccount", ["webhookd", "a.b"], ["", "*", "shop-", "a:b"]),
        ("DestinationArns", ["", TOPIC, DESTINATIONS], ["orders", f"{DESTINATIONS},", f"{TOPIC}, {TOPIC}", KMS_KEY, "*"]),
        ("AlarmTopicArn", ["", TOPIC], ["on-call", KMS_KEY]),
    ],
)
def test_what_a_parameter_takes(document: Any, parameter: str, good: list[str], bad: list[str]) -> None:
    pattern = document["Parameters"][parameter]["AllowedPattern"]
    assert all(re.fullmatch(pattern, one) for one in good)
    assert not any(re.fullmatch(pattern, one) for one in bad)
    assert re.fullmatch(pattern, document["Parameters"][parameter]["Default"])


@pytest.mark.parametrize("key", ["", KMS_KEY])
def test_the_queues(document: Any, key: str) -> None:
    """The properties are those that SQS takes: see the reference of AWS::SQS::Queue."""
    stack = Resolved(document, KmsKeyArn=key, QueueName="shop", MaxReceiveCount="30", VisibilityTimeout="90")
    encrypted = {"KmsMasterKeyId": key} if key else {"SqsManagedSseEnabled": True}
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:shop"
    assert stack.of("SQS::Queue") == {
        "Queue": {
            "QueueName": "shop",
            "VisibilityTimeout": "90",
            "MessageRetentionPeriod": 7 * DAYS,
            "ReceiveMessageWaitTimeSeconds": 20,
            "RedrivePolicy": {"deadLetterTargetArn": f"{arn}-dead-letters", "maxReceiveCount": "30"},
            **encrypted,
        },
        "DeadLetterQueue": {
            "QueueName": "shop-dead-letters",
            "VisibilityTimeout": 60,
            "MessageRetentionPeriod": 14 * DAYS,
            "ReceiveMessageWaitTimeSeconds": 20,
            "RedriveAllowPolicy": {"redrivePermission": "byQueue", "sourceQueueArns": [arn]},
            **encrypted,
        },
    }
    for name in stack.of("SQS::Queue"):
        assert stack.resources[name]["DeletionPolicy"] == stack.resources[name]["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("key", ["", KMS_KEY])
def test_the_roles_of_the_daemon(document: Any, key: str) -> None:
    stack = Resolved(document, **{**EVERYTHING, "KmsKeyArn": key, "KubernetesNamespace": "shop"})
    roles = stack.of("IAM::Role")
    trust = {name: role["AssumeRolePolicyDocument"] for name, role in roles.items()}
    trust["ServiceAccountRole"] = json.loads(trust["ServiceAccountRole"])
    [irsa], [pod], [ec2] = (trust[name]["Statement"] for name in ("ServiceAccountRole", "PodIdentityRole", "Ec2Role"))
    # EKS user guide, "Assign IAM roles to Kubernetes service accounts" and "Create IAM role with trust policy required by EKS
    # Pod Identity"; IAM user guide, "Instance profiles".
    assert irsa == {
        "Effect": "Allow",
        "Principal": {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{PROVIDER}"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": {f"{PROVIDER}:aud": "sts.amazonaws.com", f"{PROVIDER}:sub": "system:serviceaccount:shop:webhookd"}
        },
    }
    assert pod == {
        "Effect": "Allow",
        "Principal": {"Service": "pods.eks.amazonaws.com"},
        "Action": ["sts:AssumeRole", "sts:TagSession"],
        "Condition": {
            "StringEquals": {
                "aws:RequestTag/kubernetes-namespace": "shop",
                "aws:RequestTag/kubernetes-service-account": "webhookd",
            }
        },
    }
    assert ec2 == {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    for role in roles.values():
        assert role["ManagedPolicyArns"] == ["<DaemonPolicy>", "<DestinationPolicy>", *(["<KeyPolicy>"] if key else [])]
    assert stack.of("IAM::InstanceProfile") == {"InstanceProfile": {"Roles": ["<Ec2Role>"]}}
    policies = stack.of("IAM::ManagedPolicy")
    assert policies.keys() == {"DaemonPolicy", "OperatorPolicy", "DestinationPolicy"} | ({"KeyPolicy"} if key else set())
    actions = {"events:DescribeEventBus", "events:PutEvents", "sns:Publish", "sqs:GetQueueUrl", "sqs:SendMessage"}
    arns = DESTINATIONS.split(",")
    destinations = permissions(policies["DestinationPolicy"]["PolicyDocument"])
    assert destinations == {(action, arn) for action in actions for arn in arns}
    if key:
        # SQS developer guide, "Key management": a producer generates data keys and decrypts, a consumer decrypts.
        policy = policies["KeyPolicy"]["PolicyDocument"]
        assert permissions(policy) == {("kms:Decrypt", KMS_KEY), ("kms:GenerateDataKey", KMS_KEY)}
        assert [one["Condition"] for one in policy["Statement"]] == [
            {"StringEquals": {"kms:ViaService": f"sqs.{REGION}.amazonaws.com"}}
        ]


def test_nothing_optional_is_made_unasked(document: Any) -> None:
    stack = Resolved(document)
    assert not stack.of("IAM::Role")
    assert not stack.of("IAM::InstanceProfile")
    assert stack.of("IAM::ManagedPolicy").keys() == {"DaemonPolicy", "OperatorPolicy"}
    assert not any("AlarmActions" in alarm or "OKActions" in alarm for alarm in stack.of("CloudWatch::Alarm").values())
    shown = {name for name, one in document["Outputs"].items() if "Condition" not in one}
    assert shown >= {"QueueName", "DeadLetterQueueName", "QueueUrl", "DeadLetterQueueUrl", "DaemonPolicyArn"}
    for name, one in document["Outputs"].items():
        if "Condition" in one:
            [made] = one["Value"].values()
            made = made[0] if isinstance(made, list) else made
            assert document["Resources"][made]["Condition"] == one["Condition"], name


def test_each_output_tells_what_its_name_says(document: Any) -> None:
    told = {name: one["Value"] for name, one in document["Outputs"].items()}
    for queue in ("Queue", "DeadLetterQueue"):
        assert told[f"{queue}Name"] == {"Fn::GetAtt": [queue, "QueueName"]}
        assert told[f"{queue}Url"] == {"Ref": queue}
    for policy in ("DaemonPolicy", "OperatorPolicy", "KeyPolicy", "DestinationPolicy"):
        assert told[f"{policy}Arn"] == {"Ref": policy}
    for role in ("ServiceAccountRole", "PodIdentityRole"):
        assert told[f"{role}Arn"] == {"Fn::GetAtt": [role, "Arn"]}
    assert told["InstanceProfileName"] == {"Ref": "InstanceProfile"}
    assert told["Region"] == {"Ref": "AWS::Region"}


def test_the_guide_lets_cloudwatch_use_the_key_of_an_encrypted_topic() -> None:
    """CloudWatch user guide, "Amazon SNS notification permissions": the service decrypts and generates data keys."""
    [text] = re.findall(r"```json\n(.*?)```", Path("webhookd/guide/aws.md").read_text(), re.DOTALL)
    statement = json.loads(text)
    assert (statement["Effect"], statement["Principal"]) == ("Allow", {"Service": "cloudwatch.amazonaws.com"})
    assert statement["Action"] == ["kms:Decrypt", "kms:GenerateDataKey*"]
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


@pytest.fixture
def aws(stack: Stack) -> Aws:
    return moto(stack)


@pytest.fixture
def name() -> str:
    return some_name()


async def test_moto_makes_the_stack_as_it_is_read_here(aws: Aws, document: Any, name: str) -> None:
    """moto's CloudFormation makes the same queues, policies and roles as the other tests read from the template."""
    outputs = await aws.create(QueueName=name, **EVERYTHING)
    read_here = Resolved(document, QueueName=name, **EVERYTHING)
    assert outputs.keys() == document["Outputs"].keys()
    for logical, output in (("Queue", "QueueName"), ("DeadLetterQueue", "DeadLetterQueueName")):
        made, expected = await aws.attributes(outputs[output]), read_here.of("SQS::Queue")[logical]
        assert outputs[output] == expected["QueueName"]
        for attribute in ("VisibilityTimeout", "MessageRetentionPeriod", "ReceiveMessageWaitTimeSeconds", "KmsMasterKeyId"):
            assert made[attribute] == str(expected[attribute])
    redrive = (await aws.attributes(name))["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"] == (await aws.attributes(outputs["DeadLetterQueueName"]))["QueueArn"]
    assert redrive["maxReceiveCount"] == 20
    policies = read_here.of("IAM::ManagedPolicy")
    for logical in policies:
        assert await aws.policy(outputs[f"{logical}Arn"]) == policies[logical]["PolicyDocument"]
    async with aws.client("iam") as iam:
        profile = await iam.get_instance_profile(InstanceProfileName=outputs["InstanceProfileName"])
        [ec2] = profile["InstanceProfile"]["Roles"]
        arns = {"Ec2Role": ec2["Arn"]} | {one: outputs[f"{one}Arn"] for one in ("ServiceAccountRole", "PodIdentityRole")}
        for logical, arn in arns.items():
            made = (await iam.get_role(RoleName=arn.rpartition("/")[2]))["Role"]["AssumeRolePolicyDocument"]
            expected = read_here.of("IAM::Role")[logical]["AssumeRolePolicyDocument"]
            assert made == (json.loads(expected) if isinstance(expected, str) else expected)


async def test_nothing_passes_without_tls(aws: Aws, document: Any, name: str) -> None:
    """Each queue has a policy against it, and SQS takes the policy (moto's CloudFormation makes no queue policies)."""
    outputs = await aws.create(QueueName=name)
    policies = Resolved(document, QueueName=name).of("SQS::QueuePolicy")
    assert sorted(one for policy in policies.values() for one in policy["Queues"]) == ["<DeadLetterQueue>", "<Queue>"]
    for policy in policies.values():
        output = policy["Queues"][0].strip("<>") + "Name"
        arn = (await aws.attributes(outputs[output]))["QueueArn"]
        assert policy["PolicyDocument"] == {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "NothingWithoutTls",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "sqs:*",
                    "Resource": arn,
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        }
        async with aws.client("sqs") as sqs:
            url = (await sqs.get_queue_url(QueueName=outputs[output]))["QueueUrl"]
            await sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy["PolicyDocument"])})


# SQS developer guide, "Available CloudWatch metrics for Amazon SQS": each metric's unit; the only dimension is QueueName.
METRICS = {
    "ApproximateAgeOfOldestMessage": "seconds",
    "ApproximateNumberOfMessagesNotVisible": "messages",
    "ApproximateNumberOfMessagesVisible": "messages",
    "NumberOfMessagesDeleted": "messages",
}


def breaches(alarm: Any, **values: float) -> bool:
    """Returns whether these values of an alarm's metrics put its expression, or its one metric, beyond the threshold."""
    assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
    if "Metrics" not in alarm:
        [value] = values.values()
        return value > float(alarm["Threshold"])
    [expression] = [one["Expression"] for one in alarm["Metrics"] if one["ReturnData"]]
    assert values.keys() == {one["Id"] for one in alarm["Metrics"] if not one["ReturnData"]}
    # The part of CloudWatch's metric math that the template uses is valid Python, too.
    functions = {"IF": lambda condition, then, otherwise: then if condition else otherwise, "FILL": lambda one, _: one}
    return bool(eval(expression, {"__builtins__": {}, **functions}, values) > float(alarm["Threshold"]))


async def test_the_alarms(aws: Aws, document: Any) -> None:
    alarms = Resolved(document, QueueName="shop", AlarmTopicArn=TOPIC).of("CloudWatch::Alarm")
    asked: dict[str, set[tuple[str, str]]] = {}
    async with aws.client("cloudwatch") as cloudwatch:
        for alarm in alarms.values():
            numbers = {"Threshold": float(alarm["Threshold"])}
            await cloudwatch.put_metric_alarm(**{**alarm, **numbers})  # botocore refuses unknown parameters
            assert alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC]
            assert alarm["TreatMissingData"] == "notBreaching"
            metrics = [one["MetricStat"] for one in alarm.get("Metrics", ()) if not one["ReturnData"]] or [
                {"Stat": alarm["Statistic"], "Period": alarm["Period"], "Metric": alarm}
            ]
            for one in metrics:
                metric = one["Metric"]
                assert metric["Namespace"] == "AWS/SQS"
                assert metric["MetricName"] in METRICS
                [dimension] = metric["Dimensions"]
                assert dimension["Name"] == "QueueName"
                asked.setdefault(alarm["AlarmName"], set()).add((metric["MetricName"], dimension["Value"]))
                minutes = one["Period"] * alarm["EvaluationPeriods"] / 60
                assert minutes == {"shop-dead-letters": 1, "shop-stuck": 15}.get(alarm["AlarmName"], 3)
                # A maximum counts a value that one look of a period found. Messages that moved in between are not stuck.
                stat = {"shop-stuck": {"ApproximateNumberOfMessagesVisible": "Minimum", "NumberOfMessagesDeleted": "Sum"}}
                assert one["Stat"] == stat.get(alarm["AlarmName"], {}).get(metric["MetricName"], "Maximum")
    visible, hidden = "ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible"
    assert asked == {
        "shop-oldest-message": {("ApproximateAgeOfOldestMessage", "shop")},
        "shop-dead-letters": {(visible, "shop-dead-letters"), (hidden, "shop-dead-letters")},
        "shop-stuck": {(visible, "shop"), ("NumberOfMessagesDeleted", "shop")},
        "shop-in-flight": {(hidden, "shop")},
    }
    assert breaches(alarms["OldestMessageAlarm"], age=601)
    assert not breaches(alarms["OldestMessageAlarm"], age=599)
    assert breaches(alarms["InFlightAlarm"], hidden=90_001)
    assert not breaches(alarms["InFlightAlarm"], hidden=90_000)
    assert breaches(alarms["DeadLettersAlarm"], visible=1, hidden=0)
    assert breaches(alarms["DeadLettersAlarm"], visible=0, hidden=1), "also while the daemon looks at it"
    assert not breaches(alarms["DeadLettersAlarm"], visible=0, hidden=0)
    assert breaches(alarms["StuckAlarm"], visible=1, deleted=0)
    assert not breaches(alarms["StuckAlarm"], visible=1, deleted=1)
    assert not breaches(alarms["StuckAlarm"], visible=0, deleted=0)
