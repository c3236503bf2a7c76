"""Which run dir `--attach` means."""

import os
from pathlib import Path

import pytest

from fast_inference.batch.engine import attached_run_dir
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
