"""Lines of a chat that begin with `/`: what there is, what each takes, and what it does.

A command is a method of `Commands` and a row of `COMMANDS`; its first words are all that people need to know of it.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_inference.api_client.connection import ApiClient
from fast_inference.api_client.sampling import SAMPLING_FIELDS
from fast_inference.chat.conversation import Conversation
from fast_inference.chat.screen import Screen
from ipc.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CommandHelp:
    """One row of `/help`."""

    arguments: str
    text: str


COMMANDS = {
    "help": CommandHelp("", "show this"),
    "reset": CommandHelp("", "forget what was said"),
    "regenerate": CommandHelp("", "answer the last question again"),
    "system": CommandHelp("[TEXT|none]", "show or set the system prompt"),
    "model": CommandHelp("[NAME]", "show the models, or take another one"),
    "set": CommandHelp("[NAME VALUE|default]", "show or set how answers are sampled: /set temperature 0.2"),
    "stats": CommandHelp("", "figures of the last answer and of the conversation"),
    "save": CommandHelp("FILE", "write the conversation as JSON"),
    "load": CommandHelp("FILE", "go on with a conversation that was saved"),
    "quit": CommandHelp("", "end (so does Ctrl-D)"),
}
_ALIASES = {"exit": "quit", "bye": "quit", "retry": "regenerate", "clear": "reset", "?": "help"}
_EDITING = (
    "Enter sends, Alt-Enter begins a new line, Up brings back what you said. Ctrl-C stops an answer; what has come of "
    "it is kept."
)


class Commands:
    """The commands of one chat."""

    def __init__(
        self,
        client: ApiClient,
        conversation: Conversation,
        screen: Screen,
        ask: Callable[[str], None],
        describe: Callable[[], str],
    ) -> None:
        """`ask` answers a question; `describe` gives the figures of the chat."""
        self._client = client
        self._conversation = conversation
        self._screen = screen
        self._ask = ask
        self._describe = describe

    def run(self, line: str) -> bool:
        """Do what a line says; False if it says that the chat is over.

        Raises:
            ConfigError: there is no such command, or it cannot be done.
            ApiError: the server could not be asked.
        """
        word, _, argument = line[1:].strip().partition(" ")
        name = _ALIASES.get(word, word)
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean /{near[0]}?" if near else "/help lists them"
            raise ConfigError(f"no command /{word}, {hint}")
        if name == "quit":
            return False
        argument = argument.strip()
        if argument and not COMMANDS[name].arguments:
            raise ConfigError(f"/{name} takes nothing more")
        actions: dict[str, Callable[[], None]] = {
            "help": self._help,
            "reset": self._reset,
            "regenerate": self._regenerate,
            "system": lambda: self._system(argument),
            "model": lambda: self._model(argument),
            "set": lambda: self._set(argument),
            "stats": lambda: self._screen.note(self._describe()),
            "save": lambda: self._save(argument),
            "load": lambda: self._load(argument),
        }
        actions[name]()
        return True

    def _help(self) -> None:
        width = max(len(f"/{name} {row.arguments}") for name, row in COMMANDS.items())
        lines = [f"{f'/{name} {row.arguments}':<{width}}  {row.text}" for name, row in COMMANDS.items()]
        self._screen.note("\n".join([*lines, "", _EDITING]))

    def _reset(self) -> None:
        self._conversation.reset()
        self._screen.note("forgotten: the next question begins anew")

    def _regenerate(self) -> None:
        question = self._conversation.take_back()
        if not question:
            raise ConfigError("nothing was asked yet")
        self._ask(question)

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = "" if text == "none" else text
        self._screen.note(f"system prompt: {self._conversation.system or 'none'}")

    def _model(self, name: str) -> None:
        names = self._client.model_names()
        if not name:
            marks = ("*" if known == self._conversation.model else " " for known in names)
            self._screen.note("\n".join(f"{mark} {known}" for mark, known in zip(marks, names, strict=True)))
            return
        if name not in names:
            raise ConfigError(f"the server has no model {name}: {', '.join(names)}")
        self._conversation.model = name
        self._screen.note(f"model: {name}")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        name = name.replace("-", "_")
        if name and name not in SAMPLING_FIELDS:
            near = difflib.get_close_matches(name, SAMPLING_FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SAMPLING_FIELDS)}"
            raise ConfigError(f"nothing named {name} can be set, {hint}")
        if value.strip() == "default":
            self._conversation.sampling.pop(name, None)
        elif value:
            try:
                self._conversation.sampling[name] = SAMPLING_FIELDS[name].value_of(value.strip())
            except ValueError as error:
                raise ConfigError(f"{name} {error}") from error
        self._screen.note("\n".join(self._sampling_lines([name] if name else [*SAMPLING_FIELDS])))

    def _sampling_lines(self, names: list[str]) -> list[str]:
        width = max(map(len, names))
        values: dict[str, Any] = self._conversation.sampling
        return [
            f"{name:<{width}}  {values.get(name, 'default')}  ({SAMPLING_FIELDS[name].description})" for name in names
        ]

    def _save(self, name: str) -> None:
        path = _path_of(name, "save")
        self._conversation.save(path)
        self._screen.note(f"saved: {path}")

    def _load(self, name: str) -> None:
        path = _path_of(name, "load")
        self._conversation.load(path)
        turns = self._conversation.num_turns
        several = "s" if turns != 1 else ""
        self._screen.note(f"loaded: {path}, {turns} question{several} and answer{several}")


def _path_of(name: str, command: str) -> Path:
    if not name:
        raise ConfigError(f"/{command} needs a file name")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"/{command}: {error}") from error
