"""An API server would accept the Kubernetes manifests, and their parts fit each other and webhookd."""

from __future__ import annotations

import copy
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.deploy import manifests, pod_security
from tests.deploy.manifests import (
    FOLDERS,
    Object,
    build,
    container,
    environment,
    of_kind,
    one,
    port_of,
    strings,
    template,
    workloads,
)
from tests.helpers.running import KEY
from webhookd.cli.main import app
from webhookd.settings import Role, Settings, load, load_database
from webhookd.settings.sources import SECRET

pytestmark = pytest.mark.xdist_group("kubernetes")

# The oldest version that has the preStop action `sleep` by default, and the newest whose schemas are known.
VERSIONS = ["1.30", "1.37"]
CUSTOM = {"ScaledObject", "PodMonitor"}
DAEMON = {"app.kubernetes.io/name": "webhookd", "app.kubernetes.io/component": "daemon"}
MIGRATION = {"app.kubernetes.io/name": "webhookd", "app.kubernetes.io/component": "migrate"}
# Values for which the API server has a list that its schemas do not contain.
KNOWN = {
    "pathType": {"Prefix"},
    "whenUnsatisfiable": {"ScheduleAnyway", "DoNotSchedule"},
    "topologyKey": {"topology.kubernetes.io/zone", "kubernetes.io/hostname"},
    "matchLabelKeys": {"pod-template-hash"},
    "restartPolicy": {"Never"},
    "protocol": {"TCP", "UDP"},
    "policyTypes": {"Ingress", "Egress"},
    "operator": {"In", "NotIn"},
    "action": {"FailJob"},
    "unhealthyPodEvictionPolicy": {"AlwaysAllow"},
    "appProtocol": {"http"},
    "drop": {"ALL"},
}
TYPES = {
    "Deployment": {"RollingUpdate", "RuntimeDefault"},
    "Job": {"RuntimeDefault"},
    "Service": {"ClusterIP"},
    "HorizontalPodAutoscaler": {"Resource", "Utilization", "Pods"},
    "ScaledObject": {"cpu", "prometheus", "Pods"},
}
QUANTITY = re.compile(r"[1-9][0-9]*(m|Mi|Gi)?")


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


# Checks that an API server would make


@pytest.mark.parametrize("of", VERSIONS)
def test_every_object_is_one_that_kubernetes_knows(objects: list[Object], of: str) -> None:
    for found in objects:
        if found["kind"] not in CUSTOM:
            assert manifests.refusal(found, of) == ""


def test_every_custom_resource_is_one_that_its_operator_knows(objects: list[Object]) -> None:
    assert manifests.custom_problems(found for found in objects if found["kind"] in CUSTOM) == []


def test_an_unknown_field_is_found_and_so_is_a_wrong_value(production: list[Object]) -> None:
    scaled, monitor = one(production, "ScaledObject"), one(production, "PodMonitor")
    scaled["spec"]["triggers"][0]["metricTyp"] = "Value"
    scaled["spec"]["minReplicaCount"] = "3"
    monitor["spec"]["podMetricsEndpoints"][0]["interval"] = "15 s"
    monitor["spec"]["selector"]["matchLabel"] = {}
    problems = "\n".join(manifests.custom_problems([scaled, monitor]))
    for path in ("/spec/triggers/0/metricTyp: unknown", "/spec/minReplicaCount", "/0/interval", "/matchLabel: unknown"):
        assert path in problems
    deployment = one(production, "Deployment")
    container(deployment)["lifecycle"]["preStop"]["sleeep"] = {"seconds": 1}
    assert "sleeep" in manifests.refusal(deployment, VERSIONS[0])


def test_names_are_unique_and_in_one_namespace(objects: list[Object]) -> None:
    names = [(of["kind"], of["metadata"]["name"]) for of in objects]
    assert len(names) == len(set(names))
    assert {name.partition("-")[0] for _, name in names} == {"webhookd"}
    (namespace,) = of_kind(objects, "Namespace")
    assert {of["metadata"].get("namespace") for of in objects if of is not namespace} == {namespace["metadata"]["name"]}
    assert namespace["metadata"]["labels"] == {
        "app.kubernetes.io/name": "webhookd",
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }


def test_values_are_of_the_known_ones(objects: list[Object]) -> None:
    for found in objects:
        for path, value in strings(found):
            if path[-1] in KNOWN and "labels" not in path:
                assert value in KNOWN[path[-1]], (found["kind"], path)
            if path[-1] == "type":
                assert value in TYPES[found["kind"]], (found["kind"], path)
            if {"requests", "limits"} & set(path):
                assert QUANTITY.fullmatch(str(value)), (found["kind"], path)


def test_labels_are_the_usual_ones(objects: list[Object]) -> None:
    deployment, job = one(objects, "Deployment"), one(objects, "Job", "webhookd-migrate")
    assert template(deployment)["metadata"] == {"labels": DAEMON}
    assert template(job)["metadata"] == {"labels": MIGRATION}
    for found in objects:
        if found["kind"] != "Namespace":
            labels = found["metadata"].get("labels", {})
            assert labels in ({}, {"app.kubernetes.io/name": "webhookd"}, DAEMON, MIGRATION), found["kind"]
    # By these labels, `kubectl apply --selector` finds only the migration, and the settings that it names.
    assert sorted(of["kind"] for of in objects if of["metadata"].get("labels") == MIGRATION) == ["ConfigMap", "Job"]


