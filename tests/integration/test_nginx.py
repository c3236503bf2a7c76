"""nginx with configs/nginx.conf in front of two frontends that have a port each."""

import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.nginx import Nginx, free_port
from tests.processes import stats
from tests.servers import Server
from tests.waiting import wait_until

BARE = """
events {}
http {
    upstream fast_inference {
        server localhost:8000;
        server localhost:8001;
        server localhost:8002;
    }

    server {
        listen 80;
        server_name api.example.com;

        location / {
            proxy_pass http://fast_inference;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
        }
    }
}
"""
"""The least that people write; it says nothing of streams."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--frontends", "2", "--frontend-ports", "--allowed-hosts", "api.example.com")
    server = Server(tmp_path_factory.mktemp("server"), "fake", *flags, "--fake-step-ms", "150")
    yield server
    server.close()


def ports(server: Server) -> list[int]:
    return [frontend["port"] for frontend in server.status["frontends"]]


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx"), ports(server)) as nginx:
        yield nginx


def completion(max_tokens: int, **options: object) -> dict[str, object]:
    return {"model": "fake", "prompt": "a", "max_tokens": max_tokens, "ignore_eos": True, **options}


def num_running(server: Server) -> int:
    """As the core itself says at this moment."""
    with server.connect() as client:
        return int(stats(client)["num_running"])


@pytest.mark.parametrize("config", [None, BARE], ids=["ours", "bare"])
def test_nginx_takes_the_file(tmp_path, config):
    done = Nginx(tmp_path, [8000, 8001], config).check()
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.mark.parametrize("config", [None, BARE], ids=["ours", "bare"])
def test_events_come_one_by_one_while_the_answer_is_computed(server, tmp_path, config):
    with Nginx(tmp_path, ports(server), config) as nginx, httpx.Client(base_url=nginx.url, timeout=20) as client:
        body = completion(6, stream=True)
        with client.stream("POST", "/v1/completions", json=body, headers={"host": "api.example.com"}) as response:
            assert response.status_code == 200
            lines = (line for line in response.iter_lines() if line.startswith("data: "))
            assert json.loads(next(lines)[6:])["choices"]
            assert num_running(server) == 1  # all events together are smaller than any buffer of nginx
            assert list(lines)[-1] == "data: [DONE]"


def test_a_client_that_leaves_ends_its_request_through_nginx(server, nginx):
    body = completion(1000, stream=True)
    with httpx.stream("POST", f"{nginx.url}/v1/completions", json=body, timeout=20) as response:
        lines = response.iter_lines()  # which closes the response when it is forgotten
        next(lines)
        wait_until(lambda: num_running(server) == 1)
    wait_until(lambda: num_running(server) == 0)


def test_a_redirect_leads_back_to_the_port_that_was_asked(nginx):
    response = httpx.get(f"{nginx.url}/dashboard/", headers={"host": "api.example.com:8443"}, timeout=20)
    assert response.headers["location"] == "http://api.example.com:8443/dashboard"


def test_a_client_of_http_1_0_without_a_host_is_served(nginx):
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_both_frontends_get_requests(server, nginx):
    with httpx.Client(base_url=nginx.url, timeout=20) as client:
        pids = Counter(client.get("/health/live").json()["pid"] for _ in range(10))
    assert sorted(pids) == sorted(server.frontend_pids)


def test_request_ids_go_both_ways_and_to_the_log(nginx):
    given = httpx.get(f"{nginx.url}/health", headers={"x-request-id": "mine-7"}, timeout=20)
    refused = httpx.get(f"{nginx.url}/health", headers={"x-request-id": "not one of ours"}, timeout=20)
    made = httpx.get(f"{nginx.url}/health", timeout=20)
    assert given.headers["x-request-id"] == "mine-7"
    wait_until(lambda: made.headers["x-request-id"] in nginx.log)
    ids = [json.loads(line)["request_id"] for line in nginx.log.splitlines()]
    assert "mine-7" in ids
    assert refused.headers["x-request-id"] in ids  # one that our side would not take gets another on both


def test_a_killed_frontend_costs_no_request_that_has_not_begun_to_answer(server, nginx):
    """Those that it had not answered yet are asked of the other one; new ones go there too, or wait for the next."""
    failures: list[str] = []
    statuses: Counter[int] = Counter()
    is_over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=nginx.url, timeout=30) as client:
            while not is_over.is_set():
                try:
                    statuses[client.post("/v1/completions", json=completion(1)).status_code] += 1
                except httpx.HTTPError as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: statuses[200] >= 4)
    victim = server.frontend_pids[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: server.frontend_pids[0] != victim and server.status["frontends"][0]["state"] == "ready", 40)
    served_before = statuses[200]
    wait_until(lambda: statuses[200] >= served_before + 8, 40)
    is_over.set()
    for thread in threads:
        thread.join(40)
    assert failures == []
    assert set(statuses) == {200}


def test_probes_of_a_core_that_hangs_do_not_close_nginx_to_other_requests(server, nginx):
    """Each is told 503; frontends are well all the same, and hold completions until the core is back."""
    core = server.status["core"]["pid"]
    with httpx.Client(base_url=nginx.url, timeout=20) as client:
        os.kill(core, signal.SIGSTOP)
        try:
            wait_until(lambda: client.get("/health").status_code == 503, 20)
            codes = [client.get("/health").json().get("status") for _ in range(20)]
            assert set(codes) == {"stalled"}
            assert client.get("/health/live").status_code == 200
        finally:
            os.kill(core, signal.SIGCONT)
        wait_until(lambda: client.get("/health").status_code == 200, 20)


def test_where_no_frontend_can_be_reached_clients_get_our_error_and_try_again(tmp_path):
    with Nginx(tmp_path, [free_port(), free_port()]) as nginx:
        response = httpx.post(f"{nginx.url}/v1/completions", json=completion(1), timeout=20)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert error_of(response)["code"] == "engine_unavailable"


def test_a_large_body_is_refused_in_our_form(nginx):
    response = httpx.post(f"{nginx.url}/v1/completions", content=b"x" * (5 * 2**20), timeout=20)
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


def test_files_may_be_larger(nginx):
    files = {"file": ("batch.jsonl", b"\n" * (5 * 2**20))}
    response = httpx.post(f"{nginx.url}/v1/files", files=files, data={"purpose": "batch"}, timeout=20)
    assert response.status_code == 200, response.text
    httpx.delete(f"{nginx.url}/v1/files/{response.json()['id']}", timeout=20).raise_for_status()


def error_of(response: httpx.Response) -> dict[str, object]:
    error: dict[str, object] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "status"}
    assert error["status"] == response.status_code
    return error
