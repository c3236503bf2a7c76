import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zmq

from ipc.endpoints import CORE_SLOTS, RunDir, connect_to_core, make_core_socket
from ipc.errors import ConfigError


@pytest.fixture
def temp_dir(tmp_path, monkeypatch):
    """The temp dir that default run dirs lie in, with no runtime dir."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def assert_refused(run_dir: RunDir, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        run_dir.create()
    assert "\n" not in caught.value.message
    assert str(run_dir.path) in caught.value.message or str(run_dir.path.parent) in caught.value.message


def test_a_run_dir_is_private(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="too long"):
        RunDir(tmp_path / ("x" * 100)).create()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    assert_refused(RunDir(tmp_path / "run"), "is no folder")


# --- folders that are there already -------------------------------------------------------------------------------


def test_a_folder_with_files_of_others_is_refused_and_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    tmp_path.chmod(0o755)
    assert_refused(RunDir(tmp_path), "not of an earlier server")
    assert os.listdir(tmp_path) == ["config.json"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_the_mode_of_an_existing_folder_is_kept(tmp_path):
    tmp_path.chmod(0o755)
    RunDir(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_the_folder_of_an_earlier_server_is_taken_again(tmp_path):
    RunDir(tmp_path / "run").create()
    (tmp_path / "run" / "status.json").write_text("{}")
    RunDir(tmp_path / "run").create()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path, mode):
    tmp_path.chmod(mode)
    assert_refused(RunDir(tmp_path), "others may write to")


def test_a_link_is_refused(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "target")
    assert_refused(RunDir(tmp_path / "run"), "is no folder")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 12345, -1)
    assert_refused(RunDir(tmp_path / "run"), "another user")


# --- the default --------------------------------------------------------------------------------------------------


def test_the_default_follows_the_runtime_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert RunDir.default(8001).path == Path(tmp_path, "fast-inference", "8001")


def test_both_levels_of_the_default_are_private(temp_dir):
    run_dir = RunDir.default(8001)
    run_dir.create()
    assert run_dir.path == temp_dir / f"fast-inference-{os.getuid()}" / "8001"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (run_dir.path, run_dir.path.parent)] == [0o700] * 2


def test_a_default_folder_needs_no_marker(temp_dir):
    run_dir = RunDir.default(8001)
    run_dir.path.mkdir(parents=True, mode=0o700)
    run_dir.status_file.write_text("{}")
    run_dir.create()


def test_a_planted_link_above_the_default_is_refused(temp_dir):
    run_dir = RunDir.default(8001)
    (temp_dir / "victim" / "8001").mkdir(parents=True)
    run_dir.path.parent.symlink_to(temp_dir / "victim")
    assert_refused(run_dir, "is no folder")
    assert os.listdir(temp_dir / "victim" / "8001") == []


def test_a_parent_of_the_default_that_others_may_write_to_is_refused(temp_dir):
    run_dir = RunDir.default(8001)
    run_dir.path.mkdir(parents=True)
    run_dir.path.parent.chmod(0o777)
    assert_refused(run_dir, "others may write to")


# --- locks --------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_once(tmp_path):
    RunDir(tmp_path).lock_core(0)
    with pytest.raises(ConfigError, match="another core runs"):
        RunDir(tmp_path).lock_core(0)


def test_locks_of_other_names_do_not_matter(tmp_path):
    RunDir(tmp_path).lock_core(0)
    assert RunDir(tmp_path).lock_core(1) > 0
    assert RunDir(tmp_path).lock_launcher() > 0


def test_a_lock_is_waited_for_while_its_holder_ends(tmp_path):
    descriptor = RunDir(tmp_path).lock_core(0)
    threading.Timer(0.1, os.close, [descriptor]).start()
    assert RunDir(tmp_path).lock_core(0, wait_s=5) > 0


def test_it_shows_whether_a_launcher_runs(tmp_path):
    run_dir = RunDir(tmp_path)
    assert not run_dir.has_launcher()
    descriptor = run_dir.lock_launcher()
    assert run_dir.has_launcher()
    os.close(descriptor)
    assert not run_dir.has_launcher()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot make .*core-0\.lock"):
        RunDir(tmp_path / "absent").lock_core(0)


# --- which core clients find --------------------------------------------------------------------------------------


def bind_router(context, path):
    """What a core binds in its slot."""
    router = make_core_socket(context)
    router.bind(f"ipc://{path}")
    return router


def receive_from(path):
    """What the ROUTER on a slot's socket hears of a client that connected to `path`."""
    with zmq.Context() as context:
        router = bind_router(context, path.parent / os.readlink(path))
        dealer = connect_to_core(context, path)
        dealer.send(b"hello")
        heard = router.poll(5000) and router.recv_multipart()[1]
        dealer.close()
        router.close()
    return heard


