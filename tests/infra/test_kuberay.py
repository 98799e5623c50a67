"""The manifests, against the schemas of Kubernetes and the fields that KubeRay knows."""

import copy
import re
import shutil

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines import __version__
from tests.infra.files import (
    KUBERAY,
    ROOT,
    built,
    filled,
    locked,
    mlflow_server,
    objects,
    only,
    pods,
    ray_start,
    templates,
)

pytestmark = pytest.mark.slow  # validators of other programs: seconds each

KUBERNETES = "1.36"
# No package carries KubeRay's own schema: these are fields of ray.io/v1 as its Go types have them, less deprecated ones
# and some newer than v1.6. The pods in it are checked against the schema of Kubernetes.
TEXT, FLAG, LIST, TABLE, ANY = {"type": "string"}, {"type": "boolean"}, {"type": "array"}, {"type": "object"}, {}
NUMBER, SHARE = {"type": "integer"}, {"type": "number"}


def closed(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


GROUP = {
    "template": TABLE,
    "rayStartParams": {"type": "object", "additionalProperties": TEXT},
    "resources": TABLE,
    "labels": TABLE,
}
CREDENTIAL = closed(value=TEXT, valueFrom=TABLE)
CLUSTER = closed(
    ["headGroupSpec"],
    authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT, enableK8sTokenAuth=FLAG),
    autoscalerOptions=closed(
        **dict.fromkeys(["resources", "securityContext"], TABLE),
        **dict.fromkeys(["env", "envFrom", "volumeMounts"], LIST),
        **dict.fromkeys(["image", "imagePullPolicy"], TEXT),
        idleTimeoutSeconds=NUMBER,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        version={"enum": ["v1", "v2"]},
    ),
    gcsFaultToleranceOptions=closed(
        ["redisAddress"],
        redisAddress=TEXT,
        redisUsername=CREDENTIAL,
        redisPassword=CREDENTIAL,
        externalStorageNamespace=TEXT,
    ),
    headGroupSpec=closed(["template"], **GROUP, serviceType=TEXT, headService=TABLE, enableIngress=FLAG),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ["groupName", "template"],
            **GROUP,
            **dict.fromkeys(["replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"], NUMBER),
            groupName=TEXT,
            suspend=FLAG,
            scaleStrategy=TABLE,
        ),
    },
    **dict.fromkeys(["enableInTreeAutoscaling", "suspend"], FLAG),
    **dict.fromkeys(["upgradeStrategy", "headServiceAnnotations"], TABLE),
    **dict.fromkeys(["rayVersion", "managedBy"], TEXT),
)
JOB = closed(
    **dict.fromkeys(["entrypoint", "runtimeEnvYAML", "jobId", "entrypointResources", "managedBy"], TEXT),
    **dict.fromkeys(["activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"], NUMBER),
    **dict.fromkeys(["suspend", "shutdownAfterJobFinishes"], FLAG),
    **dict.fromkeys(["metadata", "clusterSelector", "deletionStrategy", "submitterPodTemplate"], TABLE),
    **dict.fromkeys(["entrypointNumCpus", "entrypointNumGpus"], SHARE),
    rayClusterSpec=CLUSTER,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterConfig=closed(backoffLimit=NUMBER),
)
RAY = {"RayCluster": CLUSTER, "RayJob": JOB}


def check(item):
    """Raise unless Kubernetes, or KubeRay, would take the object."""
    if item["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
        return
    jsonschema.validate(
        item, closed(["metadata", "spec"], apiVersion=ANY, kind=ANY, metadata=TABLE, spec=RAY[item["kind"]])
    )
    for pod in templates(item):
        shell = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod}
        kubernetes_validate.validate(shell, KUBERNETES, strict=True)


def names(items):
    return [f"{item['kind']}-{item['metadata']['name']}" for item in items]


@pytest.mark.parametrize("item", objects(), ids=names(objects()))
def test_the_schema_takes_it(item):
    check(item)


@pytest.mark.parametrize("item", objects(), ids=names(objects()))
def test_the_schema_refuses_a_slip(item):
    wrong = copy.deepcopy(item)
    wrong["spec"]["replcas"] = 1
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(wrong)


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_the_schema_refuses_a_slip_in_a_pod(kind):
    wrong = copy.deepcopy(only(kind))
    next(templates(wrong))["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)


@pytest.mark.parametrize(("name", "pod"), pods())
def test_nobody_is_root_or_may_become_it(name, pod):
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(("name", "pod"), pods())
def test_limits_and_probes(name, pod):
    for container in pod["containers"]:
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["limits"]) & set(resources["requests"])
        if container["name"] != "ray-job-submitter":  # it ends by itself
            assert {"readinessProbe", "livenessProbe"} <= set(container)


@pytest.mark.parametrize(("name", "pod"), pods())
def test_secrets_come_from_secrets(name, pod):
    for variable in [variable for container in pod["containers"] for variable in container.get("env", [])]:
        if re.search(r"TOKEN|PASSWORD|SECRET|KEY", variable["name"]):
            assert set(variable) == {"name", "valueFrom"}
            assert "secretKeyRef" in variable["valueFrom"]


