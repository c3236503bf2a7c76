"""What `status` says for people."""

import os

import pytest

from fast_inference.status_report.probes import CoreLoad, ServedModel, ServerLoad
from fast_inference.status_report.processes import process_rows
from fast_inference.status_report.report import StatusReport, duration

STATUS = {
    "state": "restarting",
    "launcher": {"pid": os.getpid()},
    "core": {"pid": None, "state": "stopped", "restarts": {"signal": 1, "hang": 1}},
    "frontends": [{"pid": os.getpid(), "port": 80, "state": "ready"}],
    "batch_runner": {"pid": None, "state": "stopped"},
    "restarts": {"frontends": [1], "batch_runner": 0},
}


def test_processes_have_their_sizes_and_restarts():
    launcher, core, frontend = process_rows(STATUS)
    assert (launcher.name, launcher.state, launcher.num_restarts) == ("launcher", "running", None)
    assert launcher.rss_bytes > 2**20
    assert launcher.uptime_s > 0
    assert (core.pid, core.uptime_s, core.num_restarts) == (None, None, 2)
    assert (frontend.name, frontend.num_restarts, frontend.port) == ("frontend 0", 1, 80)


def test_a_core_of_another_machine_has_no_sizes():
    cores = [
        {"name": name, "pid": os.getpid(), "state": "ready", "restarts": {"signal": 1}, "last_exit": ""}
        for name in "ab"
    ]
    _, here, away, _ = process_rows({**STATUS, "cores": cores}, ["a"])
    assert here.rss_bytes > 2**20
    assert (away.name, away.pid, away.rss_bytes, away.uptime_s, away.num_restarts) == (
        "engine core b", os.getpid(), None, None, 1,
    )  # fmt: skip


def test_a_batch_runner_is_shown_while_it_runs():
    rows = process_rows({**STATUS, "batch_runner": {"pid": os.getpid(), "state": "running"}})
    assert (rows[-1].name, rows[-1].num_restarts) == ("batch runner", 0)


def test_the_text_has_all_of_it():
    report = StatusReport(
        "http://h:80", "ready", "/run", process_rows(STATUS),
        ServedModel("m", "bfloat16", "cpu", 8192, 32768), ServerLoad(3, 1, 20, 0.25, 120.4),
        last_core_exit="was killed by SIGKILL",
    )  # fmt: skip
    lines = report.as_text().splitlines()
    assert lines[0] == "ready  http://h:80  (run dir /run)"
    assert lines[1] == "model  m, bfloat16 on cpu, up to 8,192 tokens"
    assert lines[2] == "load   3 running, 1 waiting with 20 tokens, 120 tok/s, KV cache 25% of 32,768 tokens"
    assert lines[3] == "note   the engine core before this one was killed by SIGKILL"
    assert lines[5].split() == ["PROCESS", "STATE", "PID", "UPTIME", "MEMORY", "RESTARTS", "PORT"]
    assert lines[7].split() == ["engine", "core", "stopped", "-", "-", "-", "2"]


def test_each_of_several_cores_has_a_line():
    load = ServerLoad(3, 1, 0, 0.25, 120.4)
    cores = [CoreLoad("0", "ready", load, "cuda:0"), CoreLoad("b2", "no answer", last_exit="was killed by SIGKILL")]
    report = StatusReport("http://h:80", "ready", load=load, cores=cores, last_core_exit="exited with 1")
    assert report.as_text().splitlines()[2:] == [
        "core   0: ready on cuda:0, 3 running, 1 waiting, 120 tok/s, KV cache 25%",
        "core   b2: no answer; the one before was killed by SIGKILL",
    ]


def test_a_single_core_has_none():
    load = ServerLoad(3, 1, 0, 0.25, None)
    report = StatusReport("http://h:80", "ready", load=load, cores=[CoreLoad("0", "ready", load, "cpu")])
    assert len(report.as_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.9, "59 s"), (185, "3:05 min"), (3723, "1:02:03 h"), (4 * 86400 + 3720, "4 d 01:02 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
