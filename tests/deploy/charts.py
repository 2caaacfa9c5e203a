"""The Helm chart, rendered by Helm itself; it is the source of the manifests for kustomize.

`python -m tests.deploy.charts` writes the files of deploy/kubernetes that are made from the chart.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import Object, helm

_DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = _DEPLOY / "helm" / "webhookd"
VALUES = {path.stem: path for path in (_DEPLOY / "helm" / "values").glob("*.yaml")}
_KUBERNETES = _DEPLOY / "kubernetes"
_HEAD = "# Made from deploy/helm/webhookd by `.venv/bin/python -m tests.deploy.charts`; overlays change it.\n"
# kustomize rolls the pods by the ConfigMap's name.
_CHECKSUM = re.compile(
    r"      annotations:\n        # A change of a setting rolls the pods\.\n        checksum/settings: \w+\n"
)
_DOCUMENT = re.compile(r"^---\n# Source: webhookd/templates/(\S+)\n", re.MULTILINE)
# The values from which each component takes the last object of a template.
_COMPONENTS = {"keda": "scaledobject.yaml", "gateway": "httproute.yaml", "rds-iam": "serviceaccount.yaml"}
# With kustomize, the settings of the migration stand in a ConfigMap, which overlays change.
_MIGRATION = 'migration.envFrom=[{"configMapRef": {"name": "webhookd-migrate"}}]'


class ChartError(Exception):
    """Helm refuses the chart or its values. The text is Helm's message."""


@functools.cache
def _rendered(values: tuple[str, ...], sets: tuple[str, ...], namespace: str) -> str:
    command = [str(helm()), "template", "webhookd", str(CHART), "--namespace", namespace, "--kube-version", "1.36"]
    command += [word for name in values for word in ("--values", str(VALUES[name]))]
    command += [word for one in sets for word in ("--set-json", one)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChartError(done.stderr)
    return done.stdout


def render(*values: str, sets: tuple[str, ...] = (), namespace: str = "webhookd") -> list[Object]:
    """Returns the objects of the chart, a new copy each time. Raises ChartError.

    values: names of files in deploy/helm/values, in their order.
    sets: further values, each as PATH=JSON.
    """
    return [found for found in yaml.safe_load_all(_rendered(values, sets, namespace)) if found]


def _documents(*values: str) -> Iterator[tuple[str, str]]:
    # Yields (template, text) of each object, with its comments.
    _, *parts = _DOCUMENT.split(_rendered(values, (_MIGRATION,), "webhookd"))
    for template, text in zip(parts[::2], parts[1::2], strict=True):
        yield template, _CHECKSUM.sub("", text).strip() + "\n"


def _settings(text: str) -> str:
    # Turns the lines of the ConfigMap's data into lines of a file of variables.
    lines = []
    for line in text.partition("\ndata:\n")[2].splitlines():
        name, _, value = line.strip().partition(": ")
        lines.append(line.strip() if name.startswith("#") else f"{name}={yaml.safe_load(value)}")
    return "\n".join(lines) + "\n"


def made() -> Mapping[Path, str]:
    """Returns the text of each file of deploy/kubernetes that is made from the chart."""
    files: dict[Path, str] = {}
    plain = dict[str, list[str]]()
    for template, text in _documents():
        plain.setdefault(template, []).append(text)
    files[_KUBERNETES / "base" / "settings.env"] = _HEAD + _settings(*plain.pop("configmap.yaml"))
    for template, texts in plain.items():
        files[_KUBERNETES / "base" / template] = _HEAD + "---\n".join(texts)
    for component, template in _COMPONENTS.items():
        *_, text = (text for of, text in _documents(component) if of == template)
        files[_KUBERNETES / "components" / component / template] = _HEAD + text
    base = {_name(text) for _, text in _documents()}
    added = [text for _, text in _documents("split") if _name(text) not in base]
    files[_KUBERNETES / "components" / "split" / "deployments.yaml"] = _HEAD + "---\n".join(added)
    return files


def _name(text: str) -> tuple[str, str]:
    found: Any = yaml.safe_load(text)
    return found["kind"], found["metadata"]["name"]


def main() -> None:
    """Writes the files that are made from the chart."""
    for path, text in made().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
