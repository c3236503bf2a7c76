"""Malformed and hostile requests, byte for byte: refused in the envelope, and nothing behind them ever runs."""

import pytest

from tests import raw_http
from tests.http_corpus import BEHIND, BEHIND_PATH, CORPUS, RawRequest
from tests.servers import Server

GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


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


def test_what_is_behind_a_refused_request_never_runs(server):
    num_good = sum(case.is_followed for case in CORPUS)
    lines = [line for line in server.access_lines() if f" {BEHIND_PATH} " in line]
    assert len(lines) == num_good


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
