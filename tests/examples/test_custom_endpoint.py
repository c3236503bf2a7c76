"""The example of a route of one's own serves, refuses, and lets its requests go."""

import json
import socket
from contextlib import contextmanager

import httpx
import pytest

from ipc.sync_client import SyncEngineClient
from tests.processes import stats
from tests.programs import ROOT, Program, free_port
from tests.waiting import wait_until

EXAMPLE = ROOT / "examples/custom_endpoint.py"
KEY = {"Authorization": "Bearer dummy"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("example"), free_port()
    environment = {"MODEL_PATH": "fake", "FAST_INFERENCE_API_KEY": "dummy", "FAST_INFERENCE_FAKE_STEP_MS": "50"}
    program = Program(folder, port, str(EXAMPLE), "--port", str(port), **environment)
    try:
        program.wait_ready()
        yield program
        assert program.end() == 0
    finally:
        program.close()


def summarize(server, body, headers=KEY):
    return httpx.post(f"{server.url}/v1/summarize", json=body, headers=headers)


@contextmanager
def leaving_client(url, body):
    """One that has asked, and leaves without an answer."""
    content = json.dumps(body).encode()
    head = f"POST /v1/summarize HTTP/1.1\r\nHost: localhost\r\nAuthorization: {KEY['Authorization']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as connection:
        connection.sendall(head.encode() + content)
        yield


def test_it_answers_with_a_summary_of_the_model(server):
    answer = summarize(server, {"text": "Cats sleep for most of the day.", "max_tokens": 5}).json()
    assert answer.keys() == {"summary", "num_tokens"}
    assert answer["summary"]
    assert answer["num_tokens"] > 5


@pytest.mark.parametrize(
    ("body", "param"), [({}, "text"), ({"text": ""}, "text"), ({"text": "x", "max_tokens": 0}, "max_tokens")]
)
def test_a_wrong_body_is_refused_in_our_envelope(server, body, param):
    answer = summarize(server, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_it_is_behind_the_key(server):
    assert summarize(server, {"text": "x"}, headers={}).status_code == 401


def test_the_model_stops_when_the_client_leaves(server):
    [socket_file] = server.temp_dir.rglob("core.sock")
    with SyncEngineClient(socket_file, name="test") as client:
        client.wait_ready(10)
        with leaving_client(server.url, {"text": "Cats sleep for most of the day.", "max_tokens": 1000}):
            wait_until(lambda: stats(client)["num_running"] == 1)
        wait_until(lambda: stats(client)["num_running"] == 0)
