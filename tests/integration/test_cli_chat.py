"""`fast-inference chat` in a pipe and in a terminal, with a server of the fake model."""

import json
import os
import subprocess
import sys

import pytest

from tests.servers import ROOT
from tests.terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, UP, Terminal

BEGIN_OF_EDITING, END_OF_EDITING = "\x1b[?2004h", "\x1b[?2004l"
"""What prompt_toolkit prints around a line: bracketed paste."""
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
        await_prompt(terminal)
        yield terminal


def await_prompt(terminal):
    """Until lines are read key by key: what is typed before goes through the terminal's own line editing."""
    terminal.expect(BEGIN_OF_EDITING)
    terminal.expect(">")


def say(terminal, line, *shown):
    """Send a line, and wait for what is shown and for the next prompt."""
    terminal.type(line + ENTER)
    for text in shown:
        terminal.expect(text)
    await_prompt(terminal)


def test_each_line_of_a_pipe_is_answered_on_stdout_alone(fake_server):
    done = chat(fake_server, "hello\n\n/set max_tokens 2\nagain\n", "--max-tokens", "4")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done
    assert "max_tokens  2" in done.stderr
    assert "\x1b" not in done.stdout


def test_in_a_pipe_neither_torch_nor_the_editor_is_imported(fake_server):
    code = (
        "import sys; from fast_inference.cli import main; main(['chat', *sys.argv[1:]]); "
        "print([name for name in ('torch', 'prompt_toolkit', 'fastapi', 'rich') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "--run-dir", str(fake_server.run_dir), "--max-tokens", "1"]
    done = subprocess.run(command, cwd=ROOT, input="hello\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_in_a_pipe_the_first_failure_ends_it(fake_server):
    done = chat(fake_server, "/sett\nhello\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no command /sett, did you mean /set?\n"


@pytest.mark.parametrize("line", ["/save ~nosuchuser/c.json", "/load ~nosuchuser/c.json", "/save a\0b"])
def test_a_file_that_cannot_be_is_one_line(fake_server, line):
    done = chat(fake_server, f"{line}\n")
    assert (done.returncode, done.stderr.startswith("error: "), done.stderr.count("\n")) == (1, True, 1), done.stderr


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
    say(terminal, "/set max_tokens 5", "max_tokens  5")
    say(terminal, "hello", "5 tokens · ", "first after ")
    say(terminal, "/regenerate", "5 tokens · ")
    say(terminal, "/stats", "10 tokens of answers", "1 question and answer are remembered")
    terminal.type(CTRL_D)
    assert terminal.wait() == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal):
    say(terminal, "/set max_tokens 4000", "max_tokens  4000")
    terminal.type("hello" + ENTER)
    terminal.expect(END_OF_EDITING)
    terminal.expect(" ")  # of the answer
    terminal.type(CTRL_C)
    terminal.expect("stopped · ")
    await_prompt(terminal)
    say(terminal, "/set max_tokens 3", "max_tokens  3")
    say(terminal, "go on", "3 tokens · ")
    terminal.type(CTRL_C)
    terminal.expect("(Ctrl-D ends)")
    await_prompt(terminal)
    terminal.type("/quit" + ENTER)
    assert terminal.wait() == 0


def test_errors_are_said_and_the_chat_goes_on(terminal):
    say(terminal, "/set temperature 99", "temperature  99")
    say(terminal, "hello", "error: ")
    say(terminal, "/model nope", "error: the server has no model nope")
    say(terminal, "/help", "Enter sends, Alt-Enter begins a new line")
    terminal.type(CTRL_D)
    assert terminal.wait() == 0


def test_several_lines_are_one_message_and_the_history_outlives_the_program(fake_server, terminal, tmp_path):
    say(terminal, "/set max_tokens 3", "max_tokens  3")
    say(terminal, f"one{ALT_ENTER}two", "3 tokens · ")
    saved = tmp_path / "saved.json"
    say(terminal, f"/save {saved}", "saved: ")
    assert json.loads(saved.read_text())["messages"][0] == {"role": "user", "content": "one\ntwo"}
    terminal.type(CTRL_D)
    assert terminal.wait() == 0
    assert (tmp_path / "fast-inference" / "chat_history").stat().st_mode & 0o077 == 0
    environment = {"XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1"}
    with Terminal([*CHAT, "--url", fake_server.url], environment) as again:
        await_prompt(again)
        again.type(UP)
        again.expect(saved.name)
        again.type(CTRL_C)
        again.expect("(Ctrl-D ends)")
        await_prompt(again)
        say(again, "/help", "Alt-Enter")
        again.type(CTRL_D)
        assert again.wait() == 0
        assert "\x1b[2m" not in again.seen  # NO_COLOR


def test_a_dumb_terminal_has_a_plain_chat(fake_server, tmp_path):
    environment = {"XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    with Terminal([*CHAT, "--url", fake_server.url, "--max-tokens", "3"], environment) as terminal:
        terminal.expect("> ")
        terminal.type("hello\n")
        terminal.expect("3 tokens")
        terminal.expect("> ")
        terminal.type(CTRL_C)
        terminal.expect("(Ctrl-D ends)")
        terminal.expect("> ")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0
        assert "\x1b" not in terminal.seen
