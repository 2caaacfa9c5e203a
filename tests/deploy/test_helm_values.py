"""The values of the Helm chart: each one reaches the objects as it is written, and one that cannot work is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.deploy.charts import CHART, ChartError, render
from tests.deploy.manifests import container, environment, of_kind, one, refusal, template
from webhookd.settings import Settings
from webhookd.settings.sources import IN_FILES, SECTIONS

pytestmark = pytest.mark.xdist_group("kubernetes")

DIGEST = f"sha256:{'a' * 64}"


def test_values_reach_the_pods() -> None:
    toleration = {"key": "dedicated", "operator": "Exists"}
    tmp: dict[str, Any] = {"name": "tmp", "emptyDir": {}}
    sets = {
        "image": {"repository": "registry.example.com/webhookd", "digest": DIGEST, "pullPolicy": "Always"},
        "secretName": "hooks",
        "settings": {"WEBHOOKD_SQS_QUEUE": "hooks", "WEBHOOKD_CONCURRENCY": 32, "AWS_REGION": "us-east-1"},
        "adminHosts": ["ops.example.com"],
        "shutdownGrace": 130,
        "handlerTimeout": 120,
        "deployments.daemon": {
            "priorityClassName": "payments",
            "tolerations": [toleration],
            "topologySpread": [{"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "env": {"OTEL_SERVICE_NAME": "hooks"},
            "volumes": [tmp],
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        },
        "networkPolicy.servers": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
    }
    objects = render(sets=tuple(f"{path}={json.dumps(value)}" for path, value in sets.items()), namespace="shop")
    deployment = one(objects, "Deployment")
    spec = template(deployment)["spec"]
    for workload in (deployment, one(objects, "Job", "webhookd-migrate")):
        of = container(workload)
        tag = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        assert (of["image"], of["imagePullPolicy"]) == (f"registry.example.com/webhookd:{tag}@{DIGEST}", "Always")
        assert template(workload)["spec"]["volumes"][0]["secret"]["secretName"] == "hooks"
    assert (spec["priorityClassName"], spec["tolerations"]) == ("payments", [toleration])
    assert [of["whenUnsatisfiable"] for of in spec["topologySpreadConstraints"]] == ["DoNotSchedule"]
    assert spec["volumes"][1] == tmp
    assert container(deployment)["volumeMounts"][1]["mountPath"] == "/tmp"
    assert spec["terminationGracePeriodSeconds"] == 10 + 130 + 10
    variables = environment(objects, deployment)
    assert (
        variables.items()
        >= {
            "WEBHOOKD_SQS_QUEUE": "hooks",
            "WEBHOOKD_CONCURRENCY": "32",
            "AWS_REGION": "us-east-1",
            "OTEL_SERVICE_NAME": "hooks",
            "WEBHOOKD_ADMIN_HOSTS": "webhookd-admin,webhookd-admin.shop.svc,ops.example.com",
            "WEBHOOKD_HANDLER_TIMEOUT": "120",
        }.items()
    )
    assert "WEBHOOKD_ROLES" not in variables
    assert one(objects, "NetworkPolicy")["spec"]["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.1.0.0/16"}}]


def test_numbers_reach_the_pods_as_they_are_written() -> None:
    numbers = {"WEBHOOKD_MAX_BODY_BYTES": 1048576, "WEBHOOKD_RETRY_BASE": 0.1, "WEBHOOKD_CONCURRENCY": "08"}
    written = {"WEBHOOKD_MAX_BODY_BYTES": "1048576", "WEBHOOKD_RETRY_BASE": "0.1", "WEBHOOKD_CONCURRENCY": "08"}
    for where in ("settings", "deployments.daemon.env"):
        objects = render(sets=(f"{where}={json.dumps(numbers)}",))
        assert environment(objects, one(objects, "Deployment")).items() >= written.items()
    objects = render("keda", sets=("keda.messagesPerReplica=2000000", "keda.oldestSeconds=1000000"))
    triggers = one(objects, "ScaledObject")["spec"]["triggers"]
    assert [of["metadata"].get("threshold") for of in triggers] == [None, "2000000", "1000000"]


def test_the_migration_reaches_the_same_database_and_can_have_its_own_url() -> None:
    certificates: dict[str, Any] = {"name": "rds", "configMap": {"name": "rds-certificates"}}
    mount = {"name": "rds", "mountPath": "/etc/rds", "readOnly": True}
    settings = {
        "WEBHOOKD_DATABASE_SCHEMA": "hooks",
        "WEBHOOKD_DATABASE_AUTH": "rds-iam",
        "WEBHOOKD_SQS_REGION": "eu-central-1",
        "AWS_REGION": "us-east-1",
        "WEBHOOKD_SQS_QUEUE": "hooks",
    }
    migration = {
        "databaseUrlKey": "migration-url",
        "serviceAccount": {"name": "migrations"},
        "env": {"PGAPPNAME": "migration", "AWS_REGION": "us-west-2"},
        "envFrom": [{"secretRef": {"name": "migration"}}],
        "volumes": [certificates],
        "volumeMounts": [mount],
    }
    job = one(
        render(sets=(f"settings={json.dumps(settings)}", f"migration={json.dumps(migration)}")), "Job", "webhookd-migrate"
    )
    assert refusal(job, "1.37") == ""
    spec, of = template(job)["spec"], container(job)
    assert len(of["env"]) == len({variable["name"] for variable in of["env"]})
    assert {variable["name"]: variable["value"] for variable in of["env"]} == {
        "WEBHOOKD_DATABASE_URL_FILE": "/run/secrets/webhookd/database-url",
        "WEBHOOKD_DATABASE_SCHEMA": "hooks",
        "WEBHOOKD_DATABASE_AUTH": "rds-iam",
        "WEBHOOKD_SQS_REGION": "eu-central-1",
        "AWS_REGION": "us-west-2",
        "PGAPPNAME": "migration",
    }
    assert of["envFrom"] == migration["envFrom"]
    assert spec["serviceAccountName"] == "migrations"
    assert spec["volumes"][0]["secret"]["items"] == [{"key": "migration-url", "path": "database-url"}]
    assert (spec["volumes"][1:], of["volumeMounts"][1:]) == ([certificates], [mount])


def test_handlers_get_variables_of_any_name_and_from_secrets() -> None:
    source = {"secretRef": {"name": "shop"}}
    env = {"HTTPS_PROXY": "http://proxy:3128", "shop_api_url": "https://shop.example.com"}
    (deployment,) = of_kind(
        render(sets=(f"defaults.env={json.dumps(env)}", f"defaults.envFrom={json.dumps([source])}")), "Deployment"
    )
    assert container(deployment)["envFrom"] == [{"configMapRef": {"name": "webhookd"}}, source]
    assert {variable["name"]: variable["value"] for variable in container(deployment)["env"]} == env


def test_values_at_the_edge_make_objects_that_kubernetes_takes() -> None:
    host = "*.example.com"
    objects = render(
        "gateway",
        sets=(
            "preStopSeconds=0",
            "adminHosts=null",
            "ingress.enabled=true",
            f'ingress.host="{host}"',
            f'gateway.host="{host}"',
        ),
    )
    assert "lifecycle" not in container(one(objects, "Deployment"))
    assert one(objects, "ConfigMap")["data"]["WEBHOOKD_ADMIN_HOSTS"] == "webhookd-admin,webhookd-admin.webhookd.svc"
    assert one(objects, "Ingress")["spec"]["rules"][0]["host"] == host
    assert one(objects, "HTTPRoute")["spec"]["hostnames"] == [host]


def test_a_changed_setting_rolls_the_pods() -> None:
    one_queue, other = (render(sets=(f'settings.WEBHOOKD_SQS_QUEUE="{name}"',)) for name in ("a", "b"))
    before, after = (template(one(of, "Deployment"))["metadata"]["annotations"] for of in (one_queue, other))
    assert before.keys() == after.keys() == {"checksum/settings"}
    assert before != after


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shutdownGrace": 39}, "shutdownGrace is not 10 seconds above handlerTimeout"),
        ({"defaults.autoscaling": {"kind": "hpa", "min": 8}}, "deployments.daemon.autoscaling: min is above max"),
        ({"deployments.on": {"roles": ["work"]}}, "invalid propertyName 'on'"),
        ({"deployments.workers": {"roles": ["receive", "work"]}}, "only the deployment `daemon` may have the role receive"),
        ({"deployments.daemon": {"roles": ["receive", "work"]}}, "no deployment has the role relay"),
        ({"prometheusRule.enabled": True}, "prometheusRule.adminAddress: give the address"),
        ({"prometheusRule": {"enabled": True, "adminAddress": "ops.example.com"}}, "prometheusRule/adminAddress"),
        ({"gateway.enabled": True}, "gateway.parentRefs: name the Gateway"),
        ({"settings.WEBHOOKD_SHUTDOWN_GRACE": "10"}, "WEBHOOKD_SHUTDOWN_GRACE"),
        ({"settings.HTTPS_PROXY": "http://proxy"}, "HTTPS_PROXY"),
        ({"deployments.daemon.env.WEBHOOKD_SHUTDOWN_GRACE": "10"}, "WEBHOOKD_SHUTDOWN_GRACE"),
        ({"replicas": 2}, "replicas"),
        ({"defaults.autoscaling.kind": "vpa"}, "autoscaling/kind"),
        ({"image.digest": "sha256:latest"}, "image/digest"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ChartError) as refused:
        render(sets=tuple(f"{path}={json.dumps(value)}" for path, value in values.items()))
    assert message in str(refused.value)


def test_no_secret_is_among_the_settings() -> None:
    names = [*Settings.model_fields, *(f"{section}__shop__{field}" for section, fields in SECTIONS.items() for field in fields)]
    secrets = [f"WEBHOOKD_{name.upper()}" for name in (*names, "api_token") if IN_FILES.fullmatch(name)]
    assert len(secrets) > 7
    secrets += ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"]
    for where in ("settings", "deployments.daemon.env", "migration.env"):
        with pytest.raises(ChartError) as refused:
            render(sets=tuple(f'{where}.{name}="secret"' for name in secrets))
        assert [name for name in secrets if name not in str(refused.value)] == []


def test_a_file_that_the_chart_names_is_no_setting_and_another_file_is() -> None:
    named = {f"{name}_FILE" for name in ("WEBHOOKD_DATABASE_URL", "WEBHOOKD_REDIS_URL")}
    named |= {f"{name}_FILE" for name in ("WEBHOOKD_SIGNATURE_KEYS", "WEBHOOKD_ADMIN_TOKENS")}
    assert named == {name for name in one(render(), "ConfigMap")["data"] if name.endswith("_FILE")}
    with pytest.raises(ChartError) as refused:
        render(sets=tuple(f'settings.{name}="/run/secrets/webhookd/other"' for name in named))
    assert [name for name in named if name not in str(refused.value)] == []
    other = "WEBHOOKD_ACCOUNTS__SHOP__SIGNATURE_KEYS_FILE"
    objects = render(sets=(f'settings.{other}="/run/secrets/webhookd/shop"',))
    assert one(objects, "ConfigMap")["data"][other] == "/run/secrets/webhookd/shop"
