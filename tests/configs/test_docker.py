"""Dockerfile and docker-compose.yml: a linter takes them, and what they say of our files and settings is so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from fast_inference.core_supervisor import CORE_GRACE_S
from fast_inference.flags import SECTIONS, environment_name, flag_name
from fast_inference.launcher import _FRONTEND_GRACE_S
from fast_inference.settings import Settings
from tests.nginx import Nginx, free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
STEPS = (ROOT / "scripts/check_dockerfile_steps").read_text()
LONGEST_STOP_S = Settings.model_fields["drain_timeout"].default + _FRONTEND_GRACE_S + CORE_GRACE_S


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction, on one line each."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.removeprefix(name).strip() for line in joined.splitlines() if line.startswith(name + " ")]


def variables_of_the_image() -> dict[str, str]:
    pairs = (pair.partition("=") for line in instructions("ENV") for pair in line.split())
    return {name: value for name, _, value in pairs}


def test_hadolint_has_nothing_to_say():
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_let_through():
    sources = [line.split()[0] for line in instructions("COPY") if not line.startswith("--from")]
    sources += [line.split()[1] for line in instructions("COPY") if len(line.split()) == 3 and "--from" not in line]
    for source in set(sources) - {"./"}:
        assert (ROOT / source).exists()
        assert f"!{source}" in IGNORED


def test_the_packages_of_the_wheel_are_all_copied():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= {line.split()[0] for line in instructions("COPY")}


def test_its_variables_are_settings():
    known = {environment_name(field) for field in Settings.model_fields}
    names = {name for name in variables_of_the_image() if name.startswith("FAST_INFERENCE_")}
    assert {"FAST_INFERENCE_HOST", "FAST_INFERENCE_RUN_DIR"} <= names <= known


def run_entrypoint(folder: Path, **variables: str) -> list[str]:
    """Arguments, model, tokenizer and name that reach the program."""
    program = folder / "fast-inference"
    names = ("MODEL", "TOKENIZER", "SERVED_MODEL_NAME")
    program.write_text("#!/bin/sh\n" + "\n".join(['echo "$@"', *(f'echo "$FAST_INFERENCE_{name}"' for name in names)]))
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", **variables}
    argv = [ROOT / "scripts/docker-entrypoint", "serve", "--port", "1"]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_older_variables_count_where_the_newer_ones_say_nothing(tmp_path):
    older = {"MODEL_PATH": "m.pt", "TOKENIZER_PATH": "org/t", "MODEL_NAME": "mine"}
    assert run_entrypoint(tmp_path) == ["serve --port 1", "", "", ""]
    assert run_entrypoint(tmp_path, **older) == ["serve --port 1", "m.pt", "org/t", "mine"]
    assert run_entrypoint(tmp_path, **older, FAST_INFERENCE_MODEL="new")[1] == "new"


def test_it_does_not_run_as_root():
    assert instructions("USER") == ["10001:10001"]


def test_the_health_check_says_yes_to_a_server_and_no_to_none(fake_server):
    (line,) = instructions("HEALTHCHECK")
    python, *arguments = json.loads(line[line.index("[") :])
    assert python == "python"

    def run(port: str) -> int:
        proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}"}  # for downloads
        environment = {**os.environ, **proxy, "FAST_INFERENCE_PORT": port}
        return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, timeout=20).returncode

    assert run(fake_server.url.rpartition(":")[2]) == 0
    assert run(str(free_port())) != 0


def test_the_script_that_does_the_steps_without_docker_does_the_same_ones():
    commands = re.findall(r"pip install .*?(?=;|\\|\n|$)", DOCKERFILE)
    assert len(commands) == 3
    steps = STEPS.replace('"', "").replace("install -q ", "install ")
    for command in commands:
        assert command.strip().replace("/tmp/", "$work/") in steps
    dependencies = re.search(r'python -c "(import os, tomllib.*?)"', DOCKERFILE)
    assert dependencies is not None
    assert dependencies[1] in STEPS
    for name in variables_of_the_image():
        assert name in STEPS or name.startswith(("NVIDIA_", "PIP_"))


def test_compose_gives_the_server_time_to_drain():
    assert int(COMPOSE["services"]["server"]["stop_grace_period"].removesuffix("s")) > LONGEST_STOP_S


def test_compose_uses_flags_and_variables_that_exist():
    server = COMPOSE["services"]["server"]
    flags = {flag for flag in server["command"] if flag.startswith("--")}
    assert flags <= {flag_name(name) for section in SECTIONS for name in section.model_fields}
    assert set(server["environment"]) <= {environment_name(field) for field in Settings.model_fields}


def test_compose_mounts_files_that_exist_and_volumes_that_it_names():
    mounts = [mount for service in COMPOSE["services"].values() for mount in service.get("volumes", ())]
    sources = {mount.split(":")[0] for mount in mounts}
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])
    assert [source for source in sources if source.startswith(".") and not (ROOT / source).exists()] == []


def test_compose_publishes_nothing_beyond_this_machine():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_nginx_takes_what_compose_makes_of_its_file(tmp_path):
    """`server` is a name in the network of the containers; here it is replaced once more."""
    *_, script = COMPOSE["services"]["nginx"]["command"]
    program = re.search(r"sed '(.*?)'", script)
    assert program is not None
    text = (ROOT / "configs/nginx.conf").read_text()
    made = subprocess.run(["sed", program[1]], input=text, capture_output=True, text=True, check=True).stdout
    ports = re.findall(r"server server:(\d+)", made)
    assert ports == COMPOSE["services"]["server"]["expose"]
    assert Nginx(tmp_path, [8000, 8001], made.replace("server server:", "server 127.0.0.1:")).check().returncode == 0
