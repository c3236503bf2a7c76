"""The state dir of a server: where it is, who may have it, and what is refused or tidied at the start."""

import os
import sqlite3
import stat
from contextlib import closing

import pytest

from fast_inference.batch_runner import open_state_dir
from fast_inference.settings import Settings
from frontend.batch_api.records import BatchRecord, BatchStatus, FileRecord, ResultName, result_file_id
from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.store import StateStore
from ipc.endpoints import RunDir
from ipc.errors import ConfigError


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens a state dir as a server does."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))

    def open_with(port: int = 1234, **settings) -> StateDir | None:
        return open_state_dir(Settings(port=port, **settings), port or 4321, RunDir(tmp_path / "run"))

    return open_with


def test_it_is_private_and_found_by_the_port(opened, tmp_path):
    state_dir = opened()
    assert state_dir.path == tmp_path / "home/fast-inference/1234"
    assert stat.S_IMODE(state_dir.path.stat().st_mode) == 0o700


def test_a_server_that_chooses_its_port_has_it_in_its_run_dir(opened, tmp_path):
    assert opened(port=0).path == tmp_path / "run/temporary-state"


def test_it_can_be_switched_off(opened, tmp_path):
    assert opened(batch_api=False) is None
    assert not (tmp_path / "home").exists()


def test_two_servers_do_not_share_one(opened, tmp_path):
    assert opened(state_dir=tmp_path / "state") is not None
    with pytest.raises(ConfigError, match="another server uses state dir"):
        opened(state_dir=tmp_path / "state")


def test_a_folder_with_other_files_is_refused(opened, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="not of an earlier server"):
        opened(state_dir=tmp_path)


def test_a_default_folder_that_cannot_be_had_is_no_reason_not_to_serve(opened, tmp_path, caplog):
    (tmp_path / "home").write_text("no folder")
    assert opened() is None
    assert "no files and batches: cannot make state dir" in caplog.text


def test_a_newer_or_damaged_database_is_refused(opened, tmp_path):
    state_dir = StateDir(tmp_path / "home/fast-inference/1234")
    state_dir.create()
    with closing(sqlite3.connect(state_dir.database)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="newer version"):
        opened()
    state_dir.database.write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="cannot read state dir"):
        opened()


def test_what_killed_processes_have_left_is_removed(opened, tmp_path):
    state_dir = StateDir(tmp_path / "state")
    state_dir.create()
    with StateStore(state_dir) as store:
        store.add_file(FileRecord("file-known", "", 1, 1, "name", "batch"))
    for path in (state_dir.file("file-known"), state_dir.file("file-stray"), state_dir.new_upload("torn")):
        path.write_bytes(b"x")
    state_dir.begin_job("batch_stray", "file-known")
    opened(state_dir=state_dir.path)
    assert os.listdir(state_dir.path / "files") == ["file-known"]
    assert [os.listdir(state_dir.path / folder) for folder in ("jobs", "uploads")] == [[], []]


@pytest.mark.parametrize("status", [BatchStatus.FINALIZING, BatchStatus.CANCELLING])
def test_results_that_the_database_does_not_know_yet_are_kept(opened, tmp_path, status):
    """All was killed between the two: the batch is ended anew, with the same files."""
    state_dir = StateDir(tmp_path / "state")
    state_dir.create()
    with StateStore(state_dir) as store:
        store.add_batch(BatchRecord("batch_1", "", "/v1/completions", "file-in", 10, 20, status=status), 1)
    results = [state_dir.file(result_file_id("batch_1", name)) for name in ResultName]
    for path in results:
        path.write_bytes(b"x")
    opened(state_dir=state_dir.path)
    assert all(path.exists() for path in results)


def test_nobody_else_can_read_the_database_even_in_an_open_folder(opened, tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    state_dir = opened(state_dir=tmp_path / "state")
    with StateStore(state_dir) as store:
        store.add_file(FileRecord("file-known", "", 1, 1, "name", "batch"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state_dir.path.iterdir()}
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
    assert "batches.sqlite-wal" in modes