# The pods


def test_pods_are_restricted(objects: list[Object]) -> None:
    for workload in workloads(objects):
        spec = template(workload)["spec"]
        assert pod_security.violations(spec) == []
        # The standard does not ask for the following.
        assert container(workload)["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert {spec["securityContext"][of] for of in ("runAsUser", "runAsGroup", "fsGroup")} == {65532}
    assert one(objects, "ServiceAccount")["automountServiceAccountToken"] is False
    assert template(one(objects, "Deployment"))["spec"]["serviceAccountName"] == "webhookd"


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        ("pod", "hostNetwork", True),
        ("pod", "hostPID", True),
        ("pod", "volumes", [{"name": "root", "hostPath": {"path": "/"}}]),
        ("pod", "securityContext", {"runAsNonRoot": True}),
        ("pod", "securityContext", {"seccompProfile": {"type": "RuntimeDefault"}}),
        ("pod", "securityContext", {"runAsNonRoot": True, "seccompProfile": {"type": "Unconfined"}}),
        ("pod", "initContainers", [{"name": "first", "image": "webhookd"}]),
        ("container", "securityContext", {}),
        ("container", "ports", [{"name": "public", "containerPort": 8080, "hostPort": 80}]),
        ("container", "livenessProbe", {"httpGet": {"host": "10.0.0.1", "port": 80}}),
        ("context", "runAsUser", 0),
        ("context", "privileged", True),
        ("context", "allowPrivilegeEscalation", True),
        ("context", "capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        ("context", "capabilities", {"drop": ["NET_RAW"]}),
        ("context", "procMount", "Unmasked"),
        ("context", "seLinuxOptions", {"type": "spc_t"}),
        ("context", "appArmorProfile", {"type": "Unconfined"}),
    ],
)
def test_what_is_not_restricted_is_found(base: list[Object], where: str, field: str, value: object) -> None:
    spec = copy.deepcopy(template(one(base, "Deployment"))["spec"])
    of = spec["containers"][0]
    {"pod": spec, "container": of, "context": of["securityContext"]}[where][field] = value
    assert pod_security.violations(spec) != []


def test_the_image_is_one_and_has_its_version(objects: list[Object], request: pytest.FixtureRequest) -> None:
    (image,) = {container(workload)["image"] for workload in workloads(objects)}
    registry = "" if request.node.callspec.params["objects"] == "base" else "registry.example.com/"
    assert image == f"{registry}webhookd:{version('webhookd')}"


def test_the_image_is_made_for_the_pods(base: list[Object]) -> None:
    dockerfile = Path("deploy/Dockerfile").read_text()
    of = container(one(base, "Deployment"))
    ports = " ".join(str(port["containerPort"]) for port in of["ports"])
    for line in ("USER 65532:65532", f"EXPOSE {ports}", 'ENTRYPOINT ["webhookd"]'):
        assert re.search(rf"^{re.escape(line)}$", dockerfile, re.MULTILINE), line


def test_commands_are_of_the_command_line(objects: list[Object]) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    (serve,), (migrate,) = (container(workload)["args"] for workload in workloads(objects))
    assert (serve, migrate) == ("serve", "migrate")
    assert {serve, migrate} <= known
    for workload in workloads(objects):
        assert "command" not in container(workload)  # so Kubernetes runs the image's entry point
        assert container(workload)["name"] == "webhookd"


def test_settings_are_webhookds(objects: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "database-url": "postgresql://webhookd:secret@db.example.com/shop",
        "redis-url": "rediss://redis.example.com:6379/0",
        "signature-keys": KEY,
        "admin-tokens": "ann:ann-has-a-token-of-32-characters",
    }
    for workload in workloads(objects):
        variables = environment(objects, workload)
        (mount,) = container(workload)["volumeMounts"]
        (volume,) = template(workload)["spec"]["volumes"]
        assert mount == {"name": volume["name"], "mountPath": "/run/secrets/webhookd", "readOnly": True}
        items = volume["secret"].pop("items", [{"key": name, "path": name} for name in secrets])
        assert volume["secret"] == {"secretName": "webhookd", "defaultMode": 0o440}  # the pod's fsGroup can read the files
        folder = tmp_path / workload["kind"]
        folder.mkdir()
        for item in items:
            (folder / item["path"]).write_text(f"{secrets[item['key']]}\n")
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name, value in variables.items():
                assert name.startswith("WEBHOOKD_") or (name, value) == ("AWS_REGION", "us-east-1")
                setting = name.removeprefix("WEBHOOKD_").lower()
                assert not SECRET.fullmatch(setting), f"{name} would stand in the environment"
                parent, _, file = value.rpartition("/")
                if setting.endswith("_file"):
                    assert parent == mount["mountPath"]
                patch.setenv(name, str(folder / file) if setting.endswith("_file") else value)
            # Both loaders refuse a name that is no setting, and a file that does not exist.
            if workload["kind"] == "Job":
                assert load_database().database_url.get_secret_value() == secrets["database-url"]
                assert [item["key"] for item in items] == ["database-url"]  # the Job gets no secret that it does not need
                continue
            loaded = load()
        assert loaded.database_url.get_secret_value() == secrets["database-url"]
        assert list(loaded.admin_tokens) == ["ann"]
        assert loaded.roles == frozenset(Role)
        assert (loaded.sqs_queue, loaded.sqs_dead_letter_queue) == (default("sqs_queue"), default("sqs_dead_letter_queue"))
        # From outside the container, nobody reaches 127.0.0.1.
        assert loaded.public_address == ("0.0.0.0", port_of(workload, "public"))
        assert loaded.admin_address == ("0.0.0.0", port_of(workload, "admin"))


