"""Lines that are typed: history that outlives the program, several lines in one message, completion of commands.

The only module that imports prompt_toolkit. What was typed is kept in `$XDG_STATE_HOME/fast-inference/chat_history`,
which only its user can read.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from fast_inference.api_client.sampling import SAMPLING_FIELDS
from fast_inference.chat.commands import COMMANDS
from fast_inference.chat.screen import Screen
from fast_inference.console import has_cursor

_PROMPT = "> "
_HISTORY_FILE = "chat_history"


class _CommandCompleter(Completer):
    """Completes the names of commands, models and sampling fields."""

    def __init__(self, models: Iterable[str]) -> None:
        self._second_words = {"model": [*models], "set": [*SAMPLING_FIELDS]}

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Of the word before the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        first, space, rest = text[1:].partition(" ")
        names = self._second_words.get(first, []) if space else [*COMMANDS]
        word = rest if space else first
        for name in names:
            if name.startswith(word) and " " not in word:
                help_text = "" if space else COMMANDS[name].text
                yield Completion(name, start_position=-len(word), display_meta=help_text)


def typed_lines(screen: Screen, models: Iterable[str]) -> Iterator[str]:
    """Messages as they are typed, until Ctrl-D; Ctrl-C empties the line. A dumb terminal has no editing of ours."""
    read = _plain_line if not has_cursor(sys.stdin) else _editor(screen, models)
    while True:
        try:
            yield read()
        except KeyboardInterrupt:
            screen.note("(Ctrl-D ends)")
        except EOFError:
            return


def _plain_line() -> str:
    sys.stderr.write(_PROMPT)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _editor(screen: Screen, models: Iterable[str]) -> Callable[[], str]:
    session: PromptSession[str] = PromptSession(
        history=_history(screen),
        output=create_output(always_prefer_tty=True),  # stdout may be a file for the answers
        multiline=True,
        key_bindings=_key_bindings(),
        completer=_CommandCompleter(models),
        complete_while_typing=False,
        prompt_continuation="  ",
        enable_open_in_editor=True,
    )
    return lambda: session.prompt(_PROMPT)


def history_file() -> Path:
    """Where typed lines are kept."""
    home = os.environ.get("XDG_STATE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".local" / "state"
    return base / "fast-inference" / _HISTORY_FILE


def _history(screen: Screen) -> History:
    try:
        path = history_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)  # it may be there from before
        finally:
            os.close(file)
    except (OSError, RuntimeError) as error:  # of a user without a home
        screen.note(f"what you type is not kept: {getattr(error, 'strerror', None) or error}")
        return InMemoryHistory()
    return FileHistory(path)


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
