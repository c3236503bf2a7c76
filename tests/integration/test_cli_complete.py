"""`fast-inference complete`: what is printed, and the exit statuses."""

import json
import shlex
import subprocess
import sys

from tests.servers import ROOT
from tests.terminal import CTRL_C, Terminal

LONG = ("--max-tokens", "4000", "--extra-body", '{"ignore_eos": true}')
COMPLETE = (sys.executable, "-m", "fast_inference", "complete")


def complete(*argv, text=None):
    return subprocess.run(
        [*COMPLETE, *map(str, argv)], cwd=ROOT, input=text, capture_output=True, text=True, timeout=60, check=False
    )


def test_stdin_is_the_prompt_and_streaming_changes_nothing(fake_server):
    flags = ("--run-dir", fake_server.run_dir, "--max-tokens", "6", "--seed", "1")
    whole, streamed = complete("-", *flags, text="hello"), complete("hello", "--stream", *flags)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout == streamed.stdout != "\n"
    assert complete("hello", "--echo", *flags).stdout == "hello" + whole.stdout


def test_json_is_the_answer_of_the_server(fake_server):
    flags = ("--url", fake_server.url, "--max-tokens", "3", "--json")
    assert json.loads(complete("hello", *flags).stdout)["usage"]["completion_tokens"] == 3
    chunks = [json.loads(line) for line in complete("hello", "--stream", *flags).stdout.splitlines()]
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


def test_a_refusal_is_one_line_and_status_1(fake_server):
    done = complete("hello", "--url", fake_server.url, "--temperature", "-3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_no_server_is_one_line_and_status_1():
    done = complete("hello", "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: nothing listens on http://127.0.0.1:1: is the server started?\n"


def test_wrong_usage_is_status_2():
    assert complete("a", "--max-tokens", "x").returncode == 2
    done = complete("a", "--temperatur", "1")
    assert (done.returncode, "did you mean --temperature?" in done.stderr) == (2, True)


def test_without_a_prompt_a_terminal_is_told(fake_server):
    with Terminal([*COMPLETE, "--url", fake_server.url]) as terminal:
        terminal.expect("error: no PROMPT")
        assert terminal.wait() == 2


def test_ctrl_c_is_status_130_without_a_trace(fake_server):
    with Terminal([*COMPLETE, "hello", "--url", fake_server.url, "--stream", *LONG]) as terminal:
        terminal.expect(" ")
        terminal.type(CTRL_C)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.seen


def test_streaming_is_said_by_its_flag():
    done = complete("hello", "--extra-body", '{"stream": true}')
    assert (done.returncode, "--stream" in done.stderr) == (2, True)


def test_a_reader_that_leaves_is_no_error(fake_server):
    command = f"{' '.join(COMPLETE)} hello --url {fake_server.url} --stream {shlex.join(LONG)} | head -c 5"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (len(done.stdout), done.stderr) == (5, "")
