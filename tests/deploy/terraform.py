"""The Terraform module of deploy/terraform, evaluated with values of its variables, in the shape of CloudFormation's resources.

HashiCorp's own parser reads the files. The evaluator here knows the kinds of expressions that the module uses, and no others.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.deploy.template import ACCOUNT, REGION
from tests.helpers.npm import node_modules

MODULE = Path("deploy/terraform")
_HCL = Path("tests/deploy/hcl")
_DATA = {
    "data.aws_caller_identity.current.account_id": ACCOUNT,
    "data.aws_partition.current.dns_suffix": "amazonaws.com",
    "data.aws_partition.current.partition": "aws",
    "data.aws_region.current.region": REGION,
}
_EACH = re.compile(r'\{ for \w+ in (aws_\w+)\.(\w+) : "(\w+)" => \w+\.\w+ \}')
_LITERALS: dict[str, Any] = {"true": True, "false": False, "null": None, "{}": {}, "[]": []}


def read() -> dict[str, Any]:
    """Returns the module's files by name, as HashiCorp's parser reads them. Raises CalledProcessError if a file is not HCL."""
    files = sorted(map(str, MODULE.glob("*.tf")))
    command = ["node", str(_HCL / "parse.mjs"), str(node_modules(_HCL).resolve()), *files]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def camel(name: str) -> str:
    """Returns the name that CloudFormation's template gives to what Terraform calls `name`."""
    return "".join(part.capitalize() for part in name.split("_"))


class Evaluated:
    """The module's resources, with the defaults of its variables, overridden by `variables`."""

    def __init__(self, files: dict[str, Any], **variables: Any) -> None:
        self._main = files["main.tf"]
        self.variables = {name: one[0]["default"] for name, one in files["variables.tf"]["variable"].items()} | variables

    def of(self, kind: str) -> dict[str, Any]:
        """Returns the arguments of each resource of a type, such as `aws_sqs_queue`, by CloudFormation's names."""
        return {
            camel(name): {argument: self.value(given) for argument, given in block.items() if argument != "count"}
            for name, [block] in self._main["resource"][kind].items()
            if self.value(block.get("count", 1))
        }

    def document(self, name: str) -> dict[str, Any]:
        """Returns the IAM policy that the provider writes for a document (its reference: `aws_iam_policy_document`)."""
        [block] = self._main["data"]["aws_iam_policy_document"][name]
        return {"Version": "2012-10-17", "Statement": [self._statement(self.value(one)) for one in block["statement"]]}

    @staticmethod
    def _statement(given: dict[str, Any]) -> dict[str, Any]:
        conditions: dict[str, dict[str, Any]] = {}
        for one in given.pop("condition", ()):
            [conditions.setdefault(one["test"], {})[one["variable"]]] = one["values"]
        principals = {one["type"]: one["identifiers"][0] for one in given.pop("principals", ())}
        said = {
            "Sid": given.pop("sid", None),
            "Effect": given.pop("effect"),
            "Principal": principals.get("*", principals),
            "Action": given.pop("actions"),
            "Resource": given.pop("resources", None),
            "Condition": conditions,
        }
        assert not given, given
        return {name: value for name, value in said.items() if value}

    def value(self, given: Any) -> Any:
        """Returns a value with its expressions evaluated."""
        if isinstance(given, list):
            return [self.value(one) for one in given]
        if isinstance(given, dict):
            return {name: self.value(one) for name, one in given.items()}
        if not isinstance(given, str):
            return given
        parts = list(_parts(given))
        if len(parts) == 1:
            text, is_expression = parts[0]
            return self._expression(text) if is_expression else text
        return "".join(str(self._expression(text)) if is_expression else text for text, is_expression in parts)

    def _expression(self, text: str) -> Any:
        text = text.strip()
        if text in _LITERALS:
            return _LITERALS[text]
        if text.isdigit():
            return int(text)
        if found := re.fullmatch(r"jsonencode\(\{(.*)\}\)", text, re.DOTALL):
            return {name: self._expression(one) for name, one in re.findall(r"^\s*(\w+)\s*=\s*(.+)$", found[1], re.MULTILINE)}
        if re.fullmatch(rf"merge\((?:\s*{_EACH.pattern},?)*\s*\)", text):
            each = [(name, camel(name)) for kind, name, _ in _EACH.findall(text) if camel(name) in self.of(kind)]
            return {name: f"<{placeholder}>" for name, placeholder in each}
        if found := re.fullmatch(r'split\("(.)", (\S+)\)', text):
            return self._expression(found[2]).split(found[1])
        if found := re.fullmatch(r"(.+?) \? (.+) : (.+)", text):
            return self._expression(found[2] if self._expression(found[1]) else found[3])
        if found := re.fullmatch(r"(\S+) (==|!=) (\S+)", text):
            return (self._expression(found[1]) == self._expression(found[3])) == (found[2] == "==")
        if found := re.fullmatch(r"\[(.+)\]", text):
            return [self._expression(found[1])]
        if found := re.fullmatch(r'"(.*)"', text):
            return self.value(found[1])
        return self._reference(text)

    def _reference(self, text: str) -> Any:
        if text in _DATA:
            return _DATA[text]
        if text == "each.value":
            return text
        kind, _, rest = text.partition(".")
        if kind == "var":
            return self.variables[rest]
        if kind == "local":
            [known] = self._main["locals"]
            return self.value(known[rest])
        if found := re.fullmatch(r"data\.aws_iam_policy_document\.(\w+)(?:\[0\])?\.json", text):
            return self.document(found[1])
        found = re.fullmatch(r"(aws_\w+)\.(\w+)(?:\[0\])?\.(\w+)", text)
        assert found, text
        [block] = self._main["resource"][found[1]][found[2]]
        if found[1] == "aws_sqs_queue" and found[3] in ("arn", "name"):
            queue = self.value(block["name"])
            return queue if found[3] == "name" else f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
        return f"<{camel(found[2])}>"  # a placeholder for the name that AWS would choose


def _parts(text: str) -> list[tuple[str, bool]]:
    """Returns the parts of a template, each with whether the part is an expression."""
    parts: list[tuple[str, bool]] = []
    plain = ""
    while text:
        if not text.startswith("${"):
            plain, text = plain + text[0], text[1:]
            continue
        depth, end = 1, 2
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        parts += [(plain, False)] * bool(plain) + [(text[2 : end - 1], True)]
        plain, text = "", text[end:]
    return parts + [(plain, False)] * bool(plain or not parts)
