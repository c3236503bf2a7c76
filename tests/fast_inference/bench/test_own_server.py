"""A server of one's own runs as long as it is needed."""

import os
import urllib.request
from pathlib import Path

import pytest

from fast_inference.bench.own_server import own_server
from tests.servers import is_running


def pids_of(command: str) -> list[str]:
    """Processes of ours whose command line has this text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if command.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_it_serves_and_is_gone_afterwards():
    name = f"own-server-of-{os.getpid()}"
    with own_server(["fake", "--served-model-name", name, "--frontends", "2"]) as server:
        with urllib.request.urlopen(f"{server.url}/v1/models") as answer:
            assert name in answer.read().decode()
        assert pids_of(name)
        assert len(server.frontend_pids) == 2
        assert all(pid and is_running(pid) for pid in (server.core_pid, *server.frontend_pids))
    assert pids_of(name) == []


def test_one_that_cannot_start_ends_with_its_status_and_has_said_why(capfd):
    with pytest.raises(SystemExit) as exit_info, own_server(["/no/such/model"]):
        pass
    assert exit_info.value.code == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "/no/such/model" in errors[0]
