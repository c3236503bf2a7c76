"""What reaches the terminal, and what a pipe gets."""

import io

import pytest

from fast_inference.chat.screen import Screen


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def a_terminal_with_colours(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_pipe_gets_the_answer_alone():
    output, notes = io.StringIO(), io.StringIO()
    screen = Screen(output, notes)
    screen.answer("thought", is_thought=True)
    screen.answer("a\x1b[2J")
    screen.end_answer()
    screen.note("n")
    assert (output.getvalue(), notes.getvalue()) == ("a\x1b[2J\n", "n\n")


def test_text_of_the_model_cannot_change_the_terminal():
    terminal = _Terminal()
    Screen(terminal).answer("a\x1b[2J\x07\x9b\rb\tc\nd")
    assert terminal.getvalue() == "a[2Jb\tc\nd"


def test_what_the_server_says_cannot_change_the_terminal():
    terminal = _Terminal()
    Screen(terminal).error("no\x1b[2J\x9bmodel")
    assert terminal.getvalue() == "\x1b[31merror: no[2Jmodel\x1b[0m\n"


def test_thoughts_are_dim_and_apart():
    terminal = _Terminal()
    screen = Screen(terminal)
    screen.answer("hm", is_thought=True)
    screen.answer("so")
    screen.end_answer()
    assert terminal.getvalue() == "\x1b[2mhm\x1b[0m\n\nso\n"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours_where_they_are_not_wanted(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    terminal = _Terminal()
    screen = Screen(terminal)
    screen.error("e")
    screen.answer("t", is_thought=True)
    screen.end_answer()
    assert terminal.getvalue() == "error: e\nt\n"


def test_waiting_is_shown_and_taken_away_by_the_first_piece():
    terminal = _Terminal()
    screen = Screen(terminal)
    screen.begin_answer()
    screen.answer("so")
    assert terminal.getvalue() == "\x1b[2m…\x1b[0m\r\x1b[Kso"


def test_an_empty_answer_is_a_line_of_a_pipe_and_none_is_not():
    output = io.StringIO()
    screen = Screen(output, io.StringIO())
    screen.begin_answer()
    screen.end_answer(is_there=False)
    assert output.getvalue() == ""
    screen.end_answer()
    assert output.getvalue() == "\n"
