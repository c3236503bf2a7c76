"""Which run dir `--attach` means."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from fast_inference.batch.engine import attached_run_dir, remove_leftovers
from ipc.endpoints import RunDir
from ipc.errors import ConfigError


def test_a_folder_is_itself():
    assert attached_run_dir("/some/run").path == Path("/some/run")


def test_a_url_means_the_default_run_dir_of_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="no server runs on"):
        attached_run_dir("http://localhost:4321/v1")
    run_dir = RunDir.default(4321)
    run_dir.create()
    lock = run_dir.lock_launcher()
    assert attached_run_dir("http://localhost:4321/v1").path == run_dir.path
    os.close(lock)


@pytest.mark.parametrize("url", ["http://example.com:8000", "https://10.0.0.1", "http://localhost:port"])
def test_other_urls_are_refused(url: str):
    with pytest.raises(ConfigError, match="--attach: "):
        attached_run_dir(url)


def test_what_killed_jobs_have_left_is_removed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path_factory.mktemp("t")  # a path that leaves room for that of a socket
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("left", "running"):
        (folder / f"fast-inference-batch-{name}").mkdir()
        RunDir(folder / f"fast-inference-batch-{name}" / "run").create()
    (folder / "of-others").mkdir()
    lock = RunDir(folder / "fast-inference-batch-running" / "run").lock_launcher()
    remove_leftovers(time.time())
    assert len(list(folder.iterdir())) == 3
    remove_leftovers(time.time() + 3600)
    assert sorted(path.name for path in folder.iterdir()) == ["fast-inference-batch-running", "of-others"]
    os.close(lock)
