"""Files that start clusters, against the schemas of what reads them.

cluster.yaml goes through the installed Ray's own launcher; Serve's config through Serve's; ConfigMaps through the
configs of the jobs that read them; pods, claims and config maps through Kubernetes' published API (its Python client).
Of KubeRay's resources the fields and their kinds are restated in `KUBERAY` from its published API reference (ray.io/v1:
RayJob, RayService, RayCluster): the definitions themselves are 1.2 MB each, nearly all of it pods.
"""

import copy
import re
from pathlib import Path

import pytest
import yaml

from osteo_ray.config import validate
from osteo_ray.screening.config import ScreenJob

ROOT = Path(__file__).parents[2]
POD = "pod"  # checked by Kubernetes' own client

GROUP = {"rayStartParams": {str: str}, "template": POD, "resources": {str: str}, "labels": {str: str}}
WORKERS = GROUP | {"groupName": str, "scaleStrategy": {"workersToDelete": [str]}}
WORKERS |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"), int)
CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": ("disabled", "token"), "secretName": str, "enableK8sTokenAuth": bool},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "idleTimeoutSeconds": int,
        "upscalingMode": ("Default", "Aggressive", "Conservative"),
        "image": str,
        "version": str,
    },
    "headGroupSpec": GROUP | {"serviceType": str, "enableIngress": bool},
    "workerGroupSpecs": [WORKERS],
    "headServiceAnnotations": {str: str},
    "suspend": bool,
}
KUBERAY = {
    "RayJob": {
        "entrypoint": str,
        "runtimeEnvYAML": str,
        "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode"),
        "backoffLimit": int,
        "activeDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "entrypointNumCpus": float,
        "metadata": {str: str},
        "clusterSelector": {str: str},
        "submitterPodTemplate": POD,
        "rayClusterSpec": CLUSTER,
        "suspend": bool,
    },
    "RayService": {"serveConfigV2": str, "rayClusterConfig": CLUSTER},
}
REQUIRED = {"headGroupSpec": {"template"}, "workerGroupSpecs": {"groupName", "template", "minReplicas", "maxReplicas"}}


def check(value, shape, where: str) -> None:
    """Every key known, every value of its kind."""
    if shape == POD:
        kubernetes(value, "V1PodTemplateSpec", where)
    elif isinstance(shape, tuple):
        assert value in shape, f"{where}: {value!r} is none of {shape}"
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for i, v in enumerate(value):
            check(v, shape[0], f"{where}[{i}]")
    elif isinstance(shape, dict):
        assert isinstance(value, dict), where
        missing = REQUIRED.get(re.sub(r"\[\d+\]$", "", where).rsplit(".", 1)[-1], set()) - set(value)
        assert not missing, f"{where}: {missing} are missing"
        for k, v in value.items():
            assert str in shape or k in shape, f"{where}.{k}: no such field"
            check(v, shape.get(k, shape.get(str)), f"{where}.{k}")
    else:
        assert isinstance(value, shape), f"{where}: {value!r} is no {shape.__name__}"
        assert shape is bool or not isinstance(value, bool), f"{where}: {value!r}"


def kubernetes(value, kind: str, where: str) -> None:
    """Every key of a Kubernetes object known to its published API, to the leaves."""
    models = pytest.importorskip("kubernetes.client.models")
    if kind.lower().startswith("list["):
        assert isinstance(value, list), where
        for i, v in enumerate(value):
            kubernetes(v, kind[5:-1], f"{where}[{i}]")
    elif kind.lower().startswith("dict"):
        for k, v in value.items():
            kubernetes(v, kind[5:-1].split(", ")[1], f"{where}.{k}")
    elif hasattr(models, kind):
        model = getattr(models, kind)
        assert isinstance(value, dict), where
        names = {v: k for k, v in model.attribute_map.items()}
        for k, v in value.items():
            assert k in names, f"{where}.{k}: no such field of {kind}"
            kubernetes(v, model.openapi_types[names[k]], f"{where}.{k}")
    else:
        wanted = {"str": str, "int": int, "bool": bool, "float": float}[kind]
        assert isinstance(value, wanted), f"{where}: {value!r} is no {kind}"


