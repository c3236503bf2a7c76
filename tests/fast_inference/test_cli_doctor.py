"""`fast-inference doctor` as a process: exit status, text and JSON."""

import json
import socket

from tests.fast_inference.test_cli import call, call_python


def test_it_says_whether_a_server_can_start():
    done = call("doctor", "fake", "--port", "0")
    assert done.returncode == 0, done.stdout
    assert "`fast-inference serve` can start" in done.stdout.splitlines()[-1]
    for area in ("Processor", "Software", "Model", "Memory", "Surroundings"):
        assert f"\n{area}\n" in done.stdout


def test_what_keeps_a_server_from_starting_is_status_1(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ("--port", str(taken.getsockname()[1]), "--run-dir", str(tmp_path))
        done = call("doctor", "fake", *flags, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["can_start"]) == (1, False)
    assert [finding["name"] for finding in report["findings"] if finding["level"] == "fail"] == ["port"]
    assert all(finding["fix"] for finding in report["findings"] if finding["level"] != "ok")


def test_without_a_gpu_torch_is_not_imported():
    code = "import sys; from fast_inference.cli import main; main(['doctor', 'fake', '--port', '0', '--device', 'cpu'])"
    done = call_python("-c", f"{code}; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_a_poor_locale_gets_an_arrow_that_it_has():
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = call("doctor", "fake", "--port", "0", "--threads", "2", **environment)
    assert "-> set LANG=C.UTF-8" in done.stdout
    assert "?" not in done.stdout
