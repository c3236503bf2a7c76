import json
import os

import pytest

from fast_inference import cli_reload
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.process import start_ticks


def test_a_new_core_that_dies_at_once_is_waited_for(tmp_path, monkeypatch):
    run_dir = RunDir(tmp_path)

    def write_status(pid, state, server_state):
        status = {"state": server_state, "core": {"pid": pid, "state": state}, "reload": {"id": "x", "state": "done"}}
        run_dir.status_file.write_text(json.dumps(status))

    write_status(None, "stopped", "restarting")
    monkeypatch.setattr("time.sleep", lambda _: write_status(7, "ready", "ready"))
    status = cli_reload._wait(run_dir, "x", os.getpid(), start_ticks(os.getpid()), str)
    assert status["core"]["pid"] == 7


def test_a_checkpoint_is_reloaded_with_the_rope_of_the_server(tmp_path):
    run_dir = RunDir(tmp_path)
    run_dir.config_file.write_text('{"model": "/cache/x", "rope": "tokens"}')
    assert cli_reload._rope_of(run_dir, "models/next.PT") == "tokens"
    assert cli_reload._rope_of(run_dir, "smollm2-135m-instruct") is None


def test_a_status_of_another_version_is_told(tmp_path):
    run_dir = RunDir(tmp_path)
    run_dir.lock_launcher()
    run_dir.status_file.write_text('{"state": "ready"}')
    with pytest.raises(ConfigError, match=r"status\.json was written by another version"):
        cli_reload.reload(run_dir, None)
