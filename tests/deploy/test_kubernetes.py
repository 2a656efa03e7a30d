"""Kubernetes: Ray's own parser of RayClusters, and the schemas of Kubernetes for everything that it defines."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
from ray.autoscaler._private.kuberay import autoscaling_config

import distmeta

from .deployed import constraints, mappings, read_documents

KUBERNETES = "1.34"
FILES = ["kubernetes/raycluster.yaml", "kubernetes/rayjob.yaml", "kubernetes/mlflow.yaml"]
# Of the fields of KubeRay's resources, those that are used here.
CLUSTER_FIELDS = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"
}  # fmt: skip
JOB_FIELDS = {
    "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
    "submitterPodTemplate", "rayClusterSpec",
}  # fmt: skip


def resource(name: str, kind: str) -> dict[str, Any]:
    (found,) = [document for document in read_documents(name) if document["kind"] == kind]
    return found


def ray_cluster() -> dict[str, Any]:
    return resource("kubernetes/raycluster.yaml", "RayCluster")


def pod_specs() -> dict[str, dict[str, Any]]:
    """The pods of all manifests, by a name."""
    groups = [ray_cluster()["spec"]["headGroupSpec"], *ray_cluster()["spec"]["workerGroupSpecs"]]
    found = {group.get("groupName", "head"): group["template"]["spec"] for group in groups}
    found["submitter"] = resource("kubernetes/rayjob.yaml", "RayJob")["spec"]["submitterPodTemplate"]["spec"]
    for document in read_documents("kubernetes/mlflow.yaml"):
        if document["kind"] in ("Deployment", "StatefulSet"):
            found[document["metadata"]["name"]] = document["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("name", FILES)
def test_kubernetes_takes_its_own_resources(name: str) -> None:
    own = [document for document in read_documents(name) if not document["apiVersion"].startswith("ray.io/")]
    for document in own:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        assert document["metadata"]["namespace"] == "distmeta"


@pytest.mark.parametrize("name", ["head", "gpu", "gpu-spot", "submitter", "mlflow", "mlflow-postgres"])
def test_pods_fit_the_schema_and_need_no_rights(name: str) -> None:
    spec = pod_specs()[name]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is (name == "head")
    for container in spec["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"].keys() == {"requests", "limits"}
    volumes = {volume["name"] for volume in spec.get("volumes", ())} | {"database"}
    assert {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", ())} <= volumes


def test_the_schema_would_refuse_an_unknown_field() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {**pod_specs()["head"], "volume": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_ray_reads_the_cluster_as_meant() -> None:
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(ray_cluster())
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] == types["gpu-spot"]["resources"]["GPU"] == 1
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (2, 2)
    assert (types["gpu-spot"]["min_workers"], types["gpu-spot"]["max_workers"]) == (0, 6)
    assert config["idle_timeout_minutes"] == 5


def test_the_cluster_asks_for_tokens_scales_and_leaves_probes_to_kuberay() -> None:
    document = ray_cluster()
    spec = document["spec"]
    assert document["apiVersion"] == "ray.io/v1"
    assert spec.keys() == CLUSTER_FIELDS
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == constraints()["ray"]
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert group["template"]["spec"]["restartPolicy"] == "Never"  # what the second autoscaler demands
        assert all("Probe" not in key for one in mappings(group) for key in one)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    spot = spec["workerGroupSpecs"][1]["template"]["spec"]
    (key,) = spot["nodeSelector"]
    assert {"key": key, "operator": "Equal", "value": "true", "effect": "NoSchedule"} in spot["tolerations"]


def test_the_job_brings_the_same_cluster() -> None:
    document = resource("kubernetes/rayjob.yaml", "RayJob")
    spec = document["spec"]
    assert spec.keys() == JOB_FIELDS
    assert spec["rayClusterSpec"] == ray_cluster()["spec"]
    assert spec["shutdownAfterJobFinishes"] and spec["backoffLimit"] > 0


def test_images_bear_the_version_and_claims_exist() -> None:
    images = {container["image"] for spec in pod_specs().values() for container in spec["containers"]}
    version = re.escape(distmeta.__version__)
    own = {image for image in images if image.startswith("distmeta")}
    assert own and all(re.fullmatch(rf"distmeta(-mlflow)?:{version}(-cuda)?", image) for image in own)
    assert images - own == {"postgres:17"}
    documents = [document for name in FILES for document in read_documents(name)]
    claims = {one["metadata"]["name"] for one in documents if one["kind"] == "PersistentVolumeClaim"}
    used = {one["persistentVolumeClaim"]["claimName"] for one in mappings(documents) if "persistentVolumeClaim" in one}
    assert used == claims


def test_mlflow_is_found_by_its_service_and_knows_its_names() -> None:
    head = {one["name"]: one.get("value") for one in pod_specs()["head"]["containers"][0]["env"]}
    assert head["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    services = {one["metadata"]["name"]: one for one in read_documents(FILES[2]) if one["kind"] == "Service"}
    assert services["mlflow"]["spec"]["ports"][0]["port"] == 5000
    assert services["mlflow"]["spec"]["selector"] == {"app": "mlflow"}
    arguments = pod_specs()["mlflow"]["containers"][0]["args"]
    (hosts,) = [one.partition("=")[2].split(",") for one in arguments if one.startswith("--allowed-hosts=")]
    assert {"mlflow", "mlflow:5000", "localhost:*"} <= set(hosts)  # MLflow compares with the port, where there is one
    assert "*" not in hosts


def test_passwords_come_from_a_secret() -> None:
    for name, spec in pod_specs().items():
        for container in spec["containers"]:
            for variable in container.get("env", ()):
                if re.search(r"PASSWORD|TOKEN|SECRET|KEY|STORE_URI", variable["name"]):
                    assert variable["valueFrom"]["secretKeyRef"]["name"] == "mlflow", name
    for name in FILES:
        assert not [one for one in read_documents(name) if one["kind"] == "Secret"]
