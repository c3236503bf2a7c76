"""`fast-inference bench` against real servers with the fake model: results, failures and exit statuses."""

import json
import socket
import subprocess
import sys

import pytest

from fast_inference.cli import main
from fast_inference.cli_bench import without_secrets
from tests.fast_inference.test_cli import ROOT, call
from tests.servers import Server

SHORT = ("--input-len", "5", "--output-len", "6")


def bench(*argv: object):
    return call("bench", *map(str, argv))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Refuses all but two requests at a time."""
    flags = ("--fake-step-ms", "2", "--frontends", "1", "--max-num-seqs", "1", "--max-queued-requests", "1")
    server = Server(tmp_path_factory.mktemp("bench"), "fake", *flags)
    yield server
    server.close()


def test_a_closed_loop_is_measured_printed_and_saved(server, tmp_path):
    output, plot = tmp_path / "result.json", tmp_path / "plot.png"
    flags = (*SHORT, "--concurrency", "1,2", "--num-prompts", "4", "--seed", "3", "--output", output, "--plot", plot)
    done = bench("serve", "--url", server.url, *flags, "--api-key", "secret")
    assert done.returncode == 0, done.stderr
    assert f"{server.url} (fake): /v1/completions, random words, seed 3\n" in done.stdout
    assert "concurrency 2: 4 requests, 5 in, 6 out\n  completed 4, failed 0" in done.stdout
    report = json.loads(output.read_text())
    assert [result["load"]["concurrency"] for result in report["results"]] == [1, 2]
    median = report["results"][0]["median"]
    assert (median["completed"], median["total_output_tokens"], median["num_other_lengths"]) == (4, 24, 0)
    assert 2 * 0.5 < median["median_tpot_ms"] < median["median_e2el_ms"]
    assert median["median_ttft_ms"] + 5 * median["median_tpot_ms"] == pytest.approx(median["median_e2el_ms"], rel=0.5)
    assert "secret" not in output.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_servers_are_compared_with_the_first(server):
    names = ("--compare", f"a={server.url}", "--compare", f"b={server.url}/v1")
    done = bench("serve", *names, *SHORT, "--num-prompts", "2", "--rounds", "2", "--endpoint", "/v1/chat/completions")
    assert done.returncode == 0, done.stderr
    assert "  a/b" in done.stdout
    turns = [line.split(": ")[1].split()[0] for line in done.stderr.splitlines() if "round" in line]
    assert turns == ["a", "b", "b", "a"]


def test_refused_requests_are_failures_with_their_reason_and_status_1(server):
    done = bench("serve", "--url", server.url, *SHORT, "--request-rate", "2000", "--num-prompts", "30")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert " failed: HTTP 429 queue_full: " in done.stdout
    completed, failed = (int(done.stdout.split(f"{word} ")[1].split(",")[0]) for word in ("completed", "failed"))
    assert completed + failed == 30
    assert completed >= 2


def test_a_wrong_model_is_one_line_and_status_1(server):
    done = bench("serve", "--url", server.url, "--model", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert "answered none of 1 warm-up requests: HTTP 404 model_not_found" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_is_down_is_one_line_and_status_1():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = bench("serve", "--url", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: cannot ask http://127.0.0.1:")
    assert done.stderr.endswith("connection refused\n")


def test_latency_starts_and_stops_a_server_of_its_own():
    done = bench("latency", "--model", "fake", *SHORT, "--num-prompts", "3", "--", "--fake-step-ms", "3")
    assert done.returncode == 0, done.stderr
    _, header, row, *_ = done.stdout.splitlines()
    assert header.split()[:4] == ["in", "out", "TTFT", "median"]
    assert row.split()[:2] == ["5", "6"]
    assert float(row.split()[4]) >= 2.5  # TPOT is at least about a step


def test_throughput_takes_a_running_server_and_lengths_of_several_prompts(server):
    done = bench("throughput", "--url", server.url, "--input-len", "2,9", "--output-len", "6", "--num-prompts", "2")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[2:4]] == [["2", "6", "2"], ["9", "6", "2"]]


def test_a_dataset_of_chats_is_asked(server, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}], "output_len": 3}\n')
    flags = ("--endpoint", "/v1/chat/completions", "--dataset", path, "--num-prompts", "2")
    done = bench("serve", "--url", server.url, *flags)
    assert done.returncode == 0, done.stderr
    assert "fewer prompts than were sent" in done.stderr


def test_prompts_of_token_ids_are_asked(server):
    flags = ("--input-unit", "tokens", "--vocab-size", "200", "--prefix-len", "4", "--num-prompts", "2")
    done = bench("serve", "--url", server.url, *SHORT, *flags)
    assert done.returncode == 0, done.stderr
    assert "random tokens behind 4 shared" in done.stdout


@pytest.mark.parametrize(
    "argv",
    [
        ["bench"],
        ["bench", "serve", "--concurrency", "0"],
        ["bench", "serve", "--concurrency", "1,x"],
        ["bench", "serve", "--request-rate", "nan"],
        ["bench", "serve", "--concurrency", "1", "--request-rate", "1"],
        ["bench", "serve", "--burstiness", "2"],
        ["bench", "serve", "--compare", "http://127.0.0.1:1"],
        ["bench", "serve", "--compare", "a=http://h:1", "--compare", "a=http://h:2"],
        ["bench", "serve", "--extra-body", "[]"],
        ["bench", "serve", "--", "--dtype", "bfloat16"],
        ["bench", "latency", "--url", "http://h:1", "--", "--dtype", "bfloat16"],
        ["bench", "throughput", "--nonsense"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    printed = capsys.readouterr()
    assert (exit_info.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert printed.err.startswith("error: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output", "/no/such/folder/x.json"), "there is no folder /no/such/folder"),
        (("--url", "https://127.0.0.1:1"), "is no base URL"),
        (("--dataset", "/no/such/file"), "No such file"),
    ],
)
def test_what_would_fail_in_the_end_fails_at_once(flags, message, capsys):
    status = main(["bench", "serve", *flags])
    printed = capsys.readouterr()
    assert (status, printed.out, printed.err.count("\n")) == (1, "", 1)
    assert message in printed.err


def test_keys_are_not_in_the_command_that_is_saved():
    argv = ["--api-key", "a", "--api-key=b", "--url", "u", "--", "--admin-api-key", "c"]
    assert without_secrets(argv) == ["--api-key", "…", "--api-key=…", "--url", "u", "--", "--admin-api-key", "…"]


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, fast_inference.cli; print({'numpy', 'uvloop', 'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
