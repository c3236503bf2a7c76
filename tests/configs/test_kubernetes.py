"""configs/kubernetes: the manifests are valid, fit together, and what they say of our server is so."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from fast_inference.core_supervisor import CORE_GRACE_S
from fast_inference.flags import environment_name
from fast_inference.launcher import _FRONTEND_GRACE_S
from fast_inference.settings import Settings
from frontend.access import PUBLIC_ROUTES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/kubernetes"
VERSION = "1.32"
"""Of the oldest Kubernetes that is still used much."""
OF_OPERATORS = {"PodMonitor", "Kustomization"}
"""Kinds that are no part of Kubernetes itself."""
FILES = sorted(FOLDER.glob("*.yaml"))


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def pod() -> Any:
    return load("deployment.yaml")["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def server(pod: Any) -> Any:
    (container,) = pod["containers"]
    return container


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_valid(path):
    document = yaml.safe_load(path.read_text())
    if document["kind"] in OF_OPERATORS:
        with pytest.raises(kubernetes_validate.SchemaNotFoundError):
            kubernetes_validate.validate(document, VERSION, strict=True)
    else:
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_yamllint_has_nothing_to_say():
    program = Path(sys.executable).parent / "yamllint"
    argv = [program, "--strict", "configs", "docker-compose.yml", ".pre-commit-config.yaml"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_kustomize_gets_every_file():
    left_out = {"kustomization.yaml", "pod-monitor.yaml"}
    assert set(load("kustomization.yaml")["resources"]) == {path.name for path in FILES} - left_out


def test_probes_ask_what_answers_without_a_key_and_without_a_generation(server):
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert ("GET", server[name]["httpGet"]["path"]) in PUBLIC_ROUTES
        assert server[name]["httpGet"]["port"] == server["ports"][0]["name"]
    assert server["livenessProbe"]["httpGet"]["path"] == "/health/live"  # not of the core, which the launcher restarts


def test_it_has_the_time_to_drain(pod, server):
    drain_s = Settings.model_fields["drain_timeout"].default + _FRONTEND_GRACE_S + CORE_GRACE_S
    assert pod["terminationGracePeriodSeconds"] > server["lifecycle"]["preStop"]["sleep"]["seconds"] + drain_s


def test_variables_are_settings(server):
    assert {item["name"] for item in server["env"]} <= {environment_name(field) for field in Settings.model_fields}


def test_volumes_and_names_fit_together(pod, server):
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in server["volumeMounts"]} == set(volumes)
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == load("model-cache.yaml")["metadata"]["name"]
    kustomization = load("kustomization.yaml")
    (secret,) = kustomization["secretGenerator"]
    assert volumes["api-keys"]["secret"]["secretName"] == secret["name"]
    assert [image["name"] for image in kustomization["images"]] == [server["image"]]


def test_selectors_find_the_pods(server):
    labels = load("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    assert load("deployment.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert load("service.yaml")["spec"]["selector"] == labels
    assert load("service.yaml")["spec"]["ports"][0]["targetPort"] == server["ports"][0]["name"]
    assert load("disruption-budget.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert load("pod-monitor.yaml")["spec"]["selector"]["matchLabels"] == labels
    target = load("autoscaler.yaml")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", load("deployment.yaml")["metadata"]["name"])
