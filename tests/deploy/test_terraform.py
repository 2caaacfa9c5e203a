"""The Terraform module makes the same resources as the CloudFormation template, with the same properties and parameters.

No Terraform and no provider of AWS is on this machine. HashiCorp's parser reads the module, and the tests compare its resources
with those of the template. What the provider accepts, and `terraform apply`, are not tested.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest

from tests.deploy.aws import EVERYTHING, TEMPLATE
from tests.deploy.template import Resolved
from tests.deploy.template import read as read_template
from tests.deploy.terraform import MODULE, Evaluated, camel, read

_SETS = [
    {},
    EVERYTHING,
    {"QueueName": "shop", "MaxReceiveCount": "30", "VisibilityTimeout": "90", "OldestMessageSeconds": "60"},
]
_QUEUE = {
    "name": "QueueName",
    "visibility_timeout_seconds": "VisibilityTimeout",
    "message_retention_seconds": "MessageRetentionPeriod",
    "receive_wait_time_seconds": "ReceiveMessageWaitTimeSeconds",
    "redrive_policy": "RedrivePolicy",
    "redrive_allow_policy": "RedriveAllowPolicy",
    "sqs_managed_sse_enabled": "SqsManagedSseEnabled",
    "kms_master_key_id": "KmsMasterKeyId",
}


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    if shutil.which("npm") is None:
        pytest.skip("no parser for Terraform; apt install npm")
    return read()


@pytest.fixture(scope="module")
def document() -> Any:
    return read_template(TEMPLATE)


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def variables(parameters: dict[str, str]) -> dict[str, Any]:
    """Returns the module's variables for parameters of the template."""
    return {snake(name): {"yes": True, "no": False}.get(value, value) for name, value in parameters.items()}


def plain(value: Any) -> Any:
    """Returns a value to compare: without absent ones, numbers as texts, and lists in the place of single values."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items() if one not in (None, [])}
    if isinstance(value, list):
        return [plain(one) for one in value] if len(value) != 1 else plain(value[0])
    return value if isinstance(value, bool) else str(value)


def renamed(block: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    assert block.keys() - names.keys() <= {"lifecycle"}, block.keys() - names.keys()
    return {names[name]: value for name, value in block.items() if name in names}


def alarm(block: dict[str, Any]) -> dict[str, Any]:
    """Returns an alarm as CloudFormation writes it."""
    said = {camel(name).replace("Ok", "OK"): value for name, value in block.items() if name != "metric_query"}
    if "Dimensions" in said:
        said["Dimensions"] = [{"Name": name, "Value": value} for name, value in said["Dimensions"].items()]
    for query in block.get("metric_query", ()):
        one = {camel(name): value for name, value in query.items() if name != "metric"}
        for metric in query.get("metric", ()):
            [(name, value)] = metric["dimensions"].items()
            asked = {"Namespace": metric["namespace"], "MetricName": metric["metric_name"]}
            asked["Dimensions"] = [{"Name": name, "Value": value}]
            one["MetricStat"] = {"Stat": metric["stat"], "Period": metric["period"], "Metric": asked}
        said.setdefault("Metrics", []).append(one)
    return said


def compared(made: Evaluated) -> dict[str, dict[str, Any]]:
    """Returns the module's resources by the template's types and names."""
    attached: dict[str, list[str]] = {}
    for policy, given in made.of("aws_iam_role_policy_attachment").items():
        assert (given["role"], given["policy_arn"]) == ("each.value", f"<{policy}>")
        for role in given["for_each"]:
            attached.setdefault(camel(role), []).append(f"<{policy}>")
    return {
        "SQS::Queue": {name: renamed(one, _QUEUE) for name, one in made.of("aws_sqs_queue").items()},
        "SQS::QueuePolicy": {
            name: {"Queues": [one["queue_url"]], "PolicyDocument": one["policy"]}
            for name, one in made.of("aws_sqs_queue_policy").items()
        },
        "IAM::ManagedPolicy": {
            name: {"Description": one["description"], "PolicyDocument": one["policy"]}
            for name, one in made.of("aws_iam_policy").items()
        },
        "IAM::Role": {
            name: {
                "Description": one["description"],
                "AssumeRolePolicyDocument": one["assume_role_policy"],
                "ManagedPolicyArns": attached[name],
            }
            for name, one in made.of("aws_iam_role").items()
        },
        "IAM::InstanceProfile": {name: {"Roles": [one["role"]]} for name, one in made.of("aws_iam_instance_profile").items()},
        "CloudWatch::Alarm": {name: alarm(one) for name, one in made.of("aws_cloudwatch_metric_alarm").items()},
    }


@pytest.mark.parametrize("parameters", _SETS, ids=["defaults", "everything", "numbers"])
def test_the_module_makes_the_resources_of_the_template(
    module: dict[str, Any], document: Any, parameters: dict[str, str]
) -> None:
    stack = Resolved(document, **parameters)
    for role in stack.of("IAM::Role").values():
        if isinstance(given := role["AssumeRolePolicyDocument"], str):
            role["AssumeRolePolicyDocument"] = json.loads(given)
    found = compared(Evaluated(module, **variables(parameters)))
    assert found.keys() == {one["Type"].removeprefix("AWS::") for one in document["Resources"].values()}
    for kind, resources in found.items():
        assert plain(resources) == plain(stack.of(kind)), kind


def test_the_variables_are_the_parameters_of_the_template(module: dict[str, Any], document: Any) -> None:
    given = {name: one[0] for name, one in module["variables.tf"]["variable"].items()}
    assert given.keys() == {snake(name) for name in document["Parameters"]}
    for name, parameter in document["Parameters"].items():
        variable = given[snake(name)]
        expected = {"yes": True, "no": False}.get(parameter["Default"], parameter["Default"])
        kind = "bool" if isinstance(expected, bool) else parameter["Type"].lower()
        assert (variable["default"], variable["type"]) == (expected, f"${{{kind}}}"), name
        said = " ".join(parameter["Description"].split())
        assert variable["description"] == said.replace("yes makes", "true makes"), name
        [check] = variable.get("validation", [{"condition": ""}])
        wanted = [json.dumps(parameter["AllowedPattern"])] if "AllowedPattern" in parameter else []
        wanted += [str(parameter[bound]) for bound in ("MinValue", "MaxValue") if bound in parameter]
        assert all(one in check["condition"] for one in wanted), name


def test_the_outputs_are_those_of_the_template(module: dict[str, Any], document: Any) -> None:
    assert module["outputs.tf"]["output"].keys() == {snake(name) for name in document["Outputs"]}
    main = module["main.tf"]
    for name, [one] in module["outputs.tf"]["output"].items():
        found = re.fullmatch(r"\$\{(?:one\()?(data\.)?(aws_\w+)\.(\w+)(?:\[\*\])?\.\w+\)?\}", one["value"])
        assert found, name
        assert found[3] in main["data" if found[1] else "resource"][found[2]], name


def test_a_queue_is_not_destroyed(module: dict[str, Any]) -> None:
    main = module["main.tf"]["resource"]
    assert all(one["lifecycle"] == [{"prevent_destroy": True}] for [one] in main["aws_sqs_queue"].values())
    assert {path.name for path in MODULE.glob("*")} == set(module)