def test_clients_find_the_core_of_the_slot_that_was_published_last(tmp_path):
    run_dir = RunDir(tmp_path)
    for slot in (0, 1, 0):
        run_dir.publish_core(slot)
        assert os.readlink(run_dir.core_socket) == run_dir.slot_socket(slot).name
        assert receive_from(run_dir.core_socket) == b"hello"


def test_a_core_that_ends_does_not_take_the_link_to_its_successor_with_it(tmp_path):
    run_dir = RunDir(tmp_path)
    with zmq.Context() as context:
        old = bind_router(context, run_dir.slot_socket(0))
        run_dir.publish_core(0)
        run_dir.publish_core(1)
        old.close()
    assert receive_from(run_dir.core_socket) == b"hello"


@pytest.mark.parametrize("stale", ["file", "link", "dangling"])
def test_whatever_lies_in_the_place_of_the_link_is_replaced(tmp_path, stale):
    run_dir = RunDir(tmp_path)
    if stale == "file":
        run_dir.core_socket.write_text("")
    else:
        run_dir.core_socket.symlink_to(tmp_path if stale == "link" else "nothing")
    run_dir.publish_core(0)
    assert os.readlink(run_dir.core_socket) == "core-0.sock"


def test_a_core_and_its_launcher_may_publish_at_once(tmp_path, monkeypatch):
    run_dir, replace = RunDir(tmp_path), os.replace

    def replace_later(source, target):
        monkeypatch.undo()
        publish = f"from pathlib import Path; from ipc.endpoints import RunDir; RunDir(Path({str(tmp_path)!r}))"
        subprocess.run([sys.executable, "-c", f"{publish}.publish_core(1)"], check=True)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_later)
    run_dir.publish_core(1)
    assert os.readlink(run_dir.core_socket) == "core-1.sock"


# --- the end ------------------------------------------------------------------------------------------------------


def make_all_files(run_dir: RunDir) -> None:
    run_dir.lock_launcher()
    for slot in CORE_SLOTS:
        run_dir.lock_core(slot)
        run_dir.slot_socket(slot).write_text("")
        run_dir.publish_core(slot)
    for path in (run_dir.config_file, run_dir.connections_file, run_dir.status_file.with_suffix(".tmp")):
        path.write_text("")
    run_dir.fake_tokenizer_dir.mkdir()
    (run_dir.fake_tokenizer_dir / "tokenizer.json").write_text("{}")


def test_only_the_status_outlives_a_server(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    make_all_files(run_dir)
    run_dir.status_file.write_text("{}")
    (run_dir.path / "poetry.lock").write_text("not ours")
    run_dir.remove_files()
    assert {path.name for path in run_dir.path.iterdir()} == {"status.json", ".fast-inference", "poetry.lock"}


def test_nothing_is_left_of_a_start_that_came_to_nothing(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    make_all_files(run_dir)
    run_dir.remove_files()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_was_there_before_stays(tmp_path):
    run_dir = RunDir(tmp_path)
    run_dir.create()
    make_all_files(run_dir)
    run_dir.remove_files()
    assert os.listdir(tmp_path) == []
