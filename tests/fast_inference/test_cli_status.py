"""`fast-inference status` where the core does not answer."""

import argparse
import json
import os

import pytest

from fast_inference.cli_status import EXIT_NOT_READY, _show, look_at_run_dir
from ipc.endpoints import RunDir
from ipc.errors import ConfigError, EngineUnavailableError


class _Silent:
    def look(self):
        raise EngineUnavailableError("the engine is not ready: loading weights")


@pytest.fixture
def run_dir(tmp_path):
    """Of a launcher, which is this process, whose core died."""
    run_dir = RunDir(tmp_path)
    status = {
        "state": "restarting",
        "launcher": {"pid": os.getpid()},
        "core": {"pid": None, "state": "stopped", "last_exit": "was killed by SIGKILL"},
        "frontends": [],
        "batch_runner": {"pid": None, "state": "stopped"},
    }
    run_dir.status_file.write_text(json.dumps(status))
    return run_dir


def test_a_server_without_a_core_is_shown_and_status_3(run_dir, capsys):
    run_dir.lock_launcher()
    namespace = argparse.Namespace(json=False, watch=None)
    assert _show(namespace, lambda: look_at_run_dir(run_dir, "http://h:1", _Silent())) == EXIT_NOT_READY
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("restarting  http://h:1")
    assert "load   not known: the engine is not ready: loading weights" in lines


@pytest.mark.parametrize("change", [{"core": {}}, {"launcher": 1}, {"frontends": [{}]}, {"core": {"restarts": 1}}])
def test_a_status_of_another_version_is_told(run_dir, change):
    run_dir.lock_launcher()
    run_dir.status_file.write_text(json.dumps(json.loads(run_dir.status_file.read_text()) | change))
    with pytest.raises(ConfigError, match=r"status\.json was written by another version"):
        look_at_run_dir(run_dir, "http://h:1", _Silent())


def test_a_server_that_has_ended_is_an_error(run_dir):
    with pytest.raises(ConfigError, match=r"no server runs on .* any more"):
        look_at_run_dir(run_dir, "http://h:1", _Silent())