def test_ray_is_the_one_of_the_lock_and_asks_for_the_token():
    spec = only("RayCluster")["spec"]
    assert spec["rayVersion"] == locked("ray")
    assert spec["authOptions"]["mode"] == "token"
    (submitter,) = templates(only("RayJob"))
    variables = {variable["name"]: variable for variable in submitter["spec"]["containers"][0]["env"]}
    assert variables["RAY_AUTH_MODE"]["value"] == "token"
    reference = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": spec["authOptions"]["secretName"], "key": "auth_token"}  # the key KubeRay looks for


def test_the_state_of_the_head_is_kept_where_there_is_such_a_service():
    options = only("RayCluster")["spec"]["gcsFaultToleranceOptions"]
    host, port = options["redisAddress"].split(":")
    (service,) = [o for o in objects() if o["kind"] == "Service" and o["metadata"]["name"] == host]
    assert [entry["port"] for entry in service["spec"]["ports"]] == [int(port)]
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["key"] == "REDIS_PASSWORD"


def test_selectors_find_their_pods():
    labels = [pod["metadata"]["labels"] for item in objects() for pod in templates(item) if "metadata" in pod]
    for item in objects():
        if item["kind"] in ("Service", "Deployment", "StatefulSet"):
            selector = item["spec"]["selector"].get("matchLabels", item["spec"]["selector"])
            assert selector in labels


def test_ray_knows_the_parameters_it_is_started_with():
    head = only("RayCluster")["spec"]["headGroupSpec"]["rayStartParams"]
    options = ray_start(["ray", "start", "--head", *(f"--{name}={value}" for name, value in head.items())])
    assert options["num_cpus"] == 0


def test_the_job_runs_the_stages_on_that_cluster():
    spec = only("RayJob")["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": only("RayCluster")["metadata"]["name"]}
    folder, *commands = spec["entrypoint"].split(" && ")
    assert folder == "cd /app"
    stages = [re.fullmatch(r"python -m pipelines\.(\w+)( --data artifacts/bananas)?", line)[1] for line in commands]
    assert stages == ["generate", "prepare", "train", "evaluate"]
    assert (ROOT / "data.dvc").read_text().count("path: artifacts/bananas") == 1


def test_mlflow_understands_its_command():
    (container,) = only("Deployment")["spec"]["template"]["spec"]["containers"]
    server = mlflow_server(container["args"])
    assert filled()["MLFLOW_TRACKING_URI"] == f"http://mlflow:{server['port']}"
    assert f"mlflow:{server['port']}" in server["allowed_hosts"].split(",")
    assert server["app_name"] == "basic-auth"
    assert [port["containerPort"] for port in container["ports"]] == [server["port"]]


@pytest.fixture
def kuberay(tmp_path):
    """A copy of the manifests, in which the image has another name and tag, in the one place there is for them."""
    copied = shutil.copytree(KUBERAY, tmp_path / "kuberay")
    file = copied / "image" / "kustomization.yaml"
    component = yaml.safe_load(file.read_text())
    component["images"][0] |= {"newName": "registry.test/team/ssd", "newTag": "7"}
    file.write_text(yaml.safe_dump(component))
    if built(copied / "cluster") is None:
        pytest.skip("neither kubectl nor kustomize is installed")
    return copied


def named(items):
    return dict(zip(names(items), items, strict=True))


def test_one_place_names_the_image_of_all(kuberay):
    others = {"postgres", "valkey/valkey"}
    for folder, count in (("cluster", 3), ("cpu", 3), ("job", 1)):
        items = built(kuberay / folder)
        images = {c["image"] for item in items for pod in templates(item) for c in pod["spec"]["containers"]}
        assert {image for image in images if image.rpartition(":")[0] not in others} == {"registry.test/team/ssd:7"}
        assert len(images) == count
        for item in items:
            check(item)


def test_a_cluster_and_a_job_are_all_that_there_is(kuberay):
    """What kustomize makes of anchors and merge keys is what YAML makes of them."""
    applied = {name: item for folder in ("cluster", "job") for name, item in named(built(kuberay / folder)).items()}
    assert applied.keys() == named(objects()).keys()
    for name, item in named(objects()).items():
        text = yaml.safe_dump(item).replace(f"registry.example.com/ssd:{__version__}", "registry.test/team/ssd:7")
        assert yaml.safe_load(text) == applied[name]


def test_without_gpus_nothing_else_differs(kuberay):
    plain, cpu = named(built(kuberay / "cluster")), named(built(kuberay / "cpu"))
    assert plain.keys() == cpu.keys()
    assert [name for name in plain if plain[name] != cpu[name]] == ["RayCluster-ssd"]
    (group,) = cpu["RayCluster-ssd"]["spec"]["workerGroupSpecs"]
    assert group["groupName"] == "cpu"
    assert "gpu" not in yaml.safe_dump(cpu["RayCluster-ssd"])
