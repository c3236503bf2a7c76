"""`fast-inference status` of a server with the fake model."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers import ROOT, Server
from tests.terminal import CTRL_C, Terminal
from tests.waiting import wait_until

STATUS = (sys.executable, "-m", "fast_inference", "status")

LONG = {"ignore_eos": True}


def status(*argv):
    return subprocess.run([*STATUS, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_processes_model_and_load_by_the_run_dir(fake_server):
    done = status("--run-dir", fake_server.run_dir, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["state"], report["url"], report["model"]["name"]) == ("ready", fake_server.url, "fake")
    pids = {process["name"]: process["pid"] for process in report["processes"]}
    assert pids["engine core"] == fake_server.core_pid
    assert [pids["frontend 0"], pids["frontend 1"]] == fake_server.frontend_pids
    assert report["load"] == {
        "num_running": 0, "num_waiting": 0, "num_queued_tokens": 0, "kv_cache_usage": 0.0, "tokens_per_second": 0.0,
    }  # fmt: skip


def test_each_of_several_cores_is_shown_by_the_run_dir_and_by_the_url():
    with tempfile.TemporaryDirectory() as folder:  # of a short name, as paths of sockets are
        server = Server(Path(folder), "fake", "--cores", "2", "--threads", "1")
        try:
            os.kill(server.status["cores"][1]["pid"], signal.SIGKILL)
            wait_until(lambda: server.status["cores"][1]["last_exit"] and server.status["cores"][1]["state"] == "ready")
            with server.http() as http:  # the frontends know it too
                wait_until(lambda: http.get("/health").json()["num_cores_ready"] == 2)
            by_run_dir = json.loads(status("--run-dir", server.run_dir, "--json").stdout)
            by_url = json.loads(status("--url", server.url, "--json").stdout)
        finally:
            server.close()
    for report in (by_run_dir, by_url):
        assert [(core["name"], core["state"], core["device"]) for core in report["cores"]] == [
            ("0", "ready", "none"),
            ("1", "ready", "none"),
        ]
    assert by_url["model"] == by_run_dir["model"]
    assert [core["last_exit"] for core in by_run_dir["cores"]] == ["", "was killed by SIGKILL"]
    names = [process["name"] for process in by_run_dir["processes"]]
    assert names[1:3] == ["engine core 0", "engine core 1"]


def test_load_by_the_url_is_the_same(fake_server):
    by_url, by_run_dir = status("--url", fake_server.url, "--json"), status("--run-dir", fake_server.run_dir, "--json")
    first, second = json.loads(by_url.stdout), json.loads(by_run_dir.stdout)
    assert first["model"] == second["model"]
    del first["load"]["tokens_per_second"], second["load"]["tokens_per_second"]
    assert first["load"] == second["load"]


def test_running_requests_and_their_speed_are_seen(fake_server):
    stream = fake_server.openai().completions.create(
        model="fake", prompt="a", max_tokens=4000, stream=True, extra_body=LONG
    )
    with stream:
        chunks = iter(stream)
        next(chunks)
        report = json.loads(status("--run-dir", fake_server.run_dir, "--json").stdout)
    assert report["load"]["num_running"] == 1
    assert report["load"]["tokens_per_second"] > 10


def test_a_core_that_was_killed_is_counted(fake_server):
    before = json.loads(status("--run-dir", fake_server.run_dir, "--json").stdout)["processes"][1]
    os.kill(before["pid"], signal.SIGKILL)
    wait_until(lambda: fake_server.core_pid not in (None, before["pid"]))
    wait_until(lambda: fake_server.status["state"] == "ready", timeout_s=30)
    after = json.loads(status("--run-dir", fake_server.run_dir, "--json").stdout)
    assert after["processes"][1]["num_restarts"] == before["num_restarts"] + 1
    assert after["last_core_exit"] == "was killed by SIGKILL"


def test_watching_goes_on_until_ctrl_c(fake_server):
    with Terminal([*STATUS, "--run-dir", str(fake_server.run_dir), "--watch", "0.1"]) as terminal:
        for _ in range(3):
            terminal.expect("engine core")
        terminal.type(CTRL_C)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.seen


def test_a_dumb_terminal_gets_plain_text(fake_server):
    command = [*STATUS, "--run-dir", str(fake_server.run_dir), "--watch", "0.1"]
    with Terminal(command, {"TERM": "dumb"}) as terminal:
        for _ in range(2):
            terminal.expect("engine core")
        assert "\x1b" not in terminal.seen


def test_no_server_is_one_line_and_status_1(tmp_path):
    for flags in (("--run-dir", tmp_path), ("--url", "http://127.0.0.1:1")):
        done = status(*flags)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), flags
