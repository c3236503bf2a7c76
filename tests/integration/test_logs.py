"""The log of a whole server as JSON: every line is an object, requests can be followed, nobody's text is in it."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import Server
from tests.waiting import wait_until

SECRET = "xyzzy-plugh"
PLAIN = ("looking for the model ", "starting the ", "importing ")
"""Stages of the start, which the launcher tells people."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--log-format", "json", "--frontends", "1", "--fake-faults", "bad@3,nan@5"]
    server = Server(tmp_path_factory.mktemp("server"), "fake", *flags)
    yield server
    server.close()


def lines(server: Server) -> list[dict[str, Any]]:
    text = [line for line in server.stderr.splitlines() if not line.startswith(PLAIN)]
    return [json.loads(line) for line in text]


def chat(server: Server, request_id: str, **fields: Any) -> int:
    body = {"messages": [{"role": "user", "content": SECRET}], "model": "fake", "max_tokens": 5, **fields}
    headers = {"X-Request-Id": request_id}
    with server.http() as http:
        return http.post("/v1/chat/completions", json=body, headers=headers).status_code


def send_raw(server: Server, request: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        while connection.recv(4096):
            pass


def test_each_request_can_be_followed_into_the_core_and_no_text_of_it_is_logged(server: Server):
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": SECRET}}}
    statuses = [chat(server, f"request-{number}") for number in range(1, 6)]
    statuses += [chat(server, "request-6", response_format=schema), chat(server, "request-7", temperature=SECRET)]
    assert statuses == [200, 200, 500, 200, 500, 400, 400]
    wait_until(lambda: sum(line["logger"] == "frontend.access" for line in lines(server)) >= 7)
    of_core = {line["request_id"]: line["message"] for line in lines(server) if "ends: " in line["message"]}
    assert of_core["request-3"].endswith("ends: step_failed")
    assert of_core["request-5"].endswith("ends: nan_logits")
    of_frontend = {line["request_id"] for line in lines(server) if line["logger"] == "frontend.access"}
    assert of_frontend >= {f"request-{number}" for number in range(1, 8)}
    assert {line["process"] for line in lines(server)} >= {"core", "frontend-0"}
    assert SECRET not in server.stderr


def test_a_trace_is_in_the_object_of_its_line(server: Server):
    assert chat(server, "traced") in (200, 500)
    [line] = [line for line in lines(server) if line["message"].endswith(" failed") and "trace" in line][:1]
    assert "injected by fake_faults" in line["trace"]


def test_what_clients_write_cannot_begin_a_line(server: Server):
    forged = b'%0d%0a{"level": "error", "message": "forged"}%1b[2J'
    before = len(lines(server))
    send_raw(server, b"GET /" + forged + b" HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x1bb\r\nConnection: close\r\n\r\n")
    send_raw(server, b'GET /\x1b[2J"\\ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    send_raw(server, b"\x1b[2J\r\n\r\n")
    chat(server, "z", model='\r\n{"message": "forged"}')
    wait_until(lambda: len(lines(server)) >= before + 2)
    assert not [line for line in lines(server) if line["message"] == "forged"]
    assert "\x1b" not in server.stderr
