"""A client that leaves stops its request in the core, in every phase and whether it streamed or not."""

import json
import socket
import struct

import pytest

from tests.processes import stats
from tests.waiting import wait_until


def send_request(server, *, stream, n=1):
    """Start a request that would run for long; returns the open socket."""
    body = {"model": "fake", "prompt": "a" * 500, "max_tokens": 3000, "ignore_eos": True, "stream": stream, "n": n}
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}"
    )
    client = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    client.sendall(head.encode() + b"\r\n\r\n" + payload)
    return client


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("is_reset", [True, False])
def test_its_request_stops_and_its_blocks_are_free(fake_server, stream, is_reset, n):
    with fake_server.connect() as core:
        client = send_request(fake_server, stream=stream, n=n)
        wait_until(lambda: stats(core)["num_running"] == n)
        if is_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        wait_until(lambda: stats(core)["num_running"] == 0, timeout_s=5)
        assert stats(core)["num_free_blocks"] == fake_server.num_blocks


def test_clients_that_leave_while_they_wait_leave_the_queue(tmp_path_factory, fake_server):
    with fake_server.connect() as core:
        running = [send_request(fake_server, stream=True) for _ in range(70)]
        wait_until(lambda: stats(core)["num_waiting"] > 0)
        for client in running:
            client.close()
        wait_until(lambda: stats(core)["num_running"] + stats(core)["num_waiting"] == 0, timeout_s=5)
        assert stats(core)["num_free_blocks"] == fake_server.num_blocks


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_sent_requests_ahead_leaves_nothing_running(fake_server, stream):
    with fake_server.connect() as core:
        client = send_request(fake_server, stream=stream)
        client.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: stats(core)["num_running"] == 1)
        client.close()
        wait_until(lambda: stats(core)["num_running"] == 0, timeout_s=5)


@pytest.mark.parametrize("stream", [True, False])
def test_a_malformed_request_behind_a_running_one_leaves_nothing_running(fake_server, stream):
    with fake_server.connect() as core:
        client = send_request(fake_server, stream=stream)
        wait_until(lambda: stats(core)["num_running"] == 1)
        client.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\nmalformed\r\n\r\n")
        wait_until(lambda: stats(core)["num_running"] == 0, timeout_s=5)
        client.close()
