"""The process: what it loads, and how it ends."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from frontend.connection_limit import RESERVED_DESCRIPTORS
from frontend.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS
from tests import raw_http
from tests.processes import core_process
from tests.waiting import wait_until


def test_a_frontend_loads_neither_torch_nor_transformers():
    code = "import sys, frontend.__main__; print(sorted({'torch', 'transformers', 'numpy', 'ray'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_without_its_configuration_it_says_so_in_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "frontend", "--config", str(tmp_path / "config.json"), "--fd", "0", "--index", "0"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1


def test_what_nobody_foresaw_is_a_trace_and_exit_code_70(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-m", "frontend", "--config", str(tmp_path / "config.json"), "--fd", "0", "--index", "0"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    assert process.returncode == 70
    assert "frontend 0 failed" in process.stderr
    assert "Traceback" in process.stderr


def run_on_a_core(folder: Path, *start: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a frontend that is to end by itself."""
    with core_process(folder, **settings) as core, socket.create_server(("127.0.0.1", 0)) as listening:
        core.connect()
        fd = listening.fileno()
        arguments = ["--config", str(core.run_dir.config_file), "--index", "0", "--fd", str(fd)]
        command = [sys.executable, *(start or ("-m", "frontend")), *arguments]
        return subprocess.run(command, pass_fds=[fd], capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("template", [None, "a\n{% for %}"])
def test_a_wrong_chat_template_is_one_line_and_exit_code_1(tmp_path: Path, template: str | None):
    file = tmp_path / "wrong.jinja"
    if template is not None:
        file.write_text(template)
    process = run_on_a_core(tmp_path / "run", chat_template=str(file))
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
    assert "chat template" in process.stderr


@pytest.mark.parametrize(
    "fault",
    [
        "from frontend.tokenizer import FrontendTokenizer; FrontendTokenizer.load = lambda *_: 1 / 0",
        "from frontend.deadlines import Deadlines; Deadlines.expire = lambda *_: 1 / 0",
    ],
    ids=["core", "connections"],
)
def test_an_unforeseen_failure_of_the_watching_is_exit_code_70(tmp_path: Path, fault: str):
    process = run_on_a_core(tmp_path, "-c", f"{fault}; import sys, frontend.__main__ as f; sys.exit(f.main())")
    assert process.returncode == 70
    assert "ZeroDivisionError" in process.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where a frontend listens that has no core."""
    config = tmp_path_factory.mktemp("run") / "config.json"
    config.write_text(json.dumps({"drain_timeout": 1, "log_level": "error"}))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        command = [sys.executable, "-m", "frontend", "--config", str(config), "--fd", str(fd), "--index", "0"]
        process = subprocess.Popen(command, pass_fds=[fd])
        yield listening.getsockname()
        process.terminate()
        process.wait(timeout=20)


def exchange(address: tuple[str, int], request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to some bytes."""
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(("path", "status"), [("/health", 503), ("/ping", 503), ("/health/live", 200)])
def test_probes_can_be_asked_without_a_body(address: tuple[str, int], path: str, status: int):
    request = f"HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    head, body = exchange(address, request.encode())
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert body == b""


@pytest.mark.parametrize("request_bytes", [b"what?\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 9])
def test_what_is_no_http_gets_the_envelope(address: tuple[str, int], request_bytes: bytes):
    head, body = exchange(address, request_bytes)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code", "status"}
    assert (error["status"], error["code"]) == (400, "invalid_http")


def head_of(num_headers: int, num_bytes: int = 0) -> bytes:
    """A request with this many headers, the first of which brings the head to this length."""
    others = b"".join(b"x-%d: 1\r\n" % number for number in range(num_headers - 2))
    start = b"GET /health/live HTTP/1.1\r\nconnection: close\r\n" + others + b"host: x"
    return start + b"x" * (num_bytes - len(start)) + b"\r\n\r\n"


@pytest.mark.parametrize("request_bytes", [head_of(MAX_HEADERS), head_of(2, MAX_HEAD_BYTES - 100)])
def test_a_head_up_to_the_limits_passes(address: tuple[str, int], request_bytes: bytes):
    assert exchange(address, request_bytes)[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        head_of(MAX_HEADERS + 1),
        head_of(2, MAX_HEAD_BYTES + 100),
        b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["number", "length", "target"],
)
def test_a_head_over_the_limits_is_431(address: tuple[str, int], request_bytes: bytes):
    head, body = exchange(address, request_bytes)
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nx: ", b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "]
)
def test_a_header_that_never_ends_is_cut_off(address: tuple[str, int], start: bytes):
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(start)
        pieces = (connection.send(b"x" * 2**16) for _ in range(1024))
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            sum(pieces)


def test_a_large_body_behind_a_head_in_pieces_is_no_head(address: tuple[str, int]):
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"POST /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-le")
        connection.sendall(b"ngth: 300000\r\n\r\n" + b"x" * 300_000)
        assert connection.recv(12) == b"HTTP/1.1 503"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(tmp_path: Path, number: signal.Signals):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"drain_timeout": 1}))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        command = [sys.executable, "-m", "frontend", "--config", str(config), "--fd", str(fd), "--index", "0"]
        process = subprocess.Popen(command, pass_fds=[fd])
        with socket.create_connection(listening.getsockname(), timeout=20) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
    process.send_signal(number)
    assert process.wait(timeout=20) == 0


def test_nothing_is_announced_while_there_is_no_core(tmp_path: Path):
    config = tmp_path / "config.json"
    config.write_text("{}")
    reading, writing = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fds = [listening.fileno(), writing]
        command = [sys.executable, "-m", "frontend", "--config", str(config), "--index", "0"]
        process = subprocess.Popen([*command, "--fd", str(fds[0]), "--ready-fd", str(writing)], pass_fds=fds)
        os.close(writing)
        with socket.create_connection(listening.getsockname(), timeout=20) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
    process.terminate()
    process.wait(timeout=20)
    assert os.read(reading, 10) == b""
    os.close(reading)


def test_few_descriptors_are_survived(tmp_path: Path):
    """Clients above what they suffice for hear 503, those below are served, and all are when others have left."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"drain_timeout": 1, "log_level": "error"}))
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as clients:
        fd = listening.fileno()
        command = [sys.executable, "-m", "frontend", "--config", str(config), "--fd", str(fd), "--index", "0"]
        limit = RESERVED_DESCRIPTORS + 20
        process = subprocess.Popen(
            command, pass_fds=[fd], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        request = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
        answers = []
        for _ in range(30):
            client = clients.enter_context(raw_http.connect(url))
            raw_http.send_all(client, request)
            answers.append(raw_http.read_until(client, b"}"))
        assert [raw_http.statuses(answer) for answer in answers] == [(200,)] * 20 + [(503,)] * 10
        assert raw_http.error_of(answers[-1])["code"] == "too_many_connections"
        clients.close()
        wait_until(lambda: exchange(listening.getsockname(), head_of(2))[0].startswith(b"HTTP/1.1 200 "))
        assert process.poll() is None
        process.terminate()
        process.wait(timeout=20)
