"""A CloudFormation template, resolved as in a stack: its conditions and functions are evaluated.

Only the functions that deploy/aws uses: Ref, Fn::GetAtt, Fn::Sub, Fn::If, Fn::Equals, Fn::Not and Fn::Split (CloudFormation's
template reference, "Intrinsic functions"). moto makes queues, policies and roles from a template, but ignores alarms and queue
policies. So the tests create those in moto themselves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ACCOUNT = "123456789012"  # moto's
REGION = "us-east-1"
_NOTHING = object()  # AWS::NoValue: removes its property, or its place in a list
_PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::NoValue": _NOTHING,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::URLSuffix": "amazonaws.com",
}


def read(path: Path) -> Any:
    """Returns the template as an object, its YAML tags as functions."""
    from cfnlint.decode import decode  # type: ignore[import-untyped]  # takes a second, which few processes of pytest need

    template, problems = decode(str(path))
    assert not problems, problems
    return template


class Resolved:
    """A template with the defaults of its parameters, overridden by `parameters`."""

    def __init__(self, template: Any, **parameters: str) -> None:
        for name, value in parameters.items():
            taken = template["Parameters"][name]
            assert value in taken.get("AllowedValues", [value])
            assert re.fullmatch(taken.get("AllowedPattern", ".*"), value)
            if taken["Type"] == "Number":
                assert taken.get("MinValue", 0) <= float(value) <= taken.get("MaxValue", float("inf"))
        self.parameters = {name: parameters.get(name, one["Default"]) for name, one in template["Parameters"].items()}
        self._conditions = template["Conditions"]
        self._all = template["Resources"]
        self.resources: dict[str, Any] = {
            name: {**one, "Properties": self._value(one["Properties"])}
            for name, one in template["Resources"].items()
            if "Condition" not in one or self._holds(one["Condition"])
        }

    def of(self, kind: str) -> dict[str, Any]:
        """Returns the properties of each resource of a type, such as `SQS::Queue`, by name."""
        return {name: one["Properties"] for name, one in self.resources.items() if one["Type"] == f"AWS::{kind}"}

    def _holds(self, condition: str) -> bool:
        return bool(self._value(self._conditions[condition]))

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [one for one in map(self._value, value) if one is not _NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            [(name, given)] = value.items()
            if name == "Ref":
                return self._reference(given)
            if name.startswith("Fn::"):
                return self._function(name, given)
        found = {name: self._value(one) for name, one in value.items()}
        return {name: one for name, one in found.items() if one is not _NOTHING}

    def _function(self, name: str, given: Any) -> Any:
        if name == "Fn::GetAtt":
            return self._attribute(*given)
        if name == "Fn::Sub":
            return re.sub(r"\$\{([^}]+)\}", lambda found: str(self._reference(found[1])), given)
        if name == "Fn::If":
            condition, then, otherwise = given
            return self._value(then if self._holds(condition) else otherwise)
        if name == "Fn::Equals":
            one, other = map(self._value, given)
            return one == other
        if name == "Fn::Split":
            separator, text = map(self._value, given)
            return text.split(separator)
        if name == "Fn::Not":
            return not self._value(given[0])
        raise NotImplementedError(name)

    def _reference(self, name: str) -> Any:
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self.parameters:
            return self.parameters[name]
        assert name in self._all, name
        return f"<{name}>"  # a placeholder for the name that AWS would choose

    def _attribute(self, name: str, attribute: str) -> str:
        if self._all[name]["Type"] == "AWS::SQS::Queue":
            queue = str(self._value(self._all[name]["Properties"]["QueueName"]))
            return {"Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}", "QueueName": queue}[attribute]
        return f"<{name}.{attribute}>"
