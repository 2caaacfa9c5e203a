"""The Kubernetes manifests: which objects find each other, which traffic may pass, and when the Deployment scales."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import FOLDERS, Object, behind, build, of_kind, one, port_of, selects, template, workloads
from webhookd.receive.app import PATH
from webhookd.settings import Settings

pytestmark = pytest.mark.xdist_group("kubernetes")

SCALE = {
    "HorizontalPodAutoscaler": ("scaleTargetRef", "minReplicas", "maxReplicas"),
    "ScaledObject": ("scaleTargetRef", "minReplicaCount", "maxReplicaCount"),
}


@pytest.fixture(params=FOLDERS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """Returns every object of the base, or of an overlay."""
    return build(request.param)


@pytest.fixture
def production() -> list[Object]:
    return build("production")


@pytest.fixture
def base() -> list[Object]:
    return build("base")


def default(name: str) -> Any:
    return Settings.model_fields[name].default


def test_selectors_find_the_daemons_pods_and_no_others(objects: list[Object]) -> None:
    deployment, job = workloads(objects)
    selectors = [of["spec"]["selector"] for of in of_kind(objects, "Service")]
    labelled = [deployment, one(objects, "PodDisruptionBudget"), *of_kind(objects, "PodMonitor")]
    selectors += [of["spec"]["selector"]["matchLabels"] for of in labelled]
    constraints = template(deployment)["spec"]["topologySpreadConstraints"]
    assert {of["topologyKey"] for of in constraints} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    assert {of["maxSkew"] for of in constraints} == {1}
    selectors += [of["labelSelector"]["matchLabels"] for of in constraints]
    assert all(selects(selector, deployment) and not selects(selector, job) for selector in selectors)
    policy = one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert selects(policy, deployment)
    assert selects(policy, job)


def test_the_way_in_leads_to_the_public_listener_alone(objects: list[Object]) -> None:
    deployment = one(objects, "Deployment")
    ingress = one(objects, "Ingress")["spec"]
    assert ingress["ingressClassName"] == "nginx"
    assert "defaultBackend" not in ingress
    (rule,) = ingress["rules"]
    (path,) = rule["http"]["paths"]
    assert path["path"] == PATH
    backend = path["backend"]["service"]
    assert behind(objects, backend["name"], backend["port"]["name"]) == port_of(deployment, "public")
    assert ingress["tls"] == [{"hosts": [rule["host"]], "secretName": "webhookd-tls"}]
    # Nothing else takes connections from outside the cluster.
    for service in of_kind(objects, "Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        assert not {"externalIPs", "loadBalancerIP"} & service["spec"].keys()
        for port in service["spec"]["ports"]:  # EKS needs equal ports for NetworkPolicies
            assert (port["name"], port["port"]) == (port["targetPort"], port_of(deployment, port["targetPort"]))
    admin = one(objects, "Service", "webhookd-admin")["spec"]
    assert behind(objects, "webhookd-admin", 9090) == port_of(deployment, "admin")
    assert admin["publishNotReadyAddresses"] is True


def test_an_overlay_has_a_host_of_its_own(objects: list[Object], request: pytest.FixtureRequest) -> None:
    (rule,) = one(objects, "Ingress")["spec"]["rules"]
    base = request.node.callspec.params["objects"] == "base"
    assert rule["host"] == ("hooks.example.com" if base else "hooks.shop.example")


def test_the_proxy_fits_webhookds_limits(objects: list[Object], tmp_path: Path) -> None:
    annotations = one(objects, "Ingress")["metadata"]["annotations"]
    # Names: https://docs.nginx.com/nginx-ingress-controller/configuration/ingress-resources/advanced-configuration-with-annotations
    directives = {name.removeprefix("nginx.org/").replace("-", "_"): value for name, value in annotations.items()}
    assert directives.pop("max_fails") == "0"
    assert int(directives["client_max_body_size"]) == default("max_body_bytes")
    read, connect, total = (
        float(directives[name].removesuffix("s"))
        for name in ("proxy_read_timeout", "proxy_connect_timeout", "proxy_next_upstream_timeout")
    )
    assert default("commit_timeout") < read < total
    assert connect < total
    assert set(directives["proxy_next_upstream"].split()) == {"error", "timeout", "http_503", "non_idempotent"}
    assert int(directives["proxy_next_upstream_tries"]) >= 2
    assert set(directives) == {
        "client_max_body_size",
        "proxy_connect_timeout",
        "proxy_read_timeout",
        "proxy_next_upstream",
        "proxy_next_upstream_tries",
        "proxy_next_upstream_timeout",
    }
    if shutil.which("nginx") is None:
        pytest.skip("no nginx to try them; apt install nginx-light")
    lines = "".join(f"{name} {value};\n" for name, value in directives.items())
    configuration = f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{lines}}}\n"
    (tmp_path / "nginx.conf").write_text(configuration)
    command = ["nginx", "-t", "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_network_lets_pass_what_is_needed_and_nothing_else(objects: list[Object]) -> None:
    policy = one(objects, "NetworkPolicy")["spec"]
    deployment = one(objects, "Deployment")
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]  # Kubernetes refuses traffic that no rule names

    def namespace(peers: list[Any]) -> str:
        (peer,) = peers
        assert list(peer) == ["namespaceSelector"]
        (label,) = peer["namespaceSelector"]["matchLabels"].items()
        assert label[0] == "kubernetes.io/metadata.name"
        return str(label[1])

    into = {namespace(rule["from"]): [port_of(deployment, of["port"]) for of in rule["ports"]] for rule in policy["ingress"]}
    assert into == {"nginx-ingress": [8080], "monitoring": [9090]}
    names, servers = policy["egress"]
    assert namespace(names["to"]) == "kube-system"
    assert {(of["port"], of["protocol"]) for of in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [of["port"] for of in servers["ports"]] == [5432, 6379, 443]
    assert servers.keys() == {"ports"}


def test_one_autoscaler_or_a_number_of_replicas(objects: list[Object], request: pytest.FixtureRequest) -> None:
    autoscaler = {of["kind"]: of["spec"] for of in objects if of["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")}
    replicas = one(objects, "Deployment")["spec"].get("replicas")
    overlay = request.node.callspec.params["objects"]
    if overlay == "small":
        assert (autoscaler, replicas) == ({}, 1)
        return
    assert replicas is None  # each apply would reset a number
    if overlay == "base":
        (target, least, most) = (autoscaler["HorizontalPodAutoscaler"][of] for of in SCALE["HorizontalPodAutoscaler"])
        assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "webhookd"}
        (metric,) = autoscaler["HorizontalPodAutoscaler"]["metrics"]
        assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    else:
        (target, least, most) = (autoscaler["ScaledObject"][of] for of in SCALE["ScaledObject"])
        assert target == {"name": "webhookd"}
        assert least >= 3
    assert len(autoscaler) == 1
    assert 2 <= least < most <= 10


def test_production_scales_on_cpu_depth_and_age(production: list[Object]) -> None:
    cpu, depth, age = one(production, "ScaledObject")["spec"]["triggers"]
    assert cpu == {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}
    for trigger, kind in ((depth, "AverageValue"), (age, "Value")):
        assert trigger.keys() == {"type", "metricType", "metadata"}
        assert trigger["metricType"] == kind
        # The names in https://keda.sh/docs/latest/scalers/prometheus.
        assert trigger["metadata"].keys() == {"serverAddress", "query", "threshold", "ignoreNullValues"}
        assert trigger["metadata"]["serverAddress"] == "http://prometheus-operated.monitoring.svc:9090"
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert float(trigger["metadata"]["threshold"]) > 0
        assert 'namespace="webhookd"' in trigger["metadata"]["query"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool; apt install prometheus")
def test_the_queries_for_scaling_give_one_number_each(production: list[Object], tmp_path: Path) -> None:
    _, depth, age = (of["metadata"].get("query") for of in one(production, "ScaledObject")["spec"]["triggers"])

    def series(visible: int, oldest: int, namespace: str) -> list[dict[str, str]]:
        of = [
            (f'webhookd_queue_depth{{namespace="{namespace}",pod="{pod}",queue="{queue}",state="{state}"}}', value)
            for pod in ("a", "b")  # each replica reports the whole queue
            for queue, state, value in (
                ("main", "visible", visible),
                ("main", "in_flight", 9),
                ("dead_letter", "visible", 8000),
            )
        ]
        of += [(f'webhookd_oldest_unfinished_seconds{{namespace="{namespace}",pod="{pod}"}}', oldest) for pod in ("a", "b")]
        return [{"series": name, "values": f"{value}"} for name, value in of]

    def case(visible: int, oldest: int, counted: int) -> dict[str, Any]:
        expected = [
            {"expr": query, "eval_time": "0s", "exp_samples": [{"labels": "{}", "value": value}]}
            for query, value in ((depth, visible), (age, counted))
        ]
        elsewhere = series(70_000, 70_000, "staging")
        return {
            "interval": "15s",
            "input_series": series(visible, oldest, "webhookd") + elsewhere,
            "promql_expr_test": expected,
        }

    # An event between two attempts is old, but no message waits for a worker.
    cases = [case(1200, 90, 90), case(0, 10_000, 0), case(50, 10_000, 0)]
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": cases}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "cases.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_production_has_a_role_in_aws(production: list[Object]) -> None:
    (annotation,) = one(production, "ServiceAccount")["metadata"]["annotations"].items()
    assert annotation[0] == "eks.amazonaws.com/role-arn"
    assert re.fullmatch(r"arn:aws:iam::[0-9]{12}:role/webhookd", annotation[1])


def test_a_monitor_scrapes_the_admin_listener(base: list[Object]) -> None:
    monitor = one(base, "PodMonitor")["spec"]
    assert monitor["jobLabel"] == "app.kubernetes.io/name"
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["interval"]) == ("admin", "15s")
    assert port_of(one(base, "Deployment"), endpoint["port"])


def test_the_packages_that_check_are_locked_to_no_registry() -> None:
    lock = json.loads((Path(__file__).parent / "npm" / "package-lock.json").read_text())
    assert not [name for name, of in lock["packages"].items() if "resolved" in of]
