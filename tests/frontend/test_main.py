"""The process: what it loads, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_frontend_loads_neither_torch_nor_transformers():
    code = "import sys, frontend.__main__; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_without_its_configuration_it_says_so_in_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "frontend", "--config", str(tmp_path / "config.json"), "--fd", "0", "--index", "0"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1


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
