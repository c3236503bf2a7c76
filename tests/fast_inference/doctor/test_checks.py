"""The checks of `doctor`, on machines made of files and on what is wrong with this one."""

import json
import os
import resource
import shutil
import socket
from pathlib import Path

import pytest
import torch

from engine_core.model.kernels.build import kernel_library
from fast_inference.doctor import surroundings
from fast_inference.doctor.finding import Level
from fast_inference.doctor.hardware import check_hardware
from fast_inference.doctor.memory import check_memory
from fast_inference.doctor.model_files import check_model_files
from fast_inference.doctor.port_owner import listeners_of
from fast_inference.doctor.software import check_software
from fast_inference.doctor.surroundings import check_surroundings
from fast_inference.settings import Settings
from ipc.endpoints import RunDir


def tell(stage):
    """Nobody looks."""


def by_name(findings):
    return {finding.name: finding for finding in findings}


def machine(tmp_path, flags="avx2 avx512f avx512_vnni", cpu_max="max 100000", load="0.1"):
    """Folders that look like /proc and /sys/fs/cgroup."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    (proc / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: {flags}\n")
    (proc / "loadavg").write_text(f"{load} 0 0 1/1 1\n")
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/\n")
    (cgroup / "cpu.max").write_text(cpu_max)
    (cgroup / "memory.max").write_text(str(4 * 2**30))
    return proc, cgroup


def hardware(tmp_path, settings=None, **about):
    return by_name(check_hardware(settings or Settings(device="cpu"), tell, *machine(tmp_path, **about)))


def test_a_cpu_is_described_by_what_the_kernels_use(tmp_path):
    found = hardware(tmp_path)
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert found["CPU"].text == "Test CPU: AVX-512, VNNI; float32 by default: it has no bfloat16 arithmetic"


def test_an_old_cpu_a_fraction_of_a_quota_and_others_load_are_warnings(tmp_path):
    found = hardware(tmp_path, flags="sse2", cpu_max="150000 100000", load="64")
    assert [found[name].level for name in ("CPU", "threads", "load")] == [Level.WARN] * 3
    assert "quota of 1.5" in found["threads"].text


def test_more_threads_than_cpus_are_a_warning_with_the_number_that_works(tmp_path):
    found = hardware(tmp_path, Settings(device="cpu", threads=99), cpu_max="100000 100000")
    assert "--threads 1" in found["threads"].fix


def test_cuda_without_a_driver_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("fast_inference.doctor.hardware.has_gpu_driver", lambda: False)
    assert hardware(tmp_path, Settings(device="cuda"))["GPU"].level is Level.FAIL


def test_a_driver_without_a_device_says_which_torch_finds_none(tmp_path, monkeypatch):
    monkeypatch.setattr("fast_inference.doctor.hardware.has_gpu_driver", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    finding = hardware(tmp_path, Settings())["GPU"]
    assert finding.level is Level.WARN
    assert f"torch {torch.__version__} finds no device" in finding.text


@pytest.mark.gpu
def test_a_gpu_is_named_with_its_memory(tmp_path):
    finding = hardware(tmp_path, Settings())["GPU"]
    assert finding.level is Level.OK
    assert torch.cuda.get_device_name() in finding.text
    assert "GiB free" in finding.text


def test_memory_names_the_limit_of_the_cgroup(tmp_path):
    found = by_name(check_memory(Settings(model="fake"), tell, *machine(tmp_path), tmp_path))
    assert found["memory"].text.endswith("of 8.6 GiB available, a cgroup limits it to 4.0 GiB")
    assert found["plan"].level is Level.OK


def test_a_plan_that_does_not_fit_is_a_failure_with_its_numbers(smollm2_dir):
    settings = Settings(model=str(smollm2_dir), num_blocks=10**8)
    finding = by_name(check_memory(settings, tell))["plan"]
    assert finding.level is Level.FAIL
    assert "GiB" in finding.text


def test_no_shared_memory_is_a_warning(tmp_path):
    found = by_name(check_memory(Settings(model="fake"), tell, *machine(tmp_path), tmp_path / "absent"))
    assert found["/dev/shm"].level is Level.WARN


def test_a_model_that_was_cut_off_is_damaged(smollm2_dir, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(smollm2_dir, copy, copy_function=os.link)
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[: len(content) // 2])
    finding = by_name(check_model_files(Settings(model=str(copy)), tell))["model"]
    assert finding.level is Level.FAIL
    assert finding.text.startswith("damaged: ")


def test_a_whole_model_says_so(smollm2_dir):
    finding = by_name(check_model_files(Settings(), tell))["model"]
    assert (finding.level, "272 tensors" in finding.text) == (Level.OK, True)


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = by_name(check_model_files(Settings(), tell))
    assert found["model"].level is Level.WARN
    assert "`fast-inference pull smollm2-135m-instruct`" in found["model"].fix
    assert by_name(check_model_files(Settings(model="/no/such"), tell))["model"].level is Level.FAIL


def test_a_missing_compiler_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    finding = by_name(check_software(Settings(), tell))["compiler"]
    assert finding.level is Level.WARN
    assert "apt install g++" in finding.fix


def test_kernels_are_compiled_if_they_are_not_there(monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "Test C++ 1.0" && exit\necho "no such header" >&2; exit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    kernel_library.cache_clear()  # an earlier test of this process may have them
    told = []
    found = by_name(check_software(Settings(), told.append))
    assert found["compiler"].text.endswith("c++: Test C++ 1.0")
    assert (told, found["kernels"].level) == (["compiling the CPU kernels"], Level.WARN)
    assert "no such header" in found["kernels"].text


def around(**settings):
    return by_name(check_surroundings(Settings(model="fake", **settings), tell))


def test_a_port_that_is_taken_names_who_has_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = around(port=port, run_dir=tmp_path)["port"]
        assert finding.level is Level.FAIL
        assert f"(pid {os.getpid()})" in finding.text
        assert [pid for pid, _ in listeners_of(port)] == [os.getpid()]


def test_a_port_of_our_own_server_is_fine(tmp_path):
    run_dir = RunDir(tmp_path)
    run_dir.lock_launcher()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = around(port=taken.getsockname()[1], run_dir=tmp_path)
    assert (found["port"].level, found["run dir"].level) == (Level.OK, Level.OK)


def test_a_host_that_is_not_of_this_machine(tmp_path):
    assert around(host="192.0.2.1", run_dir=tmp_path)["port"].level is Level.FAIL


def test_run_dirs_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    for path in (Path("/proc/x"), tmp_path / "file" / "x", tmp_path / "open", tmp_path / ("x" * 100)):
        assert around(port=0, run_dir=path)["run dir"].level is Level.FAIL, path


def test_a_state_dir_that_was_asked_for_and_cannot_be_had(tmp_path):
    (tmp_path / "file").write_text("")
    assert around(port=0, run_dir=tmp_path, state_dir=tmp_path / "file" / "x")["state dir"].level is Level.FAIL


@pytest.mark.parametrize(
    ("hard", "level"), [(100, Level.FAIL), (1024, Level.WARN), (65536, Level.OK), (resource.RLIM_INFINITY, Level.OK)]
)
def test_limits_of_open_files(hard, level):
    assert surroundings._open_files(100, hard).level is level


def test_a_clock_before_the_installation_is_wrong():
    assert surroundings._clock(10**9).level is Level.WARN


def test_a_setting_without_effect_is_a_warning():
    assert around(port=0, threads=2)["settings"].text == "--threads has no effect on the fake model"


def test_the_report_can_be_read_by_programs(tmp_path):
    from fast_inference.doctor.checkup import Report, has_failed, report_as_json
    from fast_inference.doctor.finding import fail, ok

    report: Report = {"A": [ok("x", "fine")], "B": [fail("y", "bad", "mend it")]}
    read = json.loads(report_as_json(report))
    assert (read["can_start"], has_failed(report)) == (False, True)
    assert read["findings"][1] == {"area": "B", "level": "fail", "name": "y", "text": "bad", "fix": "mend it"}


def test_what_cannot_be_looked_at_is_a_warning_about_that():
    from fast_inference.doctor.checkup import _run
    from fast_inference.doctor.finding import ok

    def check(settings, tell):
        yield ok("first", "seen")
        Path("/no/such/file").read_text()

    first, second = _run(check, Settings(), tell)
    assert (first.name, second.level) == ("first", Level.WARN)
    assert "No such file" in second.text
