"""The Kubernetes manifests: when the Deployment scales, and how a pod leaves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.charts import render
from tests.deploy.manifests import FOLDERS, Object, build, build_text, container, environment, one, template
from tests.deploy.promql import own_metrics, problems
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


def test_a_pod_has_the_time_that_its_shutdown_takes(objects: list[Object]) -> None:
    deployment = one(objects, "Deployment")
    leaving = container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 5 <= leaving <= 20
    grace = float(environment(objects, deployment)["WEBHOOKD_SHUTDOWN_GRACE"])
    hanging = 3  # seconds: a shutdown may take 2 s beyond the grace, and its tasks 1 s more
    spec = template(deployment)["spec"]
    assert spec["terminationGracePeriodSeconds"] >= leaving + grace + hanging + 5


def test_a_pod_that_leaves_completes_its_handlers(objects: list[Object]) -> None:
    variables = environment(objects, one(objects, "Deployment"))
    timeout = float(variables["WEBHOOKD_HANDLER_TIMEOUT"])
    assert timeout == Settings.model_fields["handler_timeout"].default
    # A message is received, its handlers run up to their timeout, and their transaction commits.
    assert float(variables["WEBHOOKD_SHUTDOWN_GRACE"]) >= timeout + 5


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
        behavior = autoscaler["HorizontalPodAutoscaler"]["behavior"]
    else:
        (target, least, most) = (autoscaler["ScaledObject"][of] for of in SCALE["ScaledObject"])
        assert target == {"name": "webhookd"}
        assert least >= 3
        behavior = autoscaler["ScaledObject"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert len(autoscaler) == 1
    assert 2 <= least < most <= 10
    # The next pod leaves after the one before has drained.
    (policy,) = behavior["scaleDown"]["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    assert policy["periodSeconds"] > template(one(objects, "Deployment"))["spec"]["terminationGracePeriodSeconds"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= policy["periodSeconds"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0


def test_production_scales_on_cpu_depth_and_age(production: list[Object]) -> None:
    cpu, depth, age = one(production, "ScaledObject")["spec"]["triggers"]
    assert cpu == {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}
    for trigger, name, kind in ((depth, "queue", "AverageValue"), (age, "oldest", "Value")):
        assert trigger.keys() == {"type", "name", "metricType", "metadata"}
        assert (trigger["name"], trigger["metricType"]) == (name, kind)
        # The names in https://keda.sh/docs/latest/scalers/prometheus.
        assert trigger["metadata"].keys() == {"serverAddress", "query", "threshold", "ignoreNullValues"}
        assert trigger["metadata"]["serverAddress"] == "http://prometheus-operated.monitoring.svc:9090"
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert float(trigger["metadata"]["threshold"]) > 0
        assert problems(trigger["metadata"]["query"], own_metrics()) == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool; apt install prometheus")
def test_the_queries_for_scaling_give_one_number_each(tmp_path: Path) -> None:
    scaler = one(render("keda", namespace="shop"), "ScaledObject")["spec"]["triggers"]
    _, depth, age = (of["metadata"].get("query") for of in scaler)

    def series(visible: int, overdue: int, labels: str, *, up: int = 1) -> list[dict[str, str]]:
        found = [
            (f'webhookd_queue_depth{{{labels},queue="main",state="visible"}}', visible),
            (f'webhookd_queue_depth{{{labels},queue="main",state="in_flight"}}', 9),
            (f'webhookd_queue_depth{{{labels},queue="main",state="delayed"}}', 70_000),
            (f'webhookd_queue_depth{{{labels},queue="dead_letter",state="visible"}}', 8000),
            (f"webhookd_oldest_unfinished_seconds{{{labels}}}", 70_000),  # an event that waits for its retry
            (f"webhookd_oldest_overdue_seconds{{{labels}}}", overdue),
            (f'webhookd_dependency_up{{{labels},dependency="sqs"}}', up),
            (f'webhookd_dependency_up{{{labels},dependency="postgresql"}}', up),
        ]
        return [{"series": name, "values": f"{value}"} for name, value in found]

    def case(visible: int, overdue: int, counted: int) -> dict[str, Any]:
        expected = [
            {"expr": query, "eval_time": "0s", "exp_samples": [{"labels": "{}", "value": value}]}
            for query, value in ((depth, visible), (age, counted))
        ]
        pods = [f'namespace="shop",job="webhookd",instance="10.0.0.{number}:9090"' for number in range(3)]
        # Two replicas report the whole queue. A third one lost its servers in an outage, and reports its last values for ever.
        given = [*series(visible, overdue, pods[0]), *series(visible, overdue, pods[1])]
        given += series(90_000, 90_000, pods[2], up=0)
        given += series(70_000, 70_000, 'namespace="staging",job="webhookd",instance="10.0.0.9:9090"')
        return {"interval": "15s", "input_series": given, "promql_expr_test": expected}

    # Due events wait too long; an event waits for a retry while a burst is worked off; an event is lost, but no message
    # waits for a worker.
    cases = [case(1200, 90, 90), case(1200, 3, 3), case(0, 10_000, 0), case(50, 10_000, 0)]
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": cases}))
    command = ["promtool", "test", "rules", str(tmp_path / "cases.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", ["production", "small"])
def test_a_namespace_of_your_own_reaches_every_place(overlay: str, tmp_path: Path) -> None:
    text = (FOLDERS[overlay] / "kustomization.yaml").read_text()
    before = build(overlay)
    after = build_text(text.replace("namespace: webhookd\n", "namespace: shop\n"), tmp_path / "overlay")

    def values(objects: list[Object]) -> dict[str, str]:
        found = {of["kind"]: of["metadata"]["namespace"] for of in objects if of["kind"] != "Namespace"}
        found["Namespace"] = one(objects, "Namespace", found["Deployment"])["metadata"]["name"]
        (config,) = (of["data"] for of in objects if of["kind"] == "ConfigMap" and "WEBHOOKD_LISTEN" in of.get("data", {}))
        found["hosts"] = config["WEBHOOKD_ADMIN_HOSTS"]
        for scaler in (of for of in objects if of["kind"] == "ScaledObject"):
            found |= {of["name"]: of["metadata"]["query"] for of in scaler["spec"]["triggers"] if "name" in of}
        return found

    expected = {
        name: value.replace("webhookd-admin.webhookd.svc", "webhookd-admin.shop.svc").replace(
            'namespace="webhookd"', 'namespace="shop"'
        )
        if name in ("hosts", "queue", "oldest")
        else "shop"
        for name, value in values(before).items()
    }
    assert values(after) == expected
    assert "shop" in expected["hosts"]
    if overlay == "production":
        assert [expected[name].count('namespace="shop"') for name in ("queue", "oldest")] == [1, 2]
