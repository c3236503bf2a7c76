"""`fast-inference run-batch` as a process: on a core of its own and attached, its statuses and what it says."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.permissions import obey_permissions
from tests.processes import stats
from tests.servers import ROOT, Server, is_running
from tests.waiting import wait_until


def completion(number: int, **body: Any) -> dict[str, Any]:
    fields = {"model": "fake", "prompt": f"prompt {number}", "max_tokens": 10, "ignore_eos": True, **body}
    return {"custom_id": f"id-{number}", "method": "POST", "url": "/v1/completions", "body": fields}


class Job:
    """Its files, and the command that runs it."""

    def __init__(self, folder: Path, lines: list[dict[str, Any]]) -> None:
        self.output, self.errors = folder / "out.jsonl", folder / "out.errors.jsonl"
        self._input = folder / "in.jsonl"
        self._input.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def start(self, *flags: str, preexec_fn: Callable[[], None] | None = None) -> "subprocess.Popen[str]":
        command = [sys.executable, str(ROOT / "scripts/run_batch.py"), "-i", str(self._input)]
        command += [*(() if "-o" in flags else ("-o", str(self.output))), *flags]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=preexec_fn
        )

    def run(self, *flags: str, preexec_fn: Callable[[], None] | None = None) -> tuple[int, str, str]:
        """Status, stdout and stderr."""
        process = self.start(*flags, preexec_fn=preexec_fn)
        stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr

    def ids(self) -> list[str]:
        return [json.loads(raw)["custom_id"] for raw in self.output.read_text().splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "fake", "--fake-step-ms", "5", "--frontends", "1")
    yield server
    server.close()


def children_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def test_a_core_of_its_own_answers_all_lines_in_order_and_ends(tmp_path: Path):
    job = Job(tmp_path, [completion(number, max_tokens=1 + number % 9) for number in range(40)])
    status, stdout, stderr = job.run("--model", "fake", "--ordered")
    assert (status, stdout) == (0, "")
    last_lines = stderr.splitlines()[-2:]
    assert last_lines[0] == "complete: 40 lines are done, 0 of these failed"
    assert last_lines[1].startswith("190 output tokens in ")
    status, _, stderr = job.run("--model", "fake")
    assert (status, stderr.splitlines()[1:]) == (
        0,
        ["complete: 40 lines are done, 40 of them before, 0 of these failed"],
    )
    assert job.ids() == [f"id-{number}" for number in range(40)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_failed_line_is_no_failed_job(server: Server, tmp_path: Path):
    job = Job(tmp_path, [completion(1), completion(2, temperature=-1), completion(1)])
    status, _, stderr = job.run("--attach", str(server.run_dir))
    assert status == 0
    assert "complete: 3 lines are done, 2 of these failed (see " in stderr
    assert [json.loads(raw)["custom_id"] for raw in job.errors.read_text().splitlines()] == [None, "id-2"]
    assert job.ids() == ["id-1"]


def test_outputs_of_other_names_have_other_error_files(server: Server, tmp_path: Path):
    """Else lines that have failed in one job would be taken for done in the next one."""
    for name, temperature in (("out.1", -1), ("out.2", 1)):
        job = Job(tmp_path, [completion(1, temperature=temperature)])
        assert job.run("--attach", str(server.run_dir), "-o", str(tmp_path / name))[0] == 0
    assert (tmp_path / "out.1.errors.jsonl").stat().st_size
    assert (tmp_path / "out.2").stat().st_size
    assert not (tmp_path / "out.2.errors.jsonl").exists()


def test_a_signal_stops_it_and_the_same_command_goes_on(server: Server, tmp_path: Path):
    job = Job(tmp_path, [completion(number, max_tokens=60) for number in range(150)])
    flags = ("--attach", str(server.run_dir), "--max-in-flight", "16")
    process = job.start(*flags)
    wait_until(lambda: job.output.exists() and job.output.stat().st_size)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.splitlines()[-1].endswith("the same command goes on with the rest")
    assert 0 < len(job.ids()) < 150
    with server.connect() as client:
        wait_until(lambda: not stats(client)["num_running"] and not stats(client)["num_waiting"])
    status, _, stderr = job.run(*flags)
    assert status == 0
    assert " of them before, 0 of these failed" in stderr
    assert sorted(job.ids()) == sorted(f"id-{number}" for number in range(150))


def test_a_killed_runner_takes_its_core_with_it(tmp_path: Path):
    job = Job(tmp_path, [completion(number) for number in range(2000)])
    process = job.start("--model", "fake", "--fake-step-ms", "5")
    wait_until(lambda: job.output.exists() and job.output.stat().st_size)
    children = children_of(process.pid)
    process.kill()
    process.communicate()
    assert children
    wait_until(lambda: not any(map(is_running, children)))


def test_a_full_disk_ends_the_job_and_no_other(server: Server, tmp_path: Path):
    job = Job(tmp_path, [completion(number) for number in range(50)])
    attach = ("--attach", str(server.run_dir))
    status, _, stderr = job.run(*attach, "-o", "/dev/full", "--errors", str(job.errors))
    assert status == 1
    assert stderr.splitlines()[-1].startswith("error: cannot write /dev/full: No space left on device (")
    status, _, stderr = job.run(
        *attach, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
    )
    assert status == 1
    assert f"error: cannot write {job.output}: File too large (" in stderr
    assert 0 < len(job.ids()) < 50
    assert job.run(*attach)[0] == 0
    assert sorted(job.ids()) == sorted(f"id-{number}" for number in range(50))
    with server.openai() as client:
        assert client.completions.create(model="fake", prompt="x", max_tokens=2).usage.completion_tokens == 2


def test_a_folder_that_cannot_be_written_ends_the_job_and_no_other(server: Server, tmp_path: Path):
    folder = tmp_path / "results"
    folder.mkdir()
    job = Job(folder, [completion(number, max_tokens=60) for number in range(60)])
    attach = ("--attach", str(server.run_dir), "--max-in-flight", "8")
    folder.chmod(0o555)
    status, _, stderr = job.run(*attach, preexec_fn=obey_permissions)
    assert (status, job.output.exists()) == (1, False)
    assert stderr.splitlines()[-1] == f"error: cannot write {job.output}: Permission denied"
    folder.chmod(0o755)
    process = job.start(*attach, preexec_fn=obey_permissions)
    wait_until(lambda: job.output.exists() and job.output.stat().st_size)
    folder.chmod(0o555)  # the job keeps what has begun in a file beside the output
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"error: cannot write {job.output}.inflight: Permission denied" in stderr
    assert 0 < len(job.ids()) < 60
    with server.openai() as client:
        assert client.completions.create(model="fake", prompt="x", max_tokens=2).usage.completion_tokens == 2
    folder.chmod(0o755)
    assert job.run(*attach, preexec_fn=obey_permissions)[0] == 0
    assert sorted(job.ids()) == sorted(f"id-{number}" for number in range(60))


def test_a_server_that_ends_ends_the_job(tmp_path: Path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server", "fake", "--fake-step-ms", "5", "--frontends", "1", "--drain-timeout", "0")
    job = Job(tmp_path, [completion(number, max_tokens=50) for number in range(1000)])
    process = job.start("--attach", str(server.run_dir))
    wait_until(lambda: job.output.exists() and job.output.stat().st_size)
    server.close()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"error: the server on {server.run_dir} has ended\n" in stderr
    assert not job.errors.exists()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--attach", "/nowhere"), 1, "error: no server runs on /nowhere"),
        (("--attach", "/nowhere", "--dtype", "float32"), 2, "error: --dtype is for a core of one's own"),
        (("--port", "1"), 2, "error: unknown argument --port"),
        (("-o", "in.jsonl", "--model", "fake"), 1, "cannot be both the input file and the output file"),
        (("-o", "/dev/full", "--errors", "e.jsonl", "--ordered"), 2, "error: /dev/full is no regular file: --ordered"),
        (("-o", "nowhere/out.jsonl", "--model", "fake"), 1, "error: cannot write nowhere/out.jsonl: No such file"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path: Path, flags: tuple[str, ...], status: int, message: str):
    job = Job(tmp_path, [completion(1)])
    found, _, stderr = job.run(*flags, preexec_fn=lambda: os.chdir(tmp_path))
    assert found == status
    assert message in stderr.splitlines()[-1]


def test_check_names_the_wrong_lines(tmp_path: Path):
    job = Job(tmp_path, [completion(1), {"custom_id": "a"}, completion(1)])
    status, stdout, _ = job.run("--check")
    assert status == 1
    lines = stdout.splitlines()
    assert lines[:2] == ["line 2: Missing required field: method.", "line 3: custom_id 'id-1' has come before."]
    assert lines[2].startswith("3 lines, 2 wrong (")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--executor", "ray", "--ordered"), "--ordered is not for --executor ray"),
        (("--executor", "ray", "--errors", "x"), "--errors is not for --executor ray"),
        (("--executor", "ray", "--cores", "3:2"), "must be N or MIN:MAX, not '3:2'"),
        (("--cores", "2"), "--cores is not for --executor local"),
        (("--lines-per-part", "2"), "--lines-per-part is not for --executor local"),
    ],
)
def test_flags_of_the_other_executor_are_wrong_usage(tmp_path: Path, flags: tuple[str, ...], complaint: str):
    status, _, stderr = Job(tmp_path, []).run(*flags)
    assert status == 2
    assert complaint in stderr


def test_an_output_in_the_input_of_a_job_on_ray_is_refused(tmp_path: Path):
    flags = ("--executor", "ray", "-i", str(tmp_path), "-o", str(tmp_path / "out"), "--model", "fake")
    status, _, stderr = Job(tmp_path, [completion(1)]).run(*flags)
    assert status == 1
    assert "its parts would be lines of the input" in stderr
    assert not (tmp_path / "out").exists()


def test_a_ray_that_is_not_there_is_one_line(tmp_path: Path):
    job = Job(tmp_path, [completion(1)])
    flags = ("--executor", "ray", "--ray-address", "127.0.0.1:1", "-o", str(tmp_path / "out"), "--model", "fake")
    status, _, stderr = job.run(*flags)
    assert status == 1
    assert stderr.splitlines()[-1].startswith("error: cannot join Ray at 127.0.0.1:1: ")
