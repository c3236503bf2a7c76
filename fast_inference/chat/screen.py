"""What a chat prints: answers on stdout, everything else on stderr where stdout is a pipe, so that answers stay alone.

Invariant: text of the model or of the server never moves the cursor or changes the terminal: control characters are
taken out of it where a terminal would obey them. Colours only on a terminal, and not under NO_COLOR.
"""

import sys
from typing import TextIO

from fast_inference.console import DIM, RED, coloured, has_colour, printable

_BEGIN_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """Prints for one chat."""

    def __init__(self, output: TextIO | None = None, notes: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self.is_terminal = self._output.isatty()
        self._notes = self._output if self.is_terminal else notes or sys.stderr
        self._is_in_thought = False
        self._is_waiting = False
        self._is_at_line_start = True

    def begin_answer(self) -> None:
        """Show that an answer is waited for, until its first piece comes."""
        if has_colour(self._output):
            self._write(f"{_BEGIN_DIM}…{_PLAIN}")
            self._is_waiting = True

    def answer(self, text: str, *, is_thought: bool = False) -> None:
        """Print a piece of an answer at once; thoughts are dim, and not part of what a pipe gets."""
        if is_thought and not self.is_terminal:
            return
        self._stop_waiting()
        text = printable(text) if self.is_terminal else text
        if is_thought != self._is_in_thought:
            self._write(f"{self._style(_PLAIN)}\n\n" if self._is_in_thought else self._style(_BEGIN_DIM))
            self._is_in_thought = is_thought
        self._write(text)

    def end_answer(self, *, is_there: bool = True) -> None:
        """End the line that the answer stands in; in a pipe, also that of an empty answer, but not of none."""
        self._stop_waiting()
        if not is_there:
            return
        if self._is_in_thought:
            self._is_in_thought = False
            self._write(self._style(_PLAIN))
        if not self._is_at_line_start or not self.is_terminal:
            self._write("\n")

    def note(self, text: str) -> None:
        """Say something that is no answer."""
        self._note(text, DIM)

    def error(self, text: str) -> None:
        """Say what went wrong."""
        self._note(f"error: {text}", RED)

    def clear_line(self) -> None:
        """Go to the next line where something stands in this one, as `^C` does."""
        if self.is_terminal:
            self._write("\n")

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._write("\r\x1b[K")
            self._is_at_line_start = True

    def _style(self, code: str) -> str:
        return code if has_colour(self._output) else ""

    def _note(self, text: str, code: str) -> None:
        self._notes.write(coloured(printable(text), code, self._notes) + "\n")
        self._notes.flush()

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()
        if text:
            self._is_at_line_start = text.endswith("\n")
