"""The manifests as Kubernetes gets them: rendered, held to its schemas, and to our promises."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import generate_latest

from service.__main__ import CLOSING_S
from service.health import LIVENESS, READINESS
from service.observability.metrics import Metrics
from service.server import ADMIN_GRACE_S
from service.settings import Settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
KUBERNETES = "1.37"
SETS = [
    (),
    ("gpu",),
    ("monitoring",),
    ("monitoring", "autoscaling"),
    ("gpu", "no-surge"),
    ("retraining",),
    ("retraining", "gpu", "monitoring"),
]
# Of the Prometheus operator: Kubernetes itself has no schemas for them.
OPERATORS = ("ServiceMonitor", "PrometheusRule")

Manifest = dict[str, Any]
each_set = pytest.mark.parametrize("components", SETS, ids=lambda names: "+".join(names) or "base")


def kustomize(folder: Path) -> list[Manifest]:
    text = subprocess.check_output([BIN / "kubectl", "kustomize", folder], text=True)
    return list(yaml.safe_load_all(text))


def render(tmp_path: Path, components: tuple[str, ...]) -> list[Manifest]:
    """The base with some components, as an overlay somewhere else would have them."""
    up = "../" * (len(tmp_path.resolve().parts) - 1)
    deploy = f"{up}{DEPLOY.relative_to('/')}"
    chosen = [f"{deploy}/components/{name}" for name in components]
    overlay = {"resources": [f"{deploy}/base"], "components": chosen, "namespace": "unfreeze"}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return kustomize(tmp_path)


def only(manifests: list[Manifest], kind: str, name: str = "unfreeze") -> Manifest:
    (found,) = (m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)
    return found


def pod(manifests: list[Manifest]) -> Manifest:
    spec: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def variables(manifests: list[Manifest]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod(manifests)["containers"][0]["env"]}


@each_set
def test_every_manifest_keeps_to_the_schemas(components: tuple[str, ...], tmp_path: Path):
    for manifest in render(tmp_path, components):
        if manifest["kind"] not in OPERATORS:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@each_set
def test_the_pod_meets_the_restricted_standard(components: tuple[str, ...], tmp_path: Path):
    spec = pod(render(tmp_path, components))
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@each_set
def test_nobody_gets_a_token(components: tuple[str, ...], tmp_path: Path):
    manifests = render(tmp_path, components)
    assert pod(manifests)["automountServiceAccountToken"] is False
    assert only(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert pod(manifests)["serviceAccountName"] == "unfreeze"


def test_probes_ask_for_the_services_that_the_server_answers_for():
    (container,) = pod(kustomize(DEPLOY / "base"))["containers"]
    asked = {probe: container[probe]["grpc"] for probe in container if probe.endswith("Probe")}
    assert asked == {
        "startupProbe": {"port": 8001, "service": READINESS},
        "readinessProbe": {"port": 8001, "service": READINESS},
        "livenessProbe": {"port": 8001, "service": LIVENESS},
    }


def test_the_grace_period_covers_the_whole_drain():
    manifests = kustomize(DEPLOY / "base")
    told = variables(manifests)
    drain = float(told["UNFREEZE_DRAIN_SECONDS"])
    pre_stop = pod(manifests)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = pre_stop + drain + float(told["UNFREEZE_GRACE_SECONDS"])
    needed += Settings.model_fields["cancel_seconds"].default + ADMIN_GRACE_S + CLOSING_S
    assert pod(manifests)["terminationGracePeriodSeconds"] >= needed + 10
    # gRPC lengthens the age by up to a tenth, so that connections do not all end together
    assert drain > 1.1 * float(told["UNFREEZE_MAX_CONNECTION_AGE_SECONDS"])


@each_set
def test_every_variable_is_one_that_the_server_reads(components: tuple[str, ...], tmp_path: Path):
    names = {
        name.removeprefix("UNFREEZE_").lower() for name in variables(render(tmp_path, components))
    }
    assert names <= set(Settings.model_fields)


def test_the_service_named_unfreeze_does_not_set_our_variables():
    # Kubernetes would set UNFREEZE_PORT=tcp://10.0.0.1:8001, and the server would not start
    assert pod(kustomize(DEPLOY / "base"))["enableServiceLinks"] is False


def test_kserve_starts_a_server_that_it_can_ask():
    runtime = yaml.safe_load((DEPLOY / "kserve" / "serving-runtime.yaml").read_text())["spec"]
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container"  # KServe looks for it by this name
    told = {each["name"]: each["value"] for each in container["env"]}
    names = {name.removeprefix("UNFREEZE_").lower() for name in told}
    assert names <= set(Settings.model_fields)
    assert told["UNFREEZE_REGISTRY"] == "/mnt/models"  # where it puts what `storageUri` names
    asked = {container[probe]["grpc"]["service"] for probe in container if probe.endswith("Probe")}
    assert asked == {LIVENESS, READINESS}


def test_nothing_goes_out_and_only_predictions_come_in():
    policy = only(kustomize(DEPLOY / "base"), "NetworkPolicy")["spec"]
    assert policy["egress"] == []
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["grpc"]


@each_set
def test_a_pod_knows_how_many_processors_are_its_own(components: tuple[str, ...], tmp_path: Path):
    (container,) = pod(render(tmp_path, components))["containers"]
    limits, requests = (container["resources"][kind] for kind in ("limits", "requests"))
    assert limits["cpu"] == requests["cpu"]


def test_replicas_are_scaled_by_a_metric_that_the_server_has(tmp_path: Path):
    manifests = render(tmp_path, ("monitoring", "autoscaling"))
    scaler = only(manifests, "HorizontalPodAutoscaler")["spec"]
    deployment = only(manifests, "Deployment")
    aim = scaler["scaleTargetRef"]
    assert (aim["kind"], aim["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]  # or each `kubectl apply` would set them again
    (metric,) = (one["pods"]["metric"]["name"] for one in scaler["metrics"])
    assert f"# TYPE {metric} gauge" in generate_latest(Metrics().registry).decode()


@each_set
def test_the_admin_port_is_not_exposed(components: tuple[str, ...], tmp_path: Path):
    manifests = render(tmp_path, components)
    ports = {port["containerPort"] for port in pod(manifests)["containers"][0]["ports"]}
    served = {
        port["port"] for m in manifests if m["kind"] == "Service" for port in m["spec"]["ports"]
    }
    assert ports == served == {8001, 8002}


def test_selectors_select_the_pods():
    manifests = kustomize(DEPLOY / "base")
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert only(manifests, "Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert only(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert only(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert only(manifests, "Service", "unfreeze-headless")["spec"]["selector"] == labels


def test_retraining_is_one_pod_that_alone_has_its_volumes(tmp_path: Path):
    manifests = render(tmp_path, ("retraining",))
    deployment = only(manifests, "Deployment")["spec"]
    (container,) = pod(manifests)["containers"]
    mounts = {
        mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]
    }
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert container["image"] == "unfreeze-training:0.1.0"
    assert pod(manifests)["shareProcessNamespace"] is True
    assert {"/models": False, "/state": False, "/data": True}.items() <= mounts.items()
    # nobody else is there to go to
    assert variables(manifests)["UNFREEZE_DRAIN_SECONDS"] == "0"
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 1}}
    claims = [m["spec"]["accessModes"] for m in manifests if m["kind"] == "PersistentVolumeClaim"]
    assert claims == [["ReadWriteOnce"]] * 3


@pytest.mark.parametrize("others", [(), ("retraining",)], ids=["serving", "retraining"])
def test_a_gpu_is_asked_for_and_insisted_on(others: tuple[str, ...], tmp_path: Path):
    manifests = render(tmp_path, (*others, "gpu"))
    (container,) = pod(manifests)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["limits"]["memory"] == "12Gi"  # no less than training has without
    assert container["image"].endswith(":0.1.0-gpu")
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 30 * 60  # to compile networks
    assert probe["grpc"]["service"] == "readiness"
    assert variables(manifests)["UNFREEZE_PROVIDER"] == "cuda"


def test_a_rollout_without_surge_stops_a_pod_first(tmp_path: Path):
    manifests = render(tmp_path, ("gpu", "no-surge"))
    rollout = only(manifests, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert rollout == {"maxUnavailable": 1, "maxSurge": 0}


def test_prometheus_scrapes_each_pod_once(tmp_path: Path):
    manifests = render(tmp_path, ("monitoring",))
    (endpoint,) = only(manifests, "ServiceMonitor")["spec"]["endpoints"]
    scraped = [
        m["metadata"]["name"]
        for m in manifests
        if m["kind"] == "Service"
        for port in m["spec"]["ports"]
        if port["name"] == endpoint["port"]
    ]
    assert scraped == ["unfreeze-headless"]


def test_grafana_finds_the_dashboard_and_prometheus_the_rules(tmp_path: Path):
    manifests = render(tmp_path, ("monitoring",))
    dashboard = only(manifests, "ConfigMap", "unfreeze-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["unfreeze.json"])["title"] == "Unfreeze"
    assert only(manifests, "PrometheusRule")["spec"]["groups"]


def test_the_example_overlay_renders():
    assert only(kustomize(DEPLOY / "overlays" / "retraining"), "Deployment")


def test_the_dockerfile_has_nothing_to_object_to():
    subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], check=True)


def test_the_dockerfile_copies_files_that_exist_and_are_sent():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    lines = (ROOT / "Dockerfile").read_text().replace("${VARIANT}", "gpu").splitlines()
    copied = [
        line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line
    ]
    assert "LICENSE" in itertools.chain(
        *copied
    )  # whoever passes an image on has to pass it on, too
    for name in itertools.chain(*copied):
        assert (ROOT / name).exists(), name
        assert name.split("/")[0] in sent
