"""Malformed and hostile requests, byte for byte: refused in the envelope, and nothing behind them ever runs."""

import socket

import pytest

from fast_inference.bench.process_sizes import resident_bytes
from tests import raw_http
from tests.http_corpus import BEHIND, CORPUS, RawRequest
from tests.processes import cpu_seconds
from tests.servers import Server
from tests.waiting import wait_until

GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"

CHUNKED = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("raw"), "fake", "--frontends", "1")
    yield server
    server.close()


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_raw_requests_are_answered_or_refused_as_they_should(server, case: RawRequest):
    with raw_http.connect(server.url) as connection:
        raw_http.send_all(connection, case.data + BEHIND)
        answer = raw_http.read_all(connection)
    assert raw_http.statuses(answer) == (*case.statuses, *([404] if case.is_followed else []))
    if case.statuses[-1] >= 400 and not case.is_followed:
        raw_http.error_of(answer)
        assert b"connection: close\r\n" in answer


@pytest.mark.parametrize("case", [case for case in CORPUS if len(case.data) < 1000], ids=lambda case: case.name)
def test_raw_requests_in_pieces_are_taken_the_same_way(server, case: RawRequest):
    with raw_http.connect(server.url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for first in range(0, len(case.data) - 5, 5):
            raw_http.send_all(connection, case.data[first : first + 5])
        raw_http.send_all(connection, case.data[first + 5 :] + BEHIND)  # later it could come after a close: a reset
        answer = raw_http.read_all(connection)
    assert raw_http.statuses(answer) == (*case.statuses, *([404] if case.is_followed else []))


def test_what_is_behind_a_refused_request_never_runs(server):
    for case in CORPUS:
        with raw_http.connect(server.url) as connection:
            raw_http.send_all(connection, case.data + BEHIND.replace(b"/behind", b"/once-more"))
            raw_http.read_all(connection)
    num_good = sum(case.is_followed for case in CORPUS)
    wait_until(lambda: num_lines_of(server, "/once-more") >= num_good)
    assert num_lines_of(server, "/once-more") == num_good


def num_lines_of(server, path: str) -> int:
    return sum(f" {path} " in line for line in server.access_lines())


def test_what_comes_later_behind_a_refused_request_never_runs(server):
    with raw_http.connect(server.url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost : x\r\n\r\n")
        answer = raw_http.read_until(connection, b"}}")
        raw_http.send_all(connection, b"GET /later HTTP/1.1\r\nhost: x\r\n\r\n")
        answer += raw_http.read_all(connection)
    assert raw_http.statuses(answer) == (400,)
    assert not any("/later" in line for line in server.access_lines())


def test_more_requests_at_once_than_may_wait_end_the_connection(server):
    with raw_http.connect(server.url) as connection:
        raw_http.send_all(connection, GET * 2000)
        assert len(raw_http.statuses(raw_http.read_all(connection))) < 100


def test_a_refusal_reaches_a_client_that_is_still_sending(server):
    with raw_http.connect(server.url) as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 5000000\r\n\r\n")
        for _ in range(50):
            connection.sendall(b" " * 100_000)
        assert raw_http.error_of(raw_http.read_all(connection))["code"] == "body_too_large"


def test_a_stream_to_http_1_0_has_no_chunks_and_ends_with_the_connection(server):
    body = {"model": "fake", "prompt": "hi", "max_tokens": 5, "ignore_eos": True, "stream": True}
    with raw_http.connect(server.url) as connection:
        connection.sendall(raw_http.post("/v1/completions", body).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, events = raw_http.read_all(connection).partition(b"\r\n\r\n")
    assert raw_http.statuses(head) == (200,)
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert all(event.startswith(b"data: ") for event in events.rstrip().split(b"\n\n"))
    assert events.endswith(b"data: [DONE]\n\n")


def test_refusals_whose_bodies_come_later_can_follow_each_other_on_one_connection(server):
    num_refusals = 20
    head = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    with raw_http.connect(server.url) as connection:
        for _ in range(num_refusals):
            connection.sendall(head)
            assert raw_http.statuses(raw_http.read_until(connection, b"}}")) == (404,)
            connection.sendall(b" " * 1_000_000)


@pytest.mark.parametrize(
    "data",
    [
        GET[:-2] + b"x-a: " + b"a" * 2**20 + b"\r\n\r\n",
        GET[:-2] + b"x-a: b\r\n" * 1000 + b"\r\n",
        b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        CHUNKED + b"1\r\n \r\n" * 4 * 2**20,
        CHUNKED + b"400\r\n" + (b" " * 1024 + b"\r\n400\r\n") * 5 * 1024,
        b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 5242880\r\n\r\n" + b" " * 5 * 2**20,
        b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 4194304\r\n\r\n" + b"[" * 4 * 2**20,
    ],
    ids=["header", "headers", "target", "1-byte chunks", "chunks above the limit", "declared", "nested"],
)
def test_a_hostile_request_costs_little(server, data):
    (frontend,) = server.frontend_pids
    memory, cpu_s = resident_bytes(frontend), cpu_seconds(frontend)
    with raw_http.connect(server.url) as connection:
        raw_http.send_all(connection, data)
        answer = raw_http.read_all_there_is(connection)
    assert raw_http.statuses(answer)[:1] in {(400,), (413,), (431,)}
    cpu_s = cpu_seconds(frontend) - cpu_s
    assert memory is not None
    grown_bytes = (resident_bytes(frontend) or 0) - memory
    print(f"{raw_http.statuses(answer)}: {cpu_s:.2f} s of CPU, {grown_bytes / 2**20:+.1f} MiB")
    assert cpu_s < 1
    assert grown_bytes < 8 * 2**20