def manifests(name: str) -> dict[str, dict]:
    return {d["kind"]: d for d in yaml.safe_load_all((ROOT / "deploy" / name).read_text())}


@pytest.fixture(scope="module")
def launcher():
    from ray.autoscaler._private.util import prepare_config, validate_config

    def run(config: dict) -> dict:
        full = prepare_config(copy.deepcopy(config))
        validate_config(full)
        return full

    return run, yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_the_clusters_file_is_what_rays_launcher_takes(launcher):
    run, config = launcher
    full = run(config)
    nodes = full["available_node_types"]
    assert full["head_node_type"] in nodes
    assert nodes["head"]["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in nodes["head"]["node_config"], "a lost head ends the cluster"
    assert nodes["cpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert nodes["gpu"]["resources"]["GPU"] == 1
    bad = copy.deepcopy(config)
    bad["available_node_types"]["cpu"]["max_wokers"] = 3
    with pytest.raises(Exception, match="max_wokers"):
        run(bad)


@pytest.mark.parametrize(("file", "kind"), [("rayjob.yaml", "RayJob"), ("rayservice.yaml", "RayService")])
def test_kubernetes_takes_the_manifests(file, kind):
    found = manifests(file)
    assert found[kind]["apiVersion"] == "ray.io/v1"
    check(found[kind]["spec"], KUBERAY[kind], kind)
    kubernetes(found["ConfigMap"], "V1ConfigMap", "ConfigMap")
    cluster = found[kind]["spec"].get("rayClusterSpec") or found[kind]["spec"]["rayClusterConfig"]
    installed = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert installed is not None
    assert cluster["rayVersion"] == installed[1]
    assert cluster["authOptions"] == {"mode": "token"}, "else whoever reaches a port of Ray's runs code"
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len({p["template"]["spec"]["containers"][0]["image"] for p in pods}) == 1, "all nodes run one image"
    for pod in pods:
        spec = pod["template"]["spec"]
        mounted = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", ())}
        assert mounted <= {v["name"] for v in spec["volumes"]}
    bad = copy.deepcopy(found[kind]["spec"])
    next(c for c in (bad.get("rayClusterSpec"), bad.get("rayClusterConfig")) if c)["workerGroupSpecs"][0]["spot"] = True
    with pytest.raises(AssertionError, match="spot: no such field"):
        check(bad, KUBERAY[kind], kind)


def test_the_rayjob_runs_a_job_that_is_there_with_a_config_that_it_takes():
    found = manifests("rayjob.yaml")
    script = re.search(
        r"python /opt/osteo-ray/(jobs/\w+\.py) --config /config/(\S+)", found["RayJob"]["spec"]["entrypoint"]
    )
    assert script is not None
    assert (ROOT / script[1]).exists()
    job = validate(ScreenJob, yaml.safe_load(found["ConfigMap"]["data"][script[2]]))
    assert all(str(p).startswith("s3://") for p in (job.archive, job.records, job.bundle, job.out))


def test_the_rayservice_is_the_app_of_the_serve_config():
    from ray.serve.schema import ServeDeploySchema

    from osteo_ray.commands.serve import ServeJob

    found = manifests("rayservice.yaml")
    in_cluster = ServeDeploySchema.model_validate(yaml.safe_load(found["RayService"]["spec"]["serveConfigV2"]))
    plain = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "configs" / "serve_deploy.yaml").read_text()))
    assert [a.import_path for a in in_cluster.applications] == [a.import_path for a in plain.applications]
    job = validate(ServeJob, yaml.safe_load(found["ConfigMap"]["data"]["serve.yaml"]))
    stays = job.deployment.node_labels
    groups = found["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    asked_for = {g["groupName"] for g in groups if stays.items() <= g["labels"].items()}
    assert asked_for == {"serving"}, "replicas and drivers of screenings stay off spot nodes"
    assert all("labels" not in g["rayStartParams"] for g in groups), "the operator refuses them there"


def test_the_image_holds_what_the_jobs_need():
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.M)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
    extras = set(re.search(r'^ARG EXTRAS="([\w,]+)"$', text, re.M)[1].split(","))  # type: ignore[index]
    assert '".[$EXTRAS]"' in text
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras == set(declared) - {"dev", "bench", "docs"}, "a worker lacks nothing that a config may ask for"
