"""The Helm chart, rendered by Helm itself: kustomize builds the same objects, and each file of values does its work."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.deploy import manifests, pod_security
from tests.deploy.charts import CHART, VALUES, made, render
from tests.deploy.manifests import (
    Object,
    build,
    build_text,
    container,
    environment,
    helm,
    of_kind,
    one,
    selects,
    template,
)
from tests.helpers.guide import GUIDE, ROOT, blocks
from tests.helpers.prometheus import RULES
from webhookd.settings import Role

pytestmark = pytest.mark.xdist_group("kubernetes")

VERSIONS = ["1.30", "1.37"]
CUSTOM = {"ScaledObject", "PodMonitor", "PrometheusRule", "HTTPRoute", "ExternalSecret"}
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")


def plain(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Returns objects by kind and name, without what kustomize and Helm do each in its own way.

    kustomize makes the Namespace, and rolls the pods by the ConfigMap's name; Helm rolls the pods by an annotation. With
    kustomize, the settings of the migration stand in a ConfigMap; Helm writes them into the Job.
    """
    found = {}
    (job,) = of_kind(objects, "Job")
    variables = environment(objects, job)
    (own,) = job["spec"]["template"]["spec"]["containers"]
    own.pop("envFrom", None)
    own["env"] = [{"name": name, "value": variables[name]} for name in sorted(variables)]
    for of in objects:
        if of["kind"] == "Namespace" or (of["kind"] == "ConfigMap" and of["metadata"]["name"].startswith("webhookd-migrate")):
            continue
        of["metadata"].pop("namespace", None)
        if of["kind"] == "ConfigMap":
            of["metadata"]["name"] = of["metadata"]["name"].split("-")[0]
        if of["kind"] == "Deployment":
            annotations = template(of)["metadata"].pop("annotations", {})
            assert annotations.keys() <= {"checksum/settings"}
            (source,) = of["spec"]["template"]["spec"]["containers"][0]["envFrom"]
            source["configMapRef"]["name"] = source["configMapRef"]["name"].split("-")[0]
        found[of["kind"], of["metadata"]["name"]] = of
    return found


def test_the_files_for_kustomize_are_those_that_the_chart_makes() -> None:
    files = made()
    assert {path.name: path.read_text() for path in files} == {path.name: text for path, text in files.items()}, (
        "run .venv/bin/python -m tests.deploy.charts"
    )
    base = {path for path in (ROOT / "deploy/kubernetes/base").iterdir() if path not in files}
    assert {path.name for path in base} == {"kustomization.yaml", "namespace.yaml"}


def test_the_chart_with_its_defaults_makes_what_kustomize_builds() -> None:
    assert plain(render()) == plain(build("base"))


@pytest.mark.parametrize("component", ["keda", "alb", "gateway", "split", "rds-iam"])
def test_a_component_makes_what_the_chart_makes_with_its_values(component: str, tmp_path: Path) -> None:
    text = f"namespace: webhookd\nresources:\n  - ../../base\ncomponents:\n  - ../../components/{component}\n"
    assert plain(build_text(text, tmp_path / "overlay")) == plain(render(component))


@pytest.mark.parametrize("values", VALUES)
def test_kubernetes_and_the_operators_know_every_object(values: str) -> None:
    # test_kubernetes.py checks the objects of the defaults, which kustomize builds, too.
    defaults = render()
    objects = [found for found in render(values) if found not in defaults]
    assert objects
    assert manifests.custom_problems(of for of in objects if of["kind"] in CUSTOM) == []
    for found in objects:
        if found["kind"] not in CUSTOM:
            for of in VERSIONS:
                assert manifests.refusal(found, of) == ""
        if found["kind"] in ("Deployment", "Job"):
            assert pod_security.violations(template(found)["spec"]) == []


