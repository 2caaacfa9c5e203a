"""The Kubernetes manifests: which objects find each other, and which traffic may pass."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import FOLDERS, Object, behind, build, of_kind, one, port_of, selects, template, workloads
from webhookd.settings import Settings
from webhookd.settings.provider import WEBHOOK_PATH as PATH

pytestmark = pytest.mark.xdist_group("kubernetes")


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
    labelled = [deployment, one(objects, "PodDisruptionBudget")]
    selectors += [of["spec"]["selector"]["matchLabels"] for of in labelled]
    constraints = template(deployment)["spec"]["topologySpreadConstraints"]
    assert {of["topologyKey"] for of in constraints} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    assert {of["maxSkew"] for of in constraints} == {1}
    selectors += [of["labelSelector"]["matchLabels"] for of in constraints]
    assert all(selects(selector, deployment) and not selects(selector, job) for selector in selectors)
    policy = one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert selects(policy, deployment)
    assert selects(policy, job)
    for monitor in of_kind(objects, "PodMonitor"):
        assert selects(monitor["spec"]["selector"]["matchLabels"], deployment)
        (unless,) = monitor["spec"]["selector"]["matchExpressions"]
        assert unless["operator"] == "NotIn"
        assert template(job)["metadata"]["labels"][unless["key"]] in unless["values"]
        assert template(deployment)["metadata"]["labels"][unless["key"]] not in unless["values"]


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
    # Overlays of 0.3.0 name the servers' addresses in the second rule.
    names, servers, identity = policy["egress"]
    # On EKS Auto Mode, the node answers for names. A rule for pods in kube-system would leave webhookd without names.
    assert names.keys() == {"ports"}
    assert {(of["port"], of["protocol"]) for of in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    # The addresses of EKS Pod Identity: https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
    assert [of["ipBlock"] for of in identity["to"]] == [{"cidr": "169.254.170.23/32"}, {"cidr": "fd00:ec2::23/128"}]
    assert identity["ports"] == [{"port": 80}]
    # PostgreSQL, PgBouncer, Redis, AWS, OpenTelemetry.
    assert [of["port"] for of in servers["ports"]] == [5432, 6432, 6379, 443, 4318]
    assert servers.keys() == {"ports"}


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
