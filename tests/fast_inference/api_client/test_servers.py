"""Which server is meant, and what is said where there is none."""

import json
import socket

import pytest

from fast_inference.api_client.servers import find_server, first_key
from ipc.endpoints import RunDir
from ipc.errors import ConfigError


@pytest.fixture(autouse=True)
def own_runtime_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("RUN_DIR", "PORT"):
        monkeypatch.delenv(f"FAST_INFERENCE_{name}", raising=False)


def running(port, host="127.0.0.1"):
    run_dir = RunDir.default(port)
    run_dir.create()
    run_dir.lock_launcher()
    run_dir.status_file.write_text(json.dumps({"url": f"http://{host}:{port}"}))
    return run_dir


@pytest.fixture
def unused_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


def test_a_url_is_taken_as_it_is():
    assert find_server("http://h:1/v1", None).url == "http://h:1/v1"


def test_the_only_one_that_runs_is_found_with_an_address_that_can_be_reached():
    run_dir = running(8123, "0.0.0.0")
    found = find_server(None, None)
    assert (found.url, found.run_dir.path) == ("http://localhost:8123", run_dir.path)


def test_the_default_port_comes_first():
    running(8123)
    running(8000)
    assert find_server(None, None).url == "http://127.0.0.1:8000"


def test_of_several_none_is_guessed():
    running(8123)
    running(8124)
    with pytest.raises(ConfigError, match=r"several servers run: .*8123.*8124 \(say which with --url or --run-dir\)"):
        find_server(None, None)


def test_run_dir_and_port_count_from_the_environment_as_for_serve(monkeypatch):
    first, second = running(8123), running(8124)
    monkeypatch.setenv("FAST_INFERENCE_PORT", "8124")
    assert find_server(None, None).run_dir.path == second.path
    monkeypatch.setenv("FAST_INFERENCE_RUN_DIR", str(first.path))
    assert find_server(None, None).run_dir.path == first.path


def test_without_a_server_the_error_says_what_to_do(monkeypatch, unused_port):
    monkeypatch.setenv("FAST_INFERENCE_PORT", str(unused_port))
    with pytest.raises(ConfigError, match=r"no server runs here.*`fast-inference serve`.*--url"):
        find_server(None, None)


def test_a_run_dir_without_a_server_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"no server runs on {tmp_path}/x"):
        find_server(None, tmp_path / "x")


@pytest.mark.parametrize("text", ["[]", "{}", '{"url": 5}'])
def test_a_status_of_another_version_is_told(text):
    running(8123).status_file.write_text(text)
    with pytest.raises(ConfigError, match=r"status\.json was written by another version.*--url"):
        find_server(None, None)


@pytest.mark.parametrize(
    ("text", "key"),
    [("", None), ("a", "a"), (" a , b", "a"), ("sha256:1,b", "b"), ('["x", "y"]', "x"), ("sha256:1", None)],
)
def test_the_key_is_the_first_that_is_one(text, key):
    assert first_key(text) == key