def test_helm_lints_the_chart_with_every_file_of_values() -> None:
    for path in ["", *VALUES.values()]:
        command = [str(helm()), "lint", "--strict", str(CHART), *(["--values", str(path)] if path else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_of_the_chart_has_the_rules_and_the_dashboard(tmp_path: Path) -> None:
    subprocess.run([str(helm()), "package", str(CHART), "--destination", str(tmp_path)], check=True, capture_output=True)
    (package,) = tmp_path.glob("webhookd-*.tgz")
    with tarfile.open(package) as opened:
        for name, source in {"webhookd.rules.yml": RULES, "webhookd.json": ROOT / "deploy/grafana/webhookd.json"}.items():
            member = opened.extractfile(f"webhookd/files/{name}")
            assert member is not None
            assert member.read() == source.read_bytes()


def test_alerts_lead_to_the_guide_of_your_own_daemon() -> None:
    rule = one(
        render("monitoring", sets=('prometheusRule.adminAddress="https://hooks-admin.shop.example/"',)), "PrometheusRule"
    )
    assert "webhookd.example.internal" not in json.dumps(rule)
    expected = RULES.read_text().replace("http://webhookd.example.internal:9090", "https://hooks-admin.shop.example")
    assert rule["spec"] == yaml.safe_load(expected)
    urls = [of["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for of in group["rules"] if "alert" in of]
    assert urls
    for url in urls:
        assert url.startswith("https://hooks-admin.shop.example/guide/runbook-")


def test_the_dashboard_is_grafanas_own(tmp_path: Path) -> None:
    config = one(render("monitoring"), "ConfigMap", "webhookd-dashboard")
    assert json.loads(config["data"]["webhookd.json"]) == json.loads((ROOT / "deploy/grafana/webhookd.json").read_text())
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_each_role_has_a_deployment_and_only_receivers_take_webhooks() -> None:
    objects = render("split")
    deployments = {of["metadata"]["name"]: of for of in of_kind(objects, "Deployment")}
    roles = {name: environment(objects, of)["WEBHOOKD_ROLES"] for name, of in deployments.items()}
    assert roles == {"webhookd": "receive", "webhookd-workers": "work", "webhookd-relay": "deliver,relay,sync"}
    assert {role for some in roles.values() for role in some.split(",")} == set(Role)
    webhooks, admin = (one(objects, "Service", name)["spec"]["selector"] for name in ("webhookd", "webhookd-admin"))
    assert [name for name, of in deployments.items() if selects(webhooks, of)] == ["webhookd"]
    assert [name for name, of in deployments.items() if selects(admin, of)] == ["webhookd"]
    public = [name for name, of in deployments.items() if "public" in {port["name"] for port in container(of)["ports"]}]
    assert public == ["webhookd"]
    # Each Deployment counts its own pods, and has a budget of its own.
    for name, of in deployments.items():
        own = of["spec"]["selector"]["matchLabels"]
        assert [other for other, its in deployments.items() if selects(own, its)] == [name]
        assert one(objects, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"] == own
        for constraint in template(of)["spec"]["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == own
    scalers = {
        of["metadata"]["name"]: of["kind"] for of in objects if of["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    assert scalers == {"webhookd": "HorizontalPodAutoscaler", "webhookd-workers": "ScaledObject"}
    assert {name: of["spec"].get("replicas") for name, of in deployments.items()} == {
        "webhookd": None,
        "webhookd-workers": None,
        "webhookd-relay": 2,
    }
    monitor = one(objects, "PodMonitor")["spec"]["selector"]
    assert all(selects(monitor["matchLabels"], of) for of in deployments.values())


def test_the_version_is_webhookds() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    release = version("webhookd")
    assert (chart["version"], chart["appVersion"]) == (release, release)


def test_the_external_secret_has_every_file_that_the_settings_name() -> None:
    secret = yaml.safe_load((ROOT / "deploy/helm/external-secret.yaml").read_text())
    assert manifests.custom_problems([secret]) == []
    objects = render()
    deployment = one(objects, "Deployment")
    named = {value.rpartition("/")[2] for name, value in environment(objects, deployment).items() if name.endswith("_FILE")}
    assert {of["secretKey"] for of in secret["spec"]["data"]} == named
    assert secret["spec"]["target"]["name"] == template(deployment)["spec"]["volumes"][0]["secret"]["secretName"]


def test_the_guides_commands_of_helm_work(tmp_path: Path) -> None:
    (commands,) = (block for block in blocks((GUIDE / "kubernetes.md").read_text(), "sh") if "helm upgrade" in block)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    (tmp_path / "my-values.yaml").write_text(blocks((GUIDE / "kubernetes.md").read_text(), "yaml")[0])
    # Without a cluster, Helm renders what it would install.
    script = commands.replace("helm upgrade --install ", "helm template ").replace(" --create-namespace", "")
    script = script.replace("helm ", f"{helm()} ").replace("kubectl ", "true ")
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects = [found for found in yaml.safe_load_all(done.stdout) if found]
    assert one(objects, "Ingress")["spec"]["rules"][0]["host"] == "hooks.shop.example"