def test_probes_are_patient_where_a_restart_would_not_help(objects: list[Object]) -> None:
    of = container(one(objects, "Deployment"))
    probes = {name: of[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["httpGet"] for name, probe in probes.items()} == {
        "startup": {"path": "/livez", "port": "admin"},
        "liveness": {"path": "/livez", "port": "admin"},
        "readiness": {"path": "/readyz", "port": "admin"},
    }
    patience = {name: probe["periodSeconds"] * probe["failureThreshold"] for name, probe in probes.items()}
    assert patience == {"startup": 60, "liveness": 60, "readiness": 10}
    assert all(probe.get("timeoutSeconds", 1) <= probe["periodSeconds"] for probe in probes.values())


def test_memory_is_enough_for_the_bodies_that_are_held(objects: list[Object]) -> None:
    for workload in workloads(objects):
        resources = container(workload)["resources"]
        assert list(resources["limits"]) == ["memory"]
        assert set(resources["requests"]) == {"cpu", "memory"}
        limit, request = (int(resources[of]["memory"].removesuffix("Mi")) for of in ("limits", "requests"))
        assert limit == 2 * request
        assert resources["requests"]["cpu"] in ("500m", "100m")
        if workload["kind"] == "Deployment":
            assert limit * 1024**2 >= 4 * default("max_body_memory")


def test_a_rollout_never_has_fewer_pods(objects: list[Object]) -> None:
    deployment = one(objects, "Deployment")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert deployment["spec"]["minReadySeconds"] > 0
    assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_an_overlay_and_a_component_give_the_migration_its_settings_and_its_role(tmp_path: Path) -> None:
    text = """
namespace: shop
resources: [../../base]
components: [../../components/rds-iam]
configMapGenerator:
  - {name: webhookd-migrate, behavior: merge, literals: [WEBHOOKD_DATABASE_SCHEMA=hooks]}
"""
    objects = manifests.build_text(text, tmp_path / "overlay")
    job = one(objects, "Job", "webhookd-migrate")
    assert environment(objects, job) == {
        "WEBHOOKD_DATABASE_URL_FILE": "/run/secrets/webhookd/database-url",
        "WEBHOOKD_DATABASE_AUTH": "rds-iam",
        "WEBHOOKD_DATABASE_SCHEMA": "hooks",
    }
    assert environment(objects, one(objects, "Deployment"))["WEBHOOKD_DATABASE_AUTH"] == "rds-iam"
    account = one(objects, "ServiceAccount", template(job)["spec"]["serviceAccountName"])
    # The Job finds all of these: Helm and Argo CD make them before the Job, and `kubectl apply --selector` with it.
    assert account["metadata"]["labels"] == MIGRATION
    wave = account["metadata"]["annotations"]
    assert int(wave["helm.sh/hook-weight"]) < int(job["metadata"]["annotations"].get("helm.sh/hook-weight", 0))
    assert int(wave["argocd.argoproj.io/sync-wave"]) < 0
    roles = [of["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] for of in of_kind(objects, "ServiceAccount")]
    assert len(roles) == 2
    for found in objects:
        if found["kind"] not in CUSTOM:
            assert manifests.refusal(found, VERSIONS[0]) == ""


def test_the_migration_runs_first_and_gives_up_on_wrong_settings(objects: list[Object]) -> None:
    job = one(objects, "Job", "webhookd-migrate")
    assert job["metadata"]["annotations"] == {
        "helm.sh/hook": "pre-install,pre-upgrade",
        "helm.sh/hook-delete-policy": "before-hook-creation",
        "argocd.argoproj.io/hook": "PreSync",
        "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
    }
    # Before the sync, neither the daemon's ConfigMap nor its ServiceAccount exists. Argo CD makes the Job's ConfigMap first.
    (source,) = container(job)["envFrom"]
    own = one(objects, "ConfigMap", source["configMapRef"]["name"])
    assert own["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "PreSync"
    assert int(own["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]) < 0
    assert "serviceAccountName" not in template(job)["spec"]
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container(job)["name"]
    assert rule["onExitCodes"]["values"] == [2]  # test_kubernetes_running.py checks the exit code
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (6, 3600)
