"""One chat: reads lines, answers them as they stream, and survives whatever goes wrong with a single answer.

Called by `cli_chat.py`. Ctrl-C ends the answer that is printed, never the chat; in a pipe it ends the program. The exit
status is 1 where lines came from a pipe and one of them could not be answered: the others were not asked, because they
would have been about something else.
Next: `commands.py`.
"""

from collections.abc import Iterator

from fast_inference.api_client.answer import StreamedAnswer
from fast_inference.api_client.connection import ApiClient, ApiError
from fast_inference.chat.commands import Commands
from fast_inference.chat.conversation import Conversation
from fast_inference.chat.screen import Screen
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR

_HINTS = {"context_length_exceeded": " (/reset begins anew)"}


class ChatSession:
    """A chat from its first line to its last."""

    def __init__(self, client: ApiClient, conversation: Conversation, screen: Screen, *, is_interactive: bool) -> None:
        """`is_interactive` where lines are typed."""
        self._client = client
        self._conversation = conversation
        self._screen = screen
        self._is_interactive = is_interactive
        self._commands = Commands(client, conversation, screen, self.ask, self.describe)
        self._last: StreamedAnswer | None = None
        self._num_tokens = 0
        self._seconds = 0.0

    def run(self, lines: Iterator[str]) -> int:
        """Answer lines until there are no more; returns the exit status."""
        for line in lines:
            try:
                if not self.handle(line):
                    return 0
            except (ConfigError, ApiError) as error:
                self._screen.error(error.message + _HINTS.get(getattr(error, "code", ""), ""))
                if not self._is_interactive:
                    return EXIT_CONFIG_ERROR
            except KeyboardInterrupt:  # during a command
                if not self._is_interactive:
                    raise
                self._screen.clear_line()
        return 0

    def handle(self, line: str) -> bool:
        """Answer a line or do what it says; False where it ends the chat. Raises `ConfigError` and `ApiError`."""
        if not line.strip():
            return True
        if line.startswith("/"):
            return self._commands.run(line)
        self.ask(line)
        return True

    def ask(self, question: str) -> None:
        """Print the answer to a question as it comes, and keep it; raises `ApiError`."""
        self._screen.begin_answer()
        self._last = answer = StreamedAnswer()
        try:
            for piece, is_thought in answer.pieces(
                self._client.stream("/v1/chat/completions", self._conversation.body(question))
            ):
                self._screen.answer(piece, is_thought=is_thought)
        except KeyboardInterrupt:
            if not self._is_interactive:
                raise
            answer.finish_reason = "stopped"
        finally:
            self._conversation.keep(question, answer.text)
            self._count(answer)
            self._screen.end_answer(is_there=bool(answer.num_chunks or answer.finish_reason))
        if self._is_interactive:
            was_stopped = "stopped · " if answer.finish_reason == "stopped" else ""
            self._screen.note(was_stopped + answer.describe())

    def describe(self) -> str:
        """Figures of the last answer and of all."""
        if self._last is None:
            return "nothing was answered yet"
        speed = f", {self._num_tokens / self._seconds:,.1f} tok/s" if self._seconds else ""
        turns = self._conversation.num_turns
        return (
            f"last answer: {self._last.describe()}\n"
            f"this chat: {self._num_tokens:,} tokens of answers in {self._seconds:,.1f} s{speed}; "
            f"{turns} question{'s' if turns != 1 else ''} and answer{'s' if turns != 1 else ''} are remembered"
        )

    def _count(self, answer: StreamedAnswer) -> None:
        self._num_tokens += answer.num_tokens
        if answer.num_chunks:
            self._seconds += answer.last_at - answer.sent_at
