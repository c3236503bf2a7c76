"""Clients that keep connections busy with next to nothing, and clients that do not read what they asked for."""

import resource
import select
import socket
import time

import pytest

from tests import raw_http
from tests.processes import stats
from tests.servers import Server
from tests.waiting import wait_until

TIMEOUT_S = 0.4
KEEP_ALIVE_S = 0.8
GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD_OF_POST = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
MANY_TOKENS = 3500


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One frontend with short deadlines, and a model that answers at 1 ms a token; started with few descriptors."""
    flags = ["--frontends", "1", "--fake-step-ms", "1", "--keep-alive-timeout", str(KEEP_ALIVE_S)]
    for name in ("header", "body", "send"):
        flags += [f"--{name}-timeout", str(TIMEOUT_S)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))
    try:
        server = Server(tmp_path_factory.mktemp("slow"), "fake", *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    yield server
    server.close()


def test_every_process_may_open_as_many_files_as_the_system_lets_it(server):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] for pid in (server.process.pid, *server.child_pids)}
    assert len(limits) == 3
    assert set(limits.values()) == {hard}


def trickle(connection: socket.socket, start: bytes, piece: bytes) -> tuple[bytes, float]:
    """Send a piece each 50 ms until the server answers or closes; the answer, and seconds from the first byte."""
    began_at = time.monotonic()
    connection.sendall(start)
    deadline = began_at + raw_http.TIMEOUT_S
    while not select.select([connection], [], [], 0.05)[0]:
        assert time.monotonic() < deadline, "it goes on for ever"
        connection.sendall(piece)
    seconds = time.monotonic() - began_at
    return raw_http.read_all(connection), seconds


@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"GET / HTTP/1.1\r\n", b"x-a: b\r\n"), (b"GET /", b"a"), (HEAD_OF_POST, b" "), (HEAD_OF_POST, b"")],
    ids=["headers", "first line", "body", "silence"],
)
def test_a_request_that_trickles_in_is_cut_off_at_its_deadline(server, start, piece):
    with raw_http.connect(server.url) as connection:
        answer, seconds = trickle(connection, start, piece)
    assert raw_http.error_of(answer)["code"] == "request_timeout"
    assert raw_http.statuses(answer) == (408,)
    assert b"connection: close\r\n" in answer
    assert seconds >= TIMEOUT_S


def test_the_time_for_a_second_request_begins_with_its_first_byte(server):
    with raw_http.connect(server.url) as connection:
        connection.sendall(GET)
        raw_http.read_until(connection, b"}")
        assert not select.select([connection], [], [], TIMEOUT_S)[0]
        answer, seconds = trickle(connection, b"GET / HTTP/1.1\r\n", b"x-a: b\r\n")
    assert raw_http.statuses(answer) == (408,)
    assert seconds >= TIMEOUT_S


def test_a_body_that_did_not_come_is_a_408_in_the_access_log(server):
    with raw_http.connect(server.url) as connection:
        connection.sendall(HEAD_OF_POST.replace(b"host", b"x-request-id: late\r\nhost"))
        raw_http.read_all(connection)
    wait_until(lambda: any(" /tokenize 408 " in line and line.endswith(" late") for line in server.access_lines()))


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "blank lines"])
def test_a_connection_that_brings_no_request_is_only_closed(server, sent):
    with raw_http.connect(server.url) as connection:
        assert trickle(connection, sent, sent)[0] == b""


def test_an_idle_connection_is_closed(server):
    with raw_http.connect(server.url) as connection:
        began_at = time.monotonic()
        connection.sendall(GET)
        assert raw_http.statuses(raw_http.read_all(connection)) == (200,)
    assert time.monotonic() - began_at >= KEEP_ALIVE_S


def test_a_request_that_was_refused_before_its_body_came_is_cut_off_too(server):
    with raw_http.connect(server.url) as connection:
        connection.sendall(HEAD_OF_POST.replace(b"/tokenize", b"/nowhere"))
        assert raw_http.statuses(raw_http.read_all(connection)) == (404,)


def test_a_large_body_may_take_as_long_as_it_comes_steadily(server):
    pieces = [b" " * 5000] * 20 + [b'{"prompt":"hi"}']
    with raw_http.connect(server.url) as connection:
        began_at = time.monotonic()
        connection.sendall(HEAD_OF_POST.replace(b"1000", b"%d" % sum(map(len, pieces))))
        for piece in pieces:
            time.sleep(0.06)
            connection.sendall(piece)
        assert raw_http.statuses(raw_http.read_until(connection, b"}")) == (200,)
    assert time.monotonic() - began_at > 2 * TIMEOUT_S


def test_an_answer_takes_as_long_as_it_takes(server):
    body = {"model": "fake", "prompt": "long", "max_tokens": 1000, "ignore_eos": True}
    with server.http() as http:
        began_at = time.monotonic()
        assert http.post("/v1/completions", json=body).status_code == 200
    assert time.monotonic() - began_at > 1.2 * max(TIMEOUT_S, KEEP_ALIVE_S)


# --- clients that do not read ---


def completion(**fields):
    return {"model": "fake", "prompt": "a" * 500, "max_tokens": MANY_TOKENS, "ignore_eos": True, **fields}


def test_a_client_that_reads_no_byte_of_a_stream_is_reset_and_its_request_stops(server):
    with server.connect() as core, raw_http.connect(server.url, receive_buffer_bytes=2048) as connection:
        connection.sendall(raw_http.post("/v1/completions", completion(stream=True, logprobs=5)))
        wait_until(lambda: stats(core)["num_running"] == 1)
        wait_until(lambda: "its client took nothing" in server.stderr)
        wait_until(lambda: stats(core)["num_running"] == 0, timeout_s=1)
        assert stats(core)["num_free_blocks"] == server.num_blocks
        with pytest.raises(ConnectionResetError):
            raw_http.read_all(connection)


def test_a_client_that_reads_slowly_gets_everything(server):
    log_before = server.stderr
    with raw_http.connect(server.url, receive_buffer_bytes=65536) as connection:
        connection.sendall(raw_http.post("/v1/completions", completion(stream=True, max_tokens=800)))
        answer = b""
        while b"data: [DONE]" not in answer:
            answer += connection.recv(20_000)
            time.sleep(0.02)
    assert "took nothing" not in server.stderr[len(log_before) :]


def test_a_client_that_leaves_a_whole_answer_unread_is_reset(server):
    log_before = server.stderr
    with raw_http.connect(server.url, receive_buffer_bytes=2048) as connection:
        body = completion(n=8, logprobs=5, max_tokens=500)
        connection.sendall(raw_http.post("/v1/completions", body))
        wait_until(lambda: "took nothing" in server.stderr[len(log_before) :], timeout_s=20)
        with pytest.raises(ConnectionResetError):
            raw_http.read_all(connection)
