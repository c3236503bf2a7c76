"""`fast-inference chat` in a pipe and in a terminal, with a server of the fake model."""

import json
import os
import subprocess
import sys

import pytest

from tests.servers import ROOT
from tests.terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, UP, Terminal

END_OF_EDITING = "\x1b[?2004l"
"""What prompt_toolkit prints when a line is done: no more bracketed paste."""
CHAT = (sys.executable, "-m", "fast_inference", "chat")


def chat(server, text, *flags, **environment):
    return subprocess.run(
        [*CHAT, "--run-dir", str(server.run_dir), *flags], cwd=ROOT, input=text, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def terminal(fake_server, tmp_path):
    """A chat, ready for the first line; its history is in `tmp_path`."""
    command = [*CHAT, "--url", fake_server.url, "--extra-body", '{"ignore_eos": true}']
    with Terminal(command, {"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.expect("Ctrl-D ends.")
        terminal.expect(">")
        yield terminal


def test_each_line_of_a_pipe_is_answered_on_stdout_alone(fake_server):
    done = chat(fake_server, "hello\n\n/set max_tokens 2\nagain\n", "--max-tokens", "4")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done
    assert "max_tokens  2" in done.stderr
    assert "\x1b" not in done.stdout


def test_in_a_pipe_the_first_failure_ends_it(fake_server):
    done = chat(fake_server, "/sett\nhello\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no command /sett, did you mean /set?\n"


def test_a_model_that_is_not_there_is_one_line(fake_server):
    done = chat(fake_server, "hello\n", "--model", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the server has no model nope: fake")


def test_no_server_is_one_line_that_says_what_to_do(tmp_path):
    done = subprocess.run(
        [*CHAT, "--run-dir", str(tmp_path)], cwd=ROOT, input="", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"error: no server runs on {tmp_path}: start one with `fast-inference serve`\n"


def test_an_answer_streams_with_its_figures_and_the_next_one_knows_it(terminal):
    terminal.type("/set max_tokens 5" + ENTER)
    terminal.expect("max_tokens  5")
    terminal.type("hello" + ENTER)
    terminal.expect("5 tokens · ")
    terminal.expect("first after ")
    terminal.type("/stats" + ENTER)
    terminal.expect("1 question and answer are remembered")
    terminal.type("/regenerate" + ENTER)
    terminal.expect("5 tokens · ")
    terminal.type("/stats" + ENTER)
    terminal.expect("10 tokens of answers")
    terminal.expect("1 question and answer are remembered")
    terminal.type(CTRL_D)
    assert terminal.wait() == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(fake_server, terminal):
    terminal.type("/set max_tokens 4000" + ENTER)
    terminal.expect("max_tokens  4000")
    terminal.type("hello" + ENTER)
    terminal.expect(END_OF_EDITING)
    terminal.expect(" ")  # of the answer
    terminal.type(CTRL_C)
    terminal.expect("stopped · ")
    terminal.type("/set max_tokens 3" + ENTER)
    terminal.expect("max_tokens  3")
    terminal.type("go on" + ENTER)
    terminal.expect("3 tokens · ")
    terminal.type(CTRL_C)
    terminal.expect("(Ctrl-D ends)")
    terminal.type("/quit" + ENTER)
    assert terminal.wait() == 0


def test_errors_are_said_and_the_chat_goes_on(terminal):
    terminal.type("/set temperature 99" + ENTER)
    terminal.expect("temperature  99")
    terminal.type("hello" + ENTER)
    terminal.expect("error: ")
    terminal.type("/model nope" + ENTER)
    terminal.expect("error: the server has no model nope")
    terminal.type("/help" + ENTER)
    terminal.expect("Enter sends, Alt-Enter begins a new line")
    terminal.type(CTRL_D)
    assert terminal.wait() == 0


def test_several_lines_are_one_message_and_the_history_outlives_the_program(fake_server, terminal, tmp_path):
    terminal.type("/set max_tokens 3" + ENTER)
    terminal.expect("max_tokens  3")
    terminal.type(f"one{ALT_ENTER}two{ENTER}")
    terminal.expect("3 tokens · ")
    saved = tmp_path / "saved.json"
    terminal.type(f"/save {saved}{ENTER}")
    terminal.expect("saved: ")
    assert json.loads(saved.read_text())["messages"][0] == {"role": "user", "content": "one\ntwo"}
    terminal.type(CTRL_D)
    assert terminal.wait() == 0
    assert (tmp_path / "fast-inference" / "chat_history").stat().st_mode & 0o077 == 0
    with Terminal([*CHAT, "--url", fake_server.url], {"XDG_STATE_HOME": str(tmp_path)}) as again:
        again.expect("Ctrl-D ends.")
        again.expect(">")
        again.type(UP)
        again.expect(f"/save {saved}")
        again.type(CTRL_C + CTRL_D)
        assert again.wait() == 0


def test_no_color_is_heeded(fake_server, tmp_path):
    with Terminal([*CHAT, "--url", fake_server.url], {"NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.expect("Ctrl-D ends.")
        terminal.expect(">")
        terminal.type("/help" + ENTER)
        terminal.expect("Alt-Enter")
        terminal.expect(">")
        terminal.type(CTRL_D)
        terminal.wait()
        assert "\x1b[2m" not in terminal.seen
        assert "\x1b[31m" not in terminal.seen
