import pytest

from ipc.core_directory import CoreDirectory, read_cores, write_cores
from ipc.endpoints import RemoteCore, RunDir
from ipc.errors import ConfigError


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path)


def test_without_a_file_there_is_one_core(run_dir):
    assert read_cores(run_dir) == {"0": run_dir.core_socket}


def test_what_was_written_is_read(run_dir):
    cores = {
        "0": run_dir.core_socket,
        "1": run_dir.of_core(1).core_socket,
        "far": RemoteCore("tcp://10.0.0.2:5555", run_dir.path / "keys", "name", "k" * 40),
    }
    write_cores(run_dir, cores)
    assert read_cores(run_dir) == cores
    assert list(read_cores(run_dir)) == list(cores)


def test_sockets_are_found_where_the_run_dir_is_mounted_elsewhere(tmp_path):
    first = RunDir(tmp_path / "a")
    first.path.mkdir()
    write_cores(first, {"1": first.of_core(1).core_socket})
    moved = RunDir((tmp_path / "a").rename(tmp_path / "b"))
    assert read_cores(moved) == {"1": moved.of_core(1).core_socket}


@pytest.mark.parametrize("content", ["", "[]", '{"cores": [1]}', '{"cores": {"0": {}}}', '{"cores": {"0": 5}}'])
def test_a_file_of_another_kind_is_refused(run_dir, content):
    run_dir.cores_file.write_text(content)
    with pytest.raises(ConfigError, match=r"cores\.json"):
        read_cores(run_dir)


def test_a_directory_follows_the_file(run_dir):
    directory = CoreDirectory(run_dir)
    assert list(directory.addresses()) == ["0"]
    for names in (["0", "1"], ["1"], []):
        write_cores(run_dir, {name: run_dir.of_core(int(name)).core_socket for name in names})
        assert list(directory.addresses()) == names


def test_a_file_that_cannot_be_read_changes_nothing(run_dir):
    write_cores(run_dir, {"0": run_dir.core_socket, "1": run_dir.of_core(1).core_socket})
    directory = CoreDirectory(run_dir)
    before = directory.addresses()
    run_dir.cores_file.with_suffix(".bad").write_text("{")
    run_dir.cores_file.with_suffix(".bad").rename(run_dir.cores_file)
    assert directory.addresses() == before
