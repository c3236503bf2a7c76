"""Whatever refuses a request, the answer has the envelope; whatever a client sends, the log keeps its lines."""

import re

import pytest

from tests import raw_http
from tests.servers import Server
from tests.waiting import wait_until

KEY_HEADER = b"host: x\r\nauthorization: Bearer secret\r\n"
COMPLETION = {"model": "fake", "prompt": "hi", "max_tokens": 2}
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\{|starting |looking for |ready: |example: ")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Asks for a key, has short deadlines, logs everything, and fails on every request to the model."""
    flags = ["--frontends", "1", "--header-timeout", "0.4", "--body-timeout", "0.4", "--log-level", "debug"]
    flags += ["--allowed-hosts", "api.example.com", "--fake-faults", "nan@1"]
    server = Server(tmp_path_factory.mktemp("refusals"), "fake", *flags, FAST_INFERENCE_API_KEY="secret")
    yield server
    server.close()


def get(target: bytes, *, headers: bytes = KEY_HEADER, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, headers)


def post(path: str, body: dict[str, object]) -> bytes:
    return raw_http.post(path, body).replace(b"host: x\r\n", KEY_HEADER)


REFUSALS = {
    "malformed": (b"what?\r\n\r\n", 400, "invalid_http"),
    "no JSON": (get(b"/v1/completions", method=b"POST", headers=KEY_HEADER + b"content-length: 0\r\n"), 400, None),
    "no key": (get(b"/v1/models", headers=b"host: x\r\n"), 401, "invalid_api_key"),
    "wrong key": (get(b"/v1/models", headers=b"host: x\r\nx-api-key: \xff\r\n"), 401, "invalid_api_key"),
    "another host": (get(b"/v1/models", headers=b"host: other.example.com\r\n"), 403, "host_not_allowed"),
    "no route": (get(b"/nowhere"), 404, "not_found"),
    "no model": (post("/v1/completions", {**COMPLETION, "model": "other"}), 404, "model_not_found"),
    "wrong method": (get(b"/v1/completions"), 405, "method_not_allowed"),
    "slow head": (b"GET / HTTP/1.1\r\n", 408, "request_timeout"),
    "slow body": (get(b"/v1/completions", headers=KEY_HEADER + b"content-length: 9\r\n"), 408, "request_timeout"),
    "large body": (get(b"/tokenize", headers=KEY_HEADER + b"content-length: 9999999\r\n"), 413, "body_too_large"),
    "no media type of ours": (
        get(b"/tokenize", method=b"POST", headers=KEY_HEADER + b"content-type: text/xml\r\ncontent-length: 0\r\n"),
        415,
        "unsupported_media_type",
    ),
    "large head": (get(b"/", headers=KEY_HEADER + b"x: " + b"a" * 40_000 + b"\r\n"), 431, "headers_too_large"),
    "failure of the engine": (post("/v1/completions", COMPLETION), 500, "nan_logits"),
}
REFUSALS["slow body"] = (REFUSALS["slow body"][0].replace(b"GET", b"POST"), *REFUSALS["slow body"][1:])


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_has_the_envelope(server, name):
    request, status, code = REFUSALS[name]
    with raw_http.connect(server.url) as connection:
        connection.sendall(request)
        answer = raw_http.read_until(connection, b"}}")
    error = raw_http.error_of(answer)
    assert error["status"] == status
    assert code in (None, error["code"])
    assert not re.search(r"Traceback|\.py\b|/tmp|127\.0\.0\.1", error["message"])


def test_no_client_writes_a_line_of_the_log(server):
    """Control characters in paths, headers and bodies: CR, LF, ESC, C1, and what Python takes for a line end."""
    forged = "x\r\n2026-01-01 FORGED\x1b[31m\x9b\x85\u2028FORGED"
    quoted = b"%0d%0a2026-01-01%20FORGED%1b[31m%c2%85%e2%80%a8FORGED"
    requests = [
        get(b"/" + quoted),
        get(b"/v1/models/" + quoted),
        get(b"/health?" + quoted),
        get(b"/health", headers=KEY_HEADER + b"x-request-id: a\x1b[31mFORGED\xc2\x85FORGED\r\n"),
        get(b"/health", headers=KEY_HEADER + b"x-request-id: a\r\nFORGED: b\r\n"),
        get(b"/v1/requests/" + quoted + b"/cancel", method=b"POST", headers=KEY_HEADER + b"content-length: 0\r\n"),
        post("/v1/completions", {**COMPLETION, "model": forged}),
        post("/v1/completions", {**COMPLETION, "user": forged, "request_id": forged, forged: 1}),
        post("/v1/completions", {**COMPLETION, "prompt": forged}),
    ]
    num_before = num_expected = len(server.access_lines())
    for request in requests:
        with raw_http.connect(server.url) as connection:
            connection.sendall(request)
            num_expected += b"invalid_http" not in raw_http.read_until(connection, b"}")
    assert num_expected > num_before + 6
    wait_until(lambda: len(server.access_lines()) == num_expected)
    log = server.stderr_file.read_bytes().decode()
    assert "\x1b" not in log
    assert "\x9b" not in log
    assert [line for line in log.splitlines() if "FORGED" in line and not LOG_LINE.match(line)] == []
