"""The Kubernetes manifests: valid, restricted, and with the numbers that the daemon needs."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ai_task_processor import __version__
from ai_task_processor.settings import Settings, load_settings
from tests.fakes.kustomize import Manifest, build

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("single", "scaled")
UID = 10001

METADATA = {"type": "object", "required": ["name", "namespace", "labels"]}
OPERATOR_KINDS: dict[str, dict[str, Any]] = {
    "ServiceMonitor": {
        "type": "object",
        "additionalProperties": False,
        "required": ["selector", "endpoints"],
        "properties": {
            "selector": {"type": "object", "required": ["matchLabels"]},
            "endpoints": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["port"],
                    "properties": {
                        "port": {"type": "string"},
                        "path": {"type": "string", "pattern": "^/"},
                        "interval": {"type": "string", "pattern": "^[0-9]+s$"},
                        "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+s$"},
                    },
                },
            },
        },
    },
    "PrometheusRule": {
        "type": "object",
        "additionalProperties": False,
        "required": ["groups"],
        "properties": {
            "groups": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name", "rules"],
                    "properties": {
                        "name": {"type": "string"},
                        "rules": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["expr"],
                                "properties": {
                                    "record": {"type": "string"},
                                    "alert": {"type": "string"},
                                    "expr": {"type": "string"},
                                    "for": {"type": "string", "pattern": "^[0-9]+[smh]$"},
                                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                                    "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
            }
        },
    },
}
"""The parts that we use of the kinds which the Prometheus operator brings."""


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifests(overlay: str) -> list[Manifest]:
    return build(KUBERNETES / "overlays" / overlay)


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod(manifests: list[Manifest]) -> Manifest:
    return dict(one(manifests, "Deployment")["spec"]["template"]["spec"])


def container(manifests: list[Manifest]) -> Manifest:
    (only,) = pod(manifests)["containers"]
    return dict(only)


def environment(manifests: list[Manifest]) -> dict[str, str]:
    """The variables whose values stand in the manifests."""
    plain = {entry["name"]: entry["value"] for entry in container(manifests)["env"] if "value" in entry}
    return dict(one(manifests, "ConfigMap")["data"]) | plain


# --- Valid ------------------------------------------------------------------------------------------------------------


def test_every_manifest_is_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] in OPERATOR_KINDS:
            jsonschema.validate(manifest["metadata"], METADATA)
            jsonschema.validate(manifest["spec"], OPERATOR_KINDS[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_wrong_manifest_is_noticed(manifests: list[Manifest]) -> None:
    deployment = one(manifests, "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)


def test_every_file_is_used() -> None:
    plans = {path: yaml.safe_load(path.read_text()) for path in KUBERNETES.rglob("kustomization.yaml")}
    used = {
        path.parent / (entry["path"] if isinstance(entry, dict) else entry)
        for path, plan in plans.items()
        for key in ("resources", "patches")
        for entry in plan.get(key, ())
    }
    apart = {*plans, KUBERNETES / "prometheus-adapter.yaml"}
    assert set(KUBERNETES.rglob("*.yaml")) - apart == {path for path in used if path.suffix}


def test_kubectl_makes_the_same_of_it(overlay: str, manifests: list[Manifest]) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: the manifests are only built by our own few lines")
    done = subprocess.run(  # noqa: S603
        [kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if "unknown command" in done.stderr:
        pytest.skip("this kubectl is too old to build a kustomization")
    assert done.returncode == 0, done.stderr

    def by_kind(manifest: Manifest) -> str:
        return str(manifest["kind"])

    assert sorted(yaml.safe_load_all(done.stdout), key=by_kind) == sorted(manifests, key=by_kind)


# --- Meant ------------------------------------------------------------------------------------------------------------


def test_labels_and_names_find_each_other(manifests: list[Manifest]) -> None:
    labels = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for manifest in manifests:
        assert manifest["metadata"].get("namespace", "ai-task-processor") == "ai-task-processor"
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        wanted = selector.get("matchLabels", selector) if manifest["kind"] != "Service" else selector
        assert wanted.items() <= labels.items(), manifest["kind"]
    port = {entry["name"]: entry["containerPort"] for entry in container(manifests)["ports"]}
    (service,) = one(manifests, "Service")["spec"]["ports"]
    assert (service["name"], service["targetPort"]) == ("metrics", "metrics")
    assert port == {"metrics": Settings.model_fields["metrics_port"].default}
    assert container(manifests)["image"] == f"ai-task-processor:{__version__}"


def test_pods_are_restricted(manifests: list[Manifest]) -> None:
    """As the Pod Security Standard of that name wants it, which the namespace enforces."""
    enforced = one(manifests, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    spec, only = pod(manifests), container(manifests)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == UID
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(volume.keys() <= {"name", *allowed} for volume in spec["volumes"])
    assert spec["automountServiceAccountToken"] is False


def test_probes_are_as_they_are_meant(manifests: list[Manifest]) -> None:
    only = container(manifests)
    start, alive, ready = (only[name] for name in ("startupProbe", "livenessProbe", "readinessProbe"))
    assert {probe["httpGet"]["port"] for probe in (start, alive, ready)} == {"metrics"}
    paths = [probe["httpGet"]["path"] for probe in (start, alive, ready)]
    assert paths == ["/health", "/health", "/ready"], "what asks the outside restarts nobody"
    pull = Settings.model_fields["ollama_model_download_timeout"].default
    assert start["periodSeconds"] * start["failureThreshold"] >= pull + 60
    assert alive["periodSeconds"] * alive["failureThreshold"] >= 45


def test_there_is_time_to_stop(manifests: list[Manifest]) -> None:
    grace = float(environment(manifests)["SHUTDOWN_GRACE_SECONDS"])
    assert pod(manifests)["terminationGracePeriodSeconds"] >= grace + 10


def test_the_only_place_to_write_is_the_data(manifests: list[Manifest]) -> None:
    mounts = container(manifests)["volumeMounts"]
    assert [mount["mountPath"] for mount in mounts if not mount.get("readOnly")] == ["/app/data"]


def test_the_settings_can_be_used(
    overlay: str, manifests: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = environment(manifests)
    assert {name.lower() for name in values} <= Settings.model_fields.keys()
    secrets = {"oauth2-client-secret": "a secret", "state-url": "postgresql://user:word@db/journal"}
    for name, value in values.items():
        if name.endswith("_FILE"):
            path = Path(value)
            (tmp_path / path.name).write_text(secrets[path.name])
            value = str(tmp_path / path.name)  # noqa: PLW2901  # the same file, where there is one
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OAUTH2_CLIENT_ID", "daemon")
    settings = load_settings(None)
    assert settings.oauth2_client_secret.get_secret_value() == "a secret"
    assert settings.state_location.startswith("postgresql" if overlay == "scaled" else "sqlite:///data/")


def test_no_secret_is_in_a_variable(manifests: list[Manifest]) -> None:
    secret = [entry["name"] for entry in container(manifests)["env"] if "secretKeyRef" in entry.get("valueFrom", {})]
    assert secret == ["OAUTH2_CLIENT_ID"]
    assert not any(manifest["kind"] == "Secret" for manifest in manifests)


def test_a_single_one_owns_its_disk() -> None:
    manifests = build(KUBERNETES / "overlays/single")
    spec = one(manifests, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    claim = one(manifests, "PersistentVolumeClaim")
    data = {"name": "data", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
    assert data in pod(manifests)["volumes"]


def test_several_are_scaled_by_the_backlog_that_they_share() -> None:
    manifests = build(KUBERNETES / "overlays/scaled")
    scaler = one(manifests, "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in one(manifests, "Deployment")["spec"], "the autoscaler's to decide"
    assert scaler["scaleTargetRef"]["name"] == one(manifests, "Deployment")["metadata"]["name"]
    (metric,) = scaler["metrics"]
    assert metric["external"]["target"]["type"] == "AverageValue"
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    assert rule["name"]["as"] == metric["external"]["metric"]["name"]
    rules = one(manifests, "PrometheusRule")["spec"]["groups"]
    assert rule["seriesQuery"] in {entry.get("record") for group in rules for entry in group["rules"]}
    assert one(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_who_may_speak_with_whom() -> None:
    ports = {
        overlay: [port["port"] for way in one(found, "NetworkPolicy")["spec"]["egress"] for port in way["ports"]]
        for overlay in OVERLAYS
        for found in [build(KUBERNETES / "overlays" / overlay)]
    }
    assert ports == {"single": [53, 53, 443], "scaled": [53, 53, 443, 5432]}
    (way,) = one(build(KUBERNETES / "overlays/single"), "NetworkPolicy")["spec"]["ingress"]
    assert way["ports"] == [{"protocol": "TCP", "port": "metrics"}]
