import stat
from pathlib import Path

import pytest

from ipc.endpoints import RunDir
from ipc.errors import ConfigError


def test_a_run_dir_is_private(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="too long"):
        RunDir(tmp_path / ("x" * 100)).create()


def test_a_lock_is_held_once(tmp_path):
    RunDir(tmp_path).lock("core")
    with pytest.raises(ConfigError, match="another core runs"):
        RunDir(tmp_path).lock("core")


def test_locks_of_other_names_do_not_matter(tmp_path):
    RunDir(tmp_path).lock("core")
    assert RunDir(tmp_path).lock("launcher") > 0


def test_the_default_follows_the_runtime_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert RunDir.default(8001).path == Path(tmp_path, "fast-inference", "8001")
