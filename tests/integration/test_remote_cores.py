"""Two servers as on two hosts: one has the core and no frontends, the other the frontends, with a network between them
that can be cut (`tests/tcp_proxy.py`; `scripts/check_namespaces.py` does the same with real ones)."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ipc.curve import CurveDir
from tests.programs import free_port
from tests.servers import READY_LINE, StartingServer
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

NUM_STREAMS = 20


class CoreHost(StartingServer):
    """A core without frontends."""

    def __init__(self, folder, keys, port):
        self.endpoint = f"tcp://127.0.0.1:{port}"
        flags = ["--frontends", "0", "--core-endpoint", self.endpoint, "--curve-dir", str(keys)]
        super().__init__(folder, "fake", "--fake-step-ms", "5", *flags)
        self.ready_line = self.process.stdout.readline().rstrip("\n")


class FrontendHost(StartingServer):
    """Frontends whose cores are elsewhere."""

    def __init__(self, folder, keys, endpoint):
        super().__init__(folder, f"--connect={endpoint}", "--curve-dir", str(keys))
        self.ready_line = self.process.stdout.readline().rstrip("\n")
        self.url = READY_LINE.match(self.ready_line)[1]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = CurveDir(tmp_path_factory.mktemp("keys"))
    folder.make("client")
    return folder.path


@pytest.fixture(scope="module")
def core_host(tmp_path_factory, keys):
    host = CoreHost(tmp_path_factory.mktemp("core"), keys, free_port())
    yield host
    host.close()


@pytest.fixture(scope="module")
def proxy(core_host):
    with TcpProxy(int(core_host.endpoint.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def frontend_host(tmp_path_factory, keys, proxy):
    host = FrontendHost(tmp_path_factory.mktemp("frontends"), keys, f"tcp://127.0.0.1:{proxy.port}")
    yield host
    host.close()


def body_of(number, **fields):
    return {"model": "fake-model", "prompt": [number], "max_tokens": 300, "temperature": 0, "stream": True, **fields}


def text_of(url, number, on_begin=lambda: None):
    """The text of a stream that comes to its end."""
    body = body_of(number, model="fast-inference-model")
    texts = []
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                texts.append(json.loads(line.removeprefix("data: "))["choices"][0]["text"])
                on_begin()
            assert "error" not in line, line
    assert line == "" or line == "data: [DONE]"
    return "".join(texts)


@pytest.fixture(scope="module")
def expected(frontend_host):
    """The texts of all streams where nothing happens."""
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        return list(pool.map(lambda number: text_of(frontend_host.url, number), range(NUM_STREAMS)))


def texts_while(url, disturb):
    """The texts of streams that have all begun when `disturb` is called."""
    begun = set()
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        asked = [
            pool.submit(text_of, url, number, lambda number=number: begun.add(number)) for number in range(NUM_STREAMS)
        ]
        wait_until(lambda: len(begun) == NUM_STREAMS)
        disturb()
        return [each.result() for each in asked]


def test_a_core_without_frontends_says_where_it_is(core_host):
    assert core_host.ready_line == f"ready: {core_host.endpoint} (model fake, 0 frontends, 2048 blocks)"
    assert core_host.status["frontends"] == []


def test_frontends_have_no_core_of_their_own(frontend_host):
    assert frontend_host.ready_line.endswith("(model fake, 2 frontends, 2048 blocks)")
    assert (frontend_host.status["core"]["state"], frontend_host.status["core"]["pid"]) == ("ready", None)
    names = [model["id"] for model in httpx.get(f"{frontend_host.url}/v1/models").json()["data"]]
    assert names == ["fake", "fast-inference-model"]


def test_a_cut_link_is_waited_for(frontend_host, proxy, expected):
    def cut():
        proxy.cut()
        time.sleep(1.5)
        proxy.mend()

    assert texts_while(frontend_host.url, cut) == expected


def test_streams_outlive_the_core_on_the_other_host(frontend_host, core_host, expected):
    """Its launcher starts it again; until then, who comes is told when to come again."""
    pid = core_host.core_pid

    def kill():
        os.kill(pid, signal.SIGKILL)
        refusals = []

        def is_refused():
            answer = httpx.post(f"{frontend_host.url}/v1/completions", json=body_of(1, model="fake", max_tokens=1))
            if answer.status_code == 503:
                refusals.append(answer)
            return refusals

        wait_until(is_refused)
        assert int(refusals[0].headers["retry-after"]) >= 1

    assert texts_while(frontend_host.url, kill) == expected
    wait_until(lambda: core_host.status["core"]["state"] == "ready" and core_host.core_pid != pid)
