"""configs/kuberay and configs/kuberay-gpu: the manifests are valid, fit together, and what they say of us is so."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from fast_inference.core_supervisor import CORE_GRACE_S
from fast_inference.flags import environment_name
from fast_inference.launcher import _FRONTEND_GRACE_S
from fast_inference.settings import Settings
from frontend.access import PUBLIC_ROUTES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/kuberay"
VERSION = "1.32"
"""Of the oldest Kubernetes that is still used much; containers like our `ray-node` came with 1.29."""
NOT_APPLIED = {"kustomization.yaml", "images-of-ray-cluster.yaml"}
MANIFESTS = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name not in NOT_APPLIED)
OWN_LABEL = {"app.kubernetes.io/name": "fast-inference"}
CLUSTER_LABEL = {"ray.io/cluster": "fast-inference"}
"""KubeRay gives it to the pods of a RayCluster of that name."""


def load(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def cluster_of_cpus() -> Any:
    (cluster,) = load("ray-cluster.yaml")
    return cluster


def frontends_of_cpus() -> Any:
    (deployment,) = load("frontends.yaml")
    return deployment


def patched(document: Any) -> Any:
    """As configs/kuberay-gpu changes it: `add` and `replace` of RFC 6902, which is all that is used there."""
    document = copy.deepcopy(document)
    (kustomization,) = yaml.safe_load_all((ROOT / "configs/kuberay-gpu/kustomization.yaml").read_text())
    for patch in kustomization["patches"]:
        if patch["target"] != {"kind": document["kind"], "name": document["metadata"]["name"]}:
            continue
        for operation in yaml.safe_load(patch["patch"]):
            keys = [key.replace("~1", "/") for key in operation["path"].split("/")[1:]]
            place = document
            for key in keys[:-1]:
                place = place[int(key) if isinstance(place, list) else key]
            if keys[-1] == "-":
                place.append(operation["value"])
            else:
                last = int(keys[-1]) if isinstance(place, list) else keys[-1]
                assert operation["op"] == "add" or last in place or isinstance(place, list)
                place[last] = operation["value"]
    return document


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def cluster(request: pytest.FixtureRequest) -> Any:
    return cluster_of_cpus() if request.param == "cpu" else patched(cluster_of_cpus())


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def frontends(request: pytest.FixtureRequest) -> Any:
    return frontends_of_cpus() if request.param == "cpu" else patched(frontends_of_cpus())


@pytest.fixture(scope="module")
def pod(frontends: Any) -> Any:
    return frontends["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def server(pod: Any) -> Any:
    (container,) = pod["containers"]
    return container


@pytest.fixture(scope="module")
def ray_node(pod: Any) -> Any:
    (container,) = pod["initContainers"]
    return container


def groups(cluster: Any) -> list[Any]:
    return [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]


def ray_containers(cluster: Any) -> list[Any]:
    return [group["template"]["spec"]["containers"][0] for group in groups(cluster)]


def value_of(container: Any, variable: str) -> str:
    (value,) = [item["value"] for item in container["env"] if item["name"] == variable]
    return str(value)


def validate(document: Any) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("name", sorted(set(MANIFESTS) - {"ray-cluster.yaml"}))
def test_what_is_of_kubernetes_is_valid(name):
    for document in load(name):
        validate(document)


def test_patched_frontends_are_valid(frontends):
    validate(frontends)


def test_a_ray_cluster_says_what_kuberay_knows(cluster):
    schema = yaml.safe_load((Path(__file__).parent / "raycluster.schema.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(cluster, schema)


def test_pods_of_a_ray_cluster_are_valid(cluster):
    for group in groups(cluster):
        template = group["template"]
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]})


def test_what_is_said_of_the_autoscaler_is_valid_in_a_container(cluster):
    options = cluster["spec"]["autoscalerOptions"]
    own = {"version", "upscalingMode", "idleTimeoutSeconds"}
    container = {"name": "autoscaler", **{key: value for key, value in options.items() if key not in own}}
    metadata = {"name": "autoscaler"}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}})
    volumes = cluster["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]  # the operator puts it into that pod
    assert {mount["name"] for mount in options["volumeMounts"]} <= {volume["name"] for volume in volumes}


def test_kustomize_gets_every_file():
    (kustomization,) = load("kustomization.yaml")
    assert set(kustomization["resources"]) == set(MANIFESTS)
    assert set(kustomization["configurations"]) == NOT_APPLIED - {"kustomization.yaml"}


def test_secrets_volumes_and_images_fit_together(cluster, pod):
    (kustomization,) = load("kustomization.yaml")
    secrets = {secret["name"] for secret in kustomization["secretGenerator"]}
    (claim,) = load("model-cache.yaml")
    for spec in (pod, *(group["template"]["spec"] for group in groups(cluster))):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        containers = spec["containers"] + spec.get("initContainers", [])
        assert {mount["name"] for container in containers for mount in container["volumeMounts"]} == set(volumes)
        assert {volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume} <= secrets
        if "models" in volumes:
            assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert cluster["spec"]["authOptions"]["secretName"] in secrets
    (image,) = kustomization["images"]
    images = {container["image"] for container in pod["containers"] + pod["initContainers"]}
    assert images | {container["image"] for container in ray_containers(cluster_of_cpus())} == {image["name"]}


def test_the_token_of_ray_is_where_ray_looks_for_it(server, ray_node):
    (kustomization,) = load("kustomization.yaml")
    (secret,) = [item for item in kustomization["secretGenerator"] if item["name"].endswith("ray-token")]
    assert secret["files"][0].startswith("auth_token=")  # KubeRay's name for it
    assert secret["options"]["disableNameSuffixHash"]
    for container in (server, ray_node):
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "ray-token"]
        assert value_of(container, "RAY_AUTH_MODE") == "token"
        assert value_of(container, "RAY_AUTH_TOKEN_PATH") == f"{mount['mountPath']}/auth_token"


def test_frontends_join_this_cluster(cluster, server, ray_node):
    address = f"{cluster['metadata']['name']}-head-svc:6379"
    assert value_of(server, "FAST_INFERENCE_RAY_ADDRESS") == address
    assert f"--address={address}" in ray_node["command"]
    assert server["args"][-2:] == ["--executor", "ray"]


def test_a_ray_node_beside_frontends_has_no_room_for_a_core(ray_node):
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(ray_node["command"])
    assert ray_node["restartPolicy"] == "Always"  # runs as long as the server does


def test_the_server_and_its_ray_node_share_what_ray_shares(server, ray_node):
    for path in ("/tmp", "/dev/shm"):
        mounts = [
            mount["name"] for c in (server, ray_node) for mount in c["volumeMounts"] if mount["mountPath"] == path
        ]
        assert len(mounts) == 2
        assert len(set(mounts)) == 1


def test_as_many_pods_as_cores_each_with_room_for_one(cluster, server):
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert value_of(server, "FAST_INFERENCE_CORES") == f"{group['minReplicas']}:{group['maxReplicas']}"
    cpus = value_of(server, "FAST_INFERENCE_RAY_CPUS_PER_CORE")
    assert group["rayStartParams"]["num-cpus"] == cpus
    assert group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == cpus
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_each_core_has_a_gpu_where_they_are_asked_for():
    (group,) = patched(cluster_of_cpus())["spec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (server,) = patched(frontends_of_cpus())["spec"]["template"]["spec"]["containers"]
    assert value_of(server, "FAST_INFERENCE_DEVICE") == "cuda"


def test_the_version_of_ray_is_one_that_we_take(cluster):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (ray,) = [Requirement(text) for text in extras["ray"]]
    assert cluster["spec"]["rayVersion"] in ray.specifier


def test_probes_of_the_server_ask_what_answers_without_a_key(server):
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert ("GET", server[name]["httpGet"]["path"]) in PUBLIC_ROUTES
        assert server[name]["httpGet"]["port"] == server["ports"][0]["name"]
    assert server["livenessProbe"]["httpGet"]["path"] == "/health/live"  # not of the cores, which are not here


def test_probes_of_ray_ask_ports_that_are_set(cluster, ray_node):
    head, *workers = groups(cluster)
    ports = {container["containerPort"] for container in head["template"]["spec"]["containers"][0]["ports"]}
    for name in ("readinessProbe", "livenessProbe"):
        assert head["template"]["spec"]["containers"][0][name]["grpc"]["port"] in ports
        for group in workers:
            port = group["template"]["spec"]["containers"][0][name]["grpc"]["port"]
            assert group["rayStartParams"]["node-manager-port"] == str(port)
    for name in ("startupProbe", "livenessProbe"):
        assert f"--node-manager-port={ray_node[name]['grpc']['port']}" in ray_node["command"]


def test_no_container_runs_as_root_or_writes_to_its_image(cluster, pod):
    for spec in (pod, *(group["template"]["spec"] for group in groups(cluster))):
        assert spec["securityContext"]["runAsNonRoot"]
        for container in spec["containers"] + spec.get("initContainers", []):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_it_has_the_time_to_drain(pod, server):
    drain_s = Settings.model_fields["drain_timeout"].default + _FRONTEND_GRACE_S + CORE_GRACE_S
    assert pod["terminationGracePeriodSeconds"] > server["lifecycle"]["preStop"]["sleep"]["seconds"] + drain_s


def test_variables_are_settings_of_ours_or_rays(server):
    names = {item["name"] for item in server["env"]}
    ours = {name for name in names if not name.startswith("RAY_AUTH_")}
    assert ours <= {environment_name(field) for field in Settings.model_fields}


def test_selectors_find_the_pods(cluster, frontends):
    assert cluster["metadata"]["name"] == CLUSTER_LABEL["ray.io/cluster"]
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert frontends["spec"]["template"]["metadata"]["labels"] == OWN_LABEL
    assert frontends["spec"]["selector"]["matchLabels"] == OWN_LABEL
    assert all(group["template"]["metadata"]["labels"] != OWN_LABEL for group in groups(cluster))
    (service,) = load("service.yaml")
    assert service["spec"]["selector"] == OWN_LABEL
    of_cores = {**CLUSTER_LABEL, "ray.io/group": group["groupName"]}
    budgets = [document["spec"]["selector"]["matchLabels"] for document in load("disruption-budgets.yaml")]
    assert budgets == [OWN_LABEL, of_cores]
    (spread,) = group["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == of_cores


def test_only_nodes_of_ray_and_frontends_reach_more_than_http(server):
    inside = [{"podSelector": {"matchLabels": CLUSTER_LABEL}}, {"podSelector": {"matchLabels": OWN_LABEL}}]
    of_cores, of_frontends = (document["spec"] for document in load("network-policies.yaml"))
    assert (of_cores["podSelector"]["matchLabels"], of_cores["ingress"]) == (CLUSTER_LABEL, [{"from": inside}])
    assert of_frontends["podSelector"]["matchLabels"] == OWN_LABEL
    http = {"ports": [{"port": server["ports"][0]["name"]}]}
    assert of_frontends["ingress"] == [http, {"from": inside}]
